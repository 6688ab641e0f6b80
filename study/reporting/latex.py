r"""LaTeX tables of a study, for ``\input``.

to_latex(render(results), "my-study")                                 # floats, one column wide
to_latex(render(results), "my-study", Look(style="wide", bold=True))  # across both columns
"""

import re
from dataclasses import dataclass, field, replace

import jinja2

from study.formats import LatexStyle
from study.reporting.cell_text import MINUS
from study.reporting.latex_text import WEIGHT, tex
from study.reporting.page import Page, Table

_NUMBER = re.compile(
    rf"([+{MINUS}]?)(\d+)\.(\d+)(?: ± (\d+)\.(\d+))?((?: \(n=\d+\))?(?: \[\d+\])*)"
)
"""A number as the tables show it, with its spread, n and footnotes."""
_SIZES = (("footnotesize", 4.3), ("scriptsize", 4.0), ("tiny", 3.4))
"""Sizes of letters, and a digit's width in points, with some air."""
_NARROW = r">{\raggedright\arraybackslash}p{0.12\linewidth}"
"""A column that wraps."""
_WIDTH, _GAP = 345, 6
"""Points: the text of a one-column article of 10 points, and what is between two columns."""
LOWER_IS_BETTER = ("ahd", "severity")
LOWER_COLUMNS = ("NLL", "ECE, %", "CRM AHD", "CRM severity")
"""Tables in which the lowest value is the best."""
P = "p (Holm)"


@dataclass(frozen=True)
class Look:
    """Layout of tables.

    Attributes:
        style: `tabular`, a float as wide as a column; `wide`, a float across both columns of a
            two-column paper; `longtable`, which breaks where a page ends, for one column.
        bold: whether the best value of a column is bold.
        siunitx: whether columns of numbers are siunitx's, aligned at the point.
    """

    style: LatexStyle = "tabular"
    bold: bool = False
    siunitx: bool = False

    @property
    def packages(self) -> list[str]:
        """The packages that a preamble needs."""
        of_style = ["array", "longtable"] if self.style == "longtable" else ["graphicx"]
        return ["booktabs", *of_style, *(["siunitx"] if self.siunitx else [])]


@dataclass(frozen=True)
class _Sheet:
    """A table, ready to be printed.

    Attributes:
        name: of its label.
        columns: the letters of its columns.
        groups: of a line above the header: text, first and last column, counted from 1; may be
            empty.
        header: LaTeX.
        rows: LaTeX.
        notes: sentences below it.
        size: command that sets the size of the letters.
    """

    name: str
    title: str
    columns: str
    header: list[str]
    rows: list[list[str]]
    notes: list[str]
    size: str
    groups: list[tuple[str, int, int]] = field(default_factory=list)


def to_latex(page: Page, name: str, look: Look | None = None) -> str:
    r"""Render the tables for ``\input``, with booktabs rules.

    Args:
        page: the tables.
        name: the study's: labels are ``tab:NAME-accuracy`` and the like.
        look: their layout.
    """
    look = look or Look()
    environment = jinja2.Environment(  # noqa: S701 LaTeX is escaped by its own filter
        loader=jinja2.PackageLoader("study.reporting"),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        block_start_string="<%",
        block_end_string="%>",
        variable_start_string="<<",
        variable_end_string=">>",
        comment_start_string="<#",
        comment_end_string="#>",
    )
    environment.filters["tex"] = tex
    label = re.sub(r"[^A-Za-z0-9.+-]", "-", name)
    sheets = [_sheet(table, page, look) for table in page.tables]
    return environment.get_template("tables.tex.j2").render(
        page=page, sheets=sheets, name=label, look=look
    )


def _sheet(table: Table, page: Page, look: Look) -> _Sheet:
    """Lay out a table's LaTeX as narrow as possible without losing anything."""
    table = _reasons_below(_without_constants(table, page))
    marked = (
        [f"[{i}] {note}" for i, note in enumerate(page.notes, 1)]
        if table.name == "accuracy"
        else []
    )
    columns = list(zip(*table.rows, strict=True))
    numeric = {
        i for i, column in enumerate(columns) if i > 1 and any(map(_NUMBER.fullmatch, column))
    }
    if table.name == "evidence":
        numeric = set()  # intervals have no point to align at
    best = _best(table, columns, numeric) if look.bold else set()
    aligned = numeric if look.siunitx else set()
    letters = [_letters(columns[i]) if i in aligned else "l" for i in range(len(table.header))]
    rows = [
        [_cell(text, bold=(i, j) in best, aligned=j in aligned) for j, text in enumerate(row)]
        for i, row in enumerate(table.rows)
    ]
    groups, header = _grouped(table)
    header = [f"{{{tex(name)}}}" if j in aligned else tex(name) for j, name in enumerate(header)]
    size, fits = _size(table, look)
    if not fits and look.style == "longtable" and table.header[-1] == "selected":
        letters[-1] = _NARROW
    return _Sheet(
        table.name,
        table.title,
        "".join(letters),
        header,
        rows,
        [*marked, *table.notes],
        size,
        groups,
    )


