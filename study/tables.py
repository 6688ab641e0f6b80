"""Accuracy tables from records: a tidy frame, and Markdown and CSV laid out as the paper's."""

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dh2l.atomic import write_atomically
from study.plan import Plan
from study.records import Provenance
from study.selection import CellResult, evaluate_cell
from study.space import Study
from study.states import Standing

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


def cell_frame(standing: Standing) -> pd.DataFrame:
    """One row per cell, in the table's order.

    Columns: `row`, `arm`, `column`; `n` finished seeds of `planned`; `accuracy` (mean test accuracy in
    percent), `std` (sample standard deviation, missing below two seeds); `paper` (printed, percent) and
    `difference` (ours less the paper's, points; only where ours, as theirs, were trained on the full training set);
    `candidates` tried; `selected` (the searched fields' values, as JSON; of `tied` others with the same score, the
    first listed) and `score` (what the rule compared, percent); `problem`; `note` on the printed
    number; `commits` and `hardware` behind the cell, separated by semicolons.
    """
    study = standing.plan.file.study
    return pd.DataFrame([_cell_row(evaluate_cell(cell, standing), study) for cell in standing.plan.cells])


def _cell_row(result: CellResult, study: Study) -> dict[str, Any]:
    cell = result.cell
    accuracies = result.accuracies(study)
    mean = statistics.fmean(accuracies) if accuracies else None
    printed = cell.printed.accuracy if cell.printed else None
    alike = comparable(result, study)
    return {
        "row": cell.row,
        "arm": cell.arm,
        "column": cell.column,
        "n": len(accuracies),
        "planned": result.planned,
        "accuracy": mean,
        "std": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        "paper": printed,
        "difference": mean - printed if mean is not None and printed is not None and alike else None,
        "candidates": len(cell.candidates),
        "selected": json.dumps(result.selected.values) if result.selected else "",
        "tied": result.choice.tied,
        "score": None if result.choice.score is None else 100 * result.choice.score,
        "problem": result.problem,
        "note": cell.printed.note if cell.printed else "",
        "commits": _joined(commit for record in result.records for commit in _commits(record.provenance)),
        "hardware": _joined(name for record in result.records for name in _machines(record.provenance)),
    }


def comparable(result: CellResult, study: Study) -> bool:
    """Whether a cell was trained as the paper's numbers were: on the full training set, reported at the last epoch."""
    return study.accuracy == "last" and all(record.config["protocol"] == "paper" for record in result.records)


def _commits(provenance: Provenance) -> list[str]:
    """The commits that trained a trial: more than one where it was resumed under another."""
    attempts = provenance.attempts or [{}]
    return [_commit(a.get("commit", provenance.commit), a.get("dirty", provenance.dirty)) for a in attempts]


def _commit(commit: str | None, dirty: bool | None) -> str:
    return "unknown" if commit is None else commit[:10] + "+changes" * bool(dirty)


def _machines(provenance: Provenance) -> list[str]:
    """The processors that trained a trial: GPUs, or CPUs where none was used."""
    devices = [(a.get("device", "cpu"), a.get("cpu", provenance.hardware["cpu"])) for a in provenance.attempts or [{}]]
    return [str(cpu if device == "cpu" else device) for device, cpu in devices]


def _joined(words: Iterable[str]) -> str:
    return "; ".join(sorted(set(words)))


