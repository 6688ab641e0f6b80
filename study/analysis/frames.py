"""Tidy pandas frames of a study, per cell, trial or epoch.

Accuracies are in percent.
"""

import json
import statistics
from collections.abc import Callable, Iterable
from typing import Any

import pandas as pd

from dh2l.errors import UserError
from study.analysis.quality import COLUMNS, MEASURES, cell_measures, trial_measures
from study.analysis.significance import evidence_frame
from study.formats import FrameKind
from study.records.arrays import read_arrays
from study.records.record import Provenance
from study.spec.schema import Study
from study.state.results import StudyResults, TrialResult
from study.state.selection import CellResult, reported
from study.state.states import State

CELL = ["row", "arm", "column"]
OF_TRIAL = [
    "candidate", "stage", "seed", "trial", "state", "in_table",
    "accuracy", "super_accuracy", "mistake_severity", "validation_accuracy", "epoch", "ahd",
    *(measure.name for measure in MEASURES), "failure", "duration_s", "commit", "hardware",
    "parameters",
]  # fmt: skip
NUMBERS = (
    "accuracy", "super_accuracy", "mistake_severity", "validation_accuracy", "epoch", "duration_s",
    "parameters", "ahd", *(measure.name for measure in MEASURES),
)  # fmt: skip
"""Columns of a trial frame that are numbers, whatever is there yet."""
EVIDENCE = [
    "low", "high", "chosen_arm", "reference", "difference", "difference_low", "difference_high",
    "p", "p_holm", "why_no_test", "images_low", "images_high", "super_accuracy", "super_std",
    "mistake_severity", "severity_std",
]  # fmt: skip
"""What a cell frame takes from `study.analysis.significance.evidence_frame`."""


def cell_frame(results: StudyResults) -> pd.DataFrame:
    """Return one row per cell, in the table's order.

    Columns: `row`, `arm`, `column`; `n` finished seeds of `planned`; `accuracy` (mean test accuracy
    in percent), `std` (sample standard deviation, missing below two seeds); `paper` (printed,
    percent) and `paper_difference` (ours less the paper's, points; only where ours, as theirs, were
    trained on the full training set); `candidates` tried; `selected` (the searched fields' values,
    as JSON; of `tied` others with the same score, the first listed) and `score` (what the rule
    compared, percent); `problem`; `note` on the printed number and `label_certain`, whether the
    paper's label of it is; `commits` and `hardware` behind the cell, separated by semicolons; and
    from `study.analysis.significance.evidence_frame`, which describes them: `low`, `high`,
    `chosen_arm`, `reference`, `difference` (from the reference), `difference_low`,
    `difference_high`, `p`, `p_holm`, `why_no_test`, `images_low`, `images_high`, `super_accuracy`,
    `super_std`, `mistake_severity`, `severity_std`. The measures of `study.analysis.quality`
    follow, each as mean and `_std`: `nll` (nats), `ece`, `top5`, `summed_super_accuracy`,
    `crm_accuracy` (percent), `ahd`, `crm_ahd`, `crm_mistake_severity` (levels of the tree).
    """
    study = results.study
    cells = pd.DataFrame([_cell_row(cell, study) for cell in results.cells])
    numbers = dict.fromkeys(("accuracy", "std", "paper", "paper_difference", "score"), float)
    quality = pd.DataFrame(
        [cell_measures(cell.records, study) for cell in results.cells], columns=COLUMNS, dtype=float
    )
    return pd.concat([cells.astype(numbers), evidence_frame(results)[EVIDENCE], quality], axis=1)


def trial_frame(results: StudyResults) -> pd.DataFrame:
    """Return one row per trial of every cell: those that choose, and those that confirm.

    Columns: `row`, `arm`, `column`; `candidate` (its number in the cell, from 0), `stage` (`choose`
    or `confirm`), `seed`, `trial` (identity), `state`, `in_table` (whether the cell's number is a
    mean over it and others); `accuracy`, `super_accuracy` (percent), `mistake_severity` and `epoch`
    of the study's reported epoch, `validation_accuracy` (percent) of the same, and the measures of
    `study.analysis.quality`; `failure`; `duration_s`, `commit`, `hardware`, `parameters`; and every
    config field in which the study's trials differ, under its own name. What does not exist is
    missing. A trial that two cells share appears in both.
    """
    rows = [
        _place(one) | {"state": str(one.state)} | _measured(one, results.study)
        for one in results.trials
    ]
    frame = pd.DataFrame(rows, columns=[*CELL, *OF_TRIAL]).astype(dict.fromkeys(NUMBERS, float))
    return frame.join(_differing_fields(results, list(frame["trial"]), set(frame.columns)))


def epoch_frame(results: StudyResults) -> pd.DataFrame:
    """Return one row per epoch of every trial that has a history: its learning curves.

    Columns: `row`, `arm`, `column`, `candidate`, `stage`, `seed`, `trial` and `in_table` as in
    `trial_frame`; `epoch`, from 1; every recorded metric, such as `train_loss`, accuracies in
    percent, losses in nats. Trials whose arrays are missing or damaged are left out.
    """
    parts: list[pd.DataFrame] = []
    histories: dict[str, pd.DataFrame] = {}
    for one in results.trials:
        identity = one.trial.identity
        if identity not in histories:
            histories[identity] = _history(results, identity)
        if len(history := histories[identity]):
            parts.append(history.join(pd.DataFrame([_place(one)] * len(history))))
    first = [*CELL, "candidate", "stage", "seed", "trial", "in_table", "epoch"]
    if not parts:
        return pd.DataFrame(columns=first)
    frame = pd.concat(parts, ignore_index=True)
    return frame[[*first, *(name for name in frame.columns if name not in first)]]


