"""The driver: hands trials to Ray Tune."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ray import tune
from ray.air._internal import usage
from ray.tune.schedulers import FIFOScheduler

from dh2l.errors import UserError
from study.checking import Check
from study.cluster.connection import Resources, cluster, share
from study.cluster.leftovers import note_processes, scratch_folder
from study.cluster.reports import RETRIES, Reports, StopWhen
from study.cluster.suggesting import PerGroup, Suggestions
from study.cluster.worker import Trainable
from study.interrupt import FailureLimit, Interrupt
from study.observer import Observer
from study.places import Places
from study.searcher import PlanSearcher, Searcher
from study.space import Scheduler


def run_on_ray(
    searcher: Searcher,
    places: Places,
    resources: Resources,
    observer: Observer,
    *,
    scheduler: Scheduler | None = None,
    checks: Sequence[Check] = (),
    limit: FailureLimit | None = None,
) -> bool:
    """Train what a searcher suggests, several trials at a time.

    Trials for which a share of a GPU had too little memory are tried once more, each alone on a whole one.

    Args:
        searcher: gives configs until it has none.
        places: where records and data lie; on a cluster, folders that every node sees.
        resources: what one trial gets.
        observer: told of every epoch and record, in this process.
        scheduler: early stopping, among the trials of one of the searcher's groups.
        checks: steps that the first workers take before they train, which costs no start of a worker; left out where
            they are no fewer than the trials, for then these are their own checks.
        limit: counts the failures, and says when they are enough.

    Returns:
        Whether it ended before its time: the user interrupted it, or the limit was reached.

    Raises:
        UserError: the cluster cannot be reached, or is too small for one trial; a check failed.
    """
    limit = limit or FailureLimit(None, observer)
    # An interruption while Ray starts is noted as well: an exception there may end the process.
    with scratch_folder() as scratch, Interrupt(observer.note) as interrupt, cluster(resources.address):
        interrupt.arm()  # Ray, as it starts, takes SIGTERM
        note_processes(scratch)
        if interrupt.raised:
            return True
        resources = replace(resources, gpus=share(resources)[0])
        checks = checks if len(checks) < searcher.limit else ()
        reports = Reports(places, observer, resources, lambda: interrupt.raised or limit.reached)
        _tune(searcher, places, resources, scratch, reports, scheduler, checks)
        if reports.crowded and not reports.stopping:
            alone = replace(resources, gpus=1.0)
            crowded = PlanSearcher(reports.crowded, {}, lambda _: False)
            reports = Reports(places, observer, alone, lambda: interrupt.raised or limit.reached, again=True)
            _tune(crowded, places, alone, scratch, reports, None, ())
        if reports.problem:
            raise UserError(reports.problem)
        return reports.stopping


def _tune(
    searcher: Searcher,
    places: Places,
    resources: Resources,
    scratch: Path,
    reports: Reports,
    scheduler: Scheduler | None,
    checks: Sequence[Check],
) -> None:
    """Let Ray Tune run trials until the searcher has no more, or something asks to stop."""
    if os.environ["RAY_USAGE_STATS_ENABLED"] == "0":
        # For its reports Tune counts callbacks by kind, and imports MLflow and others to know the kinds: seconds.
        usage.tag_callbacks = lambda _: False
    _, concurrent = share(resources)
    workers = max(1, min(concurrent, searcher.limit, len(checks)))
    tune.Tuner(
        tune.with_resources(
            tune.with_parameters(Trainable, places=places, resources=resources),
            {"cpu": resources.cpus, "gpu": resources.gpus},
        ),
        tune_config=tune.TuneConfig(
            search_alg=Suggestions(searcher, lambda: reports.stopping, checks, workers),
            scheduler=PerGroup(scheduler, searcher.group) if scheduler else FIFOScheduler(),
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
