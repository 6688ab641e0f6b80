"""Records of trials: their fields, and their form on disk, which verifies itself."""

import hashlib
import json
import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from dh2l.errors import UserError
from dh2l.io.files import AnyPath, read

RECORD_VERSION = 3
LARGEST = 1 << 24
"""Bytes of a record, which has some thousands."""
_NO_MEMORY = re.compile(r"OutOfMemoryError|(CUDA|HIP)\b.*out of memory|CUBLAS_STATUS_ALLOC_FAILED")
_HEAD = re.compile(rb'\{"checksum": "([0-9a-f]{64})", "record":\n')


class ProbabilityScores(BaseModel):
    """Scores of the test set's predicted probabilities (`dh2l.calibration.ProbabilityScores`)."""

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
    """Reason why a trial has no scores."""

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
        """True if a GPU had no memory left."""
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
        """Return the numbers that two records of one trial must share.

        They do not depend on how often the test set was evaluated.
        """
        measured = [
            None if scores is None else scores.model_copy(update={"test_probabilities": None})
            for scores in (self.last, self.best_validation)
        ]
        return (self.state, *measured)

    @property
    def lacks_best_test(self) -> bool:
        """True if the trial is done, but its best epoch on the test set is unknown."""
        return self.state == "done" and self.best_test is None

    def retried(self, retries: int) -> "Record":
        """Return a copy with the number of retries."""
        return self.model_copy(
            update={"provenance": self.provenance.model_copy(update={"retries": retries})}
        )

    def logged(self, lines: tuple[str, ...]) -> "Record":
        """Return a copy with the last lines of the trial's log, if it failed."""
        if self.failure is None:
            return self
        return self.model_copy(update={"failure": self.failure.model_copy(update={"log": lines})})

    @property
    def settled(self) -> bool:
        """True if the trial is over: training it again would give the same."""
        return self.state in ("done", "diverged")


class NewerRecord(UserError):
    """A record that a newer version of this project wrote."""


def parse_record(path: AnyPath) -> Record:
    """Read one record and verify its checksum.

    Raises:
        UserError: the record does not verify; the message has the reason without its name.
        OSError: it cannot be read.
    """
    return parse_content(read(path, LARGEST), path.stem)


def parse_content(raw: bytes, identity: str) -> Record:
    """Verify the content of a record's file, as `parse_record` does."""
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
    """Return the version that a record claims, or 0."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return 0
    version = content.get("version") if isinstance(content, dict) else None
    return version if isinstance(version, int) else 0


def to_content(record: Record) -> bytes:
    """Serialise a record with its checksum."""
    body = record.model_dump_json(indent=1).encode()
    return (
        f'{{"checksum": "{hashlib.sha256(body).hexdigest()}", "record":\n'.encode() + body + b"}\n"
    )
