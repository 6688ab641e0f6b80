"""Run of a study: train its missing trials, and return how the run ended."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

from dh2l.errors import UserError
from dh2l.plugins import Plugin
from dh2l.results import WEIGHTS_FILE
from dh2l.wording import counted
from study.execution.display import Display, Tracker
from study.execution.interrupts import Interrupt
from study.execution.observers import FailureLimit, Observer, Observers, StopConditions
from study.execution.options import TrialOptions
from study.execution.seen_records import SeenRecords
from study.execution.shards import Shard, run_shard, waiting
from study.execution.tally import Outlook, outlook
from study.execution.training import PlanOptions, release_stale_leases, run_locally, run_plan
from study.records.paths import Places
from study.spec.trials import Cell
from study.state.load import open_study_to_run, read_state
from study.state.remaining import trials_to_search
from study.state.results import StudyResults
from study.state.states import State
from study.state.study_state import StudyState

Ending = Literal["complete", "incomplete", "failure limit", "interrupted", "waiting"]
"""How a run ended. `waiting`: a share is trained, but choices need other shares."""


@dataclass(frozen=True)
class RunOptions:
    """A study and how to run it.

    Attributes:
        study: a shipped study's name, or a file.
        overrides: changed values, each ``key=value``.
        plugins: users' code that the study needs, loaded.
        address: address of a running Ray cluster; None starts Ray on this machine.
        cpus_per_trial: CPU cores of a trial; number of threads if a share is trained.
        gpus_per_trial: GPUs of a trial; None: one if the cluster has GPUs.
        measure_gpu_share: measure first how many trials share a GPU best.
        max_gpu_hours: train nothing if the estimate exceeds this.
        shard: share of the trials to train, in this process and without Ray; None: all trials,
            through Ray.
        check: let a trial of each kind take one step before the first trains.
        max_failures: number of failed trials after which the run stops; None: no limit.
        keep: keep the checkpoints of finished trials, and their weights.
        evaluate_every: epochs between two evaluations of the test set; None: at most about 30
            evaluations in a trial.
        probabilities: keep the predicted probabilities.
    """

    study: str
    overrides: tuple[str, ...] = ()
    plugins: tuple[Plugin, ...] = ()
    address: str | None = None
    cpus_per_trial: float = 1.0
    gpus_per_trial: float | None = None
    measure_gpu_share: bool = False
    max_gpu_hours: float | None = None
    shard: Shard | None = None
    check: bool = True
    max_failures: int | None = None
    keep: bool = False
    evaluate_every: int | None = None
    probabilities: bool = True


@dataclass(frozen=True)
class RunOutcome:
    """Outcome of a run.

    Attributes:
        results: results of the study.
        ending: how the run ended.
        failed: number of trials that failed in this run.
        waiting: cells that cannot choose until other shares have ended, if a share was trained.
        tracker: the tracker, to be closed by the caller; None if the run is not tracked.
    """

    results: StudyResults
    ending: Ending
    failed: int
    waiting: tuple[Cell, ...]
    tracker: Tracker | None


def run_study(
    options: RunOptions,
    places: Places,
    display: Display | None = None,
    track: Callable[[StudyState], Tracker] | None = None,
) -> RunOutcome:
    """Train the missing trials of a study. A repeated run trains only those that are left.

    Args:
        options: the study and how to run it.
        places: paths of results and data.
        display: shows the run to a person; default: nothing.
        track: creates the tracker of the run; default: none. A share is not tracked.

    Raises:
        UserError: the study or the options are invalid, data are not prepared, a check failed, or
            the cluster cannot be reached.
    """
    display = display or Display()
    _check_options(options)
    state = open_study_to_run(
        options.study,
        list(options.overrides),
        places,
        warn=display.warn,
    )
    _check_study(options, state)
    ahead = outlook(state, options.shard)
    display.opened(state, ahead)
    if options.keep:
        lost = _without_weights(state, options.shard, places)
        if lost:
            display.on_message(lost)
    run = _Run(options, places, display, state, ahead)
    with display.shown():
        try:
            interrupted = run.train(track)
        except KeyboardInterrupt:
            interrupted = True
        except UserError:
            if run.tracker is not None:
                run.tracker.close(StudyResults(read_state(state.plan, places)))
            raise
        if ahead.trains:
            display.finishing()
        state = read_state(state.plan, places)
        gone = run.kept.removal_message(state.found, places)
        if gone:
            display.on_message(gone)
        release_stale_leases(state, places, keep=options.keep)
    return run.outcome(state, interrupted=interrupted)


def trial_options(options: RunOptions, state: StudyState) -> TrialOptions:
    """Return the options of trials.

    Each epoch is evaluated if the study shows the best test epoch.

    Raises:
        UserError: the study shows the best test epoch, and the options have another interval.
    """
    best_test = state.study.accuracy == "oracle"
    if best_test and options.evaluate_every not in (None, 1):
        raise UserError(
            f"--evaluate-every {options.evaluate_every}: the study says accuracy: oracle, which "
            "needs the test accuracy of every epoch; leave the option out"
        )
    return TrialOptions(options.keep, options.evaluate_every, best_test, options.probabilities)


def _check_options(options: RunOptions) -> None:
    needs_ray = (
        options.address is not None
        or options.gpus_per_trial is not None
        or options.measure_gpu_share
        or options.max_gpu_hours is not None
    )
    if options.shard is not None and needs_ray:
        raise UserError(
            "--shard trains in this process, without Ray, so --address, --gpus-per-trial, "
            "--trials-per-gpu and --max-gpu-hours do not go with it"
        )


def _check_study(options: RunOptions, state: StudyState) -> None:
    if options.shard is not None and trials_to_search(state):
        raise UserError(
            "--shard trains a fixed share of a plan, but a searcher makes this one as it goes; "
            "leave it out"
        )


def _without_weights(state: StudyState, shard: Shard | None, places: Places) -> str:
    """Return a message about trials that finished without their weights, empty if none did."""
    identities = state.states if shard is None else shard.of(state.plan)
    lacking = [
        identity
        for identity in identities
        if state.states.get(identity) is State.DONE
        and not (places.checkpoint(identity) / WEIGHTS_FILE).exists()
    ]
    if not lacking:
        return ""
    return (
        f"--keep: {counted(len(lacking), 'trial')} finished earlier without weights, first "
        f"{lacking[0]}; finished trials are not trained again. To keep their weights, train them "
        "in another folder: run --keep --results FOLDER"
    )


class _Run:
    """Observers of one run, and its training through Ray or in this process."""

    def __init__(
        self,
        options: RunOptions,
        places: Places,
        display: Display,
        state: StudyState,
        ahead: Outlook,
    ) -> None:
        self._options, self._places, self._display = options, places, display
        self._state, self._ahead = state, ahead
        self._trials = trial_options(options, state)
        self._limit = FailureLimit(options.max_failures, display)
        self.kept = SeenRecords(state.found)
        self.tracker: Tracker | None = None

    def train(self, track: Callable[[StudyState], Tracker] | None) -> bool:
        """Train the missing trials, and return True if the run ended early."""
        if self._options.shard is not None:
            self._train_shard(self._options.shard)
            return False
        if not self._ahead.trains:
            self.tracker = track(self._state) if track else None
            return False
        self._display.starting_ray()
        # Ray is imported before the tracker's thread imports MLflow, because parallel imports of
        # both are slower.
        from study.execution.ray_backend import Resources

        options = self._options
        resources = Resources(
            options.address,
            options.cpus_per_trial,
            options.gpus_per_trial,
            options.plugins,
            self._trials,
        )
        self.tracker = track(self._state) if track else None
        return run_plan(
            self._state,
            self._places,
            resources,
            self._observers(),
            PlanOptions(options.measure_gpu_share, options.max_gpu_hours, options.check),
            self._limit,
        )

    def _train_shard(self, shard: Shard) -> None:
        with Interrupt(self._display.on_message) as interrupt:
            train = partial(
                run_locally,
                places=self._places,
                observer=self._observers(),
                threads=max(1, int(self._options.cpus_per_trial)),
                options=self._trials,
                stop=StopConditions(self._limit, lambda: interrupt.raised),
            )
            run_shard(self._state, shard, self._places, train, self._limit)

    def _observers(self) -> Observers:
        observers: list[Observer] = [self._display, self._limit, self.kept]
        if self.tracker is not None:
            observers.append(self.tracker)
        return Observers(observers)

    def outcome(self, state: StudyState, *, interrupted: bool) -> RunOutcome:
        """Return how the run ended."""
        results = StudyResults(state)
        shard = self._options.shard
        cells: tuple[Cell, ...] = ()
        ending: Ending = "complete"
        if self._limit.reached:
            ending = "failure limit"
        elif interrupted:
            ending = "interrupted"
        elif shard is None:
            if any(cell.problem for cell in results.cells):
                ending = "incomplete"
        elif _is_incomplete(shard, state):
            ending = "incomplete"
        else:
            cells = tuple(waiting(state))
            ending = "waiting" if cells else "complete"
        return RunOutcome(results, ending, self._limit.failed, cells, self.tracker)


def _is_incomplete(shard: Shard, state: StudyState) -> bool:
    """Return whether trials of a share are missing or have records in conflict."""
    if shard.missing(state):
        return True
    return not state.found.conflicts.keys().isdisjoint(shard.of(state.plan))
