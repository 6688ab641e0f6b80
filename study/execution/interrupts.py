"""Handling of Ctrl-C and SIGTERM during a run."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Signals of Ctrl-C, and of job schedulers and `timeout`."""


@contextmanager
def terminable() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM, so that contexts end what they started."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class Interrupt:
    """Context that records the first Ctrl-C or SIGTERM and raises KeyboardInterrupt on the second.

    Attributes:
        raised: True if the user has asked to stop.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self.raised = False
        self._note = note

    def __enter__(self) -> "Interrupt":
        self._before = {number: signal.getsignal(number) for number in SIGNALS}
        self.arm()
        return self

    def arm(self) -> None:
        """Install the signal handlers, again after another library has replaced them."""
        for number in SIGNALS:
            signal.signal(number, signal.default_int_handler if self.raised else self._handle)

    def _handle(self, _number: int, _frame: Any) -> None:
        self.raised = True
        self.arm()  # a second SIGTERM must also end all processes
        self._note(
            "stopping when each running trial has finished its epoch; Ctrl-C again stops at once"
        )

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
