"""Measured where trials will run: how many share a GPU best, and what a trial of each kind costs."""

import os
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial
from itertools import cycle, islice

import ray

from dh2l.config import TrainConfig
from dh2l.data import read_manifest
from dh2l.errors import UserError, first_line
from dh2l.plugins import Plugin
from study import packing
from study.cluster.connection import Resources, cluster, share
from study.cost import Crew, Task, Timing, kinds_of_trials, mean_timing
from study.observer import Observer
from study.places import Places

PATIENCE_S = 60.0
"""How long workers that time trials are waited for once the first is there."""


def with_measured_share(
    resources: Resources, configs: list[TrainConfig], places: Places, observer: Observer
) -> Resources:
    """The resources with the share of a GPU with which trials are fastest together, measured where they will run.

    Args:
        resources: where trials go, and their CPUs.
        configs: what will be trained; the heaviest of them is measured.
        places: where data lie.
        observer: told what was measured.

    Raises:
        UserError: there is no GPU, or a trial cannot be measured.
    """
    config = packing.heaviest(configs, cache(lambda name: read_manifest(name, places.data).image_shape))
    threads = max(1, int(resources.cpus))

    def measured(most: int) -> tuple[int, list[packing.Sample]] | str:
        try:
            return packing.choose(
                lambda n: packing.side_by_side(
                    n,
                    config,
                    places.data,
                    threads=threads,
                    plugins=resources.plugins,
                    tree=places.tree(config.tree_hash),
                ),
                most,
            )
        except UserError as error:  # Ray would wrap it into a traceback
            return str(error)

    with cluster(resources.address):
        total = ray.cluster_resources()
        if not total.get("GPU"):
            raise UserError("--trials-per-gpu needs a GPU, but the cluster has none; leave it out")
        observer.note(f"measuring how many trials of {config.identity} share a GPU best ...")
        most = max(1, int(total["CPU"] / total["GPU"] / resources.cpus))
        found = ray.get(ray.remote(num_gpus=1, max_retries=0)(measured).remote(most))
    if isinstance(found, str):
        raise UserError(found)
    n, samples = found
    observer.note(f"trials per GPU: {n} (measured side by side: {'; '.join(map(str, samples))})")
    return replace(resources, gpus=1 / n)


def timed(
    kinds: Mapping[str, Task], n_trials: int, resources: Resources, observer: Observer
) -> tuple[dict[str, Timing], Crew]:
    """Time a trial of each kind where trials would train, as many side by side as would really be.

    Args:
        kinds: what is timed, by the key of its kind.
        n_trials: how many trials will come: no more are timed at once.
        resources: what one trial gets, and where.
        observer: told how many kinds are timed.

    Returns:
        What was measured, by the key of the kind, and where.

    Raises:
        UserError: the cluster cannot be reached or is too small for one trial, or a trial cannot be timed.
    """
    started = time.perf_counter()
    with cluster(resources.address):
        gpus, concurrent = share(resources)
        worker = ray.remote(num_cpus=resources.cpus, num_gpus=gpus)(_Timer)
        threads, n = max(1, int(resources.cpus)), min(concurrent, n_trials)
        workers = [worker.remote(threads, gpus > 0, resources.plugins) for _ in range(n)]
        ready = {w.ready.remote(): w for w in workers}
        ray.wait(list(ready), num_returns=1)
        there, _ = ray.wait(list(ready), num_returns=n, timeout=PATIENCE_S)  # other drivers may hold the rest
        workers = [ready[reference] for reference in there]
        crew = Crew(len(workers), resources.cpus, gpus, time.perf_counter() - started)
        of_kind: dict[str, list[Timing]] = {key: [] for key in kinds}
        observer.note(f"timing {kinds_of_trials(len(kinds))}, {crew.places} side by side, some seconds each ...")
        for first in range(0, len(kinds), len(workers)):
            batch = list(islice(cycle(kinds), first, first + len(workers)))
            for verb, words in (("prepare", [(kinds[key],) for key in batch]), ("measure", [() for _ in batch])):
                asked = [getattr(w, verb).remote(*its) for w, its in zip(workers, words, strict=True)]
                for key, answer in zip(batch, asked, strict=True):
                    try:
                        found = ray.get(answer)
                    except ray.exceptions.RayError as error:
                        reason = first_line(getattr(error, "cause", error))
                        identity = kinds[key].config.identity
                        raise UserError(f"a trial of the kind of {identity} cannot be timed: {reason}") from None
                    if found is not None:
                        of_kind[key].append(found)
        started = time.perf_counter()
    crew = replace(crew, start_s=crew.start_s + time.perf_counter() - started)
    return {key: mean_timing(timings) for key, timings in of_kind.items()}, crew


class _Timer:
    """A worker that times trials."""

    def __init__(self, threads: int, gpu: bool, plugins: tuple[Plugin, ...]) -> None:
        for plugin in plugins:
            plugin.load()
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        from study.timing import TimedTrial

        self._make = partial(TimedTrial, device="cuda" if gpu else "cpu", threads=threads)
        self._trial: TimedTrial | None = None

    def ready(self) -> None:
        """Answers once the worker has started."""

    def prepare(self, task: Task) -> None:
        """Set a trial up and warm it."""
        self._trial = None  # its memory is free before the next needs it
        self._trial = self._make(task)

    def measure(self) -> Timing:
        """Time the trial that was prepared."""
        if self._trial is None:
            raise UserError("no trial was prepared")
        return self._trial.measure()
