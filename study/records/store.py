"""What a trial leaves: a small JSON record that verifies itself, beside a compressed file of arrays."""

import glob
import hashlib
import io
import json
import re
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from dh2l.config.identity import digest_of
from dh2l.errors import UserError, first_line
from dh2l.io import npz
from dh2l.io.files import (
    AnyPath,
    create_atomically,
    list_files,
    move,
    read,
    read_all,
    write_atomically,
)
from dh2l.wording import counted

RECORD_VERSION = 3
LARGEST = 1 << 24
"""Bytes of a record, which has some thousands."""
_NO_MEMORY = re.compile(r"OutOfMemoryError|(CUDA|HIP)\b.*out of memory|CUBLAS_STATUS_ALLOC_FAILED")
_HEAD = re.compile(rb'\{"checksum": "([0-9a-f]{64})", "record":\n')


class ProbabilityScores(BaseModel):
    """Scores of the predicted probabilities of the test set: `dh2l.calibration.ProbabilityScores`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    nll: float
    ece: float
    top5: float | None
    ahd: float | None
    level_accuracies: tuple[float, ...]
    crm_accuracy: float | None
    crm_ahd: float | None
    crm_mistake_severity: float | None


class Scores(BaseModel):
    """A trial's quality after one epoch; accuracies are fractions, losses nats."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: int
    test_accuracy: float
    test_loss: float | None
    test_super_accuracy: float | None
    test_mistake_severity: float | None
    validation_accuracy: float | None
    validation_loss: float | None
    """A loss that is not finite is None."""
    test_probabilities: ProbabilityScores | None = None
    """None in records of an earlier version, and where a probability is not finite."""


class Failure(BaseModel):
    """Why a trial has no scores."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    """Name of the exception, or `Diverged`."""
    message: str
    epoch: int | None = None
    term: str | None = None
    """The loss's term that was not finite, where the trial diverged."""
    traceback: str = ""
    """The last lines of its cause's, then the errors that came of it."""
    log: tuple[str, ...] = ()
    """The last lines that the trial's process printed, warned of or logged."""

    @property
    def out_of_memory(self) -> bool:
        """Whether a GPU had no memory left."""
        return _NO_MEMORY.search(f"{self.kind}: {self.message}") is not None


class Provenance(BaseModel):
    """Under what circumstances a record was made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    commit: str | None
    dirty: bool | None
    versions: dict[str, str]
    hardware: dict[str, Any]
    attempts: list[dict[str, Any]]
    """One per process that trained: its commit, device, threads, first epoch, seconds."""
    started: str
    finished: str
    duration_s: float
    """Seconds of training and evaluation over all attempts."""
    retries: int = 0
    """How often it was begun again after a process that trained it had died, or it had failed."""


class Record(BaseModel):
    """One trial's record."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = RECORD_VERSION
    identity: str
    state: Literal["done", "diverged", "failed", "stopped"]
    config: dict[str, Any]
    """Every field of the trial's config, defaults too."""
    seed: int
    parameters: int | None
    """Number of the network's parameters."""
    last: Scores | None
    best_validation: Scores | None
    best_test: Scores | None
    """None unless the test set was evaluated after every epoch."""
    failure: Failure | None
    provenance: Provenance
    arrays_sha256: str | None
    """Hash of the arrays' file, where there is one."""
    probabilities_sha256: str | None = None
    """Hash of the file of predicted probabilities, where one was kept."""

    def numbers(self) -> tuple[Any, ...]:
        """The numbers that two records of one trial must share, however often the test set was evaluated."""
        measured = [
            None if scores is None else scores.model_copy(update={"test_probabilities": None})
            for scores in (self.last, self.best_validation)
        ]
        return (self.state, *measured)

    @property
    def lacks_best_test(self) -> bool:
        """Whether the trial is done, but its best epoch on the test set is unknown."""
        return self.state == "done" and self.best_test is None

    def retried(self, retries: int) -> "Record":
        """The same, of a trial that was begun anew so often."""
        return self.model_copy(
            update={"provenance": self.provenance.model_copy(update={"retries": retries})}
        )

    def logged(self, lines: tuple[str, ...]) -> "Record":
        """The same, with what the trial's process printed last, where it failed."""
        if self.failure is None:
            return self
        return self.model_copy(update={"failure": self.failure.model_copy(update={"log": lines})})

    @property
    def settled(self) -> bool:
        """Whether the trial is over: training it again would give the same."""
        return self.state in ("done", "diverged")


