"""Table of evidence: what each number is worth, cell by cell."""

import json
from collections.abc import Iterator
from typing import Any

import pandas as pd

from study.analysis.frames import cells_of
from study.analysis.significance import BASELINES
from study.reporting.cell_text import Cells, arm_text, interval, known, p_value, signed
from study.reporting.page import Table
from study.spec.schema import Study


def evidence_table(frame: pd.DataFrame, study: Study) -> Table:
    """Lay out one row per cell: interval, difference, its test, and the selection."""
    searched, compared = frame["candidates"].max() > 1, not frame["arm"].isin(BASELINES).all()
    header = ["metric", "arm", "column", "n", "mean, 95% interval"]
    if compared:
        header += ["difference, 95% interval", "p (Holm)", "test images, 95%"]
    if searched:
        header.append("selected")
    rows = []
    for cell in cells_of(frame):
        row = [cell["row"], arm_text(cell), cell["column"], str(cell["n"]), _interval_of_mean(cell)]
        if compared:
            row += [
                _difference(cell),
                _test(cell),
                interval(cell["images_low"], cell["images_high"], sign=True),
            ]
        if searched:
            row.append(_selected(cell))
        rows.append(row)
    return Table(
        "evidence", "What each number is worth", header, rows, list(_evidence_notes(frame, study))
    )


def _evidence_notes(frame: pd.DataFrame, study: Study) -> Iterator[str]:
    yield (
        "Intervals of means: Student's t over seeds, cut at 0 and 100; none below three seeds, or "
        "where all seeds are equal."
    )
    if study.accuracy == "oracle":
        yield (
            "Predictions and probabilities of the best epoch on test are not kept, so NLL, ECE, "
            "CRM and intervals over test images have no values here."
        )
    others = ~frame["arm"].isin(BASELINES)
    if (others & (frame["reference"] == "")).any():
        yield (
            "No reference: no baseline of the same column has the same weight decay, data set and "
            "model; a row with arm: baseline+l2 (baseline, without weight decay) would be one."
        )
    if (frame["reference"] != "").any():
        yield (
            "Difference in points from the reference, which is the baseline of the same column "
            "with the same l2: Welch's t over seeds, one test per cell. p is adjusted by Holm "
            f"over the table's tests ({frame['p'].notna().sum()} so far); the interval is each "
            "cell's alone."
        )
        for row in study.rows:
            if row.control:
                yield (
                    f"The row of {' and '.join(row.arms)} differs from its reference in "
                    f"{', '.join(row.control)} too, which it names as its control."
                )
        yield (
            "Test images: bootstrap of the difference over the images of the test set, with the "
            "networks as they are. It says nothing of other seeds and is no second test."
        )
        if (frame["difference"].notna() & frame["images_low"].isna()).any():
            yield "None where a trial's predictions cannot be read, or where test accuracy chose."
    if study.rule == "oracle" and frame["candidates"].max() > 1:
        yield "Selected by accuracy on these same test images, which flatters every searched cell."


def _interval_of_mean(cell: Cells) -> str:
    if not cell["n"]:
        return ""
    return f"{cell['accuracy']:.2f} {interval(cell['low'], cell['high'])}".strip()


def _difference(cell: Cells) -> str:
    if not known(cell["difference"]):
        return ""
    bounds = interval(cell["difference_low"], cell["difference_high"], sign=True)
    return " ".join(filter(None, [signed(cell["difference"]), bounds]))


def _test(cell: Cells) -> str:
    return p_value(cell["p_holm"]) if known(cell["p_holm"]) else str(cell["why_no_test"])


def _selected(cell: Cells) -> str:
    if cell["candidates"] == 1 or not cell["selected"]:
        return "" if cell["candidates"] == 1 else f"(of {cell['candidates']})"
    values = ", ".join(
        f"{key}={_short(value)}" for key, value in json.loads(cell["selected"]).items()
    )
    tied = f", tied with {cell['tied']}" if cell["tied"] else ""
    return f"{values} (of {cell['candidates']}{tied})"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
