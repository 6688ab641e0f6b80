"""Objectives of a search: validation accuracy, and total violation of constraints."""

import statistics
from collections.abc import Sequence
from typing import Literal

import numpy as np

from dh2l.errors import UserError
from study.records.arrays import read_arrays
from study.records.loaded_records import LoadedRecords
from study.records.record import Record
from study.spec.schema import Study
from study.state.selection import score

DIRECTIONS: dict[str, Literal["maximize", "minimize"]] = {
    "validation_accuracy": "maximize",
    "total_violation": "minimize",
}


def objectives(trials: Sequence[str], found: LoadedRecords, study: Study) -> list[float] | None:
    """Means over the seeds of a candidate of what the study's searcher optimises, in its order.

    Args:
        trials: the candidate's, one for each seed.
        found: their records.
        study: says what is optimised, and at which epoch accuracy counts.

    Returns:
        None where a trial is not done, or its numbers are not there.
    """
    assert study.searcher is not None  # noqa: S101 the caller has seen it
    records = [found.records.get(identity) for identity in trials]
    done = [record for record in records if record is not None and record.state == "done"]
    if len(done) < len(trials):
        return None
    values = []
    for name in study.searcher.objectives:
        measured = [
            score(record, study)
            if name == "validation_accuracy"
            else total_violation(record, found)
            for record in done
        ]
        there = [value for value in measured if value is not None]
        if len(there) < len(measured):
            return None
        values.append(statistics.fmean(there))
    return values


def total_violation(record: Record, found: LoadedRecords) -> float | None:
    """Return the sum of the constraints' mean violations after the last epoch, if recorded."""
    try:
        arrays = read_arrays(record, found.paths[record.identity])
    except (UserError, KeyError):
        return None
    last = [values[-1] for name, values in arrays.items() if name.startswith("history.violation_")]
    return float(np.sum(last)) if last else None
