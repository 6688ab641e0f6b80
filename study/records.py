"""What a trial leaves: a small JSON record that verifies itself, beside a compressed file of arrays."""

import hashlib
import io
import os
import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from dh2l.errors import UserError

RECORD_VERSION = 1
_HEAD = re.compile(rb'\{"checksum": "([0-9a-f]{64})", "record":\n')


class Scores(BaseModel):
    """A trial's quality after one epoch; accuracies are fractions, losses nats."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    epoch: int
    test_accuracy: float
    test_loss: float
    test_super_accuracy: float | None
    test_mistake_severity: float | None
    validation_accuracy: float | None
    validation_loss: float | None


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


class Provenance(BaseModel):
    """Under what circumstances a record was made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    commit: str | None
    dirty: bool | None
    versions: dict[str, str]
    hardware: dict[str, Any]
    attempts: list[dict[str, Any]]
    """One per process that trained: device, threads, first epoch, seconds."""
    started: str
    finished: str
    duration_s: float
    """Seconds of training and evaluation over all attempts."""


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
        """What two records of one trial must agree on."""
        return (self.state, self.config, self.last, self.best_validation, self.best_test)


@dataclass
class Findings:
    """What reading the records found.

    Attributes:
        records: every sound record, by identity.
        damaged: files that do not verify, with the reason.
        conflicts: identities whose records disagree, with their files. Not in `records`.
    """

    records: dict[str, Record] = field(default_factory=dict)
    damaged: dict[Path, str] = field(default_factory=dict)
    conflicts: dict[str, list[Path]] = field(default_factory=dict)

    def warnings(self) -> list[str]:
        """One sentence per damaged record and per conflict."""
        return [
            *(f"the record {path} is left out: {reason}" for path, reason in self.damaged.items()),
            *(
                f"the records {' and '.join(map(str, paths))} are of one trial but disagree; neither is used: "
                "delete the wrong one"
                for paths in self.conflicts.values()
            ),
        ]


class RecordStore:
    """The records below one folder; files copied in from other machines, subfolders too, are read alike."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, identity: str) -> Path:
        """Where a record made here lies."""
        return self.folder / f"{identity}.json"

    def write(self, record: Record, arrays: Mapping[str, np.ndarray] | None = None) -> Record:
        """File a record, and first its arrays, each atomically.

        Returns:
            The record as filed, with the hash of its arrays.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if arrays is not None:
            buffer = io.BytesIO()
            np.savez_compressed(buffer, allow_pickle=False, **arrays)
            packed = buffer.getvalue()
            record = record.model_copy(update={"arrays_sha256": hashlib.sha256(packed).hexdigest()})
            write_atomically(self.path(record.identity).with_suffix(".npz"), packed)
        body = record.model_dump_json(indent=1).encode()
        head = f'{{"checksum": "{hashlib.sha256(body).hexdigest()}", "record":\n'.encode()
        write_atomically(self.path(record.identity), head + body + b"}\n")
        return record

    def get(self, identity: str, set_aside: Path) -> Record | None:
        """The record of one trial made here; a damaged one is moved to `set_aside`, and None returned."""
        path = self.path(identity)
        if not path.exists():
            return None
        try:
            return parse_record(path)
        except UserError as error:
            self.set_aside(Findings(damaged={path: str(error)}), set_aside)
            return None

    def read(self, identities: Iterable[str] | None = None) -> Findings:
        """Read and verify the records of some identities, or all of them."""
        wanted = None if identities is None else set(identities)
        found, paths = Findings(), dict[str, list[Path]]()
        for path in sorted(self.folder.rglob("*.json")):
            if wanted is None or path.stem in wanted:
                paths.setdefault(path.stem, []).append(path)
        for identity, files in paths.items():
            sound: dict[Path, Record] = {}
            for path in files:
                try:
                    sound[path] = parse_record(path)
                except UserError as error:
                    found.damaged[path] = str(error)
            # A retried failure on one machine does not contradict the finished trial of another.
            settled = {p: r for p, r in sound.items() if r.state in ("done", "diverged")} or dict(
                list(sound.items())[:1]
            )
            if not settled:
                continue
            first = next(iter(settled.values()))
            if all(record.numbers() == first.numbers() for record in settled.values()):
                found.records[identity] = first
            else:
                found.conflicts[identity] = list(settled)
        return found

    def set_aside(self, found: Findings, folder: Path) -> None:
        """Move damaged records out of the way, so that their trials can be trained again; nothing is deleted."""
        for path in found.damaged:
            folder.mkdir(parents=True, exist_ok=True)
            target = folder / path.name
            number = 1
            while target.exists():
                target = folder / f"{path.stem}.{number}{path.suffix}"
                number += 1
            path.replace(target)


def parse_record(path: Path) -> Record:
    """Read one record and verify its checksum.

    Raises:
        UserError: why it is no sound record, without its name.
    """
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UserError(f"it cannot be read ({error.strerror})") from None
    head = _HEAD.match(raw)
    if head is None or not raw.endswith(b"}\n"):
        raise UserError("it is truncated, or not a record")
    body = raw[head.end() : -2]
    if hashlib.sha256(body).hexdigest().encode() != head[1]:
        raise UserError("its checksum does not fit: it was edited or damaged")
    try:
        record = Record.model_validate_json(body)
    except ValidationError:
        raise UserError(
            f"it is not of record version {RECORD_VERSION}; a newer version of this project may have made it"
        ) from None
    if record.version != RECORD_VERSION:
        raise UserError(f"it is of record version {record.version}, this project reads {RECORD_VERSION}")
    if record.identity != path.stem:
        raise UserError(f"it is the record of {record.identity}")
    return record


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays beside a record: per-epoch history, predictions, classifier vectors."""
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that whoever reads it finds the old or the new content, whole, even after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
