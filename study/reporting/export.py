"""Exports of a study's results as files of several formats."""

import io
import json
from dataclasses import replace
from typing import Any

import pandas as pd

from dh2l.errors import UserError, unknown_name_message
from study.analysis.frames import FRAMES
from study.formats import ExportFormat, FrameKind
from study.reporting.latex import Look, to_latex
from study.reporting.page import Page, to_markdown
from study.reporting.tables import render
from study.state.results import StudyResults

FRAME_FORMATS = ("csv", "json", "parquet")
"""Formats of the tidy frames; the others are of the rendered tables."""


def exported(
    results: StudyResults,
    kind: ExportFormat,
    of: FrameKind = "cells",
    *,
    table: str | None = None,
    look: Look | None = None,
) -> bytes:
    """Return a study's results as a file's content.

    Args:
        results: the study's.
        kind: `md`, `latex` and `html` are the rendered tables; `csv`, `json` and `parquet` a tidy
            frame.
        of: the frame: `cells`, `trials` or `epochs`.
        table: the name of the one table that is rendered; default: all.
        look: the layout of LaTeX.

    Raises:
        UserError: the study has no such table.
    """
    if kind in FRAME_FORMATS:
        return _frame_file(results, kind, of)
    page = render(results)
    if table is not None:
        names = [one.name for one in page.tables]
        if table not in names:
            raise UserError(unknown_name_message("table of this study", table, names))
        page = replace(page, tables=[one for one in page.tables if one.name == table])
    if kind == "latex":
        return to_latex(page, results.plan.name, look).encode()
    return (to_html(page) if kind == "html" else to_markdown(page)).encode()


def to_html(page: Page) -> str:
    """Render the tables as one self-contained page: a report without its figures."""
    from study.reporting.html import tables_page

    return tables_page(page)


def _frame_file(results: StudyResults, kind: str, of: FrameKind) -> bytes:
    page = render(results)
    frame = page.frame if of == "cells" else FRAMES[of](results)
    if kind == "csv":
        return frame.to_csv(index=False).encode()
    about: dict[str, Any] = {
        "study": results.plan.name,
        "title": page.title,
        "statements": page.statements,
        "failures": page.failures,
    }
    if kind == "json":
        rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
        return (
            json.dumps({**about, of: rows}, indent=1, ensure_ascii=False, default=_native) + "\n"
        ).encode()
    buffer = io.BytesIO()
    uniform = _uniform(frame)
    uniform.attrs.update(about)  # `pandas.read_parquet(FILE).attrs` has it again
    uniform.to_parquet(buffer, index=False)
    return buffer.getvalue()


def _native(value: Any) -> Any:
    """NumPy's own numbers as Python's."""
    return value.item()


def _uniform(frame: pd.DataFrame) -> pd.DataFrame:
    """Give each column one type: a field with words and numbers becomes text, for Parquet."""
    mixed = [
        name
        for name in frame
        if frame[name].map(type).nunique() > 1 and frame[name].dtype == object
    ]
    return frame.astype(dict.fromkeys(mixed, "string"))
