"""Tidy pandas frames of a study: one row per cell, per trial or per epoch. Accuracies are in percent."""

import json
import statistics
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pandas as pd

from dh2l.errors import UserError
from study import Of
from study.evidence import evidence_frame
from study.plan import Candidate
from study.records import Provenance, Record, Scores, read_arrays
from study.selection import CellResult, evaluate_cell, reported
from study.space import Study
from study.states import Standing, State

CELL = ["row", "arm", "column"]
OF_TRIAL = [
    "candidate", "stage", "seed", "trial", "state", "shown", "accuracy", "super_accuracy", "mistake_severity",
    "validation_accuracy", "epoch", "failure", "duration_s", "commit", "hardware", "parameters",
]  # fmt: skip
NUMBERS = (
    "accuracy", "super_accuracy", "mistake_severity", "validation_accuracy", "epoch", "duration_s", "parameters",
)  # fmt: skip
"""Columns of a trial frame that are numbers, whatever is there yet."""
EVIDENCE = [
    "low", "high", "reference", "difference", "difference_low", "difference_high", "p", "p_holm", "why_no_test",
    "images_low", "images_high", "super_accuracy", "super_std", "mistake_severity", "severity_std",
]  # fmt: skip
"""What a cell frame takes from `study.evidence.evidence_frame`."""


def cell_frame(standing: Standing) -> pd.DataFrame:
    """One row per cell, in the table's order.

    Columns: `row`, `arm`, `column`; `n` finished seeds of `planned`; `accuracy` (mean test accuracy in
    percent), `std` (sample standard deviation, missing below two seeds); `paper` (printed, percent) and
    `paper_difference` (ours less the paper's, points; only where ours, as theirs, were trained on the full training
    set); `candidates` tried; `selected` (the searched fields' values, as JSON; of `tied` others with the same score,
    the first listed) and `score` (what the rule compared, percent); `problem`; `note` on the printed number and
    `label_certain`, whether the paper's label of it is; `commits` and `hardware` behind the cell, separated by
    semicolons; and from `study.evidence.evidence_frame`, which describes them: `low`, `high`, `reference`,
    `difference` (from the reference), `difference_low`, `difference_high`, `p`, `p_holm`, `why_no_test`,
    `images_low`, `images_high`, `super_accuracy`, `super_std`, `mistake_severity`, `severity_std`.
    """
    study = standing.plan.file.study
    cells = pd.DataFrame([_cell_row(evaluate_cell(cell, standing), study) for cell in standing.plan.cells])
    numbers = dict.fromkeys(("accuracy", "std", "paper", "paper_difference", "score"), float)
    return pd.concat([cells.astype(numbers), evidence_frame(standing)[EVIDENCE]], axis=1)


def trial_frame(standing: Standing) -> pd.DataFrame:
    """One row per trial of every cell: those that choose, and those that confirm what was chosen.

    Columns: `row`, `arm`, `column`; `candidate` (its number in the cell, from 0), `stage` (`choose` or `confirm`),
    `seed`, `trial` (identity), `state`, `shown` (whether the cell's number is a mean over it and others); `accuracy`,
    `super_accuracy` (percent), `mistake_severity` and `epoch` of the study's reported epoch, `validation_accuracy`
    (percent) of the same; `failure`; `duration_s`, `commit`, `hardware`, `parameters`; and every config field in
    which the study's trials differ, under its own name. What does not exist is missing. A trial that two cells share
    stands in both.
    """
    study, records = standing.plan.file.study, standing.found.records
    rows = [
        {
            **place,
            "candidate": number,
            "stage": stage,
            "seed": standing.plan.config(identity).seed,
            "trial": identity,
            "state": str(state),
            "shown": shown,
            **_measured(records.get(identity), study, state),
        }
        for place, number, stage, identity, state, shown in _trials(standing)
    ]
    frame = pd.DataFrame(rows, columns=[*CELL, *OF_TRIAL]).astype(dict.fromkeys(NUMBERS, float))
    return frame.join(_differing_fields(standing, list(frame["trial"]), set(frame.columns)))


def epoch_frame(standing: Standing) -> pd.DataFrame:
    """One row per epoch of every trial that has a history: its learning curves.

    Columns: `row`, `arm`, `column`, `candidate`, `stage`, `seed`, `trial` and `shown` as in `trial_frame`; `epoch`,
    from 1; every metric that was recorded (`train_loss`, `validation_accuracy`, ...), accuracies in percent, losses in
    nats. Trials whose arrays are missing or damaged are left out.
    """
    parts: list[pd.DataFrame] = []
    histories: dict[str, pd.DataFrame] = {}
    for place, number, stage, identity, _, shown in _trials(standing):
        if identity not in histories:
            histories[identity] = _history(standing, identity)
        if len(history := histories[identity]):
            seed = standing.plan.config(identity).seed
            fixed = {"candidate": number, "stage": stage, "seed": seed, "trial": identity, "shown": shown}
            parts.append(history.join(pd.DataFrame([place | fixed] * len(history))))
    first = [*CELL, "candidate", "stage", "seed", "trial", "shown", "epoch"]
    if not parts:
        return pd.DataFrame(columns=first)
    frame = pd.concat(parts, ignore_index=True)
    return frame[[*first, *(name for name in frame.columns if name not in first)]]


