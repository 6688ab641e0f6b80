"""HTML report of a study, readable without network or scripts."""

import shlex
from pathlib import Path

from dh2l.io.files import write_atomically
from study.reporting.html.comparison_section import comparison_sections, statement, tables_section
from study.reporting.html.figure_sections import picture_sections
from study.reporting.html.findings import findings
from study.reporting.html.page import Section, Text, render
from study.reporting.html.trial_sections import trial_sections
from study.reporting.page import Page
from study.reporting.tables import render as render_tables
from study.spec.plan import Plan
from study.spec.study_file import shipped_studies
from study.state.results import StudyResults

__all__ = ["report_html", "save_report", "tables_page"]


def report_html(results: StudyResults) -> str:
    """Render the page; the same records give the same bytes."""
    page = render_tables(results)
    sections = [
        *comparison_sections(page),
        *picture_sections(results),
        *trial_sections(results, _command(results.plan)),
    ]
    return render(
        page.title, statement(results, page), sections, lead=" ".join(findings(page.frame))
    )


def tables_page(page: Page) -> str:
    """Render the tables alone, and the failures."""
    sections = [tables_section(page)]
    if page.failures:
        failed = Text("\n".join(page.failures), verbatim=True)
        sections.append(Section("failures", "Failed or diverged", [failed]))
    return render(page.title, page.statements, sections)


def save_report(results: StudyResults, folder: Path) -> Path:
    """Write the page into a folder.

    Returns:
        Its file.
    """
    path = folder / "report.html"
    write_atomically(path, report_html(results).encode(errors="replace"))
    return path


def _command(plan: Plan) -> str:
    """Return the command that makes the page again."""
    file = plan.file.document.path
    name = file.stem if file in shipped_studies().values() else file.name
    changed = [
        word for key, value in plan.file.overrides.items() for word in ("--set", f"{key}={value}")
    ]
    return shlex.join(["dh2l-study", "report", name, *changed])
