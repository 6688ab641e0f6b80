"""Driver of a run: passes trials to Ray Tune."""

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from ray import tune
from ray.tune.schedulers import FIFOScheduler

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


def run_on_ray(
    session: Session,
    searcher: Searcher,
    places: Places,
    resources: Resources,
    observer: Observer,
    *,
    scheduler: SchedulerSettings | None = None,
    checks: Sequence[Check] = (),
    stop: Callable[[], bool] = lambda: False,
) -> bool:
    """Train what a searcher suggests, several trials at a time.

    Trials for which a share of a GPU had too little memory are tried once more, each alone on a whole one.

    Args:
        session: the Ray that trains them.
        searcher: gives configs until it has none.
        places: where records and data lie; on a cluster, folders that every node sees.
        resources: what one trial gets.
        observer: told of every epoch and record, in this process.
        scheduler: early stopping, among the trials of one of the searcher's groups.
        checks: steps that the first workers take before they train, which costs no start of a worker; left out where
            they are no fewer than the trials, for then these are their own checks.
        stop: returns whether to end before the time, each trial at the end of its epoch.

    Returns:
        Whether it ended before its time.

    Raises:
        UserError: the cluster cannot be reached, or is too small for one trial; a check failed.
    """
    scratch = session.start(resources)
    resources = replace(resources, gpus=share(resources)[0])
    checks = checks if len(checks) < searcher.limit else ()
    reports = DriverCallback(places, observer, resources, stop)
    _tune(searcher, places, resources, scratch, reports, scheduler, checks)
    if reports.out_of_memory and not reports.stopping:
        alone = replace(resources, gpus=1.0)
        crowded = FixedPlanSearcher(reports.out_of_memory, {}, lambda _: False)
        reports = DriverCallback(places, observer, alone, stop, again=True)
        _tune(crowded, places, alone, scratch, reports, None, ())
    if reports.problem:
        raise UserError(reports.problem)
    return reports.stopping


def _tune(
    searcher: Searcher,
    places: Places,
    resources: Resources,
    scratch: Path,
    reports: DriverCallback,
    scheduler: SchedulerSettings | None,
    checks: Sequence[Check],
) -> None:
    """Let Ray Tune run trials until the searcher has no more, or something asks to stop."""
    forward_nothing()
    if os.environ["RAY_USAGE_STATS_ENABLED"] == "0":
        _compat.skip_callback_report()
    gpus, concurrent = share(resources)
    note_if_busy(resources, gpus, reports.note, lambda: reports.stopping)
    workers = max(1, min(concurrent, searcher.limit, len(checks)))
    tune.Tuner(
        tune.with_resources(
            tune.with_parameters(Trainable, places=places, resources=resources),
            {"cpu": resources.cpus, "gpu": resources.gpus},
        ),
        tune_config=tune.TuneConfig(
            search_alg=SearchAdapter(searcher, lambda: reports.stopping, checks, workers),
            scheduler=PerCellScheduler(scheduler, searcher.group) if scheduler else FIFOScheduler(),
            num_samples=searcher.limit,
            max_concurrent_trials=concurrent,
            reuse_actors=True,
            trial_name_creator=lambda trial: trial.trial_id,
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name=scratch.name,
            storage_path=str(scratch.parent),
            callbacks=[reports],
            stop=StopWhen(reports),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            failure_config=tune.FailureConfig(max_failures=RETRIES),
            verbose=0,
        ),
    ).fit()
