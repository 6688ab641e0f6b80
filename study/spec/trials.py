"""Trials, candidates and cells: the parts of a plan."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from dh2l.config.train_config import TrainConfig
from study.spec.paper import PrintedNumber
from study.spec.settings import Value

Stage = Literal["choose", "confirm"]
"""The stage of a trial: select a configuration, or confirm the selected one on fresh seeds."""


class CellKey(NamedTuple):
    """The name of a cell of the table.

    Attributes:
        row: the row's name.
        arm: its arm.
        column: the column's name.
    """

    row: str
    arm: str
    column: str

    def __str__(self) -> str:
        return " ".join(self)

    @property
    def words(self) -> tuple[str, str, str]:
        """Row, arm and column to print; the arm is empty if it is the row's name."""
        return self.row, "" if self.arm == self.row else self.arm, self.column


@dataclass(frozen=True)
class Trial:
    """One training run of a plan.

    Attributes:
        identity: the identity of its config.
        config: its bound config.
        stage: its stage.
        cell: its cell; the first one if several cells share the trial.
    """

    identity: str
    config: TrainConfig
    stage: Stage
    cell: CellKey

    @property
    def seed(self) -> int:
        """The seed of its training."""
        return self.config.seed


@dataclass(frozen=True)
class Candidate:
    """One point of a cell's search.

    Attributes:
        values: values of the searched fields; empty if nothing is searched.
        trials: identities of its trials, in the order of the study's seeds; empty if the only
            candidate of a cell is confirmed without a selection.
        confirmations: identities of its trials, in the order of the seeds of `confirm`; empty
            without `confirm`.
    """

    values: dict[str, Value]
    trials: tuple[str, ...]
    confirmations: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One cell of the table: a row, a column, and the candidates from which a rule selects.

    Attributes:
        key: its row, arm and column.
        candidates: its candidates in the order of the study; with a searcher, those known so far.
        printed: the paper's number for the cell.
        budget: number of candidates that a searcher suggests; None without a searcher.
    """

    key: CellKey
    candidates: tuple[Candidate, ...]
    printed: PrintedNumber | None
    budget: int | None = None

    @property
    def candidates_left(self) -> int:
        """Number of candidates that a searcher may still suggest."""
        return max(0, (self.budget or 0) - len(self.candidates))

    @property
    def selects(self) -> bool:
        """True if a rule selects among several candidates."""
        return len(self.candidates) > 1 or (self.budget or 0) > 1
