"""Learning curves of a table's trials: means and spreads over seeds."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dh2l.errors import UserError
from study.records.arrays import read_arrays
from study.records.loaded_records import LoadedRecords
from study.records.record import Record
from study.spec.trials import CellKey
from study.state.selection import CellResult

Floats = npt.NDArray[np.float64]
CELL = ["row", "arm", "column"]
CURVE_POINTS = 100
"""A curve is thinned to about this many points."""
FRACTIONS = ("accuracy", "fraction")
"""Ends of the names of metrics that are shown in percent."""


def curve_epochs(epochs: int) -> range:
    """Return the epochs, counted from 1, of a thinned curve: evenly spaced, the last included."""
    step = max(1, math.ceil(epochs / CURVE_POINTS))
    return range(1 + (epochs - 1) % step, epochs + 1, step)


def shown_arrays(
    results: Sequence[CellResult], found: LoadedRecords
) -> Iterator[tuple[CellResult, Record, dict[str, npt.NDArray[Any]]]]:
    """Yield the arrays of every trial that the cells show; skip missing or damaged ones."""
    for result in results:
        for record in result.records:
            try:
                yield result, record, read_arrays(record, found.paths[record.identity])
            except UserError:
                continue


def without_arrays(results: Sequence[CellResult], found: LoadedRecords) -> list[str]:
    """Trials that the cells show, but of which no picture can be drawn."""
    there = {record.identity for _, record, _ in shown_arrays(results, found)}
    return [
        record.identity
        for result in results
        for record in result.records
        if record.identity not in there
    ]


def curve_frame(results: Sequence[CellResult], found: LoadedRecords) -> pd.DataFrame:
    """Collect every metric of the cells' shown trials over epochs.

    Columns: `row`, `arm`, `column`; `metric`, by its name in the history; `epoch`, counted from 1,
    at most about a hundred of them (`curve_epochs`), and for the test set only those after which
    every seed was evaluated; `mean` and `std`, sample standard deviation, over the `n` seeds that
    have a value there, accuracies and fractions in percent; `std` is missing below two seeds.
    """
    histories: dict[CellKey, list[dict[str, Floats]]] = {}
    for result, _, arrays in shown_arrays(results, found):
        kept = {
            name.removeprefix("history."): values
            for name, values in arrays.items()
            if name.startswith("history.")
        }
        histories.setdefault(result.key, []).append(kept)
    parts = []
    for cell_key, of_seeds in histories.items():
        skipped = _unevaluated(of_seeds)
        for metric in dict.fromkeys(
            name for history in of_seeds for name in history if name != "time"
        ):
            part = band([history[metric] for history in of_seeds if metric in history])
            if metric.startswith("test_"):
                part = part[~part["epoch"].isin(skipped)].reset_index(drop=True)
            if metric.endswith(FRACTIONS):
                part[["mean", "std"]] *= 100
            part.insert(0, "metric", metric)
            for name, word in zip(reversed(CELL), reversed(cell_key), strict=True):
                part.insert(0, name, word)
            parts.append(part)
    empty = pd.DataFrame(columns=[*CELL, "metric", "epoch", "mean", "std", "n"])
    return pd.concat(parts, ignore_index=True) if parts else empty


def _unevaluated(of_seeds: Sequence[dict[str, Floats]]) -> set[int]:
    """Return the epochs at which some seeds have no test value; a mean there would jump."""
    curves = [history["test_accuracy"] for history in of_seeds if "test_accuracy" in history]
    return {int(epoch) + 1 for values in curves for epoch in np.flatnonzero(np.isnan(values))}


def band(histories: Iterable[Floats]) -> pd.DataFrame:
    """Compute mean and spread over seeds of one metric.

    Args:
        histories: of each seed the values by epoch, ``(epochs,)``; NaN where there is none.

    Returns:
        Columns `epoch`, `mean`, `std`, `n`, as in `curve_frame`; epochs without any value are left
            out.
    """
    of_seeds = list(histories)
    length = max(map(len, of_seeds))
    table = np.full((len(of_seeds), length), np.nan)
    for seed, values in enumerate(of_seeds):
        table[seed, : len(values)] = values
    rows = []
    for epoch in curve_epochs(length):
        values = table[:, epoch - 1]
        values = values[~np.isnan(values)]
        if len(values):
            std = float(np.std(values, ddof=1)) if len(values) > 1 else np.nan
            rows.append((epoch, float(np.mean(values)), std, len(values)))
    return pd.DataFrame(rows, columns=["epoch", "mean", "std", "n"])