@dataclass
class Findings:
    """What reading the records found.

    Attributes:
        records: every sound record, by identity.
        paths: the file of each.
        damaged: files that do not verify, with the reason.
        conflicts: identities that have records which cannot be used and must not be replaced (they disagree, cannot be
            read now, or a newer version of this project wrote them), each with a sentence. Not in `records`.
        repeated: identities that were trained twice with different numbers, each with a sentence that names the record
            in use.
        bare: records whose arrays are missing, with the file that is.
        damaged_arrays: records whose arrays are damaged, with the file that is; see `check_arrays`.
        evaluated: records of trials that were trained again with an evaluation after every epoch, and gave other
            numbers than the record in `records`; each with its file.
        unevaluated: identities of records left out because their best epoch on the test set is unknown.
    """

    records: dict[str, Record] = field(default_factory=dict)
    paths: dict[str, AnyPath] = field(default_factory=dict)
    damaged: dict[AnyPath, str] = field(default_factory=dict)
    conflicts: dict[str, str] = field(default_factory=dict)
    repeated: dict[str, str] = field(default_factory=dict)
    bare: dict[str, AnyPath] = field(default_factory=dict)
    damaged_arrays: dict[str, AnyPath] = field(default_factory=dict)
    evaluated: dict[str, tuple[Record, AnyPath]] = field(default_factory=dict)
    unevaluated: list[str] = field(default_factory=list)

    def require_best_test(self) -> None:
        """Use records of trials whose test set was evaluated after every epoch, and leave out all others."""
        for identity, (record, path) in self.evaluated.items():
            self.repeated[identity] = (
                f"{identity} was trained again to evaluate the test set after every epoch, with different numbers: "
                f"this study uses {path}, studies without accuracy: oracle use {self.paths[identity]}"
            )
            self.records[identity], self.paths[identity] = record, path
        self.unevaluated = [
            identity for identity, record in self.records.items() if record.lacks_best_test
        ]
        for identity in self.unevaluated:
            del self.records[identity], self.paths[identity]

    def check_arrays(self) -> None:
        """Read the arrays of every record, and note those that are not the ones it was filed with."""
        for identity, record in self.records.items():
            if record.arrays_sha256 is None or identity in self.bare:
                continue
            file = _arrays_file(record, self.paths[identity])
            try:
                _read_verified(file, record.arrays_sha256, "arrays")
            except UserError:
                self.damaged_arrays[identity] = file

    def warnings(self) -> list[str]:
        """Return a sentence per damaged record and per conflict, and one per fault of arrays."""
        lacking = []
        for fault, files in (
            ("without arrays", self.bare),
            ("with damaged arrays", self.damaged_arrays),
        ):
            of_records = [file for identity, file in files.items() if identity in self.records]
            if of_records:
                lacking.append(
                    f"{counted(len(of_records), 'record')} {fault}, first {of_records[0]}: curves, "
                    "predictions and class vectors of these trials are missing; copy the files "
                    "back, or remove the records and run again to train them anew"
                )
        return [
            *(f"the record {path} is left out: {reason}" for path, reason in self.damaged.items()),
            *self.conflicts.values(),
            *self.repeated.values(),
            *lacking,
            *self._unevaluated(),
        ]

    def _unevaluated(self) -> list[str]:
        if not self.unevaluated:
            return []
        return [
            f"{counted(len(self.unevaluated), 'trial')} trained without evaluating the test set after every epoch: "
            "accuracy: oracle needs the best of all epochs. `run` trains them again"
        ]


class NewerRecord(UserError):
    """A record that a newer version of this project wrote."""


