"""What a report says of the study as a whole, and its tables: the one place where tables become a page's."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from study.evidence import evidence_frame
from study.figures import compared, forest, to_svg
from study.report.page import Block, Grid, Picture, Section, Text
from study.selection import CellResult
from study.states import Standing
from study.tables import cell_frame, cells_of, header_lines, layout

FOREST_CAPTION = (
    "Difference in test accuracy, in percentage points, from the baseline of the same column with the same weight "
    "decay. Dot and thick line, over seeds: mean and Welch's 95% interval, of this cell alone and not adjusted for the "
    "number of cells; an open dot has no interval (Table 2 says why). Thin line, over test images: bootstrap 95% "
    "interval that takes the trained networks as fixed."
)


def statement(standing: Standing, results: Sequence[CellResult]) -> list[str]:
    """What the whole page rests on: protocol, rule, seeds, n, data, commits, hardware, and how complete it is."""
    lines = header_lines(standing.plan, cell_frame(standing))
    counts = sorted({len(result.records) for result in results})
    n = f"n = {counts[0]}" if len(counts) == 1 else f"n = {counts[0]} to {counts[-1]}"
    states = ", ".join(f"{number} {state}" for state, number in standing.counts.items())
    whole = [result for result in results if not result.problem]
    complete = (
        "Complete: every cell has all its seeds"
        if len(whole) == len(results)
        else f"Incomplete: {len(whole)} of {len(results)} cells have all their seeds"
    )
    return [*lines, f"Finished seeds of a cell: {n}.", f"{complete}. Trials: {states}."]


def comparison_sections(standing: Standing) -> list[Section]:
    """The tables and the forest of differences."""
    evidence = evidence_frame(standing)
    return [Section("tables", "Tables", tables(standing, evidence)), _forest(evidence)]


def tables(standing: Standing, evidence: pd.DataFrame) -> list[Block]:
    """The study's tables as blocks of a page."""
    (header, *rows), notes = layout(cell_frame(standing))
    marked = [f"[{i}] {note}" for i, note in enumerate(notes, 1)]
    caption = "Table 1. Test accuracy in percent: mean ± sample standard deviation over seeds (n)."
    return [
        Grid(caption, header, rows, heads=2, notes=marked),
        _evidence(evidence),
        _hierarchy(evidence),
    ]


def _evidence(evidence: pd.DataFrame) -> Grid:
    header = ("row", "arm", "column", "n", "candidates", "accuracy, %", "95% interval", "reference",
              "difference, points", "95% interval over seeds", "p", "p, Holm", "no test because",
              "95% interval over images")  # fmt: skip
    rows = [
        (
            cell["row"], cell["arm"], cell["column"], str(cell["n"]), str(cell["candidates"]),
            _number(cell["accuracy"], ".2f"), _interval(cell, "low", "high", ".2f"),
            cell["reference"], _number(cell["difference"], "+.2f"),
            _interval(cell, "difference_low", "difference_high", "+.2f"),
            _p(cell["p"]), _p(cell["p_holm"]), cell["why_no_test"],
            _interval(cell, "images_low", "images_high", "+.2f"),
        )
        for cell in cells_of(evidence)
    ]  # fmt: skip
    return Grid(
        "Table 2. Evidence: each cell against its reference. Welch's t test over seeds, adjusted by Holm over all "
        "tests of this table; the interval over images takes the trained networks as fixed and is no second test.",
        header,
        rows,
        heads=3,
    )


def _hierarchy(evidence: pd.DataFrame) -> Block:
    if not evidence["super_accuracy"].notna().any():
        return Text(
            "No super-class accuracy or mistake severity: no finished trial has a class tree above its classes."
        )
    rows = [
        (
            cell["row"], cell["arm"], cell["column"], str(cell["n"]),
            _spread(cell["super_accuracy"], cell["super_std"]), _spread(cell["mistake_severity"], cell["severity_std"]),
        )
        for cell in cells_of(evidence)
    ]  # fmt: skip
    return Grid(
        "Table 3. Super-class accuracy in percent, and mistake severity: mean height of the lowest common ancestor "
        "of true and predicted class over mistakes (1: the same super-class). Mean "
        "± sample standard deviation over seeds.",
        ("row", "arm", "column", "n", "super-class accuracy, %", "mistake severity"),
        rows,
        heads=3,
    )


def _forest(evidence: pd.DataFrame) -> Section:
    name, title = "differences", "Differences from the reference"
    if compared(evidence).empty:
        return Section(name, title, [Text("No differences: no cell and its reference both have a finished trial.")])
    svg = to_svg(forest(evidence), name, FOREST_CAPTION)
    return Section(name, title, [Picture(svg, "Differences in accuracy", FOREST_CAPTION)])


def _number(value: Any, form: str) -> str:
    return "" if pd.isna(value) else format(value, form).replace("-", "−")


def _interval(cell: dict[str, Any], low: str, high: str, form: str) -> str:
    return "" if pd.isna(cell[low]) else f"[{_number(cell[low], form)},\u00a0{_number(cell[high], form)}]"


def _p(value: Any) -> str:
    return "" if pd.isna(value) else "< 0.0001" if value < 1e-4 else f"{value:.4f}"


def _spread(mean: Any, std: Any) -> str:
    return _number(mean, ".2f") + ("" if pd.isna(std) else f" ± {std:.2f}")
