"""Sections on single trials: missing ones, and provenance."""

from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from typing import Any

from dh2l.io.yaml import read_text
from dh2l.wording import counted
from study.records.record import Provenance, Record
from study.reporting.html.page import Block, Grid, Section, Text
from study.spec.trials import CellKey
from study.state.results import StudyResults
from study.state.states import State

REASONED = (State.FAILED, State.DIVERGED, State.CONFLICT, State.STOPPED)
"""States of a trial that has no numbers and a reason why, in the order in which they are listed."""
MOST = 200
"""Trials without numbers that are listed."""


def trial_sections(results: StudyResults, command: str) -> list[Section]:
    """Failures, then provenance.

    Args:
        results: the study, evaluated.
        command: what to type to make the page again.
    """
    return [
        Section(
            "failures", "Failed, diverged, stopped and missing trials", list(_failures(results))
        ),
        Section("provenance", "Provenance", list(_provenance(results, command))),
    ]


def _failures(results: StudyResults) -> Iterable[Block]:
    reasoned = [
        (i, state)
        for wanted in REASONED
        for i, state in results.state.states.items()
        if state is wanted
    ]
    rows = [
        (identity, state.value, *results.plan.trials[identity].cell, *_reason(identity, results))
        for identity, state in reasoned[:MOST]
    ]
    if rows:
        more = [f"and {len(reasoned) - MOST} more"] if len(reasoned) > MOST else []
        header = ("trial", "state", "row", "arm", "column", "epoch", "reason")
        yield Grid("Trials without numbers, and why.", header, rows, notes=more)
    lacking = [(*cell.key, cell.problem) for cell in results.cells if cell.problem]
    if lacking:
        yield Grid("Cells that lack trials.", ("row", "arm", "column", "trials"), lacking, heads=3)
    if results.found.damaged:
        damaged = [(path.name, reason) for path, reason in results.found.damaged.items()]
        yield Grid("Records that are left out.", ("file", "reason"), damaged)
    if not (rows or lacking or results.found.damaged):
        yield Text("None: every trial that the study needs is done.")


def _reason(identity: str, results: StudyResults) -> tuple[str, str]:
    if identity in results.found.conflicts:
        return "", results.found.conflicts[identity]
    record = results.found.records[identity]
    if record.failure is None:
        return "", "no reason is recorded"
    epoch = record.failure.epoch
    message = record.failure.message or record.failure.kind
    return "" if epoch is None else str(epoch), message.splitlines()[0]


def _provenance(results: StudyResults, command: str) -> Iterable[Block]:
    yield Text(
        "To make this page again from the same records, with the --results, --data and --plugin "
        "of the run:"
    )
    yield Text(command, verbatim=True)
    for document in results.plan.file.documents:
        yield Text(f"The study file {document.path.name}:")
        yield Text(read_text(document.path, "a study").rstrip(), verbatim=True)
    shown: dict[str, tuple[Record, CellKey]] = {}
    for cell in results.cells:
        for record in cell.records:
            shown.setdefault(record.identity, (record, cell.key))
    others = {
        identity: (record, results.plan.trials[identity].cell)
        for identity, record in results.found.records.items()
        if identity in results.state.states and identity not in shown
    }
    versions = list(
        dict.fromkeys(_versions(r.provenance) for r, _ in (*shown.values(), *others.values()))
    )
    if versions:
        yield Text(
            "Versions. " + " ".join(f"{_letter(i)}: {text}." for i, text in enumerate(versions))
        )
    if shown:
        yield _grid(
            f"The {counted(len(shown), 'trial')} behind the table.", shown.values(), versions
        )
    else:
        yield Text("No trial stands behind the table yet.")
    if others:
        caption = (
            f"Other trials with a record ({len(others)}): they chose configurations, or have no "
            "numbers."
        )
        yield _grid(caption, others.values(), versions, folded=True)


def _grid(
    caption: str,
    trials: Iterable[tuple[Record, CellKey]],
    versions: Sequence[str],
    *,
    folded: bool = False,
) -> Grid:
    header = (
        "trial", "row", "arm", "column", "seed", "state", "commit", "processor", "threads",
        "training", "ended, UTC", "versions",
    )  # fmt: skip
    rows = [
        (
            record.identity, *cell, str(record.seed), record.state,
            *(_of_attempts(record.provenance, part) for part in (_commit, _processor, _threads)),
            str(timedelta(seconds=round(record.provenance.duration_s))),
            record.provenance.finished[:16].replace("T", " "),
            _letter(versions.index(_versions(record.provenance))),
        )
        for record, cell in trials
    ]  # fmt: skip
    return Grid(caption, header, rows, folded=folded)


def _of_attempts(provenance: Provenance, say: Callable[[dict[str, Any], Provenance], str]) -> str:
    """Something of every process that trained a trial, each thing once."""
    return "; ".join(
        dict.fromkeys(say(attempt, provenance) for attempt in provenance.attempts or [{}])
    )


def _commit(attempt: dict[str, Any], provenance: Provenance) -> str:
    commit = attempt.get("commit", provenance.commit)
    return (
        "unknown"
        if commit is None
        else commit[:10] + "+changes" * bool(attempt.get("dirty", provenance.dirty))
    )


def _processor(attempt: dict[str, Any], provenance: Provenance) -> str:
    device = attempt.get("device", "cpu")
    return str(
        attempt.get("cpu", provenance.hardware.get("cpu", "unknown")) if device == "cpu" else device
    )


def _threads(attempt: dict[str, Any], _: Provenance) -> str:
    return str(attempt.get("threads", ""))


def _versions(provenance: Provenance) -> str:
    return ", ".join(f"{name} {version}" for name, version in sorted(provenance.versions.items()))


def _letter(place: int) -> str:
    return chr(ord("A") + place) if place < 26 else f"V{place + 1}"