class RecordStore:
    """The records below one folder; files copied in from other machines, subfolders too, are read alike."""

    def __init__(self, folder: AnyPath) -> None:
        self.folder = folder

    def path(self, identity: str) -> AnyPath:
        """Where a settled record made here lies."""
        return self.folder / f"{identity}.json"

    @property
    def repetitions(self) -> AnyPath:
        """Where the second record of a trial goes that was trained twice at once, if the two disagree."""
        return self.folder.parent / "repeated"

    @property
    def unsettled(self) -> AnyPath:
        """The folder of the records of trials that failed or were stopped."""
        return self.folder / "unsettled"

    @property
    def evaluated(self) -> AnyPath:
        """The folder of second records of trials that were evaluated after every epoch, as the first were not."""
        return self.folder / "every-epoch"

    @property
    def probabilities(self) -> AnyPath:
        """The folder of the predicted probabilities."""
        return self.folder.parent / "probabilities"

    @property
    def aside(self) -> AnyPath:
        """The folder of damaged records that a writer meets."""
        return self.folder.parent / "set-aside"

    def place(self, record: Record) -> AnyPath:
        """Where a record made here lies."""
        return (self.folder if record.settled else self.unsettled) / f"{record.identity}.json"

    def write(
        self,
        record: Record,
        arrays: Mapping[str, np.ndarray] | None = None,
        probabilities: Mapping[str, np.ndarray] | None = None,
    ) -> Record:
        """File a record, and first its arrays and probabilities, each atomically.

        A settled record is created by one process alone and is never replaced, whatever a second process files of its
        trial. A failed or stopped one has a place of its own, so that replacing it cannot cost a trial's numbers.

        Returns:
            The record that now stands, with the hash of its arrays.

        Raises:
            OSError: it cannot be written; nothing that stood there is lost.
        """
        path, packed = self.path(record.identity), b""
        if arrays is not None:
            packed = _packed(arrays)
            record = record.model_copy(update={"arrays_sha256": hashlib.sha256(packed).hexdigest()})
        if probabilities:
            content = _packed(probabilities)
            record = record.model_copy(
                update={"probabilities_sha256": hashlib.sha256(content).hexdigest()}
            )
            write_atomically(self.probabilities_path(record), content)
        stands = self._write(path, record, packed)
        if stands.probabilities_sha256 != record.probabilities_sha256:
            self.probabilities_path(record).unlink(missing_ok=True)
        return stands

    def _write(self, path: AnyPath, record: Record, packed: bytes) -> Record:
        """File a record whose arrays are packed; return the record that now stands."""
        while True:
            try:
                first = self._settled(path)
            except NewerRecord:  # another version has filed it meanwhile
                if record.settled:
                    self._keep_beside(record, packed)
                return record
            if first is not None:
                if first.lacks_best_test and record.best_test is not None:
                    return self._write(self.evaluated / path.name, record, packed)
                return self._second(path, first, record, packed)
            place = path if record.settled else self.place(record)
            if packed:
                write_atomically(arrays_path(record, place), packed)
            if not record.settled:
                write_atomically(place, _content(record))
                return self._standing(path) or record
            if create_atomically(path, _content(record)):
                self._clear_up(path, record, packed)
                return record

    def _standing(self, path: AnyPath) -> Record | None:
        """The settled record at a path."""
        try:
            record = parse_record(path)
        except (FileNotFoundError, UserError):
            return None
        return record if record.settled else None

    def _settled(self, path: AnyPath) -> Record | None:
        """The settled record at a path; whatever else is in its place is moved away.

        Raises:
            NewerRecord: it must be left alone.
            OSError: it cannot be read or moved.
        """
        try:
            record = parse_record(path)
        except FileNotFoundError:
            return None
        except NewerRecord:
            raise
        except UserError as error:
            self.set_aside(Findings(damaged={path: str(error)}), self.aside)
            return None
        if record.settled:
            return record
        with suppress(FileNotFoundError):  # another process is faster
            self._move_unsettled(path)
        return None

    def _move_unsettled(self, path: AnyPath) -> None:
        """Move an unsettled record that an earlier version has filed to its place now."""
        moved = self.unsettled / uuid4().hex / path.name
        move(path, moved)
        if not self._put_back(moved, path):
            move(moved, self.unsettled / path.name)
        if isinstance(moved, Path):
            moved.parent.rmdir()

    def _put_back(self, taken: AnyPath, path: AnyPath) -> bool:
        """Put back what was moved away by mistake: what another process had settled just before.

        Returns:
            Whether it was put back, or kept beside where a third process has settled meanwhile.
        """
        try:
            content = read(taken, LARGEST)
            if not _parsed(content, path.stem).settled:
                return False
        except NewerRecord:
            pass
        except (OSError, UserError):
            return False
        if not create_atomically(path, content):
            write_atomically(self._beside(path.stem, content), content)
        taken.unlink(missing_ok=True)
        return True

    def _clear_up(self, path: AnyPath, record: Record, packed: bytes) -> None:
        """Remove what the trial has left before it was settled: whoever files it later keeps its own beside."""
        for left in self._arrays(path):
            if left != arrays_path(record, path):
                left.unlink(missing_ok=True)
        (self.unsettled / path.name).unlink(missing_ok=True)
        if (
            packed and not arrays_path(record, path).exists()
        ):  # set aside with a damaged record at the same moment
            write_atomically(arrays_path(record, path), packed)

    def _second(self, path: AnyPath, first: Record, second: Record, packed: bytes) -> Record:
        """Of two records of a trial the first stays; the second is kept beside, if it is settled and disagrees."""
        if second.settled and second.numbers() != first.numbers():
            self._keep_beside(second, packed)
        if packed and second.arrays_sha256 != first.arrays_sha256:
            arrays_path(second, path).unlink(missing_ok=True)
        (self.unsettled / f"{first.identity}.json").unlink(missing_ok=True)
        return first

    def _keep_beside(self, record: Record, packed: bytes) -> None:
        content = _content(record)
        path = self._beside(record.identity, content)
        if packed:
            write_atomically(arrays_path(record, path), packed)
        write_atomically(path, content)

    def _beside(self, identity: str, content: bytes) -> AnyPath:
        return self.repetitions / f"{identity}.{hashlib.sha256(content).hexdigest()[:12]}.json"

    def probabilities_path(self, record: Record) -> AnyPath:
        """Return the path of a record's predicted probabilities."""
        return (
            self.probabilities / f"{record.identity}.{(record.probabilities_sha256 or '')[:12]}.npz"
        )

    def read_probabilities(self, record: Record) -> dict[str, np.ndarray] | None:
        """Read the predicted probabilities of a record's trial.

        Returns:
            Logarithms as float16 ``(N, n_classes)`` and labels ``(N,)``, by part and epoch: ``test.last``,
            ``test.best_validation``, ``validation.last``, ``validation.best_validation``, ``test.labels``,
            ``validation.labels``. None where there is no file, which is not damage.

        Raises:
            UserError: the file is not the one that the record was filed with.
        """
        path = self.probabilities_path(record)
        if record.probabilities_sha256 is None or not path.exists():
            return None
        return _read_packed(path, record.probabilities_sha256, "probabilities")

    def _arrays(self, path: AnyPath) -> list[AnyPath]:
        """All files of arrays beside a record's file."""
        return list_files(path.parent, f"{glob.escape(path.stem)}.*npz")

    def get(self, identity: str, set_aside: AnyPath) -> Record | None:
        """The record of one trial made here; a damaged one is moved to `set_aside`, and None returned.

        Raises:
            NewerRecord: it must be left alone.
            OSError: it cannot be read now.
        """
        for folder in (self.evaluated, self.folder, self.unsettled):
            path = folder / f"{identity}.json"
            try:
                return parse_record(path)
            except FileNotFoundError:
                continue
            except NewerRecord:
                raise
            except UserError as error:
                self.set_aside(Findings(damaged={path: str(error)}), set_aside)
        return None

    def read(self, identities: Iterable[str] | None = None) -> Findings:
        """Read and verify the records of some identities, or all of them.

        A record whose identity has the same hash and other readable words, as earlier versions wrote them, is of the
        same trial.
        """
        wanted = None if identities is None else set(identities)
        now_called = {digest_of(identity): identity for identity in wanted or ()}
        found, paths = Findings(), dict[str, list[AnyPath]]()
        everything = list_files(self.folder, "**/*.*")
        names = {
            path: path.stem
            if wanted is None or path.stem in wanted
            else now_called.get(digest_of(path.stem))
            for path in everything
            if path.suffix == ".json"
        }
        its = [path for path, name in names.items() if name is not None]
        packed = {path for path in everything if path.suffix == ".npz"}
        contents = dict(zip(its, read_all(its, LARGEST), strict=True))
        for path in its:
            paths.setdefault(names[path] or "", []).append(path)
        for identity, its_files in paths.items():
            sound: dict[AnyPath, Record] = {}
            for path in its_files:
                content = contents[path]
                if isinstance(content, OSError):
                    if not isinstance(
                        content, FileNotFoundError
                    ):  # set aside by another driver meanwhile
                        found.conflicts[identity] = (
                            f"the record {path} is left alone: it cannot be read ({content.strerror})"
                        )
                    continue
                try:
                    record = _parsed(content, path.stem)
                    named = (
                        record
                        if path.stem == identity
                        else record.model_copy(update={"identity": identity})
                    )
                    sound[path] = named
                except NewerRecord as error:
                    found.conflicts[identity] = f"the record {path} is left alone: {error}"
                except UserError as error:
                    found.damaged[path] = str(error)
            # A failure on one machine does not contradict the finished trial of another.
            candidates = {p: r for p, r in sound.items() if r.settled} or dict(
                list(sound.items())[:1]
            )
            if not candidates or identity in found.conflicts:
                continue
            candidates = dict(sorted(candidates.items(), key=lambda item: item[1].lacks_best_test))
            again = {
                path: record
                for path, record in candidates.items()
                if path.parent.name == self.evaluated.name
            }
            before = {path: record for path, record in candidates.items() if path not in again}
            if before and again and _agree(before) and _agree(again) and not _agree(candidates):
                path = next(
                    (path for path in again if _has_arrays(again[path], path, packed)),
                    next(iter(again)),
                )
                found.evaluated[identity] = again[path], path
                candidates = before
            whole = [
                path for path, record in candidates.items() if _has_arrays(record, path, packed)
            ]
            path = whole[0] if whole else next(iter(candidates))
            first = candidates[path]
            if not whole:
                found.bare[identity] = arrays_path(first, path)
            if _agree(candidates):
                found.records[identity], found.paths[identity] = first, path
            else:
                found.conflicts[identity] = (
                    f"the records {' and '.join(map(str, candidates))} are of one trial but disagree; neither is "
                    "used: delete the wrong one"
                )
        return found

    def repeated(self, found: Findings) -> dict[str, str]:
        """What was trained twice at once with different numbers, a sentence for each of the records found."""
        sentences = {}
        for path in list_files(self.repetitions, "*.json"):
            identity = path.stem.rpartition(".")[0]
            if identity in found.records:
                sentences[identity] = (
                    f"{identity} was trained twice at once, with different numbers; the record that was filed first is "
                    f"used, the second is {path}"
                )
        return sentences

    def set_aside(self, found: Findings, folder: AnyPath) -> None:
        """Move damaged records and their arrays out of the way, so that their trials can be trained again."""
        for path in found.damaged:
            name, arrays = f"{path.stem}.{uuid4().hex[:8]}", self._arrays(path)
            taken = folder / f"{name}.json"
            try:
                move(path, taken)
            except FileNotFoundError:  # another driver is faster
                continue
            if self._put_back(taken, path):
                continue
            for file in arrays:
                aside = folder / (name + file.name.removeprefix(path.stem))
                with suppress(FileNotFoundError):
                    move(file, aside)
                    standing = self._standing(path)
                    if standing is not None and file == arrays_path(
                        standing, path
                    ):  # filed since they were listed
                        move(aside, file)


