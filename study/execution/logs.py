"""Log of a trial: the output of its processes until it is done."""

import faulthandler
import io
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, BinaryIO, TextIO, cast

from dh2l.io.files import open_regular

LINES, LETTERS = 20, 500
"""Number of last lines that a failed record keeps, and of characters of each."""
_TAIL_BYTES = 4 * LINES * LETTERS
_CRASH = "Fatal Python error"
"""First words of the output of `faulthandler`."""


class TrialLog:
    """File to which every process that trains a trial appends its output.

    If the disk is full or the folder cannot be written, the trial trains without a log.
    """

    def __init__(self, path: Path, *, anew: bool = False) -> None:
        """Open the log.

        Args:
            path: path of the file.
            anew: remove its former content.
        """
        self._path = path
        self._file: TextIO | None = None
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            file = _opened(path, anew=anew)
            self._file = io.TextIOWrapper(
                file, encoding="utf-8", errors="replace", line_buffering=True
            )

    @contextmanager
    def written(self) -> Iterator[None]:
        """Copy everything that is printed, warned of or logged inside the context into the log."""
        if self._file is None:
            yield
            return
        handler = logging.StreamHandler(self._file)
        root = logging.getLogger()
        # Without handlers, Python logs to stderr, which is copied below.
        handlers = [handler] if root.handlers else []
        for added in handlers:
            root.addHandler(added)
        try:
            with (
                redirect_stdout(_tee(sys.stdout, self._file)),
                redirect_stderr(_tee(sys.stderr, self._file)),
            ):
                yield
        finally:
            for added in handlers:
                root.removeHandler(added)

    def close(self, *, keep: bool) -> None:
        """Close the log, and remove it if it is empty or not to be kept."""
        _close(self._path, self._file, keep=keep)


class _Tee:
    """A stream whose output is copied into the trial's log.

    Once the log is closed, writes go to the stream only.
    """

    def __init__(self, stream: TextIO, log: TextIO) -> None:
        self._stream, self._log = stream, log

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            self._log.write(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _tee(stream: TextIO, log: TextIO) -> TextIO:
    return cast("TextIO", _Tee(stream, log))


def last_lines(path: Path) -> tuple[str, ...]:
    """Return the last lines of a log, each cut to `LETTERS`. Without a log, there are none."""
    try:
        with open_regular(path) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            text = file.read(_TAIL_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return ()
    lines = text.splitlines()[-LINES:]
    crash = text.rfind(_CRASH)
    if crash >= 0:
        lines = text[crash:].splitlines()[:LINES]  # the innermost call comes first
    return tuple(line[:LETTERS] for line in lines)


class CrashLog:
    """Output of `faulthandler` in the log of the current trial.

    It names the line of Python at which the process crashed in compiled code.
    """

    def __init__(self) -> None:
        self._path: Path | None = None
        self._file: BinaryIO | None = None

    def turn_to(self, path: Path | None) -> None:
        """Direct the output to a log from now on. None: to stderr only."""
        if path == self._path:
            return
        before = (self._path, self._file)
        self._path, self._file = path, None
        faulthandler.enable(sys.__stderr__ or 2, all_threads=False)
        with suppress(OSError):
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._file = _opened(path)
                faulthandler.enable(self._file, all_threads=False)
        _close(*before)


def _opened(path: Path, *, anew: bool = False) -> BinaryIO:
    """Open a log to append to it.

    Refuses a link, which may lead to another user's file, and a pipe.
    """
    begin = os.O_TRUNC if anew else os.O_APPEND
    return open_regular(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | begin)


def _close(path: Path | None, file: "TextIO | BinaryIO | None", *, keep: bool = True) -> None:
    """Close a log, and remove it if it is empty or not to be kept."""
    with suppress(OSError):
        if file is not None:
            file.close()
        if path is not None and (not keep or not path.stat().st_size):
            path.unlink()
