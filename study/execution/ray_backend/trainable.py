"""A worker: trains the trials that Ray hands it, one after the other."""

import gc
import os
import time
from dataclasses import dataclass, field, replace
from threading import Thread
from typing import Any

from ray import tune

from dh2l.config.train_config import TrainConfig
from dh2l.results import EpochResult
from study.execution.logs import CrashLog
from study.execution.ray_backend.connection import Resources, has_fraction
from study.records.paths import Places
from study.records.store import Failure, NewerRecord, Record

NODE_S = 1.0
"""Seconds between two looks at whether the node still lives."""


@dataclass(frozen=True)
class StepReport:
    """What a worker tells of a step.

    Attributes:
        epoch: the epoch that it trained; 0 where it trained none.
        metrics: that epoch's.
        state: of the record, where the trial has ended.
        waiting: why the trial cannot go on now.
        checked: the cell of which a trial took its one step.
        problem: what went wrong then.
    """

    epoch: int = 0
    metrics: dict[str, float | None] = field(default_factory=dict)
    state: str | None = None
    waiting: str | None = None
    checked: str | None = None
    problem: str | None = None

    def result(self) -> dict[str, Any]:
        """As Ray wants it: schedulers find the accuracy, and Tune whether the worker is to go on."""
        name = "validation_accuracy"
        score = {name: self.metrics[name]} if name in self.metrics else {}
        return {**score, **vars(self), "done": self.state is not None or self.problem is not None}


class Trainable(tune.Trainable):  # type: ignore[misc] # ray is untyped here
    """A worker. It keeps no state outside the trial that it trains, so it is reused for the next."""

    def setup(self, config: dict[str, Any], places: Places, resources: Resources) -> None:
        Thread(target=_end_with, args=(os.getppid(),), name="node", daemon=True).start()
        for plugin in resources.plugins:
            plugin.load()
        os.environ.setdefault(
            "CUBLAS_WORKSPACE_CONFIG", ":4096:8"
        )  # deterministic trials need it before cuBLAS starts
        self._places, self._resources, self._crash = places, resources, CrashLog()
        self._threads = max(1, int(resources.cpus))
        self._device = resources.device or ("cuda" if resources.gpus else "cpu")
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._training.close()
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        from study.execution.trial import (
            run_trial,
        )  # torch is the workers' to import, not the driver's

        self._config = TrainConfig.model_validate(config["config"])
        self._checks: list[dict[str, Any]] = list(config["checks"])
        words: dict[str, Any] = {"device": self._device, "threads": self._threads}
        self._training = run_trial(
            self._config, self._places, **words, options=self._resources.options
        )

    def step(self) -> dict[str, Any]:
        """One epoch; with the last one, the record is filed too. Before the first, one check after the other."""
        if self._checks:
            return self._checked(**self._checks.pop(0))
        from study.execution.trial import Waiting

        self._crash.turn_to(self._places.log(self._config.identity))
        told = StepReport()
        try:
            result = next(self._training)
            if isinstance(result, EpochResult):
                told = StepReport(epoch=result.epoch, metrics=result.metrics)
            if told.epoch == self._config.epochs:
                result = next(self._training)
            if isinstance(result, Waiting):
                told = replace(told, waiting=result.reason)
        except StopIteration as stop:
            self._crash.turn_to(None)
            record: Record = stop.value
            told = replace(told, state=record.state)
            if record.state == "failed" and self._device == "cuda":
                self._after(record.failure)
        return told.result()

    def _checked(self, cell: str, config: dict[str, Any]) -> dict[str, Any]:
        from study.execution.trial import train_one_step

        failure = train_one_step(
            TrainConfig.model_validate(config),
            self._places,
            device=self._device,
            threads=self._threads,
        )
        if failure is not None and failure.out_of_memory and has_fraction(self._resources):
            failure = None  # the trial itself will be tried with a whole GPU
        problem = (
            None
            if failure is None
            else f"{failure.kind}: {(failure.message.splitlines() or [''])[0]}"
        )
        return StepReport(checked=cell, problem=problem).result()

    def _after(self, failure: Failure | None) -> None:
        """What a failure may have left on the GPU.

        Raises:
            RuntimeError: it may have broken the process's CUDA context. Ray takes a new process after an exception,
                and tries the trial there again.
        """
        if failure is not None and failure.kind == NewerRecord.__name__:
            return  # nothing was trained
        if failure is None or not failure.out_of_memory:
            raise RuntimeError(failure.message if failure else "") from None
        import torch

        gc.collect()
        torch.cuda.empty_cache()

    def cleanup(self) -> None:
        self._training.close()


def _end_with(node: int) -> None:
    """End this process once its node's, the parent, has ended.

    A driver's node ends with the driver, however that ends. Ray then lets a worker finish its step, be it an hour long,
    only to throw away what it did, while nobody else may train the trial.
    """
    while os.getppid() == node:
        time.sleep(NODE_S)
    os._exit(1)
