"""Two arms side by side, cell by cell: a look at the numbers, and no test."""

import itertools
import statistics
from collections.abc import Iterator
from typing import Any

import pandas as pd

from dh2l.config.train_config import TrainConfig
from dh2l.errors import UserError, unknown_name_message
from study.analysis.image_intervals import ImageIntervals
from study.analysis.significance import BASELINES, config_of, doubts, hierarchical
from study.analysis.statistics import welch, within
from study.spec.arms import exists_in
from study.spec.schema import Study
from study.state.results import StudyResults
from study.state.selection import CellResult

WORDS = ("row", "column", "caution")
COUNTS = ("n_first", "n_second")


def compare_frame(results: StudyResults, first: str, second: str) -> pd.DataFrame:
    """Return one row per pair of cells of one column that differ in arm alone, in table order.

    Where a row names a metric, the other's is the same; an arm without metric, such as a baseline
    or H0, is paired with each row of the other. Among several possible pairs, those that differ in
    the fewest other fields are taken; fields that still differ are in `caution`.

    Columns:
        `row`, `column`: the pair.
        `n_first`, `n_second`; `first`, `second`: finished seeds and mean test accuracy in percent.
        `difference`: second less first, points; `low`, `high`: its 95% interval, Welch's t over
            seeds (none below three seeds), of this pair alone.
        `images_low`, `images_high`: 95% bootstrap interval over test images, the networks as they
            are.
        `super_difference`: of the super-class accuracies, points; `severity_difference`: of the
            mistake severities.
        `caution`: reasons against a fair comparison, and in which arm, e.g. "E: chosen on these
            same seeds".

    Raises:
        UserError: an arm that the study does not have; no pair.
    """
    study = results.study
    arms = list(dict.fromkeys(cell.key.arm for cell in results.cells))
    for arm in (first, second):
        if arm not in arms:
            raise UserError(unknown_name_message("arm of this study", arm, arms))
    if first == second:
        raise UserError(f"{first} is compared with itself; name two arms of {', '.join(arms)}")
    images = ImageIntervals(study, results.found)
    rows: list[dict[str, Any]] = []
    for row, a, b, differing in _pairs(results, first, second):
        ours, theirs = b.accuracies(study), a.accuracies(study)
        seen = welch(ours, theirs)
        bounds = within(seen.interval, -100, 100) if seen else None
        interval = images.interval(b, a) if ours and theirs else None
        above = [hierarchical(result.records, study) for result in (a, b)]
        rows.append(
            {
                "row": row,
                "column": a.key.column,
                "n_first": len(theirs),
                "n_second": len(ours),
                "first": statistics.fmean(theirs) if theirs else None,
                "second": statistics.fmean(ours) if ours else None,
                "difference": statistics.fmean(ours) - statistics.fmean(theirs)
                if ours and theirs
                else None,
                "low": bounds[0] if bounds else None,
                "high": bounds[1] if bounds else None,
                "images_low": interval[0] if interval else None,
                "images_high": interval[1] if interval else None,
                "super_difference": _less(above[1]["super_accuracy"], above[0]["super_accuracy"]),
                "severity_difference": _less(
                    above[1]["mistake_severity"], above[0]["mistake_severity"]
                ),
                "caution": _caution(a, b, differing, study),
            }
        )
    if not rows:
        raise UserError(
            f"no column has both {first} and {second} in rows that could be set side by side"
        )
    frame = pd.DataFrame(rows)
    return frame.astype({name: "float64" for name in frame.columns if name not in WORDS + COUNTS})


def _pairs(
    results: StudyResults, first: str, second: str
) -> Iterator[tuple[str, CellResult, CellResult, tuple[str, ...]]]:
    """Yield each pair: its name in the table, its two cells, and the other fields that differ."""
    plan = results.plan
    cells = {i: cell for i, cell in enumerate(results.cells) if cell.key.arm in (first, second)}
    configs = {i: config_of(i, cell, plan) for i, cell in cells.items()}
    for column in dict.fromkeys(cell.key.column for cell in plan.cells):
        ours, theirs = (
            [i for i, cell in cells.items() if (cell.key.arm, cell.key.column) == (arm, column)]
            for arm in (first, second)
        )
        fitting = {
            (i, j): _differing(
                configs[i], configs[j], {*plan.cell_configs[i].axes, *plan.cell_configs[j].axes}
            )
            for i, j in itertools.product(ours, theirs)
            if None in (metrics := {plan.cell_configs[i].metric, plan.cell_configs[j].metric})
            or len(metrics) == 1
        }
        for (i, j), fields in fitting.items():
            # A row with a metric takes the most similar without; that one stands beside each row
            # with a metric.
            open_i, open_j = (plan.cell_configs[k].metric is None for k in (i, j))
            rivals = [
                len(other)
                for (a, b), other in fitting.items()
                if (a == i and (open_j or not open_i)) or (b == j and (open_i or not open_j))
            ]
            if len(fields) == min(rivals):
                yield _label(cells[i], cells[j]), cells[i], cells[j], fields


def _differing(a: TrainConfig, b: TrainConfig, searched: set[str]) -> tuple[str, ...]:
    """Return the config fields that exist in both arms and differ.

    Searched fields, the protocol, and fields fixed by the arms are excluded.
    """
    said = {
        "seed",
        "protocol",
        "classifier",
        "regularisers",
        *(["weight_decay"] if {a.arm, b.arm} == set(BASELINES) else []),
    }
    return tuple(
        name
        for name in TrainConfig.model_fields
        if name not in said | searched
        and exists_in(name, a.arm)
        and exists_in(name, b.arm)
        and getattr(a, name) != getattr(b, name)
    )


def _label(a: CellResult, b: CellResult) -> str:
    """Return the row's name, or both names unless one only repeats its arm."""
    names = [result.key.row for result in (a, b) if result.key.row != result.key.arm] or [
        a.key.row,
        b.key.row,
    ]
    return " / ".join(dict.fromkeys(names))


def _caution(a: CellResult, b: CellResult, differing: tuple[str, ...], study: Study) -> str:
    """Describe what is unfair: in both arms, in one, and what else differs."""
    first, second = doubts(a, study), doubts(b, study)
    both = [why for why in first if why in second]
    told = ["both: " + ", ".join(both)] if both else []
    for result, of_one in ((a, first), (b, second)):
        alone = [why for why in of_one if why not in both]
        told += [f"{result.key.arm}: {', '.join(alone)}"] if alone else []
    told += (
        [f"{', '.join(differing)} {'differs' if len(differing) == 1 else 'differ'} too"]
        if differing
        else []
    )
    return "; ".join(told)


def _less(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other
