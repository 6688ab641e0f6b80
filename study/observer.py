"""Who wants to know how a run is going: the live display, the MLflow view."""

from collections.abc import Iterable
from typing import Protocol

from dh2l.config import TrainConfig
from dh2l.results import EpochResult
from study.records import Record


class Observer(Protocol):
    """Told of everything that happens to the trials of a run, in the driver's process."""

    def started(self, config: TrainConfig) -> None:
        """A trial has begun."""

    def epoch(self, config: TrainConfig, result: EpochResult) -> None:
        """A trial has finished an epoch."""

    def filed(self, record: Record) -> None:
        """A trial's record has been filed."""

    def note(self, sentence: str) -> None:
        """Something that the user should know."""


class Observers:
    """Several observers as one."""

    def __init__(self, observers: Iterable[Observer]) -> None:
        self._all = list(observers)

    def started(self, config: TrainConfig) -> None:
        """Pass it on."""
        for observer in self._all:
            observer.started(config)

    def epoch(self, config: TrainConfig, result: EpochResult) -> None:
        """Pass it on."""
        for observer in self._all:
            observer.epoch(config, result)

    def filed(self, record: Record) -> None:
        """Pass it on."""
        for observer in self._all:
            observer.filed(record)

    def note(self, sentence: str) -> None:
        """Pass it on."""
        for observer in self._all:
            observer.note(sentence)
