"""Tables of a study: accuracy as in the paper, evidence, other measures.

page = render(results)      # title, statements, tables, footnotes, failures
to_markdown(page)           # study/reporting/export.py has the other formats
"""

from collections.abc import Callable

import pandas as pd

from study.analysis.frames import cell_frame, cells_of
from study.analysis.quality import AHD, MEASURES, NOTES, n_lacking
from study.reporting.cell_text import (
    Cells,
    arm_text,
    known,
    number_with_spread,
    signed,
    with_spread,
)
from study.reporting.evidence_table import evidence_table
from study.reporting.page import Page, Table
from study.reporting.statements import failures, statements
from study.state.results import StudyResults


def render(results: StudyResults) -> Page:
    """Lay out a study's tables: accuracy as in the paper, evidence, then other measures.

    These are super-classes, average hierarchical distance, mistake severity, probabilities and
    decisions. They and the tests are left out where there are no values.
    """
    frame, study = cell_frame(results), results.study
    notes: list[str] = []
    tables = [_accuracy_table(frame, notes), evidence_table(frame, study)]
    tables += [
        _by_column(frame, name, title, with_spread(value, spread, decimals))
        for name, title, value, spread, decimals in (
            ("super-class", "Super-class accuracy in percent", "super_accuracy", "super_std", 2),
            (
                "ahd",
                "Average hierarchical distance (AHD): mean height in the class tree at which the "
                "answer and the right class meet, over all images",
                "ahd",
                "ahd_std",
                AHD.decimals,
            ),
            (
                "severity",
                "Mistake severity: mean height in the class tree at which a wrong answer and the "
                "right one meet",
                "mistake_severity",
                "severity_std",
                2,
            ),
        )
        if frame[value].notna().any()
    ]
    if any(frame[measure.name].notna().any() for measure in MEASURES) or _partial(results):
        tables.append(_probability_table(frame, results))
    return Page(
        study.title, statements(results.plan, frame), tables, notes, failures(results), frame
    )


def _accuracy_table(frame: pd.DataFrame, notes: list[str]) -> Table:
    """Lay out rows × columns as in the paper: ours, the paper's and the difference."""
    with_paper = set(frame.loc[frame["paper"].notna(), "column"])

    def texts(cell: Cells) -> list[str]:
        ours = _ours(cell) + _marks(_without_its_arm(cell) + _mixed(cell), notes)
        if cell["column"] not in with_paper:
            return [ours]
        paper, difference, note = cell["paper"], cell["paper_difference"], cell["note"]
        if not cell["label_certain"]:
            note = f"the paper's label of this row is uncertain: {note}"
        printed = f"{paper:.2f}" + _marks([note] if note else [], notes) if known(paper) else ""
        return [ours, printed, signed(difference)]

    def header(column: str) -> list[str]:
        if column not in with_paper:
            return [column]
        return [column, f"paper, {column}", f"difference, {column}"]

    return _laid_out(frame, "accuracy", "Test accuracy in percent", header, texts)


def _by_column(frame: pd.DataFrame, name: str, title: str, text: Callable[[Cells], str]) -> Table:
    return _laid_out(frame, name, title, lambda column: [column], lambda cell: [text(cell)])


def _laid_out(
    frame: pd.DataFrame,
    name: str,
    title: str,
    header: Callable[[str], list[str]],
    texts: Callable[[Cells], list[str]],
) -> Table:
    """Lay out a table of the study's rows and columns."""
    cells = cells_of(frame)
    columns = dict.fromkeys(cell["column"] for cell in cells)
    rows: dict[tuple[str, str], list[str]] = {}
    for cell in cells:  # row by row, and within each column by column
        rows.setdefault((cell["row"], cell["arm"]), [cell["row"], arm_text(cell)]).extend(
            texts(cell)
        )
    return Table(
        name,
        title,
        ["metric", "arm", *(word for c in columns for word in header(c))],
        list(rows.values()),
    )


def _partial(results: StudyResults) -> bool:
    """Return True if a cell has trials with predicted probabilities and trials without."""
    return any(
        0 < n_lacking(cell.records, results.study) < len(cell.records) for cell in results.cells
    )


def _lacking_note(results: StudyResults) -> list[str]:
    """Name the cells whose measures are left out because some of their trials lack them."""
    cells = [
        f"{', '.join(dict.fromkeys(cell.cell.key))} ({lacking} of {len(cell.records)})"
        for cell in results.cells
        if (lacking := n_lacking(cell.records, results.study))
    ]
    if not cells:
        return []
    return [
        "Empty: a mean is shown only if all trials of the cell have the value. Records of version "
        "2 and trials with a probability that is not finite lack it; so does CRM severity without "
        f"a mistake. Trials that lack one: {', '.join(cells)}."
    ]


def _probability_table(frame: pd.DataFrame, results: StudyResults) -> Table:
    """Lay out one row per cell: measures of probabilities and of decisions made from them."""
    shown = [measure for measure in MEASURES if frame[measure.name].notna().any()]
    shown = shown or [measure for measure in MEASURES if measure.name == "nll"]
    rows = [
        [
            cell["row"],
            arm_text(cell),
            cell["column"],
            *(
                with_spread(measure.name, f"{measure.name}_std", measure.decimals)(cell)
                for measure in shown
            ),
        ]
        for cell in cells_of(frame)
    ]
    header = ["metric", "arm", "column", *(measure.heading for measure in shown)]
    return Table(
        "probabilities",
        "Probabilities and decisions",
        header,
        rows,
        [*NOTES, *_lacking_note(results)],
    )


def _ours(cell: Cells) -> str:
    if cell["n"] == 0:
        return str(cell["problem"])
    problem = f", {cell['problem']}" if cell["problem"] else ""
    return f"{number_with_spread(cell['accuracy'], cell['std'])} (n={cell['n']}){problem}"


def _without_its_arm(cell: Cells) -> list[str]:
    """Return a footnote on a cell whose choice is a searched weight of 0."""
    if not cell["chosen_arm"]:
        return []
    return [f"a weight of 0 was chosen for {cell['arm']}: these trials are of {cell['chosen_arm']}"]


def _mixed(cell: Cells) -> list[str]:
    """Return footnotes on a cell whose trials were not all made alike."""
    return [
        f"trials of more than one {word}: {cell[key]}"
        for key, word in (("commits", "commit"), ("hardware", "kind of hardware"))
        if "; " in cell[key]
    ]


def _marks(texts: list[str], notes: list[str]) -> str:
    """Return footnote marks for some texts, and add the new ones to the notes."""
    for text in texts:
        if text not in notes:
            notes.append(text)
    return "".join(f" [{notes.index(text) + 1}]" for text in texts)
