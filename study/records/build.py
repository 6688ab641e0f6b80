"""Builders of records from training results.

Imports no torch, because the driver writes records too.
"""

import math
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Literal

import numpy as np

from dh2l.calibration import probability_scores
from dh2l.config.train_config import TrainConfig
from dh2l.results import History, TrainResult
from dh2l.tree import ClassTree
from study.records import provenance
from study.records.record import Failure, ProbabilityScores, Provenance, Record, Scores

SCORE_FIELDS = tuple(
    name for name in Scores.model_fields if name not in ("epoch", "test_probabilities")
)


def finished_record(
    config: TrainConfig, started: datetime, result: TrainResult, tree: ClassTree
) -> Record:
    """Make the record of a trial that went through its last epoch.

    Args:
        config: the trial.
        started: when this process began it.
        result: its result.
        tree: the data set's own class tree, which heights are measured by.
    """
    history = result.history
    best_validation = best_epoch(history, "validation_accuracy")
    everywhere = None not in history["test_accuracy"]
    best_test = best_epoch(history, "test_accuracy") if everywhere else None
    last = scores_at(history, len(history["test_accuracy"]) - 1)
    best = None if best_validation is None else scores_at(history, best_validation)
    return Record(
        identity=config.identity,
        state="done",
        config=config.model_dump(mode="json"),
        seed=config.seed,
        parameters=result.parameters,
        last=_with_probabilities(last, result, "last", tree),
        best_validation=None
        if best is None
        else _with_probabilities(best, result, "best_validation", tree),
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
    """Build the record of a trial without scores, with the reason."""
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
    """Return the scores of one epoch, by its index; a loss that is not finite becomes None."""
    scores = {name: history[name][index] if name in history else None for name in SCORE_FIELDS}
    finite = {
        name: None if value is None or not math.isfinite(value) else value
        for name, value in scores.items()
    }
    return Scores.model_validate({"epoch": index + 1, **finite})


def _with_probabilities(scores: Scores, result: TrainResult, which: str, tree: ClassTree) -> Scores:
    """Add the scores of the predicted probabilities, as they are kept, to those of an epoch."""
    logs = result.log_probabilities[f"test.{which}"]
    if not np.isfinite(logs).all():
        return scores
    found = ProbabilityScores.model_validate(asdict(probability_scores(logs, result.labels, tree)))
    return scores.model_copy(update={"test_probabilities": found})


def probabilities_of(result: TrainResult) -> dict[str, np.ndarray]:
    """Collect predicted probabilities as logarithms, with the labels that they are judged by."""
    labels = {"test.labels": result.labels, "validation.labels": result.validation_labels}
    found: dict[str, np.ndarray] = {**result.log_probabilities}
    return found | {
        name: values.astype(np.uint16) for name, values in labels.items() if values is not None
    }


def best_epoch(history: History, name: str) -> int | None:
    """Return the index of the first epoch with the highest value; None without the metric."""
    values = [value for value in history.get(name, []) if value is not None]
    return values.index(max(values)) if values else None


def arrays_of(history: History, result: TrainResult | None = None) -> dict[str, np.ndarray]:
    """Collect a record's arrays: ``history.<metric>`` per epoch, predictions, labels, vectors."""
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