FRAMES: dict[Of, Callable[[Standing], pd.DataFrame]] = {
    "cells": cell_frame,
    "trials": trial_frame,
    "epochs": epoch_frame,
}
"""The frames by what their rows are."""


def cells_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a cell frame as plain dictionaries."""
    return [{str(key): value for key, value in cell.items()} for cell in frame.to_dict("records")]


def comparable(result: CellResult, study: Study) -> bool:
    """Whether a cell was trained as the paper's numbers were: on the full training set, reported at the last epoch."""
    return study.accuracy == "last" and all(record.config["protocol"] == "paper" for record in result.records)


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
        "paper_difference": mean - printed if mean is not None and printed is not None and alike else None,
        "candidates": len(cell.candidates),
        "selected": json.dumps(result.selected.values) if result.selected else "",
        "tied": result.choice.tied,
        "score": None if result.choice.score is None else 100 * result.choice.score,
        "problem": result.problem,
        "note": cell.printed.note if cell.printed else "",
        "label_certain": cell.printed is None or cell.printed.label_certain,
        "commits": _joined(commit for record in result.records for commit in _commits(record.provenance)),
        "hardware": _joined(name for record in result.records for name in _machines(record.provenance)),
    }


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


Trial = tuple[dict[str, str], int, str, str, State, bool]
"""Its cell, candidate, stage, identity, state, and whether the table shows it."""


def _trials(standing: Standing) -> Iterator[Trial]:
    """Every trial of every cell, of the second stage those alone that confirm its choice."""
    for cell in standing.plan.cells:
        place = {"row": cell.row, "arm": cell.arm, "column": cell.column}
        result = evaluate_cell(cell, standing)
        shown = {record.identity for record in result.records}
        for number, candidate in enumerate(cell.candidates):
            for stage, identity in _stages(candidate, candidate == result.selected):
                state = standing.states[identity]
                yield (
                    place,
                    number,
                    stage,
                    identity,
                    state,
                    identity in shown and (stage == "confirm") is result.confirmed,
                )


def _stages(candidate: Candidate, chosen: bool) -> Iterator[tuple[str, str]]:
    yield from (("choose", identity) for identity in candidate.trials)
    if chosen:
        yield from (("confirm", identity) for identity in candidate.confirmations)


def _measured(record: Record | None, study: Study, state: State) -> dict[str, Any]:
    scores: Scores | None = None
    if record is not None and state is State.DONE:
        scores = reported(record, study)
    return {
        "accuracy": _percent(scores.test_accuracy if scores else None),
        "super_accuracy": _percent(scores.test_super_accuracy if scores else None),
        "mistake_severity": scores.test_mistake_severity if scores else None,
        "validation_accuracy": _percent(scores.validation_accuracy if scores else None),
        "epoch": scores.epoch if scores else None,
        "failure": record.failure.message if record and record.failure else "",
        "duration_s": record.provenance.duration_s if record else None,
        "commit": _joined(_commits(record.provenance)) if record else "",
        "hardware": _joined(_machines(record.provenance)) if record else "",
        "parameters": record.parameters if record else None,
    }


def _percent(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction


def _differing_fields(standing: Standing, identities: list[str], taken: set[str]) -> pd.DataFrame:
    """The config fields in which a study's trials differ; lists as text, so that one can group by them."""
    if not identities:
        return pd.DataFrame()
    flat = [standing.plan.config(identity).flat() for identity in identities]
    fields = pd.DataFrame(flat).map(lambda value: json.dumps(value) if isinstance(value, list) else value)
    return fields[[name for name in fields if name not in taken and fields[name].nunique(dropna=False) > 1]]


def _history(standing: Standing, identity: str) -> pd.DataFrame:
    record = standing.found.records.get(identity)
    if record is None or record.arrays_sha256 is None:
        return pd.DataFrame()
    try:
        arrays = read_arrays(record, standing.found.paths[identity])
    except UserError:
        return pd.DataFrame()
    curves = {k.removeprefix("history."): v for k, v in arrays.items() if k.startswith("history.")}
    frame = pd.DataFrame({k: 100 * v if k.endswith("_accuracy") else v for k, v in curves.items()})
    frame.insert(0, "epoch", range(1, len(frame) + 1))
    return frame
