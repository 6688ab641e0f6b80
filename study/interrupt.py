"""Ctrl-C once: every trial stops at the end of its epoch. Twice: everything stops at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from study.observer import Observer

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Ctrl-C, and what job schedulers and `timeout` send."""


class Interrupt:
    """A context in which the first Ctrl-C, or SIGTERM, is only noted.

    Attributes:
        raised: whether the user has asked to stop.
    """

    def __init__(self, observer: Observer) -> None:
        self.raised = False
        self._observer = observer

    def __enter__(self) -> "Interrupt":
        self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def _handle(self, _number: int, _frame: Any) -> None:
        self.raised = True
        self._put_back()
        self._observer.note("stopping when each running trial has finished its epoch; Ctrl-C again stops at once")

    def __exit__(self, *error: object) -> None:
        self._put_back()

    def _put_back(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """A context in which SIGTERM, which job schedulers send, ends this process's trial as Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