FRAMES: dict[FrameKind, Callable[[StudyResults], pd.DataFrame]] = {
    "cells": cell_frame,
    "trials": trial_frame,
    "epochs": epoch_frame,
}
"""The frames by what their rows are."""


def cells_of(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a cell frame as plain dictionaries."""
    return [{str(key): value for key, value in cell.items()} for cell in frame.to_dict("records")]


def comparable(result: CellResult, study: Study) -> bool:
    """Return True if a cell was trained and reported as the paper's numbers were.

    That is on the full training set, at the last epoch.
    """
    return study.accuracy == "last" and all(
        record.config["protocol"] == "paper" for record in result.records
    )


def _cell_row(result: CellResult, study: Study) -> dict[str, Any]:
    cell = result.cell
    accuracies = result.accuracies(study)
    mean = statistics.fmean(accuracies) if accuracies else None
    printed = cell.printed.accuracy if cell.printed else None
    alike = comparable(result, study)
    return {
        **cell.key._asdict(),
        "n": len(accuracies),
        "planned": result.planned,
        "accuracy": mean,
        "std": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        "paper": printed,
        "paper_difference": mean - printed
        if mean is not None and printed is not None and alike
        else None,
        "candidates": len(cell.candidates),
        "selected": json.dumps(result.selected.values) if result.selected else "",
        "tied": result.choice.tied,
        "score": None if result.choice.score is None else 100 * result.choice.score,
        "problem": result.problem,
        "note": cell.printed.note if cell.printed else "",
        "label_certain": cell.printed is None or cell.printed.label_certain,
        "commits": _joined(
            commit for record in result.records for commit in _commits(record.provenance)
        ),
        "hardware": _joined(
            name for record in result.records for name in _machines(record.provenance)
        ),
    }


def _commits(provenance: Provenance) -> list[str]:
    """Return the commits that trained a trial: several where it was resumed under another."""
    attempts = provenance.attempts or [{}]
    return [
        _commit(a.get("commit", provenance.commit), a.get("dirty", provenance.dirty))
        for a in attempts
    ]


def _commit(commit: str | None, dirty: bool | None) -> str:
    return "unknown" if commit is None else commit[:10] + "+changes" * bool(dirty)


def _machines(provenance: Provenance) -> list[str]:
    """Return the processors that trained a trial: GPUs, or CPUs where none was used."""
    devices = [
        (a.get("device", "cpu"), a.get("cpu", provenance.hardware["cpu"]))
        for a in provenance.attempts or [{}]
    ]
    return [str(cpu if device == "cpu" else device) for device, cpu in devices]


def _joined(words: Iterable[str]) -> str:
    return "; ".join(sorted(set(words)))


def _place(one: TrialResult) -> dict[str, Any]:
    """Return the columns that say which trial of which cell a row is about."""
    return {
        **one.trial.cell._asdict(),
        "candidate": one.candidate,
        "stage": one.trial.stage,
        "seed": one.trial.seed,
        "trial": one.trial.identity,
        "in_table": one.in_table,
    }


def _measured(one: TrialResult, study: Study) -> dict[str, Any]:
    record, scores = one.record, None
    if record is not None and one.state is State.DONE:
        scores = reported(record, study)
    return {
        "accuracy": _percent(scores.test_accuracy if scores else None),
        "super_accuracy": _percent(scores.test_super_accuracy if scores else None),
        "mistake_severity": scores.test_mistake_severity if scores else None,
        "validation_accuracy": _percent(scores.validation_accuracy if scores else None),
        "epoch": scores.epoch if scores else None,
        **trial_measures(scores),
        "failure": record.failure.message if record and record.failure else "",
        "duration_s": record.provenance.duration_s if record else None,
        "commit": _joined(_commits(record.provenance)) if record else "",
        "hardware": _joined(_machines(record.provenance)) if record else "",
        "parameters": record.parameters if record else None,
    }


def _percent(fraction: float | None) -> float | None:
    return None if fraction is None else 100 * fraction


def _differing_fields(
    results: StudyResults, identities: list[str], taken: set[str]
) -> pd.DataFrame:
    """Return the config fields in which a study's trials differ; lists as text, for grouping."""
    if not identities:
        return pd.DataFrame()
    flat = [results.plan.config(identity).flat() for identity in identities]
    fields = pd.DataFrame(flat).map(
        lambda value: json.dumps(value) if isinstance(value, list) else value
    )
    return fields[
        [name for name in fields if name not in taken and fields[name].nunique(dropna=False) > 1]
    ]


def _history(results: StudyResults, identity: str) -> pd.DataFrame:
    record = results.found.records.get(identity)
    if record is None or record.arrays_sha256 is None:
        return pd.DataFrame()
    try:
        arrays = read_arrays(record, results.found.paths[identity])
    except UserError:
        return pd.DataFrame()
    curves = {k.removeprefix("history."): v for k, v in arrays.items() if k.startswith("history.")}
    frame = pd.DataFrame({k: 100 * v if k.endswith("_accuracy") else v for k, v in curves.items()})
    frame.insert(0, "epoch", range(1, len(frame) + 1))
    return frame
