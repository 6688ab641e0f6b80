"""Two arms side by side, cell by cell: a look at the numbers, and no test."""

import itertools
import statistics
from collections.abc import Iterator
from typing import Any

import pandas as pd

from dh2l.errors import UserError, unknown_name
from study.evidence import ImageIntervals, hierarchical, unfit
from study.selection import CellResult, evaluate_cell
from study.space import Study
from study.states import Standing
from study.statistics import LEAST_SEEDS, welch

WORDS = ("row", "column", "caution")
COUNTS = ("n_first", "n_second")


def compare_frame(standing: Standing, first: str, second: str) -> pd.DataFrame:
    """One row per pair of cells of one column that differ in arm alone, in the table's order.

    An arm that has one row alone in a column, as baselines and H0 have, is set beside each row of the other.

    Columns:
        `row`, `column`: the pair.
        `n_first`, `n_second`; `first`, `second`: finished seeds and mean test accuracy in percent.
        `difference`: second less first, points; `low`, `high`: its 95% interval, Welch's t over seeds (none below
            three seeds), of this pair alone.
        `images_low`, `images_high`: 95% bootstrap interval over test images, the networks as they are.
        `super_difference`: of the super-class accuracies, points; `severity_difference`: of the mistake severities.
        `caution`: what keeps the pair from a fair comparison, e.g. that it was chosen on these same seeds.

    Raises:
        UserError: an arm that the study does not have; no pair.
    """
    study = standing.plan.file.study
    arms = list(dict.fromkeys(cell.arm for cell in standing.plan.cells))
    for arm in (first, second):
        if arm not in arms:
            raise UserError(f"{unknown_name('arm', arm, arms)} (of this study: {', '.join(arms)})")
    if first == second:
        raise UserError(f"{first} is compared with itself; name two arms of {', '.join(arms)}")
    images = ImageIntervals(study, standing.found)
    rows: list[dict[str, Any]] = []
    for row, a, b in _pairs(standing, first, second):
        ours, theirs = b.accuracies(study), a.accuracies(study)
        seen = welch(ours, theirs) if min(len(ours), len(theirs)) >= LEAST_SEEDS else None
        interval = images.interval(b, a) if ours and theirs else None
        above = [hierarchical(result.records, study) for result in (a, b)]
        rows.append(
            {
                "row": row,
                "column": a.cell.column,
                "n_first": len(theirs),
                "n_second": len(ours),
                "first": statistics.fmean(theirs) if theirs else None,
                "second": statistics.fmean(ours) if ours else None,
                "difference": statistics.fmean(ours) - statistics.fmean(theirs) if ours and theirs else None,
                "low": seen.low if seen else None,
                "high": seen.high if seen else None,
                "images_low": interval[0] if interval else None,
                "images_high": interval[1] if interval else None,
                "super_difference": _less(above[1]["super_accuracy"], above[0]["super_accuracy"]),
                "severity_difference": _less(above[1]["mistake_severity"], above[0]["mistake_severity"]),
                "caution": _caution(a, b, study),
            }
        )
    if not rows:
        raise UserError(f"no column has both {first} and {second} in rows that could be set side by side")
    frame = pd.DataFrame(rows)
    return frame.astype({name: "float64" for name in frame.columns if name not in WORDS + COUNTS})


def _pairs(standing: Standing, first: str, second: str) -> Iterator[tuple[str, CellResult, CellResult]]:
    """What the table calls the pair, and its two cells."""
    cells = list(zip(standing.plan.cells, standing.plan.specs, strict=True))
    for column in dict.fromkeys(cell.column for cell, _ in cells):
        here = [(cell, spec.metric) for cell, spec in cells if cell.column == column]
        ours, theirs = ([(cell, metric) for cell, metric in here if cell.arm == arm] for arm in (first, second))
        alone = [len(side) == 1 and side[0][1] is None for side in (ours, theirs)]
        for (a, _), (b, _) in itertools.product(ours, theirs):
            if a.row == b.row or any(alone):
                name = b.row if alone[0] else a.row
                yield name, evaluate_cell(a, standing), evaluate_cell(b, standing)


def _caution(a: CellResult, b: CellResult, study: Study) -> str:
    """What is unfair on either side, each phrase once."""
    return "; ".join(dict.fromkeys(filter(None, (unfit(result, study) for result in (a, b)))))


def _less(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other
