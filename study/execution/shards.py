"""Fixed shares of a study's trials, for job arrays without Ray."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dh2l.config.train_config import TrainConfig
from study.execution.observers import FailureLimit
from study.execution.scheduling import in_order
from study.records.paths import Places
from study.spec.plan import Plan
from study.spec.trials import Cell
from study.state.load import read_state
from study.state.study_state import StudyState


@dataclass(frozen=True)
class Shard:
    """Share number `index` of `count` of a plan's trials, counted from 1."""

    index: int
    count: int

    def of(self, plan: Plan) -> list[str]:
        """Return the trials of the share, of both stages.

        They include trials that are not chosen, so that a share does not depend on choices.
        """
        return [*plan.trials][self.index - 1 :: self.count]

    def missing(self, state: StudyState) -> list[str]:
        """Return the trials of the share that a run would train now."""
        missing = set(state.unsettled)
        return [identity for identity in self.of(state.plan) if identity in missing]

    def at_most_later(self, state: StudyState) -> int:
        """Return the maximum number of trials of the share that future choices may add."""
        share = set(self.of(state.plan))
        return sum(
            max(len(share & set(candidate.confirmations)) for candidate in cell.candidates)
            for cell in waiting(state)
        )


def waiting(state: StudyState) -> list[Cell]:
    """Return the cells whose choice is open, because some of their trials have not ended."""
    if state.study.confirm is None:
        return []
    return [cell for cell in state.plan.cells if state.awaits_choice(cell)]


def run_shard(
    state: StudyState,
    shard: Shard,
    places: Places,
    train: Callable[[Iterable[TrainConfig]], None],
    limit: FailureLimit,
) -> StudyState:
    """Train the missing trials of a share, then those that the choices made meanwhile add to it.

    Args:
        state: state of the study.
        shard: the share.
        places: paths of the results.
        train: trains configs in this process; it may raise KeyboardInterrupt.
        limit: number of failed trials after which the run ends.

    Returns:
        The state of the study after the last round. Each trial is tried once.
    """
    tried = set[str]()
    while True:
        missing = [identity for identity in shard.missing(state) if identity not in tried]
        if not missing:
            return state
        tried.update(missing)
        train(in_order(state, missing))
        if limit.reached:
            return state
        state = read_state(state.plan, places)
