"""What a trial leaves: a small JSON record that verifies itself, beside a compressed file of arrays."""

import glob
import hashlib
import io
import json
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from dh2l import npz
from dh2l.atomic import AnyPath, create_atomically, files, read, read_all, write_atomically
from dh2l.errors import UserError, first_line

RECORD_VERSION = 2
_NO_MEMORY = re.compile(r"OutOfMemoryError|(CUDA|HIP)\b.*out of memory|CUBLAS_STATUS_ALLOC_FAILED")
_HEAD = re.compile(rb'\{"checksum": "([0-9a-f]{64})", "record":\n')


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
    """Its last lines."""
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
    failure: Failure | None
    provenance: Provenance
    arrays_sha256: str | None
    """Hash of the arrays' file, where there is one."""

    def numbers(self) -> tuple[Any, ...]:
        """What two records of one trial must agree on; that they trained the same, their identity says."""
        return (self.state, self.last, self.best_validation, self.best_test)

    def retried(self, retries: int) -> "Record":
        """The same, of a trial that was begun anew so often."""
        return self.model_copy(update={"provenance": self.provenance.model_copy(update={"retries": retries})})

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
        repeated: identities that two processes trained with different numbers, each with a sentence. What was filed
            first is in `records`.
    """

    records: dict[str, Record] = field(default_factory=dict)
    paths: dict[str, AnyPath] = field(default_factory=dict)
    damaged: dict[AnyPath, str] = field(default_factory=dict)
    conflicts: dict[str, str] = field(default_factory=dict)
    repeated: dict[str, str] = field(default_factory=dict)

    def warnings(self) -> list[str]:
        """One sentence per damaged record and per conflict."""
        return [
            *(f"the record {path} is left out: {reason}" for path, reason in self.damaged.items()),
            *self.conflicts.values(),
            *self.repeated.values(),
        ]


class NewerRecord(UserError):
    """A record that a newer version of this project wrote."""


class RecordStore:
    """The records below one folder; files copied in from other machines, subfolders too, are read alike."""

    def __init__(self, folder: AnyPath) -> None:
        self.folder = folder

    def path(self, identity: str) -> AnyPath:
        """Where a record made here lies."""
        return self.folder / f"{identity}.json"

    @property
    def repetitions(self) -> AnyPath:
        """Where the second record of a trial goes that was trained twice at once, if the two disagree."""
        return self.folder.parent / "repeated"

    def write(self, record: Record, arrays: Mapping[str, np.ndarray] | None = None) -> Record:
        """File a record, and first its arrays, each atomically.

        A settled record stays, whatever a second process has to file of its trial, which is compared with it: a later
        failure elsewhere must not cost a trial's numbers.

        Returns:
            The record that now stands, with the hash of its arrays.

        Raises:
            OSError: it cannot be written; nothing that stood there is lost.
        """
        path = self.path(record.identity)
        try:
            standing = self._read(path)
        except NewerRecord:  # another version has filed it meanwhile
            if record.settled:
                self._keep_beside(record)
            return record
        if standing is not None and standing.settled:
            return self._second(standing, record)
        packed = b""
        if arrays is not None:
            buffer = io.BytesIO()
            np.savez_compressed(buffer, allow_pickle=False, **arrays)
            packed = buffer.getvalue()
            record = record.model_copy(update={"arrays_sha256": hashlib.sha256(packed).hexdigest()})
            write_atomically(arrays_path(record, path), packed)
        if path.exists():  # of a trial that failed or was stopped, or damaged
            write_atomically(path, _content(record))
        elif not create_atomically(path, _content(record)):  # a second process was faster
            with suppress(NewerRecord):
                if packed and record.arrays_sha256 != getattr(self._read(path), "arrays_sha256", None):
                    arrays_path(record, path).unlink(missing_ok=True)
            return self.write(record, arrays)
        for left in self._arrays(path):
            if left != arrays_path(record, path):  # of a process that was killed before its record, or lost
                left.unlink(missing_ok=True)
        return record

    def _second(self, first: Record, second: Record) -> Record:
        """Of two records of a trial the first stays; the second is kept beside, if it is settled and disagrees."""
        if second.settled and second.numbers() != first.numbers():
            self._keep_beside(second)
        return first

    def _keep_beside(self, record: Record) -> None:
        content = _content(record)
        name = f"{record.identity}.{hashlib.sha256(content).hexdigest()[:12]}.json"
        write_atomically(self.repetitions / name, content)

    def _arrays(self, path: AnyPath) -> list[AnyPath]:
        """All files of arrays beside a record's file."""
        return files(path.parent, f"{glob.escape(path.stem)}.*npz")

    def get(self, identity: str, set_aside: AnyPath) -> Record | None:
        """The record of one trial made here; a damaged one is moved to `set_aside`, and None returned.

        Raises:
            NewerRecord: it must be left alone.
            OSError: it cannot be read now.
        """
        path = self.path(identity)
        try:
            return parse_record(path)
        except FileNotFoundError:
            return None
        except NewerRecord:
            raise
        except UserError as error:
            self.set_aside(Findings(damaged={path: str(error)}), set_aside)
            return None

    def _read(self, path: AnyPath) -> Record | None:
        try:
            return parse_record(path)
        except NewerRecord:
            raise
        except (FileNotFoundError, UserError):
            return None

    def read(self, identities: Iterable[str] | None = None) -> Findings:
        """Read and verify the records of some identities, or all of them."""
        wanted = None if identities is None else set(identities)
        found, paths = Findings(), dict[str, list[AnyPath]]()
        its = [path for path in files(self.folder, "**/*.json") if wanted is None or path.stem in wanted]
        contents = dict(zip(its, read_all(its), strict=True))
        for path in its:
            paths.setdefault(path.stem, []).append(path)
        for identity, its_files in paths.items():
            sound: dict[AnyPath, Record] = {}
            for path in its_files:
                content = contents[path]
                if isinstance(content, OSError):
                    if not isinstance(content, FileNotFoundError):  # set aside by another driver meanwhile
                        found.conflicts[identity] = (
                            f"the record {path} is left alone: it cannot be read ({content.strerror})"
                        )
                    continue
                try:
                    sound[path] = _parsed(content, identity)
                except NewerRecord as error:
                    found.conflicts[identity] = f"the record {path} is left alone: {error}"
                except UserError as error:
                    found.damaged[path] = str(error)
            # A failure on one machine does not contradict the finished trial of another.
            candidates = {p: r for p, r in sound.items() if r.settled} or dict(list(sound.items())[:1])
            if not candidates or identity in found.conflicts:
                continue
            path, first = next(iter(candidates.items()))
            if all(record.numbers() == first.numbers() for record in candidates.values()):
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
        for path in files(self.repetitions, "*.json"):
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
            number = 0
            while (target := folder / f"{path.stem}{f'.{number}' * bool(number)}.json").exists():
                number += 1
            for file in (path, *self._arrays(path)):
                with suppress(FileNotFoundError):  # another driver is faster
                    write_atomically(folder / (target.stem + file.name.removeprefix(path.stem)), file.read_bytes())
                    file.unlink()


