"""The Ray of one command, shared by all that the command trains, times and measures."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from study.execution.interrupts import Interrupt, terminable
from study.execution.ray_backend.connection import Resources, cluster, require_fit


class Session:
    """One Ray, which starts or is joined at its first use.

    Attributes:
        start_s: seconds that the start took.
    """

    def __init__(self, note: Callable[[str], None], stack: ExitStack) -> None:
        self.start_s = 0.0
        self._note, self._stack = note, stack
        self._scratch: Path | None = None

    def start(self, resources: Resources) -> Path:
        """Start or join Ray unless that is done, and return the folder for Ray Tune's files.

        Args:
            resources: what one trial gets, and where.

        Raises:
            KeyboardInterrupt: the user asked to stop meanwhile.
            UserError: the cluster cannot be reached, or this machine is too small for one trial.
        """
        if self._scratch is None:
            require_fit(resources)
            started = time.perf_counter()
            with Interrupt(
                self._note
            ) as interrupt:  # an exception while Ray starts may end the process
                scratch = self._stack.enter_context(cluster(resources.address))
                interrupt.arm()  # Ray, as it starts, takes SIGTERM
            self._scratch, self.start_s = scratch, time.perf_counter() - started
            if interrupt.raised:
                raise KeyboardInterrupt
        return self._scratch


@contextmanager
def open_session(note: Callable[[str], None]) -> Iterator[Session]:
    """Open a session, and end its Ray with the context.

    Args:
        note: shows a sentence to the user.
    """
    with terminable(), ExitStack() as stack:
        try:
            yield Session(note, stack)
        finally:
            with Interrupt(note):  # an exception while Ray ends would leave its processes behind
                stack.close()
