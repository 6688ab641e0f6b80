"""Tables for a terminal: folded to its width."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table
from rich.text import Text

from study.cli.console import MAX_WIDTH, out, print_table

if TYPE_CHECKING:
    from study.reporting.page import Page

KEYS = ("metric", "arm", "column")
"""Columns that say which row it is: every part of a folded table begins with them."""
WIDEST_CELL = 32
"""Characters from which on a cell folds at its words rather than claim more of the width."""
GAP = 2
"""Characters between columns, one of them the frame's."""
FAILURES_SHOWN = 20


def print_page(page: "Page") -> None:
    """Print a study's tables, with their statements, notes and failures."""
    _paragraph(page.title, "bold")
    for statement in page.statements:
        _paragraph(statement)
    for number, table in enumerate(page.tables):
        out.print()
        _paragraph(table.title, "bold")
        print_grid(table.header, table.rows)
        for note in table.notes:
            _paragraph(note)
        if not number:
            for mark, note in enumerate(page.notes, 1):
                _paragraph(f"[{mark}] {note}")
    if page.failures:
        _print_failures(page.failures)


def _print_failures(failures: Sequence[str]) -> None:
    """Print the first failures, and the number of the others."""
    out.print()
    _paragraph("Failed or diverged", "bold")
    for line in failures[:FAILURES_SHOWN]:
        _paragraph(f"- {line}")
    more = len(failures) - FAILURES_SHOWN
    if more > 0:
        _paragraph(f"- and {more} more")


def print_parts(*parts: str | list[list[str]]) -> None:
    """Print paragraphs and tables, each with its header first.

    A terminal shows folded tables, everything else gets Markdown.
    """
    from study.reporting.page import pipe_table

    for number, part in enumerate(parts):
        if number:
            out.print()
        if not isinstance(part, str):
            if out.is_terminal:
                print_grid(part[0], part[1:])
            else:
                out.print("\n".join(pipe_table(part)), markup=False)
        elif out.is_terminal:
            _paragraph(part)
        else:
            out.print(part, markup=False)


def print_grid(
    header: Sequence[str], rows: Sequence[Sequence[str | Text]], keys: int | None = None
) -> None:
    """Print a table, and what does not fit beside its key columns below it, with them again.

    Args:
        header: the columns' names.
        rows: as many cells in each as in the header.
        keys: the number of key columns, which come first; by default those that are named as in
            `KEYS`.
    """
    if keys is None:
        keys = next((i for i, name in enumerate(header) if name not in KEYS), len(header))
    filled = [i for i in range(keys) if any(_length(row[i]) for row in rows)]
    widths = [max(_width(cell) for cell in column) for column in zip(header, *rows, strict=True)]
    own = sum(widths[i] + GAP for i in filled)
    for number, part in enumerate(
        _parts(
            range(keys, len(header)), widths, (out.width if out.is_terminal else MAX_WIDTH) - own
        )
    ):
        if number:
            out.print()
        columns = [*filled, *part]
        table = Table(
            box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, GAP - 1, 0, 0), show_edge=False
        )
        for i in columns:
            table.add_column(header[i], no_wrap=widths[i] < WIDEST_CELL, overflow="fold")
        for row in rows:
            table.add_row(*(_cell(row[i]) for i in columns))
        print_table(table)


def _parts(columns: Sequence[int], widths: Sequence[int], room: int) -> list[list[int]]:
    """Divide columns into parts that fit, each of one column at least."""
    parts: list[list[int]] = [[]]
    left = room
    for i in columns:
        if parts[-1] and widths[i] > left:
            parts.append([])
            left = room
        parts[-1].append(i)
        left -= widths[i] + GAP
    return parts


def _cell(cell: str | Text) -> Text:
    return Text(cell) if isinstance(cell, str) else cell


def _length(cell: str | Text) -> int:
    return _cell(cell).cell_len


def _width(cell: str | Text) -> int:
    return min(WIDEST_CELL, _length(cell))


def _paragraph(text: str, style: str = "") -> None:
    out.print(Text(text, style=style), soft_wrap=False)
