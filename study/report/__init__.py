"""One HTML page about a study: tables, figures, failures, provenance; needs no network and no script to be read."""

import shlex
from pathlib import Path

from dh2l.atomic import write_atomically
from study import tables
from study.places import shipped_studies
from study.plan import Plan
from study.report.comparison import comparison_sections, statement, tables_section
from study.report.page import Section, Text, render
from study.report.pictures import picture_sections
from study.report.trials import trial_sections
from study.selection import evaluate_cell
from study.states import Standing

__all__ = ["report_html", "save_report", "tables_page"]


def report_html(standing: Standing) -> str:
    """The page; the same records give the same bytes."""
    results = [evaluate_cell(cell, standing) for cell in standing.plan.cells]
    page = tables.render(standing)
    sections = [
        *comparison_sections(page),
        *picture_sections(standing, results),
        *trial_sections(standing, results, _command(standing.plan)),
    ]
    return render(page.title, statement(standing, page, results), sections)


def tables_page(page: tables.Page) -> str:
    """The tables alone, and what failed."""
    failed = [Section("failures", "Failed or diverged", [Text("\n".join(page.failures), verbatim=True)])]
    return render(page.title, page.statements, [tables_section(page), *failed * bool(page.failures)])


def save_report(standing: Standing, folder: Path) -> Path:
    """Write the page into a folder.

    Returns:
        Its file.
    """
    path = folder / "report.html"
    write_atomically(path, report_html(standing).encode())
    return path


def _command(plan: Plan) -> str:
    """What to type to make the page again."""
    file = plan.file.document.path
    name = file.stem if file in shipped_studies().values() else file.name
    changed = [word for key, value in plan.file.overrides.items() for word in ("--set", f"{key}={value}")]
    return shlex.join(["dh2l-study", "report", name, *changed])
