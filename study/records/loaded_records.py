"""Records read from a folder, and faults of unusable files."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from dh2l.config.identity import digest_of
from dh2l.errors import UserError
from dh2l.io.files import AnyPath, list_files, read_all
from dh2l.wording import counted
from study.records.arrays import arrays_file, arrays_path, has_arrays, read_verified
from study.records.record import LARGEST, NewerRecord, Record, parse_content

Candidates = dict[AnyPath, Record]
"""Sound records of one trial, by their files."""


@dataclass
class LoadedRecords:
    """Records read from a folder, and faults found.

    Attributes:
        records: every sound record, by identity.
        paths: the file of each.
        damaged: files that do not verify, with the reason.
        conflicts: identities that have records which cannot be used and must not be replaced (they
            disagree, cannot be read now, or a newer version of this project wrote them), each with
            a sentence. Not in `records`.
        duplicates: identities that were trained twice with different numbers, each with a sentence
            that names the record in use.
        bare: records whose arrays are missing, with the missing file.
        damaged_arrays: records whose arrays are damaged, with the file; see `check_arrays`.
        evaluated: records of trials that were trained again with an evaluation after every epoch,
            and gave other numbers than the record in `records`; each with its file.
        unevaluated: identities of records left out because their best epoch on the test set is
            unknown.
    """

    records: dict[str, Record] = field(default_factory=dict)
    paths: dict[str, AnyPath] = field(default_factory=dict)
    damaged: dict[AnyPath, str] = field(default_factory=dict)
    conflicts: dict[str, str] = field(default_factory=dict)
    duplicates: dict[str, str] = field(default_factory=dict)
    bare: dict[str, AnyPath] = field(default_factory=dict)
    damaged_arrays: dict[str, AnyPath] = field(default_factory=dict)
    evaluated: dict[str, tuple[Record, AnyPath]] = field(default_factory=dict)
    unevaluated: list[str] = field(default_factory=list)

    def require_best_test(self) -> None:
        """Leave out records of trials whose test set was not evaluated after every epoch."""
        for identity, (record, path) in self.evaluated.items():
            self.duplicates[identity] = (
                f"{identity} was trained again to evaluate the test set after every epoch, with "
                "different numbers: "
                f"this study uses {path}, studies without accuracy: oracle use "
                f"{self.paths[identity]}"
            )
            self.records[identity], self.paths[identity] = record, path
        self.unevaluated = [
            identity for identity, record in self.records.items() if record.lacks_best_test
        ]
        for identity in self.unevaluated:
            del self.records[identity], self.paths[identity]

    def check_arrays(self) -> None:
        """Read the arrays of every record, and note those that do not match it."""
        for identity, record in self.records.items():
            if record.arrays_sha256 is None or identity in self.bare:
                continue
            file = arrays_file(record, self.paths[identity])
            try:
                read_verified(file, record.arrays_sha256, "arrays")
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
            *self.duplicates.values(),
            *lacking,
            *self._unevaluated(),
        ]

    def _unevaluated(self) -> list[str]:
        if not self.unevaluated:
            return []
        return [
            f"{counted(len(self.unevaluated), 'trial')} trained without evaluating the test set "
            "after every epoch: "
            "accuracy: oracle needs the best of all epochs. `run` trains them again"
        ]


def read_records(
    folder: AnyPath, identities: Iterable[str] | None, *, evaluated: str
) -> LoadedRecords:
    """Read and verify the records below a folder of some identities, or all of them.

    A record whose identity has the same hash and other readable words, as earlier versions wrote
    them, belongs to the same trial.

    Args:
        folder: of the records; files copied in from other machines may be in subfolders.
        identities: of the trials; None for all.
        evaluated: the name of the subfolder of trials trained again to evaluate every epoch.
    """
    everything = list_files(folder, "**/*.*")
    names = _identities([path for path in everything if path.suffix == ".json"], identities)
    contents = dict(zip(names, read_all(list(names), LARGEST), strict=True))
    packed = {path for path in everything if path.suffix == ".npz"}
    files: dict[str, list[AnyPath]] = {}
    for path, identity in names.items():
        files.setdefault(identity, []).append(path)
    found = LoadedRecords()
    for identity, paths in files.items():
        sound = _sound({path: contents[path] for path in paths}, identity, found)
        # A failure on one machine does not contradict the finished trial of another.
        settled = {path: record for path, record in sound.items() if record.settled}
        candidates = settled or dict(list(sound.items())[:1])
        if candidates and identity not in found.conflicts:
            _choose(candidates, identity, found, packed, evaluated)
    return found


def _identities(paths: list[AnyPath], identities: Iterable[str] | None) -> dict[AnyPath, str]:
    """Return the identity of each file that belongs to a wanted trial."""
    if identities is None:
        return {path: path.stem for path in paths}
    wanted = set(identities)
    now_called = {digest_of(identity): identity for identity in wanted}
    names = {}
    for path in paths:
        if path.stem in wanted:
            names[path] = path.stem
        elif digest_of(path.stem) in now_called:
            names[path] = now_called[digest_of(path.stem)]
    return names


def _sound(
    contents: Mapping[AnyPath, bytes | OSError], identity: str, found: LoadedRecords
) -> Candidates:
    """Return the records of a trial that verify, and note what is wrong with the others."""
    sound: Candidates = {}
    for path, content in contents.items():
        if isinstance(content, FileNotFoundError):  # quarantined by another driver meanwhile
            continue
        if isinstance(content, OSError):
            reason = f"it cannot be read ({content.strerror})"
            found.conflicts[identity] = f"the record {path} is left alone: {reason}"
            continue
        try:
            record = parse_content(content, path.stem)
        except NewerRecord as error:
            found.conflicts[identity] = f"the record {path} is left alone: {error}"
        except UserError as error:
            found.damaged[path] = str(error)
        else:
            if path.stem != identity:
                record = record.model_copy(update={"identity": identity})
            sound[path] = record
    return sound


def _choose(
    candidates: Candidates,
    identity: str,
    found: LoadedRecords,
    packed: set[AnyPath],
    evaluated: str,
) -> None:
    """Choose the record of a trial among its candidates, one with arrays before others.

    Records without the best epoch on the test set come last. Those of a second training that
    evaluated every epoch are kept apart if they agree among themselves alone.
    """
    candidates = dict(sorted(candidates.items(), key=lambda item: item[1].lacks_best_test))
    again = {path: record for path, record in candidates.items() if path.parent.name == evaluated}
    before = {path: record for path, record in candidates.items() if path not in again}
    if before and again and _agree(before) and _agree(again) and not _agree(candidates):
        path = _with_arrays(again, packed) or next(iter(again))
        found.evaluated[identity] = again[path], path
        candidates = before
    whole = _with_arrays(candidates, packed)
    path = whole or next(iter(candidates))
    if whole is None:
        found.bare[identity] = arrays_path(candidates[path], path)
    if _agree(candidates):
        found.records[identity], found.paths[identity] = candidates[path], path
        return
    files = " and ".join(map(str, candidates))
    found.conflicts[identity] = (
        f"the records {files} are of one trial but disagree; neither is used: delete the wrong one"
    )


def _with_arrays(candidates: Candidates, packed: set[AnyPath]) -> AnyPath | None:
    """Return the first file whose arrays are there."""
    for path, record in candidates.items():
        if has_arrays(record, path, packed):
            return path
    return None


def _agree(records: Mapping[AnyPath, Record]) -> bool:
    """Return True if all records of a trial have the same numbers."""
    first, *others = (record.numbers() for record in records.values())
    return all(numbers == first for numbers in others)
