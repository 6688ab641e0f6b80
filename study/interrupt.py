"""Ctrl-C once: every trial stops at the end of its epoch. Twice: everything stops at once. Likewise many failures."""

import signal
from collections.abc import Callable
from typing import Any

from dh2l.config import TrainConfig
from dh2l.results import EpochResult
from study.observer import Observer
from study.records import Record

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Ctrl-C, and what job schedulers and `timeout` send."""


class Interrupt:
    """A context in which the first Ctrl-C, or SIGTERM, is only noted.

    Attributes:
        raised: whether the user has asked to stop.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self.raised = False
        self._note = note

    def __enter__(self) -> "Interrupt":
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        self.arm()
        return self

    def arm(self) -> None:
        """Take the signals; once more where another library has taken them meanwhile."""
        for number in SIGNALS:
            signal.signal(number, signal.default_int_handler if self.raised else self._handle)

    def _handle(self, _number: int, _frame: Any) -> None:
        self.raised = True
        self.arm()  # SIGTERM too must leave no process behind
        self._note("stopping when each running trial has finished its epoch; Ctrl-C again stops at once")

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


class FailureLimit:
    """Watches a run, and says when so many of its trials have failed that it should end.

    Attributes:
        failed: how many trials have failed so far.
    """

    def __init__(self, most: int | None, observer: Observer) -> None:
        self.failed = 0
        self._most, self._observer = most, observer

    @property
    def reached(self) -> bool:
        """Whether the run should end; never, where no limit is set."""
        return self._most is not None and self.failed >= self._most

    def started(self, config: TrainConfig) -> None:
        """Nothing to count."""

    def epoch(self, config: TrainConfig, result: EpochResult) -> None:
        """Nothing to count."""

    def filed(self, record: Record) -> None:
        """Count a failed trial; one that diverged has given a result."""
        before = self.reached
        self.failed += record.state == "failed"
        if self.reached and not before:
            self._observer.note(
                f"stopping when each running trial has finished its epoch: {self.failed} failed, --max-failures "
                f"{self._most}"
            )

    def note(self, sentence: str) -> None:
        """Nothing to count."""