def parse_record(path: AnyPath) -> Record:
    """Read one record and verify its checksum.

    Raises:
        UserError: why it is no sound record, without its name.
        OSError: it cannot be read.
    """
    return _parsed(read(path), path.stem)


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
            raise NewerRecord(f"it is of version {version}, this project reads up to {RECORD_VERSION}") from None
        raise UserError("its checksum fits, but its content is no record") from None
    if record.version > RECORD_VERSION:
        raise NewerRecord(f"it is of version {record.version}, this project reads up to {RECORD_VERSION}")
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
    return f'{{"checksum": "{hashlib.sha256(body).hexdigest()}", "record":\n'.encode() + body + b"}\n"


def arrays_path(record: Record, path: AnyPath) -> AnyPath:
    """Where the arrays of a record lie: beside its file, named by their content, so that no two writers meet."""
    return path.with_name(f"{record.identity}.{(record.arrays_sha256 or '')[:12]}.npz")


def read_arrays(record: Record, path: AnyPath) -> dict[str, np.ndarray]:
    """The arrays beside a record's file: per-epoch history, predictions, classifier vectors.

    Raises:
        UserError: they are missing or not those that the record was filed with.
    """
    packed_path = arrays_path(record, path)
    try:
        if not packed_path.exists():
            packed_path = path.with_suffix(".npz")  # as records of version 1 have it
        packed = read(packed_path)
    except OSError as error:
        raise UserError(f"the arrays {packed_path} cannot be read ({error.strerror})") from None
    if hashlib.sha256(packed).hexdigest() != record.arrays_sha256:
        raise UserError(f"the arrays {packed_path} are damaged: they are not those of their record")
    try:
        return npz.read(packed)
    except npz.UNREADABLE as error:
        raise UserError(
            f"the arrays {packed_path} fit their record, but cannot be read ({first_line(error)})"
        ) from None
