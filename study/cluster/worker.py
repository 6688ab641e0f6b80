"""A worker: trains the trials that Ray hands it, one after the other."""

import os
from typing import Any

from ray import tune

from dh2l.config import TrainConfig
from dh2l.plugins import Plugin
from dh2l.results import EpochResult
from study.log import CrashLog
from study.places import Places


class Trainable(tune.Trainable):  # type: ignore[misc] # ray is untyped here
    """A worker. It keeps no state outside the trial that it trains, so it is reused for the next."""

    def setup(
        self, config: dict[str, Any], places: Places, threads: int, gpu: bool, plugins: tuple[Plugin, ...], keep: bool
    ) -> None:
        for plugin in plugins:
            plugin.load()
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic trials need it before cuBLAS starts
        self._places, self._threads, self._device = places, threads, "cuda" if gpu else "cpu"
        self._keep, self._crash = keep, CrashLog()
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._training.close()
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        from study.trial import run_trial  # torch is the workers' to import, not the driver's

        self._config = TrainConfig.model_validate(config["config"])
        self._training = run_trial(
            self._config, self._places, device=self._device, threads=self._threads, keep=self._keep
        )

    def step(self) -> dict[str, Any]:
        """One epoch; with the last one, the record is filed too."""
        from study.trial import Waiting

        self._crash.turn_to(self._places.log(self._config.identity))
        epoch, metrics, state, waiting = 0, dict[str, float | None](), None, None
        try:
            result = next(self._training)
            if isinstance(result, EpochResult):
                epoch, metrics = result.epoch, result.metrics
            if epoch == self._config.epochs:
                result = next(self._training)
            if isinstance(result, Waiting):
                waiting = result.reason
        except StopIteration as stop:
            state = stop.value.state
            self._crash.turn_to(None)
            if state == "failed" and self._device == "cuda":
                # It may have broken the process's CUDA context: Ray takes a new process after an exception, and tries
                # the trial there again.
                raise RuntimeError(stop.value.failure.message) from None
        score = {"validation_accuracy": metrics["validation_accuracy"]} if "validation_accuracy" in metrics else {}
        return {
            **score,
            "epoch": epoch,
            "metrics": metrics,
            "state": state,
            "waiting": waiting,
            "done": state is not None,
        }

    def cleanup(self) -> None:
        self._training.close()
