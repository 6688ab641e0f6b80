"""Metrics and tags of records and cells, as plain values."""

import hashlib
import json
import math
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from study.analysis.learning_curves import curve_epochs
from study.analysis.quality import AHD, MEASURES
from study.records.record import Record, Scores

LAST_METRIC = "train_loss"
"""The metric of an epoch that is logged last: once it is in the store, the epoch is complete."""
PERCENT_COLUMNS = (
    "accuracy", "std", "low", "high", "difference", "paper", "paper_difference", "super_accuracy",
)  # fmt: skip
"""Columns of a cell frame whose metrics end in `_percent`."""
CELL_TAGS = (
    "row", "arm", "column", "reference", "selected", "problem", "note", "commits", "hardware",
)  # fmt: skip
"""Columns of a cell frame that become tags."""


class Point(NamedTuple):
    """One value of a metric.

    Attributes:
        name: the metric.
        value: its value.
        timestamp: milliseconds since 1970.
        step: the epoch.
    """

    name: str
    value: float
    timestamp: int
    step: int


def fingerprint(text: str) -> str:
    """Return a short hash by which the view recognises content that the store already has."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def points(metrics: dict[str, Any], step: int) -> list[Point]:
    """Return the metrics of one epoch; `LAST_METRIC` comes last, and missing values are left out.

    `time` is the end of the epoch (default: now). MLflow shows the later of two values at one
    step, so a metric that can change needs a time of its own.
    """
    timestamp = int(1000 * metrics.get("time", time.time()))
    return [
        Point(name, float(metrics[name]), timestamp, step)
        for name in sorted(metrics, key=LAST_METRIC.__eq__)
        if name != "time" and metrics[name] is not None and not math.isnan(metrics[name])
    ]


def curves(record: Record, arrays: dict[str, np.ndarray]) -> Iterator[Point]:
    """Yield the thinned history of a trial."""
    history = {k.removeprefix("history."): v for k, v in arrays.items() if k.startswith("history.")}
    length = max((len(values) for values in history.values()), default=0)
    for epoch in curve_epochs(record.config["epochs"]):
        if epoch <= length:
            yield from points({name: values[epoch - 1] for name, values in history.items()}, epoch)


def scalars(record: Record) -> list[Point]:
    """Return the accuracies of the last, the best validation and the best test epoch."""
    scores = {
        "last": record.last,
        "at_best_validation": record.best_validation,
        "oracle": record.best_test,
    }
    values: dict[str, Any] = {"duration_s": record.provenance.duration_s}
    for name, score in scores.items():
        if score is not None:
            values[f"test_accuracy_{name}"] = score.test_accuracy
            values[f"epoch_{name}"] = float(score.epoch)
            values |= _probability_measures(score, name)
    return points(values, 0)


def _probability_measures(score: Scores, name: str) -> dict[str, float | None]:
    """Return the measures of the predicted probabilities at an epoch, as fractions."""
    found = {} if score.test_probabilities is None else score.test_probabilities.model_dump()
    levels = found.pop("level_accuracies", ())
    return {
        **{f"test_{measure}_{name}": value for measure, value in found.items()},
        **{f"test_level_{level}_accuracy_{name}": value for level, value in enumerate(levels, 1)},
    }


def trial_tags(record: Record) -> dict[str, str]:
    """Return the tags of a trial's run; `dh2l.record` identifies the record that it shows."""
    return {
        "dh2l.record": fingerprint(record.model_dump_json()),
        "dh2l.state": record.state,
        "dh2l.commit": record.provenance.commit or "unknown",
        "dh2l.failure": record.failure.message[:500] if record.failure else "",
    }


def cell_metrics(cell: dict[str, Any]) -> dict[str, float]:
    """Return the metrics of a cell's run: accuracies in percent, the test, and selected values.

    Values are rounded as in the table and p to two digits, because the UI shows all digits.
    """
    values = {f"{name}_percent": cell[name] for name in PERCENT_COLUMNS}
    values |= {name: cell[name] for name in ("n", "candidates", "mistake_severity")}
    decimals = dict.fromkeys(values, 2)
    for measure in (AHD, *MEASURES):
        name = f"{measure.name}_percent" if measure.percent else measure.name
        values[name], decimals[name] = cell[measure.name], measure.decimals
    values = {
        name: None if value is None else round(value, decimals[name])
        for name, value in values.items()
    }
    values["p_holm"] = None if cell["p_holm"] is None else float(f"{cell['p_holm']:.2g}")
    selected = json.loads(cell["selected"]) if cell["selected"] else {}
    values |= {f"selected_{k}": value for k, value in selected.items() if _is_number(value)}
    return {k: float(f"{v:.6g}") for k, v in values.items() if v is not None and not math.isnan(v)}


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def cell_tags(cell: dict[str, Any], position: int) -> dict[str, str]:
    """Return the tags of a cell's run; `dh2l.position` sorts the runs as in the table."""
    return {name: str(cell[name]) for name in CELL_TAGS} | {"dh2l.position": f"{position:04}"}


def cell_tags_by_trial(trials: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Return the rows and columns of each trial's cells, and whether the table includes it.

    Args:
        trials: the trial frame of a study.
    """
    tags = {}
    for identity, rows in trials.groupby("trial", sort=False):
        of_trial = {name: "; ".join(dict.fromkeys(rows[name])) for name in ("row", "column")}
        of_trial["in_table"] = "yes" if rows["in_table"].any() else "no"
        tags[str(identity)] = of_trial
    return tags


def in_batches(rows: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yield the rows in lists of at most `size`."""
    everything = list(rows)
    for start in range(0, len(everything), size):
        yield everything[start : start + size]
