"""The run of a study: train what it misses, and say how the run ended."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from dh2l.errors import UserError
from dh2l.plugins import Plugin
from dh2l.results import WEIGHTS_FILE
from dh2l.wording import counted
from study.execution.display import Display, Tracker
from study.execution.interrupts import Interrupt
from study.execution.observers import FailureLimit, Observer, Observers
from study.execution.options import TrialOptions
from study.execution.seen_records import SeenRecords
from study.execution.shards import Shard, run_shard, waiting
from study.execution.tally import Outlook, outlook
from study.execution.training import release_stale_leases, run_plan
from study.records.paths import Places
from study.spec.trials import Cell
from study.state.load import open_study, read_state
from study.state.remaining import trials_to_search
from study.state.results import StudyResults
from study.state.states import State
from study.state.study_state import StudyState

Ending = Literal["complete", "incomplete", "failure limit", "interrupted", "waiting"]
"""The way in which a run ended; `waiting`: a share is trained, but choices need other shares."""


@dataclass(frozen=True)
class RunOptions:
    """A study and how to run it.

    Attributes:
        study: a shipped study's name, or a file.
        overrides: changes of its values, each ``key=value``.
        plugins: users' code that it needs, loaded.
        address: address of a running Ray cluster; None starts Ray on this machine.
        cpus_per_trial: CPU cores of a trial; of a share, threads.
        gpus_per_trial: GPUs of a trial; None: one where the cluster has GPUs.
        measure_gpu_share: measure first how many trials share a GPU best.
        max_gpu_hours: train nothing where the estimate exceeds this.
        shard: the share of the trials to train, in this process and without Ray; None: all, through Ray.
        check: let a trial of each kind take one step before the first trains.
        max_failures: stop once so many trials have failed.
        keep: keep the checkpoints of finished trials, and their weights.
        evaluate_every: epochs between two evaluations of the test set; None: at most about 30 a trial.
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
    """What a run leaves.

    Attributes:
        results: the study, evaluated.
        ending: the way in which it ended.
        failed: number of trials that failed in this run.
        waiting: of a share, the cells that cannot choose until other shares have ended.
        tracker: the tracker, to be closed by the caller; None where nothing is tracked.
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
    """Train what a study misses. Run again, it trains only what is missing.

    Args:
        options: the study and how to run it.
        places: paths of results and data.
        display: shows the run to a person; default: nothing.
        track: makes the tracker of the run; default: none. A share is not tracked.

    Raises:
        UserError: a mistake in the study or the options, data that are not prepared, a check that failed, or a
            cluster that cannot be reached.
    """
    display = display or Display()
    _check_options(options)
    state = open_study(
        options.study,
        list(options.overrides),
        places,
        note=display.on_message,
        warn=display.warn,
        write=True,
    )
    _check_study(options, state)
    ahead = outlook(state, options.shard)
    display.opened(state, ahead)
    if options.keep and (lost := _without_weights(state, options.shard, places)):
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
        if gone := run.kept.removal_message(state.found, places):
            display.on_message(gone)
        release_stale_leases(state, places, keep=options.keep)
    return run.outcome(state, interrupted=interrupted)


def trial_options(options: RunOptions, state: StudyState) -> TrialOptions:
    """Collect the options of trials; where a study shows the best test epoch, each epoch is evaluated.

    Raises:
        UserError: the study shows the best test epoch, and another interval is asked for.
    """
    best_test = state.study.accuracy == "oracle"
    if best_test and options.evaluate_every not in (None, 1):
        raise UserError(
            f"--evaluate-every {options.evaluate_every}: the study says accuracy: oracle, which needs "
            "the test accuracy of every epoch; leave the option out"
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
    """Return a sentence on trials that finished without their weights; empty where there are none."""
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
        f"{lacking[0]}; finished trials are not trained again. To keep their weights, train them in "
        "another folder: run --keep --results FOLDER"
    )


class _Run:
    """One run: its observers, and the training through Ray or in this process."""

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
        """Train what is missing; return whether the run ended before its time."""
        if self._options.shard is not None:
            self._train_shard(self._options.shard)
            return False
        if not self._ahead.trains:
            self.tracker = track(self._state) if track else None
            return False
        self._display.starting_ray()
        # Imported before the tracker's thread imports MLflow: each would slow the other.
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
            measure_share=options.measure_gpu_share,
            max_gpu_hours=options.max_gpu_hours,
            check=options.check,
            limit=self._limit,
        )

    def _train_shard(self, shard: Shard) -> None:
        with Interrupt(self._display.on_message) as asked:
            run_shard(
                self._state,
                shard,
                self._places,
                self._observers(),
                threads=max(1, int(self._options.cpus_per_trial)),
                options=self._trials,
                limit=self._limit,
                stop=lambda: asked.raised,
            )

    def _observers(self) -> Observers:
        observers: list[Observer] = [self._display, self._limit, self.kept]
        if self.tracker is not None:
            observers.append(self.tracker)
        return Observers(observers)

    def outcome(self, state: StudyState, *, interrupted: bool) -> RunOutcome:
        """Say how the run ended."""
        results, shard = StudyResults(state), self._options.shard
        cells: tuple[Cell, ...] = ()
        ending: Ending = "complete"
        if self._limit.reached:
            ending = "failure limit"
        elif interrupted:
            ending = "interrupted"
        elif shard is None:
            ending = "incomplete" if any(cell.problem for cell in results.cells) else "complete"
        elif shard.missing(state) or {*shard.of(state.plan)} & {*state.found.conflicts}:
            ending = "incomplete"
        elif cells := tuple(waiting(state)):
            ending = "waiting"
        return RunOutcome(results, ending, self._limit.failed, cells, self.tracker)
