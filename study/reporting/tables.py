"""A study's tables as text: laid out as the paper's, and cell by cell what each number is worth.

page = render(results)      # title, statements, tables, footnotes, failures
to_markdown(page)            # study/reporting/export.py has the other formats
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from dh2l.io.files import write_atomically
from dh2l.wording import listed
from study.analysis.frames import cell_frame, cells_of
from study.analysis.quality import AHD, MEASURES, NOTES, n_lacking
from study.analysis.significance import BASELINES
from study.spec.plan import Plan
from study.spec.sampling import any_point
from study.spec.schema import Study
from study.state.results import StudyResults
from study.state.selection import searches

RULES = {
    "best_validation": "highest mean validation accuracy over the seeds",
    "oracle": "chosen on test: highest mean test accuracy over the seeds",
}
FAILURES_SHOWN = 20
EPOCHS = {
    "last": "the last epoch's",
    "best_validation": "the best validation epoch's",
    "oracle": "oracle, the best epoch's on test",
}
MINUS = "−"
Cells = dict[str, Any]


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


def render(results: StudyResults) -> Page:
    """Lay out a study's tables: accuracy as in the paper, evidence cell by cell, then measures beside accuracy.

    These are super-classes, average hierarchical distance, mistake severity, probabilities and decisions. They and the
    tests are left out where nothing is there to show.
    """
    frame, study = cell_frame(results), results.study
    notes: list[str] = []
    tables = [_accuracy_table(frame, notes), _evidence_table(frame, study)]
    tables += [
        _by_column(frame, name, title, _with_spread(value, spread, decimals))
        for name, title, value, spread, decimals in (
            ("super-class", "Super-class accuracy in percent", "super_accuracy", "super_std", 2),
            (
                "ahd",
                "Average hierarchical distance (AHD): mean height in the class tree at which the answer "
                "and the right class meet, over all images",
                "ahd",
                "ahd_std",
                AHD.decimals,
            ),
            (
                "severity",
                "Mistake severity: mean height in the class tree at which a wrong answer and the right one meet",
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


def statements(plan: Plan, frame: pd.DataFrame) -> list[str]:
    """What every rendered table says of itself: protocol, rule, seeds, n, commits, hardware."""
    study = plan.study
    typical = [
        spec.config(any_point(spec), study.seeds[0])
        for spec in plan.cell_configs
        if study.searcher and spec.axes
    ]
    configs = [*(trial.config for trial in plan.trials.values()), *typical]
    protocols = sorted({config.protocol for config in (*plan.choosing.values(), *typical)})
    data = sorted({f"{c.dataset} ({c.data_hash[:8]})" for c in configs})
    searched = any(searches(cell) for cell in plan.cells)
    seeds = study.confirm.seeds if study.confirm else study.seeds
    lines = [
        f"Test accuracy in percent, {EPOCHS[study.accuracy]}; mean ± sample standard deviation over "
        f"{listed('seed', seeds)}; {_n(frame)}.",
        f"Protocol: {_protocol(study, protocols)}. "
        + (
            f"Selection: {RULES[study.rule]}."
            if searched
            else "Nothing is selected: every cell has one configuration."
        ),
        f"Data: {', '.join(data)}. Commit: {_all(frame['commits'])}. Hardware: {_all(frame['hardware'])}.",
    ]
    if study.confirm:
        lines.insert(
            1,
            "Confirmed: these are trials on fresh seeds and the full training set"
            + (f", after a choice on {listed('seed', study.seeds)}." if searched else "."),
        )
    if how := _how_searched(study):
        lines.insert(-1, how)
    if plan.file.overrides:
        lines.append(
            "Changed from the file: "
            + ", ".join(f"{k}={v}" for k, v in plan.file.overrides.items())
            + "."
        )
    return lines


def failures(results: StudyResults) -> list[str]:
    """One line per trial that failed or diverged, with the reason."""
    return [
        f"{identity}: {record.state}, {(record.failure.message or record.failure.kind).splitlines()[0]}"
        for identity, record in results.found.records.items()
        if record.failure is not None and record.state in ("failed", "diverged")
    ]


def to_markdown(page: Page) -> str:
    """The page as Markdown that also reads as plain text."""
    lines = [f"# {page.title}", "", *page.statements]
    for number, table in enumerate(page.tables):
        lines += ["", f"## {table.title}"] if number else []
        lines += ["", *pipe_table([table.header, *table.rows])]
        lines += ["", *table.notes] if table.notes else []
        if not number and page.notes:
            lines += ["", *(f"[{i}] {note}" for i, note in enumerate(page.notes, 1))]
    shown = page.failures[:FAILURES_SHOWN]
    lines += ["", "Failed or diverged:", "", *(f"- {line}" for line in shown)] if shown else []
    lines += [f"- and {more} more"] if (more := len(page.failures) - len(shown)) else []
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


def number_with_spread(value: float, spread: float, decimals: int = 2) -> str:
    """``97.29 ± 0.24``; the number alone where there is no spread to see."""
    shown = f"{value:.{decimals}f}"
    return f"{shown} ± {spread:.{decimals}f}" if _known(spread) else shown


def number(value: float) -> str:
    """``97.29``; empty where there is none."""
    return f"{value:.2f}".replace("-", MINUS) if _known(value) else ""


def signed(value: float) -> str:
    """``+0.48`` or ``−0.43``; empty where there is none."""
    return f"{value:+z.2f}".replace("-", MINUS) if _known(value) else ""


def interval(low: float, high: float, sign: bool = False) -> str:
    """``[96.1, 98.5]``; empty where there is none."""
    if not (_known(low) and _known(high)):
        return ""
    return "[" + ", ".join(signed(v) if sign else number(v) for v in (low, high)) + "]"


def p_value(value: float) -> str:
    """Three digits after the point, or ``< 0.001``."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _known(value: Any) -> bool:
    """Whether there is a number."""
    return bool(pd.notna(value))


