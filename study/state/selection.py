"""Selection of a cell's candidate by a rule, and its reported accuracies."""

import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from study.records.record import Record, Scores
from study.spec.schema import Study
from study.spec.trials import Candidate, Cell, CellKey
from study.state.states import State

LOST = (State.DIVERGED, State.STOPPED)
"""States of a trial that was tried and gave no score."""


@dataclass(frozen=True)
class Choice:
    """Result of a selection rule on a cell's candidates.

    Attributes:
        candidate: the one that it chose, or the only one; None without a winner.
        score: mean over seeds of what the rule compares, a fraction; None where nothing was
            compared.
        tied: how many other candidates have the same score.
        problem: the reason why the cell has no winner; empty if it has one.
    """

    candidate: Candidate | None
    score: float | None = None
    tied: int = 0
    problem: str = ""


@dataclass(frozen=True)
class CellResult:
    """One cell, evaluated.

    Attributes:
        cell: the cell.
        choice: the candidate whose trials the cell shows.
        records: the finished trials that the cell shows, in the order of their seeds.
        planned: number of these seeds.
        confirmed: whether they are trials on fresh seeds and the full training set, after the
            choice.
        problem: the reason why the cell has no winner or not its full n; empty if it has both.
    """

    cell: Cell
    choice: Choice
    records: tuple[Record, ...]
    planned: int
    confirmed: bool
    problem: str

    @property
    def key(self) -> CellKey:
        """The cell's row, arm and column."""
        return self.cell.key

    @property
    def selected(self) -> Candidate | None:
        """The candidate that stands for the cell."""
        return self.choice.candidate

    @property
    def chosen_on_these(self) -> bool:
        """True if the shown trials chose the configuration too, so that their mean flatters it."""
        return len(self.cell.candidates) > 1 and not self.confirmed

    def accuracies(self, study: Study) -> list[float]:
        """Test accuracies in percent, at the epoch that the study reports."""
        return [100 * reported(record, study).test_accuracy for record in self.records]


def reported(record: Record, study: Study) -> Scores:
    """Return the scores of a finished trial at the epoch that a study reports (D16)."""
    scores = {
        "last": record.last,
        "best_validation": record.best_validation,
        "oracle": record.best_test,
    }
    chosen = scores[study.accuracy]
    if chosen is None:
        raise ValueError(
            f"the record of {record.identity} has no scores for accuracy: {study.accuracy}"
        )
    return chosen


def choose(
    cell: Cell, study: Study, states: Mapping[str, State], records: Mapping[str, Record]
) -> Choice:
    """Select among a cell's candidates by the study's rule.

    A candidate's score is its mean over the search seeds of the validation accuracy (rule
    `best_validation`: at the last epoch, or at the best one on validation where the study reports
    that), or of the test accuracy (rule `oracle`). A candidate with a diverged or stopped seed was
    tried and loses. While a trial of any candidate is failed or missing, or a searcher has not
    tried as many as it may, there is no winner. Equal scores: the candidate that the study lists
    first.
    """
    if not searches(cell):
        return Choice(cell.candidates[0])
    trials = [identity for candidate in cell.candidates for identity in candidate.trials]
    in_the_race = [
        i for c in cell.candidates if not any(states[i] in LOST for i in c.trials) for i in c.trials
    ]
    unfinished = _problem({i: states[i] for i in in_the_race}, trials)
    if cell.budget is not None and len(cell.candidates) < cell.budget:
        searched = f"searched ({len(cell.candidates)} of {cell.budget})"
        unfinished = f"{searched}, {unfinished}" if unfinished else searched
    if unfinished:
        return Choice(None, problem=unfinished)
    complete = [c for c in cell.candidates if all(states[i] is State.DONE for i in c.trials)]
    if not complete:
        return Choice(None, problem=_problem(states, trials))
    # Rounded, for equal counts of right answers must tie however their fractions add up.
    scores = [round(mean_score(candidate, study, records), 12) for candidate in complete]
    best = scores.index(max(scores))
    return Choice(complete[best], scores[best], scores.count(scores[best]) - 1)


def searches(cell: Cell) -> bool:
    """Return True if a rule has to choose among a cell's candidates."""
    return cell.budget is not None or len(cell.candidates) > 1


def mean_score(candidate: Candidate, study: Study, records: Mapping[str, Record]) -> float:
    """Return what the rule compares, of a candidate whose trials are all done: a fraction."""
    return statistics.fmean(score(records[identity], study) for identity in candidate.trials)


def evaluate_cell(
    cell: Cell,
    choice: Choice,
    study: Study,
    states: Mapping[str, State],
    records: Mapping[str, Record],
) -> CellResult:
    """Collect the trials that a cell shows: its choice's, or those that confirm the choice."""
    seeds = study.confirm.seeds if study.confirm else study.seeds
    confirmed = study.confirm is not None
    if choice.candidate is None:
        return CellResult(cell, choice, (), len(seeds), confirmed, choice.problem)
    shown = choice.candidate.confirmations if confirmed else choice.candidate.trials
    done = tuple(records[i] for i in shown if states[i] is State.DONE)
    return CellResult(cell, choice, done, len(seeds), confirmed, _problem(states, shown))


def score(record: Record, study: Study) -> float:
    """Return what the rule compares in one finished trial: a fraction."""
    if study.rule == "oracle":
        return reported(record, study).test_accuracy
    # Never at the best epoch on test, whatever the table shows: the test set would choose.
    scores = record.best_validation if study.accuracy == "best_validation" else record.last
    if scores is None or scores.validation_accuracy is None:
        raise ValueError(f"the record of {record.identity} has no validation accuracy to select on")
    return scores.validation_accuracy


def _problem(states: Mapping[str, State], trials: list[str] | tuple[str, ...]) -> str:
    """Count the trials that are not done, by state: ``failed (1 of 8)`` and the like."""
    counts = Counter(states[i] for i in trials if i in states and states[i] is not State.DONE)
    words = {State.PLANNED: "missing", State.STALE: "missing"}
    merged = Counter[str]()
    for state, n in counts.items():
        merged[words.get(state, state.value)] += n
    return ", ".join(f"{word} ({n} of {len(trials)})" for word, n in sorted(merged.items()))
