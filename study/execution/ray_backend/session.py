"""Ray session of one command, shared by its training and measurements."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from study.execution.interrupts import Interrupt, terminable
from study.execution.ray_backend.connection import Resources, cluster, require_fit


class Session:
    """Ray session that starts, or joins a cluster, at its first use.

    Attributes:
        start_s: seconds that the start took.
    """

    def __init__(self, note: Callable[[str], None], stack: ExitStack) -> None:
        self.start_s = 0.0
        self._note, self._stack = note, stack
        self._scratch: Path | None = None

    def start(self, resources: Resources) -> Path:
        """Start or join Ray at the first call, and return the folder for Ray Tune's files.

        Args:
            resources: resources of one trial, and the cluster.

        Raises:
            KeyboardInterrupt: the user asked to stop during the start.
            UserError: the cluster cannot be reached, or this machine is too small for one trial.
        """
        if self._scratch is None:
            require_fit(resources)
            started = time.perf_counter()
            # An exception while Ray starts may end the process.
            with Interrupt(self._note) as interrupt:
                scratch = self._stack.enter_context(cluster(resources.address))
                interrupt.arm()  # Ray handles SIGTERM itself from its start on
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
