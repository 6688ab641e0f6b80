"""Ray Tune: the only module that talks to it. Drives a searcher's trials on one machine or a cluster."""

import logging
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # records are the truth, not Ray's own logs
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # a failed trial has no accuracy
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the display is ours
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")  # Tuner.restore is not used
os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # ours stops at the end of an epoch, and says so

import psutil
import ray
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher as RaySearcher

from dh2l.config import TrainConfig
from dh2l.data import read_manifest
from dh2l.errors import UserError, first_line
from dh2l.plugins import Plugin
from dh2l.results import EpochResult
from study import packing
from study.cost import Crew, Task, Timing, kinds_of_trials, mean_timing
from study.filing import unfinished_record
from study.interrupt import Interrupt
from study.observer import Observer
from study.places import Places
from study.records import Failure, Record, RecordStore
from study.searcher import Outcome, Searcher
from study.space import Scheduler

RETRIES = 2
"""How often a trial whose worker died goes on elsewhere from its checkpoint."""
PATIENCE_S = 60.0
"""How long workers that time trials are waited for once the first is there."""


@dataclass(frozen=True)
class Resources:
    """What one trial gets, and where."""

    address: str | None = None
    """Address of a running Ray cluster; None starts Ray on this machine."""
    cpus: float = 1.0
    gpus: float | None = None
    """None: one where the cluster has GPUs, else none."""
    plugins: tuple[Plugin, ...] = ()
    """Users' code that workers load."""


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

    with _cluster(resources.address):
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
    with _cluster(resources.address):
        gpus, concurrent = _share(resources)
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