def _n(frame: pd.DataFrame) -> str:
    """How many of the seeds are behind the cells."""
    least, most, planned = int(frame["n"].min()), int(frame["n"].max()), int(frame["planned"].max())
    of_planned = "" if least == planned else f" of {planned}"
    return f"n = {least}" + f" to {most}" * (most > least) + of_planned


def _how_searched(study: Study) -> str:
    """What a search did beside trying every configuration to its end."""
    lines = []
    if study.searcher:
        lines.append(f"Configurations suggested by Optuna ({study.searcher.sampler}).")
    if study.scheduler:
        lines.append(
            f"Weak ones were stopped early ({study.scheduler.kind}), and lost: those that are left had full training."
        )
    return " ".join(lines)


def _protocol(study: Study, protocols: Sequence[str]) -> str:
    """That of the trials which the table shows, and where it is another, that of those which chose."""
    if study.confirm is None:
        return ", ".join(protocols)
    return "paper" + (f" (chosen under {', '.join(protocols)})" if protocols else "")


def _all(values: "pd.Series[str]") -> str:
    return "; ".join(sorted({v for text in values for v in text.split("; ") if v})) or "none yet"


def _accuracy_table(frame: pd.DataFrame, notes: list[str]) -> Table:
    """Rows × columns as in the paper: ours, and where the paper prints numbers, the paper's and the difference."""
    with_paper = set(frame.loc[frame["paper"].notna(), "column"])

    def texts(cell: Cells) -> list[str]:
        ours = _ours(cell) + _marks(_without_its_arm(cell) + _mixed(cell), notes)
        if cell["column"] not in with_paper:
            return [ours]
        paper, difference, note = cell["paper"], cell["paper_difference"], cell["note"]
        if not cell["label_certain"]:
            note = f"the paper's label of this row is uncertain: {note}"
        printed = f"{paper:.2f}" + _marks([note] if note else [], notes) if _known(paper) else ""
        return [ours, printed, signed(difference)]

    def header(column: str) -> list[str]:
        return [column, *[f"paper, {column}", f"difference, {column}"] * (column in with_paper)]

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
    """A table of the study's rows and columns."""
    cells = cells_of(frame)
    columns = dict.fromkeys(cell["column"] for cell in cells)
    rows: dict[tuple[str, str], list[str]] = {}
    for cell in cells:  # row by row, and within each column by column
        rows.setdefault((cell["row"], cell["arm"]), [cell["row"], _arm(cell)]).extend(texts(cell))
    return Table(
        name,
        title,
        ["metric", "arm", *(word for c in columns for word in header(c))],
        list(rows.values()),
    )


def _with_spread(value: str, spread: str, decimals: int = 2) -> Callable[[Cells], str]:
    def text(cell: Cells) -> str:
        if not _known(cell[value]):
            return ""
        return number_with_spread(cell[value], cell[spread], decimals)

    return text


def _evidence_table(frame: pd.DataFrame, study: Study) -> Table:
    """One row per cell: interval, difference from the reference, its test, and how the configuration was chosen."""
    searched, compared = frame["candidates"].max() > 1, not frame["arm"].isin(BASELINES).all()
    header = ["metric", "arm", "column", "n", "mean, 95% interval"]
    if compared:
        header += ["difference, 95% interval", "p (Holm)", "test images, 95%"]
    if searched:
        header.append("selected")
    rows = []
    for cell in cells_of(frame):
        row = [cell["row"], _arm(cell), cell["column"], str(cell["n"]), _interval_of_mean(cell)]
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
        "Empty: a mean is shown only if all trials of the cell have the value. Records of version 2 "
        "and trials with a probability that is not finite lack it; so does CRM severity without a "
        f"mistake. Trials that lack one: {', '.join(cells)}."
    ]


