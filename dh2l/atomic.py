"""Files that are written whole or not at all."""

import glob
import os
import socket
import tempfile
from pathlib import Path

import psutil


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that whoever reads it finds the old or the new content, whole, even after a crash.

    What writers of this file left behind that were killed on this host is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beginning = f".{path.name[:80]}~{socket.gethostname()}~"
    for left in path.parent.glob(f"{glob.escape(beginning)}*~*"):
        if not psutil.pid_exists(int(left.name.removeprefix(beginning).partition("~")[0])):
            left.unlink(missing_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f"{beginning}{os.getpid()}~")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)