def run_on_ray(
    searcher: Searcher,
    places: Places,
    resources: Resources,
    observer: Observer,
    *,
    scheduler: Scheduler | None = None,
) -> bool:
    """Train what a searcher suggests, several trials at a time.

    Args:
        searcher: gives configs until it has none.
        places: where records and data lie; on a cluster, folders that every node sees.
        resources: what one trial gets.
        observer: told of every epoch and record, in this process.
        scheduler: early stopping, among the trials of one of the searcher's groups.

    Returns:
        Whether the user interrupted it.

    Raises:
        UserError: the cluster cannot be reached, or is too small for one trial.
    """
    with _scratch(places.ray) as scratch, _cluster(resources.address), Interrupt(observer) as interrupt:
        gpus, concurrent = _share(resources)
        driver = _Driver(places, observer, interrupt)
        trainable = tune.with_resources(
            tune.with_parameters(
                _Trainable,
                places=places,
                threads=max(1, int(resources.cpus)),
                gpu=gpus > 0,
                plugins=resources.plugins,
            ),
            {"cpu": resources.cpus, "gpu": gpus},
        )
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=_Suggestions(searcher),
                scheduler=_PerGroup(scheduler, searcher.group) if scheduler else FIFOScheduler(),
                num_samples=searcher.limit,
                max_concurrent_trials=concurrent,
                reuse_actors=True,
                trial_name_creator=lambda trial: trial.trial_id,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                name=scratch.name,
                storage_path=str(scratch.parent),
                callbacks=[driver],
                stop=_StopWhen(interrupt),
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                verbose=0,
            ),
        )
        tuner.fit()
        return interrupt.raised


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder for what Ray Tune writes, removed afterwards; also those that killed drivers of this host left."""
    host = socket.gethostname()
    for left in folder.glob(f"{host}~*"):
        pid = left.name.rpartition("~")[2]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    scratch = folder / f"{host}~{os.getpid()}"
    scratch.mkdir(parents=True, exist_ok=True)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """A connection to a cluster, or a Ray of our own that ends with us."""
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # a trial's failure is told by its record
    # "local", for without an address Ray would join whatever cluster RAY_ADDRESS or this machine knows.
    where = address or "local"
    words: dict[str, Any] = {"include_dashboard": False} if where == "local" else {}
    try:
        ray.init(address=where, log_to_driver=False, logging_level=logging.ERROR, **words)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"the Ray cluster at {where} cannot be reached: {reason}") from None
    try:
        yield
    finally:
        ray.shutdown()


def _share(resources: Resources) -> tuple[float, int]:
    """GPUs of one trial, and how many trials fit side by side."""
    total = ray.cluster_resources()
    have_cpus, have_gpus = total.get("CPU", 0.0), total.get("GPU", 0.0)
    gpus = resources.gpus if resources.gpus is not None else min(1.0, have_gpus)
    fits = [have_cpus / resources.cpus] + ([have_gpus / gpus] if gpus else [])
    concurrent = int(min(fits) + 1e-9)
    if gpus and not have_gpus:
        raise UserError(
            "trials ask for a GPU, but the cluster has none; leave --gpus-per-trial and --trials-per-gpu out"
        )
    if concurrent < 1:
        raise UserError(
            f"one trial asks for {resources.cpus:g} CPUs and {gpus:g} GPUs, but the cluster has {have_cpus:g} "
            f"and {have_gpus:g}; lower --cpus-per-trial or --gpus-per-trial, or raise --trials-per-gpu"
        )
    return gpus, concurrent


class _Trainable(tune.Trainable):  # type: ignore[misc] # ray is untyped here
    """A worker. It keeps no state outside the trial that it trains, so it is reused for the next."""

    def setup(
        self, config: dict[str, Any], places: Places, threads: int, gpu: bool, plugins: tuple[Plugin, ...]
    ) -> None:
        for plugin in plugins:
            plugin.load()
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic trials need it before cuBLAS starts
        self._places, self._threads, self._device = places, threads, "cuda" if gpu else "cpu"
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._training.close()
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        from study.trial import run_trial  # torch is the workers' to import, not the driver's

        self._config = TrainConfig.model_validate(config["config"])
        self._training = run_trial(self._config, self._places, device=self._device, threads=self._threads)

    def step(self) -> dict[str, Any]:
        """One epoch; with the last one, the record is filed too."""
        epoch, metrics, state = 0, dict[str, float | None](), None
        try:
            result = next(self._training)
            epoch, metrics = result.epoch, result.metrics
            if epoch == self._config.epochs:
                next(self._training)
        except StopIteration as stop:
            state = stop.value.state
            if state == "failed" and self._device == "cuda":
                # It may have broken the process's CUDA context: Ray takes a new process after an exception, and tries
                # the trial there again.
                raise RuntimeError(stop.value.failure.message) from None
        score = {"validation_accuracy": metrics["validation_accuracy"]} if "validation_accuracy" in metrics else {}
        return {**score, "epoch": epoch, "metrics": metrics, "state": state, "done": state is not None}

    def cleanup(self) -> None:
        self._training.close()


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


class _NotSaved:
    """Ray pickles what drives a run so that `Tuner.restore` can read it; ours is read from the records instead."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return object, ()


