"""Observers of a run, e.g. the live display and MLflow."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from dh2l.config.train_config import TrainConfig
from dh2l.results import EpochResult
from study.records.record import Record


class Observer:
    """Callbacks for the events of a run, in the driver's process. Each does nothing by default."""

    def on_trial_start(self, config: TrainConfig) -> None:
        """Handle the start of a trial."""

    def on_epoch_end(self, config: TrainConfig, result: EpochResult) -> None:
        """Handle the end of an epoch of a trial."""

    def on_trial_end(self, record: Record) -> None:
        """Handle the end of a trial, whose record has been written."""

    def on_message(self, sentence: str) -> None:
        """Handle a message for the user."""


class Observers(Observer):
    """Several observers as one."""

    def __init__(self, observers: Iterable[Observer]) -> None:
        self._all = list(observers)

    def on_trial_start(self, config: TrainConfig) -> None:
        """Forward the start of a trial."""
        for observer in self._all:
            observer.on_trial_start(config)

    def on_epoch_end(self, config: TrainConfig, result: EpochResult) -> None:
        """Forward the end of an epoch."""
        for observer in self._all:
            observer.on_epoch_end(config, result)

    def on_trial_end(self, record: Record) -> None:
        """Forward the end of a trial."""
        for observer in self._all:
            observer.on_trial_end(record)

    def on_message(self, sentence: str) -> None:
        """Forward a message."""
        for observer in self._all:
            observer.on_message(sentence)


class FailureLimit(Observer):
    """Counter of failed trials that ends a run at a limit.

    Attributes:
        failed: number of trials that have failed so far.
    """

    def __init__(self, limit: int | None, observer: Observer) -> None:
        """Watch a run.

        Args:
            limit: number of failed trials that ends the run; None: no limit.
            observer: receives a message when the limit is reached.
        """
        self.failed = 0
        self._limit, self._observer = limit, observer

    @property
    def reached(self) -> bool:
        """True if the run should end."""
        return self._limit is not None and self.failed >= self._limit

    def on_trial_end(self, record: Record) -> None:
        """Count a failed trial. A trial that diverged has a result and is not counted."""
        before = self.reached
        self.failed += record.state == "failed"
        if self.reached and not before:
            self._observer.on_message(
                "stopping when each running trial has finished its epoch: "
                f"{self.failed} failed, --max-failures {self._limit}"
            )


@dataclass(frozen=True)
class StopConditions:
    """Conditions that end a run in this process early.

    Attributes:
        limit: ends the run between two trials; None: no limit.
        interrupted: returns True if the user has asked to stop; it ends a trial after its epoch.
    """

    limit: FailureLimit | None = None
    interrupted: Callable[[], bool] = lambda: False
