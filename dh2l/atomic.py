"""Files that are written whole or not at all."""

import os
import re
import socket
import tempfile
from functools import lru_cache
from pathlib import Path

import psutil


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that whoever reads it finds the old or the new content, whole, even after a crash.

    What writers into this folder left behind that were killed on this host is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left(path.parent)
    beginning = f".{path.name[:80]}~{socket.gethostname()}~{os.getpid()}~"
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=beginning)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


@lru_cache(maxsize=256)
def _remove_left(folder: Path) -> None:
    """Remove what killed writers left; once in the life of a process, for a folder may hold thousands of files."""
    left = re.compile(rf"\..+~{re.escape(socket.gethostname())}~(\d+)~[^~]+")
    for entry in os.scandir(folder):
        if (found := left.fullmatch(entry.name)) and not psutil.pid_exists(int(found[1])):
            Path(entry).unlink(missing_ok=True)
