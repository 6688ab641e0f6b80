"""Ctrl-C once: every trial stops at the end of its epoch. Twice: everything stops at once."""

import signal
from typing import Any

from study.observer import Observer


class Interrupt:
    """A context in which the first Ctrl-C is only noted.

    Attributes:
        raised: whether the user has asked to stop.
    """

    def __init__(self, observer: Observer) -> None:
        self.raised = False
        self._observer = observer

    def __enter__(self) -> "Interrupt":
        self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def _handle(self, _number: int, _frame: Any) -> None:
        self.raised = True
        signal.signal(signal.SIGINT, self._before)
        self._observer.note("stopping when each running trial has finished its epoch; Ctrl-C again stops at once")

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGINT, self._before)
