"""The driver: hands trials to Ray Tune, passes on what they report, files what only it can know."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from ray import tune
from ray.tune.schedulers import FIFOScheduler

from dh2l.errors import UserError
from dh2l.results import EpochResult
from study.claims import Claims
from study.cluster.connection import Resources, cluster, share
from study.cluster.suggesting import NotSaved, PerGroup, Suggestions, config_of
from study.cluster.worker import Trainable
from study.filing import unfinished_record
from study.interrupt import Interrupt
from study.log import last_lines
from study.observer import Observer
from study.places import Places
from study.records import Failure, Record, RecordStore
from study.searcher import Searcher
from study.space import Scheduler

SCRATCH = "dh2l-study-"
RETRIES = 2
"""How often a trial whose worker died goes on elsewhere from its checkpoint."""


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
    with scratch_folder() as scratch, cluster(resources.address), Interrupt(observer) as interrupt:
        gpus, concurrent = share(resources)
        driver = _Driver(places, observer, interrupt)
        trainable = tune.with_resources(
            tune.with_parameters(
                Trainable,
                places=places,
                threads=max(1, int(resources.cpus)),
                gpu=gpus > 0,
                plugins=resources.plugins,
                keep=resources.keep,
            ),
            {"cpu": resources.cpus, "gpu": gpus},
        )
        tuner = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=Suggestions(searcher),
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
def scratch_folder() -> Iterator[Path]:
    """A folder for what Ray Tune writes, removed afterwards; also those that killed drivers of this host left.

    It lies among the system's temporary files, as Ray's own: a results folder that is full stops no run.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*"):
        pid = left.name.removeprefix(SCRATCH).partition("-")[0]
        if pid.isdecimal() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(prefix=f"{SCRATCH}{os.getpid()}-"))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


class _Driver(NotSaved, tune.Callback):  # type: ignore[misc] # ray is untyped here
    """Passes what trials report to the observer, and files what only the driver can know."""

    def __init__(self, places: Places, observer: Observer, interrupt: Interrupt) -> None:
        self._store, self._claims, self._places = RecordStore(places.trials), Claims(places.claims), places
        self._observer, self._interrupt = observer, interrupt
        self._waiting: dict[str, str] = {}

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._observer.started(config_of(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        config, reason = config_of(trial), result["waiting"]
        if result["epoch"]:
            self._observer.epoch(config, EpochResult(result["epoch"], result["metrics"]))
        if reason and reason != self._waiting.get(config.identity):
            self._waiting[config.identity] = reason
            self._observer.note(reason)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        config, last = config_of(trial), trial.last_result or {}
        if last.get("state") is not None:
            record = self._record(config.identity)
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
        config = config_of(trial)
        filed = self._record(config.identity)
        if filed is not None and filed.state == "failed":  # the worker lived to say why
            self._observer.filed(filed)
            return
        message = f"the worker died {RETRIES + 1} times; Ray says: {_last_line(trial.error_file)}"
        died, claim = Failure(kind="WorkerDied", message=message), self._claims.read(config.identity)
        record = unfinished_record(config, "failed", died).retried(claim.retries if claim else RETRIES)
        self._file(record.logged(last_lines(self._places.log(config.identity))))

    def _record(self, identity: str) -> Record | None:
        try:
            return self._store.get(identity, self._places.set_aside)
        except (OSError, UserError) as error:
            self._observer.note(f"the record of {identity} cannot be read: {error}")
            return None

    def _file(self, record: Record) -> None:
        try:
            self._observer.filed(self._store.write(record))
        except OSError as error:
            self._observer.note(f"the record of {record.identity} cannot be written ({error.strerror})")


class _StopWhen(NotSaved, tune.Stopper):  # type: ignore[misc] # ray is untyped here
    """Stops everything once the user has interrupted."""

    def __init__(self, interrupt: Interrupt) -> None:
        self._interrupt = interrupt

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self._interrupt.raised

    def stop_all(self) -> bool:
        return self._interrupt.raised


def _last_line(path: str | None) -> str:
    if path is None:
        return "nothing"
    try:
        with open(path, encoding="utf-8") as file:
            return next((line.strip() for line in reversed(file.read().splitlines()) if line.strip()), "nothing")
    except OSError:
        return "nothing"
