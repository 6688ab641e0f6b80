"""The results of a study, evaluated once: what its table shows of every cell and of every trial."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from study.records.loaded_records import LoadedRecords
from study.records.record import Record
from study.spec.plan import Plan
from study.spec.schema import Study
from study.spec.trials import Candidate, Stage, Trial
from study.state.selection import CellResult, evaluate_cell
from study.state.states import State
from study.state.study_state import StudyState


@dataclass(frozen=True)
class TrialResult:
    """A trial as part of one cell; a trial that two cells share is a part of both.

    Attributes:
        trial: the trial, under this cell.
        candidate: number of its candidate in the cell, from 0.
        state: its state.
        record: its record, where there is one.
        in_table: whether the cell's number is a mean over it and others.
    """

    trial: Trial
    candidate: int
    state: State
    record: Record | None
    in_table: bool


@dataclass(frozen=True)
class StudyResults:
    """The evaluated cells of a study, complete or not."""

    state: StudyState

    @property
    def plan(self) -> Plan:
        """The plan."""
        return self.state.plan

    @property
    def study(self) -> Study:
        """The study."""
        return self.state.study

    @property
    def found(self) -> LoadedRecords:
        """The records, and what is wrong with some."""
        return self.state.found

    @cached_property
    def cells(self) -> tuple[CellResult, ...]:
        """Every cell, evaluated, in the table's order."""
        state, records = self.state, self.found.records
        return tuple(
            evaluate_cell(cell, state.choices[cell.key], self.study, state.states, records)
            for cell in self.plan.cells
        )

    @cached_property
    def trials(self) -> tuple[TrialResult, ...]:
        """Every trial of every cell; of the second stage those alone that confirm its choice."""
        return tuple(trial for result in self.cells for trial in self._trials_of(result))

    def _trials_of(self, result: CellResult) -> Iterator[TrialResult]:
        shown = {record.identity for record in result.records}
        for number, candidate in enumerate(result.cell.candidates):
            for stage, identity in _stages(candidate, confirmed=candidate == result.selected):
                yield TrialResult(
                    Trial(identity, self.plan.config(identity), stage, result.key),
                    number,
                    self.state.states[identity],
                    self.found.records.get(identity),
                    identity in shown and (stage == "confirm") is result.confirmed,
                )


def _stages(candidate: Candidate, *, confirmed: bool) -> Iterator[tuple[Stage, str]]:
    for identity in candidate.trials:
        yield "choose", identity
    if confirmed:
        for identity in candidate.confirmations:
            yield "confirm", identity
