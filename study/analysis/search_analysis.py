"""Analysis of a search: responses, importances, the Pareto front."""

import json
import statistics
from collections.abc import Sequence
from typing import Any

import pandas as pd

from study.analysis.statistics import seed_of
from study.spec.settings import Value
from study.spec.trials import Candidate, Cell
from study.state.objectives import total_violation
from study.state.results import StudyResults
from study.state.selection import CellResult, score, searches
from study.state.states import State

LEAST_CANDIDATES = 8
"""Fewest scored candidates for an importance: among four axes it then named the true one in 17 of
20 searches; of 4 candidates in 8."""
PLACE = ["row", "arm", "column"]


def response_frame(results: StudyResults) -> pd.DataFrame:
    """Return one row per candidate and axis of every searched cell, to plot scores by value.

    Columns: `row`, `arm`, `column`; `candidate` (its number in the cell, from 0); `axis`; `value`
    (a number as it is, all else as text); `score` (mean over the search seeds of what the study's
    rule compares, percent; missing unless all are done), `std` (sample standard deviation), `n`
    seeds done; `state` (`done`, or that of the first seed that is not done); `selected`.
    """
    rows: list[dict[str, Any]] = []
    for result in _searching(results):
        for number, candidate in enumerate(result.cell.candidates):
            scores, state = _scores(candidate, results)
            for axis, value in candidate.values.items():
                rows.append(
                    result.key._asdict()
                    | {
                        "candidate": number,
                        "axis": axis,
                        "value": _plain(value),
                        "score": _mean(scores) if state == "done" else None,
                        "std": statistics.stdev(scores)
                        if state == "done" and len(scores) > 1
                        else None,
                        "n": len(scores),
                        "state": state,
                        "selected": candidate == result.selected,
                    }
                )
    columns = [*PLACE, "candidate", "axis", "value", "score", "std", "n", "state", "selected"]
    return pd.DataFrame(rows, columns=columns).astype({"score": float, "std": float})


def importance_frame(results: StudyResults) -> pd.DataFrame:
    """Return one row per axis of every searched cell: its share of the score's variance.

    By fANOVA over the scored candidates in which the axis exists, beside the other axes that all of
    these have; so the fractions of a cell sum to 1, except for axes with conditions, each of which
    is weighed where it exists.

    Columns: `row`, `arm`, `column`, `axis`; `importance` (fraction); `candidates` behind it;
    `why_none` (empty where there is one).
    """
    from study.analysis.importance import importances

    rows: list[dict[str, Any]] = []
    cells = zip(results.plan.cells, results.plan.cell_configs, strict=True)
    axes = {cell.key: spec.axes for cell, spec in cells}
    for cell in (result.cell for result in _searching(results)):
        scored = [
            (candidate.values, _mean(scores))
            for candidate in cell.candidates
            for scores, state in [_scores(candidate, results)]
            if state == "done"
        ]
        known: dict[tuple[str, ...], dict[str, float]] = {}
        for axis in _axes(cell):
            among = [(values, value) for values, value in scored if axis in values]
            common = tuple(
                key for key in _axes(cell) if among and all(key in values for values, _ in among)
            )
            why = _why_none(axis, among) or ("the only field" if len(common) == 1 else "")
            if not why and (key := (str(len(among)), *common)) not in known:
                seed = seed_of(*cell.key) % 2**31
                points = [{k: values[k] for k in common} for values, _ in among]
                known[key] = importances(
                    axes[cell.key], points, [value for _, value in among], seed
                )
            rows.append(
                cell.key._asdict()
                | {
                    "axis": axis,
                    "importance": None if why else known[key][axis],
                    "candidates": len(among),
                    "why_none": why,
                }
            )
    columns = [*PLACE, "axis", "importance", "candidates", "why_none"]
    return pd.DataFrame(rows, columns=columns).astype({"importance": float})


def pareto_frame(results: StudyResults) -> pd.DataFrame:
    """Return the candidates of every searched cell that no other candidate dominates.

    The objectives are the mean score, as high as possible, and the mean total violation of the
    constraints, as low as possible.

    Columns: `row`, `arm`, `column`, `candidate`, `values` (as JSON), `score` (percent),
    `violation`; by falling score.
    """
    rows: list[dict[str, Any]] = []
    for cell in (result.cell for result in _searching(results)):
        points = []
        for number, candidate in enumerate(cell.candidates):
            scores, state = _scores(candidate, results)
            violations = [
                total_violation(results.found.records[i], results.found)
                for i in candidate.trials
                if state == "done"
            ]
            there = [value for value in violations if value is not None]
            if there and len(there) == len(candidate.trials):
                points.append((_mean(scores), statistics.fmean(there), number, candidate))
        front = [
            a for a in points if not any(dominates((b[0], b[1]), (a[0], a[1])) for b in points)
        ]
        rows += [
            cell.key._asdict()
            | {
                "candidate": number,
                "values": json.dumps(candidate.values),
                "score": value,
                "violation": violation,
            }
            for value, violation, number, candidate in sorted(
                front, key=lambda point: (-point[0], point[2])
            )
        ]
    columns = [*PLACE, "candidate", "values", "score", "violation"]
    return pd.DataFrame(rows, columns=columns).astype({"score": float, "violation": float})


def dominates(a: tuple[float, float], b: tuple[float, float]) -> bool:
    """Return True if score and violation `a` are as good as `b`, and one is better."""
    return a[0] >= b[0] and a[1] <= b[1] and a != b


def _searching(results: StudyResults) -> list[CellResult]:
    """Return the cells that have something to search."""
    return [result for result in results.cells if searches(result.cell)]


def _axes(cell: Cell) -> list[str]:
    return list(dict.fromkeys(key for candidate in cell.candidates for key in candidate.values))


def _scores(candidate: Candidate, results: StudyResults) -> tuple[list[float], str]:
    """Return what the rule compares for every finished seed, in percent, and the overall state."""
    study, found = results.study, results.found
    undone = [
        results.state.states[i]
        for i in candidate.trials
        if results.state.states[i] is not State.DONE
    ]
    done = [i for i in candidate.trials if results.state.states[i] is State.DONE]
    return [100 * score(found.records[i], study) for i in done], str(
        undone[0]
    ) if undone else "done"


def _mean(scores: Sequence[float]) -> float:
    """Return a rounded mean, so that equal counts of right answers tie."""
    return round(statistics.fmean(scores), 10)


def _plain(value: Value) -> Value:
    return value if isinstance(value, (int, float)) else json.dumps(value).strip('"')


def _why_none(axis: str, among: Sequence[tuple[dict[str, Value], float]]) -> str:
    if len({json.dumps(values[axis]) for values, _ in among}) == 1:
        return "one value only"
    if len(among) < LEAST_CANDIDATES:
        return f"fewer than {LEAST_CANDIDATES} scored candidates"
    return "all scores are equal" if len({value for _, value in among}) < 2 else ""