def _probability_table(frame: pd.DataFrame, results: StudyResults) -> Table:
    """One row per cell: measures of the predicted probabilities, and of decisions made from them."""
    shown = [measure for measure in MEASURES if frame[measure.name].notna().any()]
    shown = shown or [measure for measure in MEASURES if measure.name == "nll"]
    rows = [
        [
            cell["row"],
            _arm(cell),
            cell["column"],
            *(
                _with_spread(measure.name, f"{measure.name}_std", measure.decimals)(cell)
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


def _evidence_notes(frame: pd.DataFrame, study: Study) -> Iterator[str]:
    yield (
        "Intervals of means: Student's t over seeds, cut at 0 and 100; none below three seeds, or where all seeds are "
        "equal."
    )
    if study.accuracy == "oracle":
        yield (
            "Predictions and probabilities of the best epoch on test are not kept, so NLL, ECE, CRM "
            "and intervals over test images have no values here."
        )
    others = ~frame["arm"].isin(BASELINES)
    if (others & (frame["reference"] == "")).any():
        yield (
            "No reference: no baseline of the same column has the same weight decay, data set and model; a row with "
            "arm: baseline+l2 (baseline, without weight decay) would be one."
        )
    if (frame["reference"] != "").any():
        yield (
            "Difference in points from the reference, which is the baseline of the same column with the same l2: "
            "Welch's t over seeds, one test per cell. p is adjusted by Holm over the table's tests "
            f"({frame['p'].notna().sum()} so far); the interval is each cell's alone."
        )
        for row in study.rows:
            if row.control:
                yield (
                    f"The row of {' and '.join(row.arms)} differs from its reference in {', '.join(row.control)} too, "
                    "which it names as its control."
                )
        yield (
            "Test images: bootstrap of the difference over the images of the test set, with the networks as they are. "
            "It says nothing of other seeds and is no second test."
        )
        if (frame["difference"].notna() & frame["images_low"].isna()).any():
            yield "None where a trial's predictions cannot be read, or where test accuracy chose."
    if study.rule == "oracle" and frame["candidates"].max() > 1:
        yield "Selected by accuracy on these same test images, which flatters every searched cell."


def _interval_of_mean(cell: Cells) -> str:
    return (
        ""
        if not cell["n"]
        else " ".join(
            filter(None, [f"{cell['accuracy']:.2f}", interval(cell["low"], cell["high"])])
        )
    )


def _difference(cell: Cells) -> str:
    if not _known(cell["difference"]):
        return ""
    bounds = interval(cell["difference_low"], cell["difference_high"], sign=True)
    return " ".join(filter(None, [signed(cell["difference"]), bounds]))


def _test(cell: Cells) -> str:
    return p_value(cell["p_holm"]) if _known(cell["p_holm"]) else str(cell["why_no_test"])


def _arm(cell: Cells) -> str:
    """The arm, unless the row's name says it already."""
    return "" if cell["row"] == cell["arm"] else str(cell["arm"])


def _ours(cell: Cells) -> str:
    if cell["n"] == 0:
        return str(cell["problem"])
    problem = f", {cell['problem']}" if cell["problem"] else ""
    return f"{number_with_spread(cell['accuracy'], cell['std'])} (n={cell['n']}){problem}"


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


def _without_its_arm(cell: Cells) -> list[str]:
    """A footnote on a cell whose choice is a searched weight of 0."""
    if not cell["chosen_arm"]:
        return []
    return [f"a weight of 0 was chosen for {cell['arm']}: these trials are of {cell['chosen_arm']}"]


def _mixed(cell: Cells) -> list[str]:
    """Footnotes on a cell whose trials were not all made alike."""
    return [
        f"trials of more than one {word}: {cell[key]}"
        for key, word in (("commits", "commit"), ("hardware", "kind of hardware"))
        if "; " in cell[key]
    ]


def _marks(texts: list[str], notes: list[str]) -> str:
    """Footnote marks for some texts, which join the notes unless they stand there already."""
    for text in texts:
        if text not in notes:
            notes.append(text)
    return "".join(f" [{notes.index(text) + 1}]" for text in texts)


def pipe_table(table: list[list[str]]) -> list[str]:
    """Rows of cells, the header first, as a Markdown table that also reads as plain text."""
    cells = [[" ".join(text.replace("|", "\\|").split()) for text in row] for row in table]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = [
        "| " + " | ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return [lines[0], rule, *lines[1:]]
