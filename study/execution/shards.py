"""A fixed share of a study's trials, for job arrays that train without Ray."""

from collections.abc import Callable
from dataclasses import dataclass

from study.execution.observers import FailureLimit, Observer
from study.execution.options import TrialOptions
from study.execution.scheduling import in_order
from study.execution.training import run_locally
from study.records.paths import Places
from study.spec.plan import Plan
from study.spec.trials import Cell
from study.state.load import read_state
from study.state.study_state import StudyState


@dataclass(frozen=True)
class Shard:
    """A fixed share of a plan's trials: number `index` of `count`, counted from 1."""

    index: int
    count: int

    def of(self, plan: Plan) -> list[str]:
        """The share's trials of both stages, chosen or not: a share stays the same while choices are made."""
        return [*plan.trials][self.index - 1 :: self.count]

    def missing(self, state: StudyState) -> list[str]:
        """The share's trials that a run would train state."""
        missing = set(state.unsettled)
        return [identity for identity in self.of(state.plan) if identity in missing]

    def at_most_later(self, state: StudyState) -> int:
        """The most trials of the share that choices to come may add."""
        share = set(self.of(state.plan))
        return sum(
            max(len(share & set(candidate.confirmations)) for candidate in cell.candidates)
            for cell in waiting(state)
        )


def waiting(state: StudyState) -> list[Cell]:
    """The cells whose choice other trials may still make, so that nothing confirms it yet."""
    if state.study.confirm is None:
        return []
    return [cell for cell in state.plan.cells if state.awaits_choice(cell)]


def run_shard(
    state: StudyState,
    shard: Shard,
    places: Places,
    observer: Observer,
    *,
    threads: int,
    options: TrialOptions,
    limit: FailureLimit,
    stop: Callable[[], bool],
) -> StudyState:
    """Train what a share misses in this process, then what the choices made meanwhile add to it; each trial once.

    Returns:
        Where the study stands then.

    Raises:
        KeyboardInterrupt: `stop` says so after an epoch.
    """
    tried = set[str]()
    while missing := [identity for identity in shard.missing(state) if identity not in tried]:
        tried.update(missing)
        run_locally(
            in_order(state, missing),
            places,
            observer,
            threads=threads,
            options=options,
            limit=limit,
            stop=stop,
        )
        if limit.reached:
            break
        state = read_state(state.plan, places)
    return state
