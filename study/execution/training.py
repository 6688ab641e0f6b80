"""Training of the trials that a plan still misses, through Ray or in this process."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from dh2l.config.train_config import TrainConfig
from dh2l.io.files import remove_folder
from study.execution.estimate.cost import (
    require_within,
)
from study.execution.estimation import estimate_remaining, measure_gpu_share
from study.execution.interrupts import Interrupt
from study.execution.observers import FailureLimit, Observer
from study.execution.options import TrialOptions
from study.execution.preflight import preflight_checks
from study.execution.scheduling import early_stopping_groups, next_trials, representative_trials
from study.execution.search.base import FixedPlanSearcher, Searcher
from study.records.leases import ClaimedElsewhere, Claims
from study.records.paths import Places
from study.records.store import RecordStore
from study.state.load import read_state
from study.state.remaining import unsearched
from study.state.states import State
from study.state.study_state import StudyState

if TYPE_CHECKING:
    from study.execution.ray_backend import Resources, Session


DEFAULTS = TrialOptions()


def run_locally(
    configs: Iterable[TrainConfig],
    places: Places,
    observer: Observer,
    *,
    threads: int | None,
    options: TrialOptions = DEFAULTS,
    limit: FailureLimit | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train configs one after the other in this process, without Ray, until the limit of failures is reached.

    Raises:
        KeyboardInterrupt: `stop` says so after an epoch.
    """
    from study.execution.trial import run_to_completion, run_trial

    for config in configs:
        observer.on_trial_start(config)
        training = run_trial(config, places, threads=threads, options=options)
        record = run_to_completion(
            training, partial(observer.on_epoch_end, config), observer.on_message, stop
        )
        observer.on_trial_end(record)
        if limit is not None and limit.reached:
            return


def run_plan(
    state: StudyState,
    places: Places,
    resources: "Resources",
    observer: Observer,
    *,
    measure_share: bool = False,
    max_gpu_hours: float | None = None,
    check: bool = True,
    limit: FailureLimit | None = None,
) -> bool:
    """Train what a study misses through one Ray, each trial once; stage by stage, until a round leaves nothing to do.

    Args:
        state: the study's plan and the states of its trials.
        places: where everything lies.
        resources: what one trial gets, and where.
        observer: told of everything.
        measure_share: measure first how many trials share a GPU best.
        max_gpu_hours: train nothing where the estimate exceeds it.
        check: let a trial of each kind take one step before the first trains.
        limit: of the failures after which it ends.

    Returns:
        Whether the user interrupted it, or the limit was reached.

    Raises:
        KeyboardInterrupt: the user interrupted it while it measured, or twice.
        UserError: the estimate exceeds its limit, a check failed, or Ray cannot be had.
    """
    from study.execution.ray_backend import open_session

    with open_session(observer.on_message) as session:
        if measure_share:
            resources = measure_gpu_share(session, state, places, resources, observer)
        if max_gpu_hours is not None:
            require_within(
                estimate_remaining(session, state, places, resources, observer),
                max_gpu_hours,
                state.plan.name,
            )
        limit = limit or FailureLimit(None, observer)
        with Interrupt(observer.on_message) as interrupt:

            def stop() -> bool:
                return interrupt.raised or limit.reached

            return _train_rounds(
                session, state, places, resources, observer, check=check, stop=stop
            )


def _train_rounds(
    session: "Session",
    state: StudyState,
    places: Places,
    resources: "Resources",
    observer: Observer,
    *,
    check: bool,
    stop: Callable[[], bool],
) -> bool:
    """Train round by round; return whether it ended before its time."""
    from study.execution.ray_backend import run_on_ray

    tried, searched, finishing = set[str](), False, False
    while True:
        missing = next_trials(state)
        if not finishing and not unsearched(state.plan) and _all_stopped(state, missing):
            finishing, tried = (
                True,
                set(),
            )  # without them a cell has no winner, so now they go to their end
        missing = [config for config in missing if config.identity not in tried]
        if not missing and (searched or not unsearched(state.plan)):
            return False
        searcher = _searcher(state, missing, places, search=not searched)
        searched = True
        tried |= {config.identity for config in missing}
        scheduler = None if finishing else state.study.scheduler
        first, check = preflight_checks(state, representative_trials(state)) if check else [], False
        if run_on_ray(
            session,
            searcher,
            places,
            resources,
            observer,
            scheduler=scheduler,
            checks=first,
            stop=stop,
        ):
            return True
        state = read_state(state.plan, places)


def release_stale_leases(state: StudyState, places: Places, *, keep: bool) -> None:
    """End for processes what they did not that were killed after they had filed a trial's record."""
    claims = Claims(places.claims)
    for identity in claims.everyone():
        record = state.found.records.get(identity)
        if record is not None and record.settled and not claims.alive(identity):
            with suppress(ClaimedElsewhere, OSError), claims.hold(identity, 0):
                if not keep:
                    remove_folder(places.checkpoint(identity))


def _all_stopped(state: StudyState, missing: list[TrainConfig]) -> bool:
    return bool(missing) and all(
        state.states[config.identity] is State.STOPPED for config in missing
    )


def _searcher(
    state: StudyState, missing: list[TrainConfig], places: Places, *, search: bool
) -> Searcher:
    groups = early_stopping_groups(state.plan)
    if not search or not unsearched(state.plan):
        return FixedPlanSearcher(missing, groups, Claims(places.claims).elsewhere)
    from study.execution.search.optuna_search import OptunaSearcher

    return OptunaSearcher(state, missing, groups, RecordStore(places.trials).read)
