"""What a cell of the table says: which candidate a rule selects, and the test accuracies of its seeds."""

import statistics
from collections import Counter
from dataclasses import dataclass

from study.plan import Candidate, Cell
from study.records import Record, Scores
from study.space import Study
from study.states import Standing, State

LOST = (State.DIVERGED, State.STOPPED)
"""States of a trial that was tried and gave no score."""


@dataclass(frozen=True)
class CellResult:
    """One cell, evaluated.

    Attributes:
        cell: the cell.
        selected: the candidate that the rule selected, or the only one; None where there is no winner.
        score: mean over seeds of what the rule compares, a fraction; None where nothing was compared.
        tied: how many other candidates have the same score.
        records: the finished trials of the selected candidate, in the order of the seeds.
        planned: number of seeds.
        problem: what keeps the cell from a winner or from its full n; empty where nothing does.
    """

    cell: Cell
    selected: Candidate | None
    score: float | None
    tied: int
    records: tuple[Record, ...]
    planned: int
    problem: str

    def accuracies(self, study: Study) -> list[float]:
        """Test accuracies in percent, at the epoch that the study reports."""
        return [100 * reported(record, study).test_accuracy for record in self.records]


def reported(record: Record, study: Study) -> Scores:
    """The scores of a finished trial at the epoch that a study reports (D16)."""
    scores = {"last": record.last, "best_validation": record.best_validation, "oracle": record.best_test}
    chosen = scores[study.accuracy]
    if chosen is None:
        raise ValueError(f"the record of {record.identity} has no scores for accuracy: {study.accuracy}")
    return chosen


def evaluate_cell(cell: Cell, standing: Standing) -> CellResult:
    """Select among a cell's candidates by the study's rule and collect the winner's trials.

    A candidate's score is its mean over the search seeds of the validation accuracy (rule
    `best_validation`: at the last epoch, or at the best one on validation where the study reports that),
    or of the test accuracy (rule `oracle`). A candidate with a diverged
    or stopped seed was tried and loses. While a trial of any candidate is failed or missing there is no
    winner. Equal scores: the candidate that the study lists first.
    """
    study, records = standing.plan.file.study, standing.found.records
    states = {identity: standing.states[identity] for c in cell.candidates for identity in c.trials}
    planned = len(study.seeds)

    def finished(candidate: Candidate) -> tuple[Record, ...]:
        return tuple(records[i] for i in candidate.trials if states[i] is State.DONE)

    if len(cell.candidates) == 1:
        only = cell.candidates[0]
        return CellResult(cell, only, None, 0, finished(only), planned, _problem(states, only.trials))
    problem = _problem({i: s for i, s in states.items() if s not in LOST}, list(states))
    if problem:
        return CellResult(cell, None, None, 0, (), planned, problem)
    complete = [c for c in cell.candidates if all(states[i] is State.DONE for i in c.trials)]
    if not complete:
        return CellResult(cell, None, None, 0, (), planned, _problem(states, list(states)))
    # Rounded, for equal counts of right answers must tie however their fractions add up.
    scores = [round(statistics.fmean(_score(record, study) for record in finished(c)), 12) for c in complete]
    best = scores.index(max(scores))
    tied = scores.count(scores[best]) - 1
    return CellResult(cell, complete[best], scores[best], tied, finished(complete[best]), planned, "")


def _score(record: Record, study: Study) -> float:
    if study.rule == "oracle":
        return reported(record, study).test_accuracy
    # Never at the best epoch on test, whatever the table shows: the test set would choose.
    scores = record.best_validation if study.accuracy == "best_validation" else record.last
    if scores is None or scores.validation_accuracy is None:
        raise ValueError(f"the record of {record.identity} has no validation accuracy to select on")
    return scores.validation_accuracy


def _problem(states: dict[str, State], trials: list[str] | tuple[str, ...]) -> str:
    """``failed (1 of 8)`` and the like: how many of the trials are in which state that is not done."""
    counts = Counter(states[i] for i in trials if i in states and states[i] is not State.DONE)
    words = {State.PLANNED: "missing", State.STALE: "missing"}
    merged = Counter[str]()
    for state, n in counts.items():
        merged[words.get(state, state.value)] += n
    return ", ".join(f"{word} ({n} of {len(trials)})" for word, n in sorted(merged.items()))


def needed_stopped(standing: Standing) -> list[str]:
    """Stopped trials without which a cell has no winner: those of its candidates that came furthest."""
    needed = dict[str, None]()
    for cell in standing.plan.cells:
        by_state = [Counter(standing.states[i] for i in candidate.trials) for candidate in cell.candidates]
        if any(counts[State.DONE] == len(c.trials) for counts, c in zip(by_state, cell.candidates, strict=True)):
            continue
        furthest = max((counts[State.DONE] for counts in by_state if not counts[State.DIVERGED]), default=0)
        for counts, candidate in zip(by_state, cell.candidates, strict=True):
            if counts[State.DONE] == furthest and not counts[State.DIVERGED]:
                needed |= {i: None for i in candidate.trials if standing.states[i] is State.STOPPED}
    return list(needed)
