"""The sections of a report about single trials: what is not there and why, and where the numbers come from."""

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any

from study.records import Provenance, Record
from study.report.page import Block, Grid, Section, Text
from study.selection import CellResult
from study.states import Standing, State

REASONED = (State.FAILED, State.DIVERGED, State.CONFLICT, State.STOPPED)
"""States of a trial that has no numbers and a reason why, in the order in which they are listed."""
MOST = 200
"""Trials without numbers that are listed."""


def trial_sections(standing: Standing, results: Sequence[CellResult], command: str) -> list[Section]:
    """Failures, then provenance.

    Args:
        standing: the study.
        results: its cells, evaluated.
        command: what to type to make the page again.
    """
    return [
        Section("failures", "Failed, diverged, stopped and missing trials", list(_failures(standing, results))),
        Section("provenance", "Provenance", list(_provenance(standing, results, command))),
    ]


def _failures(standing: Standing, results: Sequence[CellResult]) -> Iterable[Block]:
    cells = _cells_of_trials(standing)
    reasoned = [(i, state) for wanted in REASONED for i, state in standing.states.items() if state is wanted]
    rows = [
        (identity, state.value, *cells[identity], *_reason(identity, standing)) for identity, state in reasoned[:MOST]
    ]
    if rows:
        more = [f"and {len(reasoned) - MOST} more"] if len(reasoned) > MOST else []
        header = ("trial", "state", "row", "arm", "column", "epoch", "reason")
        yield Grid("Trials without numbers, and why.", header, rows, notes=more)
    lacking = [(r.cell.row, r.cell.arm, r.cell.column, r.problem) for r in results if r.problem]
    if lacking:
        yield Grid("Cells that lack trials.", ("row", "arm", "column", "trials"), lacking, heads=3)
    if standing.found.damaged:
        damaged = [(path.name, reason) for path, reason in standing.found.damaged.items()]
        yield Grid("Records that are left out.", ("file", "reason"), damaged)
    if not (rows or lacking or standing.found.damaged):
        yield Text("None: every trial that the study needs is done.")


def _cells_of_trials(standing: Standing) -> dict[str, tuple[str, str, str]]:
    """Row, arm and column of every trial; of one that several cells share the first's."""
    cells: dict[str, tuple[str, str, str]] = {}
    for cell in standing.plan.cells:
        for candidate in cell.candidates:
            for identity in (*candidate.trials, *candidate.confirmations):
                cells.setdefault(identity, (cell.row, cell.arm, cell.column))
    return cells


def _reason(identity: str, standing: Standing) -> tuple[str, str]:
    if identity in standing.found.conflicts:
        return "", standing.found.conflicts[identity]
    record = standing.found.records[identity]
    if record.failure is None:
        return "", "no reason is recorded"
    epoch = record.failure.epoch
    message = record.failure.message or record.failure.kind
    return "" if epoch is None else str(epoch), message.splitlines()[0]


def _provenance(standing: Standing, results: Sequence[CellResult], command: str) -> Iterable[Block]:
    yield Text("To make this page again from the same records, with the --results, --data and --plugin of the run:")
    yield Text(command, verbatim=True)
    for document in standing.plan.file.documents:
        yield Text(f"The study file {document.path.name}:")
        yield Text(document.path.read_text(encoding="utf-8").rstrip(), verbatim=True)
    shown: dict[str, tuple[Record, tuple[str, str, str]]] = {}
    for result in results:
        for record in result.records:
            shown.setdefault(record.identity, (record, (result.cell.row, result.cell.arm, result.cell.column)))
    cells = _cells_of_trials(standing)
    others = {
        identity: (record, cells[identity])
        for identity, record in standing.found.records.items()
        if identity in standing.states and identity not in shown
    }
    versions = list(dict.fromkeys(_versions(r.provenance) for r, _ in (*shown.values(), *others.values())))
    if versions:
        yield Text("Versions. " + " ".join(f"{_letter(i)}: {text}." for i, text in enumerate(versions)))
    if shown:
        yield _grid(f"The {len(shown)} trials behind the table.", shown.values(), versions)
    else:
        yield Text("No trial stands behind the table yet.")
    if others:
        caption = f"The {len(others)} other trials that have a record: they chose configurations, or have no numbers."
        yield _grid(caption, others.values(), versions, folded=True)


def _grid(
    caption: str,
    trials: Iterable[tuple[Record, tuple[str, str, str]]],
    versions: Sequence[str],
    *,
    folded: bool = False,
) -> Grid:
    header = ("trial", "row", "arm", "column", "seed", "state", "commit", "processor", "threads", "training",
              "ended, UTC", "versions")  # fmt: skip
    rows = [
        (
            record.identity, *cell, str(record.seed), record.state, _of_attempts(record.provenance, _commit),
            _of_attempts(record.provenance, _processor), _of_attempts(record.provenance, _threads),
            str(timedelta(seconds=round(record.provenance.duration_s))),
            record.provenance.finished[:16].replace("T", " "),
            _letter(versions.index(_versions(record.provenance))),
        )
        for record, cell in trials
    ]  # fmt: skip
    return Grid(caption, header, rows, folded=folded)


def _of_attempts(provenance: Provenance, say: Callable[[dict[str, Any], Provenance], str]) -> str:
    """Something of every process that trained a trial, each thing once."""
    return "; ".join(dict.fromkeys(say(attempt, provenance) for attempt in provenance.attempts or [{}]))


def _commit(attempt: dict[str, Any], provenance: Provenance) -> str:
    commit = attempt.get("commit", provenance.commit)
    return "unknown" if commit is None else commit[:10] + "+changes" * bool(attempt.get("dirty", provenance.dirty))


def _processor(attempt: dict[str, Any], provenance: Provenance) -> str:
    device = attempt.get("device", "cpu")
    return str(attempt.get("cpu", provenance.hardware.get("cpu", "unknown")) if device == "cpu" else device)


def _threads(attempt: dict[str, Any], _: Provenance) -> str:
    return str(attempt.get("threads", ""))


def _versions(provenance: Provenance) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(provenance.versions.items()))


def _letter(place: int) -> str:
    return chr(ord("A") + place) if place < 26 else f"V{place + 1}"
