"""Records from what trials leave; imports no torch, so that the driver can file what only it knows."""

import math
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np

from dh2l.config import TrainConfig
from dh2l.results import History, TrainResult
from study import provenance
from study.records import Failure, Provenance, Record, Scores

SCORE_FIELDS = tuple(name for name in Scores.model_fields if name != "epoch")


def finished_record(config: TrainConfig, started: datetime, result: TrainResult) -> Record:
    """The record of a trial that went through its last epoch."""
    history = result.history
    best_validation, best_test = best_epoch(history, "validation_accuracy"), best_epoch(history, "test_accuracy")
    return Record(
        identity=config.identity,
        state="done",
        config=config.model_dump(mode="json"),
        seed=config.seed,
        parameters=result.parameters,
        last=scores_at(history, len(history["test_accuracy"]) - 1),
        best_validation=None if best_validation is None else scores_at(history, best_validation),
        best_test=None if best_test is None else scores_at(history, best_test),
        failure=None,
        provenance=_provenance(started, result.attempts),
        arrays_sha256=None,
    )


def unfinished_record(
    config: TrainConfig,
    state: Literal["diverged", "failed", "stopped"],
    failure: Failure,
    *,
    started: datetime | None = None,
) -> Record:
    """The record of a trial that gave no scores, and why."""
    return Record(
        identity=config.identity,
        state=state,
        config=config.model_dump(mode="json"),
        seed=config.seed,
        parameters=None,
        last=None,
        best_validation=None,
        best_test=None,
        failure=failure,
        provenance=_provenance(started or datetime.now(UTC), []),
        arrays_sha256=None,
    )


def scores_at(history: History, index: int) -> Scores:
    """The scores of one epoch, given its place in the history; a loss that is not finite becomes None."""
    scores = {name: history[name][index] if name in history else None for name in SCORE_FIELDS}
    finite = {name: None if value is None or not math.isfinite(value) else value for name, value in scores.items()}
    return Scores.model_validate({"epoch": index + 1, **finite})


def best_epoch(history: History, name: str) -> int | None:
    """Place in the history of the first epoch with the highest value; None where the metric is not there."""
    values = [value for value in history.get(name, []) if value is not None]
    return values.index(max(values)) if values else None


def arrays_of(history: History, result: TrainResult | None = None) -> dict[str, np.ndarray]:
    """What is filed beside a record: ``history.<metric>`` per epoch, predictions on the test set, labels, vectors."""
    arrays: dict[str, np.ndarray] = {
        f"history.{name}": np.array([math.nan if value is None else value for value in values])
        for name, values in history.items()
    }
    if result is not None:
        arrays["predictions.last"] = result.predictions_last.astype(np.uint16)
        if result.predictions_best is not None:
            arrays["predictions.best_validation"] = result.predictions_best.astype(np.uint16)
        arrays["labels"] = result.labels.astype(np.uint16)
        arrays["vectors"] = result.vectors
    return arrays


def _provenance(started: datetime, attempts: list[dict[str, Any]]) -> Provenance:
    commit, dirty = provenance.commit()
    return Provenance(
        commit=commit,
        dirty=dirty,
        versions=provenance.versions(),
        hardware=provenance.hardware(attempts[-1]["device"] if attempts else None),
        attempts=attempts,
        started=started.isoformat(timespec="seconds"),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        duration_s=sum(attempt["seconds"] for attempt in attempts),
    )
