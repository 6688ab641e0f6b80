"""What the MLflow view shows of records and cells, as plain values."""

import hashlib
import json
import math
import time
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from study.records import Record

CURVE_POINTS = 100
"""A curve is thinned to about this many points."""
LAST = "train_loss"
"""The metric of an epoch that is written last: where it is shown, the whole epoch is."""


class Point(NamedTuple):
    """One value of a metric: when, as milliseconds since 1970, and at which epoch."""

    name: str
    value: float
    timestamp: int
    step: int


def digest(text: str) -> str:
    """A short mark by which a view knows what it shows already."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def points(metrics: dict[str, Any], step: int) -> list[Point]:
    """The metrics of one epoch; `time` is when it ended (default: now), and what does not exist is left out.

    Of two values at one step MLflow shows the younger, so what can change needs a time of its own. `LAST` comes last.
    """
    timestamp = int(1000 * metrics.get("time", time.time()))
    return [
        Point(name, float(metrics[name]), timestamp, step)
        for name in sorted(metrics, key=LAST.__eq__)
        if name != "time" and metrics[name] is not None and not math.isnan(metrics[name])
    ]


def curve_epochs(epochs: int) -> range:
    """The epochs, counted from 1, that a thinned curve keeps: evenly spaced, the last among them."""
    step = max(1, math.ceil(epochs / CURVE_POINTS))
    return range(1 + (epochs - 1) % step, epochs + 1, step)


def curves(record: Record, arrays: dict[str, np.ndarray]) -> Iterator[Point]:
    """A trial's history, thinned."""
    history = {k.removeprefix("history."): v for k, v in arrays.items() if k.startswith("history.")}
    length = max((len(values) for values in history.values()), default=0)
    for epoch in curve_epochs(record.config["epochs"]):
        if epoch <= length:
            yield from points({name: values[epoch - 1] for name, values in history.items()}, epoch)


def scalars(record: Record) -> list[Point]:
    """The accuracies that are never mixed: at the last, the best validation and the best test epoch."""
    scores = {"last": record.last, "at_best_validation": record.best_validation, "oracle": record.best_test}
    values: dict[str, Any] = {"duration_s": record.provenance.duration_s}
    for name, score in scores.items():
        if score is not None:
            values |= {f"test_accuracy_{name}": score.test_accuracy, f"epoch_{name}": float(score.epoch)}
    return points(values, 0)


def trial_tags(record: Record) -> dict[str, str]:
    """Tags of a trial's run; `dh2l.record` marks which record it shows."""
    return {
        "dh2l.record": digest(record.model_dump_json()),
        "dh2l.state": record.state,
        "dh2l.commit": record.provenance.commit or "unknown",
        "dh2l.failure": record.failure.message[:500] if record.failure else "",
    }


def cell_metrics(cell: dict[str, Any]) -> dict[str, float]:
    """Metrics of a cell's run: accuracies in percent, the test's, n, candidates, and the selected numbers."""
    percent = ("accuracy", "std", "low", "high", "difference", "paper", "paper_difference", "super_accuracy")
    values = {f"{name}_percent": cell[name] for name in percent}
    values |= {name: cell[name] for name in ("n", "candidates", "p_holm", "mistake_severity")}
    selected = json.loads(cell["selected"]) if cell["selected"] else {}
    numbers = {k: v for k, v in selected.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
    values |= {f"selected_{name}": value for name, value in numbers.items()}
    return {k: float(f"{v:.6g}") for k, v in values.items() if v is not None and not math.isnan(v)}


def cell_tags(cell: dict[str, Any], position: int) -> dict[str, str]:
    """Tags of a cell's run; `dh2l.position` sorts the runs as the table does."""
    names = ("row", "arm", "column", "reference", "selected", "problem", "note", "commits", "hardware")
    return {name: str(cell[name]) for name in names} | {"dh2l.position": f"{position:04}"}


def places(trials: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Tags of each trial's run, of a trial frame: row and column of its cell or cells, and whether one shows it."""
    return {
        str(identity): {name: "; ".join(dict.fromkeys(rows[name])) for name in ("row", "column")}
        | {"shown": "yes" if rows["shown"].any() else "no"}
        for identity, rows in trials.groupby("trial", sort=False)
    }


def parts(rows: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """The rows in lists of at most `size`."""
    everything = list(rows)
    return (everything[i : i + size] for i in range(0, len(everything), size))
