"""Worker of Ray Tune, which trains one trial after the other."""

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
from study.records.record import Failure, NewerRecord, Record

NODE_S = 1.0
"""Seconds between two checks that the node is alive."""


@dataclass(frozen=True)
class StepReport:
    """Report of a worker's step.

    Attributes:
        epoch: the epoch that was trained; 0 if none was.
        metrics: metrics of the epoch.
        state: state of the record, if the trial has ended.
        waiting: reason why the trial cannot continue now.
        checked: cell that was checked.
        problem: failure of the check.
    """

    epoch: int = 0
    metrics: dict[str, float | None] = field(default_factory=dict)
    state: str | None = None
    waiting: str | None = None
    checked: str | None = None
    problem: str | None = None

    def result(self) -> dict[str, Any]:
        """Return the report for Ray Tune, with the accuracy for schedulers."""
        name = "validation_accuracy"
        score = {name: self.metrics[name]} if name in self.metrics else {}
        done = self.state is not None or self.problem is not None
        return {**score, **vars(self), "done": done}


class Trainable(tune.Trainable):  # type: ignore[misc] # ray is untyped here
    """Worker that is reused, because it keeps no state beyond the trial that it trains."""

    def setup(self, config: dict[str, Any], places: Places, resources: Resources) -> None:
        Thread(target=_end_with, args=(os.getppid(),), name="node", daemon=True).start()
        for plugin in resources.plugins:
            plugin.load()
        # Deterministic trials need it before cuBLAS starts.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        self._places, self._resources, self._crash = places, resources, CrashLog()
        self._threads = max(1, int(resources.cpus))
        self._device = resources.device or ("cuda" if resources.gpus else "cpu")
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._training.close()
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        # Imports torch, which the driver does not need.
        from study.execution.trial import run_trial

        self._config = TrainConfig.model_validate(config["config"])
        self._checks: list[dict[str, Any]] = list(config["checks"])
        self._training = run_trial(
            self._config,
            self._places,
            device=self._device,
            threads=self._threads,
            options=self._resources.options,
        )

    def step(self) -> dict[str, Any]:
        """Perform one check, or train one epoch. After the last epoch, write the record too."""
        if self._checks:
            return self._check(**self._checks.pop(0))
        from study.execution.trial_output import Waiting

        self._crash.turn_to(self._places.log(self._config.identity))
        report = StepReport()
        try:
            result = next(self._training)
            if isinstance(result, EpochResult):
                report = StepReport(epoch=result.epoch, metrics=result.metrics)
            if report.epoch == self._config.epochs:
                result = next(self._training)
            if isinstance(result, Waiting):
                report = replace(report, waiting=result.reason)
        except StopIteration as stop:
            self._crash.turn_to(None)
            record: Record = stop.value
            report = replace(report, state=record.state)
            if record.state == "failed" and self._device == "cuda":
                self._recover_gpu(record.failure)
        return report.result()

    def _check(self, cell: str, config: dict[str, Any]) -> dict[str, Any]:
        from study.execution.trial import train_one_step

        failure = train_one_step(
            TrainConfig.model_validate(config),
            self._places,
            device=self._device,
            threads=self._threads,
        )
        if failure is not None and failure.out_of_memory and has_fraction(self._resources):
            failure = None  # the trial itself will be tried with a whole GPU
        problem = None
        if failure is not None:
            lines = failure.message.splitlines() or [""]
            problem = f"{failure.kind}: {lines[0]}"
        return StepReport(checked=cell, problem=problem).result()

    def _recover_gpu(self, failure: Failure | None) -> None:
        """Free the memory of the GPU after a failure.

        Raises:
            RuntimeError: the failure may have broken the CUDA context of the process. After an
                exception, Ray starts a new process and tries the trial there again.
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
    """End this process once its node, the parent process, has ended.

    A local node ends with its driver, even if the driver is killed. Ray would then let a worker
    finish its step, which may take an hour, and discard the result. Meanwhile no other process
    could train the trial.
    """
    while os.getppid() == node:
        time.sleep(NODE_S)
    os._exit(1)
