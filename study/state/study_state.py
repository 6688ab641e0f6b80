"""State of a study: plan, trial states, records, choices."""

from collections import Counter
from dataclasses import dataclass

from study.records.loaded_records import LoadedRecords
from study.spec.plan import Plan
from study.spec.schema import Study
from study.spec.trials import Cell, CellKey
from study.state.selection import Choice, choose
from study.state.states import SETTLED, State


@dataclass(frozen=True)
class StudyState:
    """A plan with the state of each of its trials.

    Attributes:
        plan: the plan.
        states: by identity, in the plan's order: the trials that choose, then those that confirm
            what is chosen.
        found: the records, and faults of some.
        choices: the candidate that the study's rule selects in each cell, as far as it can.
    """

    plan: Plan
    states: dict[str, State]
    found: LoadedRecords
    choices: dict[CellKey, Choice]

    @classmethod
    def of(cls, plan: Plan, states: dict[str, State], found: LoadedRecords) -> "StudyState":
        """Select in every cell; states of trials that do not choose are ignored."""
        choices = {cell.key: choose(cell, plan.study, states, found.records) for cell in plan.cells}
        return cls(plan, states, found, choices)

    @property
    def study(self) -> Study:
        """The study."""
        return self.plan.study

    @property
    def counts(self) -> dict[str, int]:
        """Number of trials in each state that occurs."""
        counts = Counter(self.states.values())
        return {state.value: counts[state] for state in State if counts[state]}

    @property
    def unsettled(self) -> list[str]:
        """Trials without a settled record, in the plan's order."""
        return [identity for identity, state in self.states.items() if state not in SETTLED]

    def awaits_choice(self, cell: Cell) -> bool:
        """Return whether a cell has no choice yet and trials to come may still make it."""
        if self.choices[cell.key].candidate is not None:
            return False
        if cell.candidates_left:
            return True
        trials = [identity for candidate in cell.candidates for identity in candidate.trials]
        return not all(self.states[identity] in SETTLED for identity in trials)
