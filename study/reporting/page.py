"""Pages of tables, and their Markdown."""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from dh2l.io.files import write_atomically

FAILURES_SHOWN = 20


@dataclass(frozen=True)
class Table:
    """One table as text.

    Attributes:
        name: a word for it, e.g. `accuracy`.
        title: what it shows.
        header: the columns' names.
        rows: as many texts in each as in the header.
        notes: sentences on how to read it.
    """

    name: str
    title: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Page:
    """A study's tables, and what every rendering of them states.

    Attributes:
        title: the study's.
        statements: rule, protocol, seeds, n, data, commit, hardware: a sentence or two each.
        tables: the accuracies first.
        notes: footnotes, in the order of their marks ``[1]``, ``[2]``, ...
        failures: a line for each trial that failed or diverged.
        frame: the cells behind it.
    """

    title: str
    statements: list[str]
    tables: list[Table]
    notes: list[str]
    failures: list[str]
    frame: pd.DataFrame

    def __str__(self) -> str:
        return to_markdown(self)

    def _repr_markdown_(self) -> str:
        """Show the page in a notebook that renders Markdown."""
        return to_markdown(self)

    def _repr_html_(self) -> str:
        """Show the tables in a notebook."""
        from study.reporting.html.notebook import tables_fragment

        return tables_fragment(self)


def to_markdown(page: Page) -> str:
    """Render the page as Markdown that also reads as plain text."""
    lines = [f"# {page.title}", "", *page.statements]
    for number, table in enumerate(page.tables):
        if number:
            lines += ["", f"## {table.title}"]
        lines += ["", *pipe_table([table.header, *table.rows])]
        if table.notes:
            lines += ["", *table.notes]
        if not number and page.notes:
            lines += ["", *(f"[{i}] {note}" for i, note in enumerate(page.notes, 1))]
    if page.failures:
        shown = page.failures[:FAILURES_SHOWN]
        lines += ["", "Failed or diverged:", "", *(f"- {line}" for line in shown)]
        if len(page.failures) > len(shown):
            lines.append(f"- and {len(page.failures) - len(shown)} more")
    return "\n".join(lines) + "\n"


def save(page: Page, folder: Path) -> dict[str, Path]:
    """Write the tables as Markdown and the cells as CSV.

    Returns:
        The files by format.
    """
    files = {"markdown": folder / "table.md", "csv": folder / "cells.csv"}
    write_atomically(files["markdown"], to_markdown(page).encode())
    write_atomically(files["csv"], page.frame.to_csv(index=False).encode())
    return files


def pipe_table(table: list[list[str]]) -> list[str]:
    """Lay out rows, the header first, as a Markdown table that also reads as plain text."""
    cells = [[" ".join(text.replace("|", "\\|").split()) for text in row] for row in table]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = [
        "| " + " | ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return [lines[0], rule, *lines[1:]]
