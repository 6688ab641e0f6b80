"""Measurements on the machines of a run: the best GPU share, and the time of each kind of trial."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import cycle, islice
from typing import Any

import ray

from dh2l.config.train_config import TrainConfig
from dh2l.data import read_manifest
from dh2l.errors import UserError, first_line
from dh2l.plugins import Plugin
from study.execution.estimate import gpu_sharing
from study.execution.estimate.cost import Timing, WorkerPool, kinds_of_trials, mean_timing
from study.execution.estimate.workload import TimingTask
from study.execution.observers import Observer
from study.execution.ray_backend.connection import Resources, note_if_busy, share
from study.execution.ray_backend.session import Session
from study.records.paths import Places

PATIENCE_S = 60.0
"""Seconds to wait for further timing workers once the first is ready."""


def with_measured_gpu_share(
    session: Session,
    resources: Resources,
    configs: list[TrainConfig],
    places: Places,
    observer: Observer,
) -> Resources:
    """Return resources with the share of a GPU at which trials are fastest together.

    Args:
        session: Ray session that measures.
        resources: CPUs of a trial.
        configs: configs of the trials to come, of which the heaviest is measured.
        places: paths of the data.
        observer: receives messages.

    Raises:
        UserError: there is no GPU, or a trial cannot be measured.
    """
    config = gpu_sharing.heaviest(
        configs, cache(lambda name: read_manifest(name, places.data).image_shape)
    )
    task = gpu_sharing.SharingTask(
        config,
        places.data,
        threads=max(1, int(resources.cpus)),
        plugins=resources.plugins,
        tree=places.tree(config.tree_hash),
    )
    whole = replace(resources, gpus=1.0)
    session.start(whole)
    share(whole)
    note_if_busy(whole, 1.0, observer.on_message)
    total = ray.cluster_resources()
    observer.on_message(f"measuring how many trials of {config.identity} share a GPU best ...")
    most = max(1, int(total["CPU"] / total["GPU"] / resources.cpus))
    measure = ray.remote(num_gpus=1, max_retries=0)(_measure_sharing)
    found = ray.get(measure.remote(task, most))
    if isinstance(found, str):
        raise UserError(found)
    n, samples = found
    measured = "; ".join(map(str, samples))
    observer.on_message(f"trials per GPU: {n} (measured side by side: {measured})")
    return replace(resources, gpus=1 / n)


def _measure_sharing(
    task: gpu_sharing.SharingTask, most: int
) -> tuple[int, list[gpu_sharing.Sample]] | str:
    """Return the number of trials per GPU and the measurements, or an error message."""
    try:
        return gpu_sharing.choose_trials_per_gpu(partial(gpu_sharing.side_by_side, task), most)
    except UserError as error:  # Ray would wrap it into a traceback
        return str(error)


def time_kinds(
    session: Session,
    kinds: Mapping[str, TimingTask],
    n_trials: int,
    resources: Resources,
    observer: Observer,
) -> tuple[dict[str, Timing], WorkerPool]:
    """Time a trial of each kind on the machines of a run, with as many side by side as in the run.

    Args:
        session: Ray session that times the trials.
        kinds: tasks by the key of their kind.
        n_trials: number of trials to come, the maximum number of workers.
        resources: resources of one trial.
        observer: receives messages.

    Returns:
        The timings by the key of the kind, and the workers.

    Raises:
        UserError: the cluster cannot be reached or is too small, or a trial cannot be timed.
    """
    session.start(resources)
    gpus, concurrent = share(resources)
    note_if_busy(resources, gpus, observer.on_message)
    started = time.perf_counter()
    worker = ray.remote(num_cpus=resources.cpus, num_gpus=gpus)(_Timer)
    threads, n = max(1, int(resources.cpus)), min(concurrent, n_trials)
    workers = [worker.remote(threads, gpus > 0, resources.plugins) for _ in range(n)]
    ready = _wait_until_ready(workers)
    pool = WorkerPool(
        len(ready), resources.cpus, gpus, session.start_s, time.perf_counter() - started
    )
    observer.on_message(
        f"timing {kinds_of_trials(len(kinds))}, {pool.slots} side by side, some seconds each ..."
    )
    timings: dict[str, list[Timing]] = {key: [] for key in kinds}
    for first in range(0, len(kinds), len(ready)):
        batch = list(islice(cycle(kinds), first, first + len(ready)))
        for key, timing in _time_batch(ready, batch, kinds):
            timings[key].append(timing)
    for timer in workers:
        ray.kill(timer)  # frees CPUs and GPUs before trials need them
    return {key: mean_timing(of_kind) for key, of_kind in timings.items()}, pool


def _wait_until_ready(workers: Sequence[Any]) -> list[Any]:
    """Return the workers that have started. Other drivers may hold the resources of the rest."""
    answers = {worker.ready.remote(): worker for worker in workers}
    ray.wait(list(answers), num_returns=1)
    ready, _ = ray.wait(list(answers), num_returns=len(answers), timeout=PATIENCE_S)
    return [answers[reference] for reference in ready]


def _time_batch(
    workers: Sequence[Any], batch: Sequence[str], kinds: Mapping[str, TimingTask]
) -> Iterator[tuple[str, Timing]]:
    """Time a kind on each worker at the same time."""
    pairs = list(zip(workers, batch, strict=True))
    prepared = [worker.prepare.remote(kinds[key]) for worker, key in pairs]
    for key, answer in zip(batch, prepared, strict=True):
        _get(answer, kinds[key])
    measured = [worker.measure.remote() for worker in workers]
    for key, answer in zip(batch, measured, strict=True):
        yield key, _get(answer, kinds[key])


def _get(answer: Any, task: TimingTask) -> Any:
    try:
        return ray.get(answer)
    except ray.exceptions.RayError as error:
        reason = first_line(getattr(error, "cause", error))
        raise UserError(
            f"a trial of the kind of {task.config.identity} cannot be timed: {reason}"
        ) from None


class _Timer:
    """Worker that times trials."""

    def __init__(self, threads: int, gpu: bool, plugins: tuple[Plugin, ...]) -> None:
        for plugin in plugins:
            plugin.load()
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        from study.execution.estimate.timing import TimedTrial

        self._make = partial(TimedTrial, device="cuda" if gpu else "cpu", threads=threads)
        self._trial: TimedTrial | None = None

    def ready(self) -> None:
        """Return once the worker has started."""

    def prepare(self, task: TimingTask) -> None:
        """Set a trial up and warm it."""
        self._trial = None  # frees its memory before the next trial needs it
        self._trial = self._make(task)

    def measure(self) -> Timing:
        """Time the trial that was prepared."""
        if self._trial is None:
            raise UserError("no trial was prepared")
        return self._trial.measure()
