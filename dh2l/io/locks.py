"""Locks between processes, on file systems with and without locks."""

import errno
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from dh2l.errors import UserError

ERRNO_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)
"""Answers of file systems that lock no files, such as network folders without a lock service."""


class Lock:
    """A lock that one process at a time holds; the holder may take it again.

    Where a file system locks no files, a file that only one process can create replaces the lock.
    """

    def __init__(self, path: Path, work: str, wait_s: float, say: Callable[[str], None]) -> None:
        """Name the lock, without taking it.

        Args:
            path: the file that is locked.
            work: the work that the holder does, for messages.
            wait_s: the longest wait for another holder.
            say: called with a sentence before a wait.
        """
        self._path, self._work, self._wait_s, self._say = path, work, wait_s, say
        self._lock: BaseFileLock = FileLock(path, fallback_to_soft=False)

    def __enter__(self) -> Self:
        """Take the lock, or wait for it.

        Raises:
            OSError: its file cannot be written.
            UserError: another process holds it for longer than the wait.
        """
        try:
            self._acquire(0)
        except Timeout:
            file, limit = self._lock.lock_file, _time(self._wait_s)
            self._say(f"waiting for another {self._work}, which holds {file} (for {limit} at most)")
            self._acquire_late()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._lock.release()

    def _acquire_late(self) -> None:
        try:
            self._acquire(self._wait_s)
        except Timeout:
            file = self._lock.lock_file
            remedy = "Try again later, or end that process."
            if isinstance(self._lock, SoftFileLock):
                remedy = (
                    f"Try again later; where its process died on another machine, remove {file}."
                )
            raise UserError(
                f"{file}: another {self._work} still holds it; expected its end within "
                f"{_time(self._wait_s)}. {remedy}"
            ) from None

    def _acquire(self, wait_s: float) -> None:
        try:
            self._lock.acquire(timeout=wait_s)
        except OSError as error:
            if error.errno not in ERRNO_NO_LOCKS or isinstance(self._lock, SoftFileLock):
                raise
            # The locked file may have been there before, so the one whose existence counts has
            # another name.
            self._lock = SoftFileLock(self._path.with_name(f"{self._path.name}.held"))
            self._lock.acquire(timeout=wait_s)


def _time(seconds: float) -> str:
    """Format a duration for people."""
    if seconds < 60:
        return f"{seconds:g} s"
    if seconds < 3600:
        return f"{seconds / 60:g} min"
    return f"{seconds / 3600:g} h"
