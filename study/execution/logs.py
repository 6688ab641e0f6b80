"""What a trial's process prints, warns of and logs while it trains, kept until the trial is done."""

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
"""How many of its last lines a failure keeps, and how much of each."""
_TAIL_BYTES = 4 * LINES * LETTERS
_CRASH = "Fatal Python error"
"""How `faulthandler` begins."""


class TrialLog:
    """A trial's log: a file to which every process that trains the trial appends.

    A disk that is full, or a folder that cannot be written, costs the log alone.

    Args:
        path: the file.
        anew: forget what stands there.
    """

    def __init__(self, path: Path, *, anew: bool = False) -> None:
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
        """What is printed, warned of and logged in this context also goes into the log."""
        if self._file is None:
            yield
            return
        handler = logging.StreamHandler(self._file)
        root = logging.getLogger()
        handlers = [handler] if root.handlers else []  # where there are none, Python logs to stderr
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
        """End this process's part; a log that is not to be kept, or is empty, is removed."""
        _close(self._path, self._file, keep=keep)


class _Tee:
    """A stream of which a log has a copy; who keeps the stream longer than the log writes into the stream alone."""

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
    """The last lines of a log, cut where they are long; none where there is no log."""
    try:
        with open_regular(path) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            text = file.read(_TAIL_BYTES).decode("utf-8", errors="replace")
    except OSError:
        return ()
    crash, lines = text.rfind(_CRASH), text.splitlines()[-LINES:]
    if crash >= 0:  # the innermost call comes first
        lines = text[crash:].splitlines()[:LINES]
    return tuple(line[:LETTERS] for line in lines)


class CrashLog:
    """Where this process says in which line it was if it crashes below Python: in the log of its trial."""

    def __init__(self) -> None:
        self._path: Path | None = None
        self._file: BinaryIO | None = None

    def turn_to(self, path: Path | None) -> None:
        """Say it in this file from now on; None: nowhere but on stderr."""
        if path == self._path:
            return
        before, self._path, self._file = (self._path, self._file), path, None
        faulthandler.enable(sys.__stderr__ or 2, all_threads=False)
        with suppress(OSError):
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._file = _opened(path)
                faulthandler.enable(self._file, all_threads=False)
        _close(*before)


def _opened(path: Path, *, anew: bool = False) -> BinaryIO:
    """Open a log to append to it; a link, which leads to another's file, is refused, and so is a pipe."""
    begin = os.O_TRUNC if anew else os.O_APPEND
    return open_regular(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | begin)


def _close(path: Path | None, file: "TextIO | BinaryIO | None", *, keep: bool = True) -> None:
    """Close a log, and remove one that is empty or not to be kept."""
    with suppress(OSError):
        if file is not None:
            file.close()
        if path is not None and (not keep or not path.stat().st_size):
            path.unlink()