def cells_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a cell frame as plain dictionaries."""
    return [{str(key): value for key, value in cell.items()} for cell in frame.to_dict("records")]


def header_lines(plan: Plan, frame: pd.DataFrame) -> list[str]:
    """What every rendered table says of itself: protocol, rule, seeds, commits, hardware."""
    study = plan.file.study
    configs = [*plan.configs.values(), *plan.confirmations.values()]
    protocols = sorted({config.protocol for config in plan.configs.values()})
    data = sorted({f"{c.dataset} ({c.data_hash[:8]})" for c in configs})
    searched = frame["candidates"].max() > 1
    seeds = study.confirm.seeds if study.confirm else study.seeds
    lines = [
        f"Test accuracy in percent, {EPOCHS[study.accuracy]}; mean ± sample standard deviation over seeds "
        f"{', '.join(map(str, seeds))}.",
        f"Protocol: {_protocol(study, protocols)}. "
        + (
            f"Selection: {RULES[study.rule]}." if searched else "Nothing is selected: every cell has one configuration."
        ),
        f"Data: {', '.join(data)}. Commit: {_all(frame['commits'])}. Hardware: {_all(frame['hardware'])}.",
    ]
    if study.confirm:
        lines.insert(
            1,
            "Confirmed: these are trials on fresh seeds and the full training set"
            + (f", after a choice on seeds {', '.join(map(str, study.seeds))}." if searched else "."),
        )
    if plan.file.overrides:
        lines.append("Changed from the file: " + ", ".join(f"{k}={v}" for k, v in plan.file.overrides.items()) + ".")
    return lines


def _protocol(study: Study, protocols: Sequence[str]) -> str:
    """That of the trials which the table shows, and where it is another, that of those which chose."""
    if study.confirm is None:
        return ", ".join(protocols)
    return "paper" + (f" (chosen under {', '.join(protocols)})" if protocols else "")


def _all(values: "pd.Series[str]") -> str:
    return "; ".join(sorted({v for text in values for v in text.split("; ") if v})) or "none yet"


def layout(frame: pd.DataFrame) -> tuple[list[list[str]], list[str]]:
    """The table as text, rows × columns as in the paper, with its footnotes.

    Returns:
        Rows of cells, the header first (per column of the study: ours; where the paper prints numbers, the
        paper's and the difference; where something is searched, what was selected), and the footnotes in
        the order of their marks.
    """
    notes: list[str] = []
    cells = cells_of(frame)
    columns = list(dict.fromkeys(cell["column"] for cell in cells))
    with_paper = set(frame.loc[frame["paper"].notna(), "column"])
    searched = set(frame.loc[frame["candidates"] > 1, "column"])
    header = ["metric", "arm"]
    for column in columns:
        header += [column]
        header += [f"paper, {column}", f"difference, {column}"] if column in with_paper else []
        header += [f"selected, {column}"] if column in searched else []
    rows: dict[tuple[str, str], list[str]] = {}
    for cell in cells:  # row by row, and within each column by column
        row = rows.setdefault((cell["row"], cell["arm"]), [cell["row"], _arm(cell)])
        row.append(_ours(cell) + _marks(_mixed(cell), notes))
        if cell["column"] in with_paper:
            paper, difference, note = cell["paper"], cell["difference"], cell["note"]
            row.append("" if pd.isna(paper) else f"{paper:.2f}" + _marks([note] if note else [], notes))
            row.append("" if pd.isna(difference) else f"{difference:+.2f}")
        if cell["column"] in searched:
            row.append(_selected(cell))
    return [header, *rows.values()], notes


def failures(standing: Standing) -> list[str]:
    """One line per trial that failed or diverged, with the reason."""
    return [
        f"{identity}: {record.state}, {(record.failure.message or record.failure.kind).splitlines()[0]}"
        for identity, record in standing.found.records.items()
        if record.failure is not None and record.state in ("failed", "diverged")
    ]


def _arm(cell: dict[str, Any]) -> str:
    """The arm, unless the row's name says it already."""
    return "" if cell["row"] == cell["arm"] else str(cell["arm"])


def _ours(cell: dict[str, Any]) -> str:
    if cell["n"] == 0:
        return str(cell["problem"])
    spread = "" if pd.isna(cell["std"]) else f" ± {cell['std']:.2f}"
    problem = f", {cell['problem']}" if cell["problem"] else ""
    return f"{cell['accuracy']:.2f}{spread} (n={cell['n']}){problem}"


def _selected(cell: dict[str, Any]) -> str:
    if cell["candidates"] == 1 or not cell["selected"]:
        return ""
    values = ", ".join(f"{key}={_short(value)}" for key, value in json.loads(cell["selected"]).items())
    tied = f", tied with {cell['tied']}" if cell["tied"] else ""
    return f"{values} (of {cell['candidates']}{tied})"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _mixed(cell: dict[str, Any]) -> list[str]:
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


def to_markdown(standing: Standing) -> str:
    """The rendered table."""
    frame = cell_frame(standing)
    table, notes = layout(frame)
    lines = [f"# {standing.plan.file.study.title}", "", *header_lines(standing.plan, frame), "", *_pipe_table(table)]
    lines += ["", *(f"[{i}] {note}" for i, note in enumerate(notes, 1))] if notes else []
    failed = failures(standing)
    lines += ["", "Failed or diverged:", "", *(f"- {line}" for line in failed[:FAILURES_SHOWN])] if failed else []
    lines += [f"- and {len(failed) - FAILURES_SHOWN} more"] if len(failed) > FAILURES_SHOWN else []
    return "\n".join(lines) + "\n"


def _pipe_table(table: list[list[str]]) -> list[str]:
    """Rows of cells, the header first, as a Markdown table that also reads as plain text."""
    cells = [[text.replace("|", "\\|") for text in row] for row in table]
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    lines = ["| " + " | ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)) + " |" for row in cells]
    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return [lines[0], rule, *lines[1:]]


def save(standing: Standing, folder: Path) -> dict[str, Path]:
    """Write the table as Markdown and the cells as CSV.

    Returns:
        The files by format.
    """
    files = {"markdown": folder / "table.md", "csv": folder / "cells.csv"}
    write_atomically(files["markdown"], to_markdown(standing).encode())
    write_atomically(files["csv"], cell_frame(standing).to_csv(index=False).encode())
    return files