def _without_constants(table: Table, page: Page) -> Table:
    """Remove what every row repeats: n, which the caption has, a single column's name, blanks."""
    n = set(page.frame["n"])
    if len(n) > 1 or n == {0}:
        spare = set[str]()
    else:
        of_cell = f" (n={n.pop()})"
        table = replace(
            table, rows=[[text.replace(of_cell, "", 1) for text in row] for row in table.rows]
        )
        spare = {"n"}
    if page.frame["column"].nunique() == 1:
        spare.add("column")
    spare |= {name for i, name in enumerate(table.header) if not any(row[i] for row in table.rows)}
    kept = [
        i for i, name in enumerate(table.header) if table.name != "evidence" or name not in spare
    ]
    rows = [[row[i] for i in kept] for row in table.rows]
    return replace(table, header=[table.header[i] for i in kept], rows=rows)


def _reasons_below(table: Table) -> Table:
    """Replace each reason for which there is no test by a letter, explained in a note."""
    if P not in table.header:
        return table
    place = table.header.index(P)
    reasons = dict.fromkeys(row[place] for row in table.rows if re.match("[a-z]", row[place]))
    letters = {reason: _nth_letter(i) for i, reason in enumerate(reasons)}
    rows = [
        [*row[:place], letters.get(row[place], row[place]), *row[place + 1 :]] for row in table.rows
    ]
    explained = "; ".join(f"{letter}: {reason}" for reason, letter in letters.items())
    return replace(
        table, rows=rows, notes=[*table.notes, *([f"No test: {explained}."] if explained else [])]
    )


def _nth_letter(i: int) -> str:
    return chr(ord("a") + i) if i < 26 else f"z{i - 25}"


def _best(table: Table, columns: list[tuple[str, ...]], numeric: set[int]) -> set[tuple[int, int]]:
    """Find the best values as shown, per column of the study; equal values are all best."""
    of_study = columns[table.header.index("column")] if "column" in table.header else None
    best = set()
    for j in numeric:
        if table.header[j].startswith("difference"):
            continue
        found: dict[str, dict[int, float]] = {}
        for i, text in enumerate(columns[j]):
            if match := _NUMBER.fullmatch(text):
                found.setdefault(of_study[i] if of_study else "", {})[i] = _value(match)
        lower = table.name in LOWER_IS_BETTER or table.header[j] in LOWER_COLUMNS
        for values in found.values():
            top = (min if lower else max)(values.values())
            best |= {(i, j) for i, value in values.items() if value == top}
    return best


def _value(number: re.Match[str]) -> float:
    return float(f"{number[1].replace(MINUS, '-')}{number[2]}.{number[3]}")


def _letters(column: tuple[str, ...]) -> str:
    """Return the siunitx column that fits some numbers."""
    found = [match for match in map(_NUMBER.fullmatch, column) if match]
    before = max(len(match[2]) for match in found)
    decimals = max(len(match[3]) for match in found)
    sign = "+" if any(match[1] for match in found) else ""
    spread = max((len((match[4] + match[5]).lstrip("0")) for match in found if match[5]), default=0)
    marks = max((match[6] for match in found), key=len)
    after = f", table-space-text-post={{{marks}}}" if marks else ""
    return f"S[table-format={sign}{before}.{decimals}{f'({spread})' if spread else ''}{after}]"


def _cell(text: str, *, bold: bool, aligned: bool) -> str:
    """One cell's LaTeX."""
    if not aligned:
        return rf"\textbf{{{tex(text)}}}" if bold else tex(text)
    number = _NUMBER.fullmatch(text)
    if number is None:
        return f"{{{tex(text)}}}" if text else ""
    plain = text.removesuffix(number[6]).replace(MINUS, "-").replace(" ± ", " +- ")
    marks = f"{{{tex(number[6])}}}" if number[6] else ""
    return (r"\bfseries " if bold else "") + plain + marks


def _grouped(table: Table) -> tuple[list[tuple[str, int, int]], list[str]]:
    """Return a line above the header, where three columns share a name, and the short header."""
    groups, header = [], list(table.header)
    for i, name in enumerate(table.header[:-2]):
        if table.header[i + 1 : i + 3] == [f"paper, {name}", f"difference, {name}"]:
            groups.append((tex(name), i + 1, i + 3))
            header[i : i + 3] = ["ours", "paper", "difference"]
    return groups, header


def _size(table: Table, look: Look) -> tuple[str, bool]:
    """Return the largest letters with which a table fits a one-column page, and whether it fits.

    What is scaled does not need the smallest.
    """
    columns = list(zip(*[_grouped(table)[1], *table.rows], strict=True))
    digits = sum(max(len(WEIGHT.sub("λe", text)) for text in column) for column in columns)
    sizes = _SIZES if look.style == "longtable" else _SIZES[:-1]
    for size, width in sizes:
        if digits * width + _GAP * (len(columns) - 1) <= _WIDTH:
            return size, True
    return sizes[-1][0], False