class _Suggestions(_NotSaved, RaySearcher):  # type: ignore[misc] # ray is untyped here
    """Hands our searcher's trials to Ray and their results back."""

    def __init__(self, searcher: Searcher) -> None:
        super().__init__(metric="validation_accuracy", mode="max")
        self._searcher = searcher
        self._identities: dict[str, str] = {}

    def suggest(self, trial_id: str) -> Any:
        config = self._searcher.suggest()
        if config is None:
            return RaySearcher.FINISHED
        self._identities[trial_id] = config.identity
        return {"identity": config.identity, "config": config.model_dump()}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        outcome: Outcome = "failed" if error or not result else result.get("state") or "stopped"
        self._searcher.tell(self._identities[trial_id], outcome)

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing to save: what is left to do follows from the records."""

    def save(self, checkpoint_path: str) -> None:
        """As above."""

    def restore(self, checkpoint_path: str) -> None:
        """As above."""


class _Driver(_NotSaved, tune.Callback):  # type: ignore[misc] # ray is untyped here
    """Passes what trials report to the observer, and files what only the driver can know."""

    def __init__(self, places: Places, observer: Observer, interrupt: Interrupt) -> None:
        self._store, self._places = RecordStore(places.trials), places
        self._observer, self._interrupt = observer, interrupt

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._observer.started(_config_of(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if result["epoch"]:
            self._observer.epoch(_config_of(trial), EpochResult(result["epoch"], result["metrics"]))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        config, last = _config_of(trial), trial.last_result or {}
        if last.get("state") is not None:
            record = self._store.get(config.identity, self._places.set_aside)
            if record is not None:
                self._observer.filed(record)
            else:
                self._observer.note(
                    f"{config.identity} ended as {last['state']}, but its record is not under {self._places.trials}: "
                    "every node must see the same results folder"
                )
        elif not self._interrupt.raised:
            failure = Failure(kind="Stopped", message="stopped early by the scheduler", epoch=last.get("epoch"))
            self._file(unfinished_record(config, "stopped", failure))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        config = _config_of(trial)
        filed = self._store.get(config.identity, self._places.set_aside)
        if filed is not None and filed.state == "failed":  # the worker lived to say why
            self._observer.filed(filed)
            return
        message = f"the worker died {RETRIES + 1} times; Ray says: {_last_line(trial.error_file)}"
        self._file(unfinished_record(config, "failed", Failure(kind="WorkerDied", message=message)))

    def _file(self, record: Record) -> None:
        try:
            self._observer.filed(self._store.write(record))
        except OSError as error:
            self._observer.note(f"the record of {record.identity} cannot be written ({error.strerror})")


class _PerGroup(_NotSaved, FIFOScheduler):  # type: ignore[misc] # ray is untyped here
    """One of Ray's schedulers for each group of trials: arms are never stopped for being worse than others.

    A trial of no group is never stopped.
    """

    def __init__(self, settings: Scheduler, group_of: Callable[[str], str | None]) -> None:
        super().__init__()
        self._settings, self._group_of = settings, group_of
        self._schedulers: dict[str | None, TrialScheduler] = {None: FIFOScheduler()}

    def _of(self, trial: Any) -> TrialScheduler:
        config = _config_of(trial)
        group = self._group_of(config.identity)
        if group not in self._schedulers:
            self._schedulers[group] = self._make(config.epochs)
        return self._schedulers[group]

    def _make(self, epochs: int) -> TrialScheduler:
        words = {"time_attr": "epoch", "metric": "validation_accuracy", "mode": "max"}
        if self._settings.kind == "median":
            return MedianStoppingRule(**words, grace_period=self._settings.grace_epochs)
        return AsyncHyperBandScheduler(
            **words,
            max_t=epochs,
            grace_period=min(self._settings.grace_epochs, epochs),
            reduction_factor=self._settings.reduction_factor,
        )

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        self._of(trial).on_trial_add(tune_controller, trial)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:
        self._of(trial).on_trial_error(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        return str(self._of(trial).on_trial_result(tune_controller, trial, result))

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        if "validation_accuracy" in result:
            self._of(trial).on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        self._of(trial).on_trial_remove(tune_controller, trial)


class _StopWhen(_NotSaved, tune.Stopper):  # type: ignore[misc] # ray is untyped here
    """Stops everything once the user has interrupted."""

    def __init__(self, interrupt: Interrupt) -> None:
        self._interrupt = interrupt

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self._interrupt.raised

    def stop_all(self) -> bool:
        return self._interrupt.raised


def _config_of(trial: Any) -> TrainConfig:
    return TrainConfig.model_validate(trial.config["config"])


def _last_line(path: str | None) -> str:
    if path is None:
        return "nothing"
    try:
        with open(path, encoding="utf-8") as file:
            return next((line.strip() for line in reversed(file.read().splitlines()) if line.strip()), "nothing")
    except OSError:
        return "nothing"