def parse_record(path: AnyPath) -> Record:
    """Read one record and verify its checksum.

    Raises:
        UserError: why it is no sound record, without its name.
        OSError: it cannot be read.
    """
    return _parsed(read(path, LARGEST), path.stem)


def _parsed(raw: bytes, identity: str) -> Record:
    head = _HEAD.match(raw)
    if head is None or not raw.endswith(b"}\n"):
        raise UserError("it is truncated, or not a record")
    body = raw[head.end() : -2]
    if hashlib.sha256(body).hexdigest().encode() != head[1]:
        raise UserError("its checksum does not fit: it was edited or damaged")
    try:
        record = Record.model_validate_json(body)
    except ValidationError:
        version = _version(body)
        if version > RECORD_VERSION:
            raise NewerRecord(
                f"it is of version {version}, this project reads up to {RECORD_VERSION}"
            ) from None
        raise UserError("its checksum fits, but its content is no record") from None
    if record.version > RECORD_VERSION:
        raise NewerRecord(
            f"it is of version {record.version}, this project reads up to {RECORD_VERSION}"
        )
    if record.identity != identity:
        raise UserError(f"it is the record of {record.identity}")
    return record


def _version(body: bytes) -> int:
    """The version that a record says it is of; 0 where it says none."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return 0
    version = content.get("version") if isinstance(content, dict) else None
    return version if isinstance(version, int) else 0


def _content(record: Record) -> bytes:
    body = record.model_dump_json(indent=1).encode()
    return (
        f'{{"checksum": "{hashlib.sha256(body).hexdigest()}", "record":\n'.encode() + body + b"}\n"
    )


def arrays_path(record: Record, path: AnyPath) -> AnyPath:
    """Where the arrays of a record lie: beside its file, named by their content, so that no two writers meet."""
    return path.with_name(f"{path.stem}.{(record.arrays_sha256 or '')[:12]}.npz")


def _agree(records: Mapping[AnyPath, Record]) -> bool:
    """Whether all records of a trial have the same numbers."""
    first, *others = (record.numbers() for record in records.values())
    return all(numbers == first for numbers in others)


def _has_arrays(record: Record, path: AnyPath, packed: Collection[AnyPath]) -> bool:
    """Whether the arrays of a record are among the files, where it has some; under the name of version 1 too."""
    return (
        record.arrays_sha256 is None
        or arrays_path(record, path) in packed
        or path.with_suffix(".npz") in packed
    )


def read_arrays(record: Record, path: AnyPath) -> dict[str, np.ndarray]:
    """The arrays beside a record's file: per-epoch history, predictions, classifier vectors.

    Raises:
        UserError: they are missing or not those that the record was filed with.
    """
    return _read_packed(_arrays_file(record, path), record.arrays_sha256, "arrays")


def _arrays_file(record: Record, path: AnyPath) -> AnyPath:
    """Return the file of a record's arrays, under the name of version 1 where only that exists."""
    packed_path = arrays_path(record, path)
    with suppress(OSError):
        if not packed_path.exists():
            return path.with_suffix(".npz")
    return packed_path


def _packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _read_packed(path: AnyPath, sha256: str | None, kind: str) -> dict[str, np.ndarray]:
    packed = _read_verified(path, sha256, kind)
    try:
        return npz.read(packed)
    except npz.UNREADABLE as error:
        raise UserError(
            f"the {kind} {path} fit their record, but cannot be read ({first_line(error)})"
        ) from None


def _read_verified(path: AnyPath, sha256: str | None, kind: str) -> bytes:
    try:
        packed = read(path)
    except OSError as error:
        raise UserError(f"the {kind} {path} cannot be read ({error.strerror})") from None
    if hashlib.sha256(packed).hexdigest() != sha256:
        raise UserError(f"the {kind} {path} are damaged: they are not those of their record")
    return packed
