"""Driver of a run, which passes trials to Ray Tune."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from dh2l.errors import UserError
from study.execution.observers import Observer
from study.execution.preflight import Check
from study.execution.ray_backend import _compat
from study.execution.ray_backend.callbacks import RETRIES, DriverCallback, StopWhen
from study.execution.ray_backend.connection import Resources, note_if_busy, share
from study.execution.ray_backend.search_algorithm import PerCellScheduler, SearchAdapter
from study.execution.ray_backend.session import Session
from study.execution.ray_backend.trainable import Trainable
from study.execution.ray_backend.worker_environment import forward_nothing
from study.execution.search.base import FixedPlanSearcher, Searcher
from study.records.paths import Places
from study.spec.schema import SchedulerSettings


@dataclass(frozen=True)
class Round:
    """Trials of one round of a run.

    Attributes:
        searcher: suggests configs until it has none left.
        scheduler: early stopping among the trials of one of the searcher's groups.
        checks: steps that the first workers take before they train, so that no further workers
            start. They are skipped if there are as many checks as trials, because each trial
            would then be its own check.
    """

    searcher: Searcher
    scheduler: SchedulerSettings | None = None
    checks: Sequence[Check] = ()


def run_on_ray(
    session: Session,
    trials: Round,
    places: Places,
    resources: Resources,
    observer: Observer,
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Train the trials of a round, several at a time.

    A trial that runs out of memory on its share of a GPU is tried once more, alone on a whole GPU.

    Args:
        session: Ray session that trains them.
        trials: the trials.
        places: paths of records and data; on a cluster, every node must see them.
        resources: resources of one trial.
        observer: receives every epoch and record, in this process.
        stop: returns True when the run should end early, each trial at the end of its epoch.

    Returns:
        True if the run ended early.

    Raises:
        UserError: the cluster cannot be reached, or is too small for one trial, or a check failed.
    """
    scratch = session.start(resources)
    resources = replace(resources, gpus=share(resources)[0])
    if len(trials.checks) >= trials.searcher.limit:
        trials = replace(trials, checks=())
    reports = DriverCallback(places, observer, resources, stop)
    _tune(trials, places, resources, scratch, reports)
    if reports.out_of_memory and not reports.stopping:
        whole = replace(resources, gpus=1.0)
        retried = Round(FixedPlanSearcher(reports.out_of_memory, {}, lambda _: False))
        reports = DriverCallback(places, observer, whole, stop, is_retry=True)
        _tune(retried, places, whole, scratch, reports)
    if reports.problem:
        raise UserError(reports.problem)
    return reports.stopping


def _tune(
    trials: Round, places: Places, resources: Resources, scratch: Path, reports: DriverCallback
) -> None:
    """Let Ray Tune run trials until the searcher has none left, or the run should end."""
    forward_nothing()
    if os.environ["RAY_USAGE_STATS_ENABLED"] == "0":
        _compat.skip_callback_report()
    gpus, concurrent = share(resources)
    note_if_busy(resources, gpus, reports.note, lambda: reports.stopping)
    # No name is bound to the trainable or to a configuration: they hold objects in Ray's store,
    # which must be freed before Ray shuts down.
    tune.Tuner(
        tune.with_resources(
            tune.with_parameters(Trainable, places=places, resources=resources),
            {"cpu": resources.cpus, "gpu": resources.gpus},
        ),
        tune_config=_tune_config(trials, concurrent, reports),
        run_config=_run_config(scratch, reports),
    ).fit()


def _tune_config(trials: Round, concurrent: int, reports: DriverCallback) -> tune.TuneConfig:
    searcher = trials.searcher
    workers = max(1, min(concurrent, searcher.limit, len(trials.checks)))
    return tune.TuneConfig(
        search_alg=SearchAdapter(searcher, lambda: reports.stopping, trials.checks, workers),
        scheduler=_scheduler(trials),
        num_samples=searcher.limit,
        max_concurrent_trials=concurrent,
        reuse_actors=True,
        trial_name_creator=lambda trial: trial.trial_id,
        trial_dirname_creator=lambda trial: trial.trial_id,
    )


def _run_config(scratch: Path, reports: DriverCallback) -> tune.RunConfig:
    return tune.RunConfig(
        name=scratch.name,
        storage_path=str(scratch.parent),
        callbacks=[reports],
        stop=StopWhen(reports),
        checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
        failure_config=tune.FailureConfig(max_failures=RETRIES),
        verbose=0,
    )


def _scheduler(trials: Round) -> TrialScheduler:
    if trials.scheduler is None:
        return FIFOScheduler()
    return PerCellScheduler(trials.scheduler, trials.searcher.group)
