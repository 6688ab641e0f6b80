"""Training of the missing trials of a plan, through Ray or locally."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from dh2l.config.train_config import TrainConfig
from dh2l.io.files import remove_folder
from study.execution.estimate.cost import require_within
from study.execution.estimation import estimate_remaining, measure_gpu_share
from study.execution.interrupts import Interrupt
from study.execution.observers import FailureLimit, Observer, StopConditions
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
NEVER = StopConditions()


@dataclass(frozen=True)
class PlanOptions:
    """Options of a run through Ray.

    Attributes:
        measure_share: measure first how many trials share a GPU best.
        max_gpu_hours: train nothing if the estimate exceeds this; None: do not estimate.
        check: let a trial of each kind take one step before the first trains.
    """

    measure_share: bool = False
    max_gpu_hours: float | None = None
    check: bool = True


ALL_DEFAULTS = PlanOptions()


def run_locally(
    configs: Iterable[TrainConfig],
    places: Places,
    observer: Observer,
    *,
    threads: int | None,
    options: TrialOptions = DEFAULTS,
    stop: StopConditions = NEVER,
) -> None:
    """Train configs one after the other in this process, without Ray.

    Args:
        configs: configs of the trials.
        places: paths of results and data.
        observer: receives all events.
        threads: CPU threads; None: as torch is set.
        options: evaluation of the trials, and which of their files are kept.
        stop: conditions that end the run early.

    Raises:
        KeyboardInterrupt: the user asked to stop, and an epoch has ended.
    """
    from study.execution.trial import run_to_completion, run_trial

    for config in configs:
        observer.on_trial_start(config)
        training = run_trial(config, places, threads=threads, options=options)
        on_epoch_end = partial(observer.on_epoch_end, config)
        record = run_to_completion(training, on_epoch_end, observer.on_message, stop.interrupted)
        observer.on_trial_end(record)
        if stop.limit is not None and stop.limit.reached:
            return


def run_plan(
    state: StudyState,
    places: Places,
    resources: "Resources",
    observer: Observer,
    options: PlanOptions = ALL_DEFAULTS,
    limit: FailureLimit | None = None,
) -> bool:
    """Train the missing trials of a study in one Ray session, each trial once.

    It trains in rounds, because results decide which trials are missing next. It ends when a round
    leaves no trials to train.

    Args:
        state: the plan of the study, and the states of its trials.
        places: paths of results and data.
        resources: resources of one trial, and the cluster.
        observer: receives all events.
        options: measurements and checks before the first trial.
        limit: number of failed trials after which the run ends; None: no limit.

    Returns:
        True if the user interrupted the run, or the limit was reached.

    Raises:
        KeyboardInterrupt: the user interrupted a measurement, or interrupted twice.
        UserError: the estimate exceeds its limit, a check failed, or Ray is not available.
    """
    from study.execution.ray_backend import open_session

    with open_session(observer.on_message) as session:
        if options.measure_share:
            resources = measure_gpu_share(session, state, places, resources, observer)
        if options.max_gpu_hours is not None:
            cost = estimate_remaining(session, state, places, resources, observer)
            require_within(cost, options.max_gpu_hours, state.plan.name)
        limit = limit or FailureLimit(None, observer)
        with Interrupt(observer.on_message) as interrupt:

            def stop() -> bool:
                return interrupt.raised or limit.reached

            rounds = _Rounds(session, places, resources, observer, stop)
            return rounds.train(state, check=options.check)


@dataclass(frozen=True)
class _Rounds:
    """Rounds of training in one Ray session.

    Attributes:
        session: the Ray session.
        places: paths of results and data.
        resources: resources of one trial.
        observer: receives all events.
        stop: returns True when the run should end early.
    """

    session: "Session"
    places: Places
    resources: "Resources"
    observer: Observer
    stop: Callable[[], bool]

    def train(self, state: StudyState, *, check: bool) -> bool:
        """Train round by round.

        Args:
            state: state of the study before the first round.
            check: let a trial of each kind take one step in the first round.

        Returns:
            True if the run ended early.
        """
        from study.execution.ray_backend import Round, run_on_ray

        tried: set[str] = set()
        searched = False
        finishing = False
        while True:
            missing = next_trials(state)
            if not finishing and not unsearched(state.plan) and _all_stopped(state, missing):
                # Some cell has no winner without trials that were stopped early: train them fully.
                finishing = True
                tried = set()
            missing = [config for config in missing if config.identity not in tried]
            if not missing and (searched or not unsearched(state.plan)):
                return False
            searcher = _searcher(state, missing, self.places, search=not searched)
            searched = True
            tried |= {config.identity for config in missing}
            scheduler = None if finishing else state.study.scheduler
            checks = preflight_checks(state, representative_trials(state)) if check else []
            check = False
            trials = Round(searcher, scheduler, checks)
            if run_on_ray(
                self.session, trials, self.places, self.resources, self.observer, self.stop
            ):
                return True
            state = read_state(state.plan, self.places)


def release_stale_leases(state: StudyState, places: Places, *, keep: bool) -> None:
    """Release the leases and delete the checkpoints of processes that were killed.

    Such a process was killed after it had written the record of its trial.
    """
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
