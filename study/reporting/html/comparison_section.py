"""Sections on the study as a whole, and its tables as blocks."""

import pandas as pd

from study.reporting.figures import compared, forest, to_svg
from study.reporting.html.page import Block, Grid, Picture, Section, Text
from study.reporting.page import Page
from study.state.results import StudyResults

FOREST_CAPTION = (
    "Difference in test accuracy, in percentage points, from the baseline of the same column with "
    "the same weight decay. Dot and thick line, over seeds: mean and Welch's 95% interval, of this "
    "cell alone and not adjusted for the number of cells; an open dot has no interval (Table 2 "
    "says why). Thin line, over test images: bootstrap 95% interval that takes the trained "
    "networks as fixed."
)


def statement(results: StudyResults, page: Page) -> list[str]:
    """List the basis of the page: protocol, rule, seeds, n, data, commits, completeness."""
    states = ", ".join(f"{number} {state}" for state, number in results.state.counts.items())
    whole = [cell for cell in results.cells if not cell.problem]
    complete = (
        "Complete: every cell has all its seeds"
        if len(whole) == len(results.cells)
        else f"Incomplete: {len(whole)} of {len(results.cells)} cells have all their seeds"
    )
    return [*page.statements, f"{complete}. Trials: {states}."]


def comparison_sections(page: Page) -> list[Section]:
    """Build the tables and the forest of differences."""
    return [tables_section(page), _forest(page.frame)]


def tables_section(page: Page) -> Section:
    """Build the study's tables as blocks of a page."""
    marked = [f"[{i}] {note}" for i, note in enumerate(page.notes, 1)]
    blocks: list[Block] = [
        Grid(
            f"Table {i}. {table.title}.",
            table.header,
            table.rows,
            heads=2 + ("column" in table.header),
            notes=[*marked * (i == 1), *table.notes],
        )
        for i, table in enumerate(page.tables, 1)
    ]
    if not page.frame["super_accuracy"].notna().any():
        blocks.append(
            Text(
                "No super-class accuracy or mistake severity: no finished trial has a class tree "
                "above its classes."
            )
        )
    return Section("tables", "Tables", blocks)


def _forest(evidence: pd.DataFrame) -> Section:
    name, title = "differences", "Differences from the reference"
    if compared(evidence).empty:
        return Section(
            name,
            title,
            [Text("No differences: no cell and its reference both have a finished trial.")],
        )
    svg = to_svg(forest(evidence), name, FOREST_CAPTION)
    return Section(name, title, [Picture(svg, "Differences in accuracy", FOREST_CAPTION)])
