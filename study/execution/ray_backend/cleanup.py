"""What a driver leaves if it is killed: a folder and processes, which the next driver on this machine removes."""

import json
import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psutil

from dh2l.errors import UserError
from dh2l.io.files import read, write_atomically
from dh2l.system.processes import START_TOLERANCE_S, machine_id, start_time

SCRATCH = "dh2l-study-"
RAY = "r"
"""The folder of Ray's session below a scratch folder: Ray opens it to everybody, so it must not be that itself."""
SHORT = ("/tmp", "/var/tmp")  # noqa: S108 each run makes a folder of its own there
"""Folders of temporary files whose names are short."""
SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
"""How long the name of a Unix socket may be."""
ROOM = SOCKET_BYTES - len(
    f"/{SCRATCH}4194304-0/{RAY}/session_2025-01-01_00-00-00_000000_4194304/sockets/plasma_store"
)
"""How long the folder may be in which scratch folders are made, in bytes."""
KILLED_S = 10.0
"""How long a killed process may take to be gone, in seconds."""
_NOTE = "processes.json"


@contextmanager
def scratch_folder(*, sockets: bool = True) -> Iterator[Path]:
    """Give a private folder for what Ray and Ray Tune write, removed afterwards; remove what killed drivers left too.

    It lies among the system's temporary files: a results folder that is full stops no run.

    Args:
        sockets: whether a Ray of our own keeps its sockets there, whose names must be short.

    Raises:
        UserError: `RAY_TMPDIR` cannot be used.
    """
    _remove_left()
    scratch = _made(_base(ROOM if sockets else sys.maxsize))
    note_processes(scratch)
    try:
        yield scratch
    finally:
        _remove(scratch)
        _remove_left()  # what a dying process wrote into a folder while it was removed


def _base(room: int) -> Path:
    """The folder in which scratch folders are made: `RAY_TMPDIR`, else a temporary one.

    Args:
        room: how many bytes its name may have.

    Raises:
        UserError: `RAY_TMPDIR` cannot be used.
    """
    given = os.environ.get("RAY_TMPDIR")
    if given:
        folder = Path(os.path.abspath(given))
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)  # as Ray does
        if not folder.is_dir() or not _is_writable(folder):
            raise UserError(
                f"RAY_TMPDIR: {given} is not a folder that can be written; expected one. Name another, or unset the "
                "variable."
            )
        if (length := len(os.fsencode(folder))) > room:
            raise UserError(
                f"RAY_TMPDIR: {folder} has {length} bytes, which leaves Ray's sockets no room; expected at most "
                f"{room}. Name a shorter folder, or unset the variable."
            )
        return folder
    short = [
        folder
        for folder in _temporary()
        if len(os.fsencode(folder)) <= room and _is_writable(folder)
    ]
    return short[0] if short else Path(tempfile.gettempdir())


def _is_writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK)


def _temporary() -> list[Path]:
    """The folders of temporary files, the user's own first."""
    return [
        Path(folder) for folder in dict.fromkeys((os.path.abspath(tempfile.gettempdir()), *SHORT))
    ]


def _made(base: Path) -> Path:
    """A new folder below another that its owner alone can enter."""
    for number in count():
        scratch = base / f"{SCRATCH}{os.getpid()}-{number}"
        try:
            scratch.mkdir(mode=0o700)
        except FileExistsError:  # a process of another container may have the same number
            continue
        return scratch
    raise AssertionError("unreachable")


def _remove(scratch: Path) -> None:
    """Remove a folder of this process, into which processes that are about to end may still write."""
    deadline = time.monotonic() + KILLED_S
    shutil.rmtree(scratch, ignore_errors=True)
    while scratch.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
        shutil.rmtree(scratch, ignore_errors=True)


def _remove_left() -> None:
    given = [Path(os.path.abspath(folder))] if (folder := os.environ.get("RAY_TMPDIR")) else []
    for base in dict.fromkeys((*given, *_temporary())):
        for left in base.glob(f"{SCRATCH}*"):
            with suppress(OSError):
                if left.lstat().st_uid == os.getuid() and not _in_use(left):
                    _end_processes(left)
                    shutil.rmtree(left, ignore_errors=True)


def note_processes(scratch: Path) -> None:
    """Note this process and all that it has started, each with its birth: a process id alone may be another's later."""
    own = psutil.Process()
    births = [
        (process.pid, start_time(process)) for process in (own, *own.children(recursive=True))
    ]
    with suppress(OSError):
        note = {"host": socket.gethostname(), "machine": machine_id(), "processes": births}
        write_atomically(scratch / _NOTE, json.dumps(note).encode(), durable=False)


@dataclass(frozen=True)
class _Note:
    """A folder's driver, then the processes that it had started; empty where they are not of this running system."""

    processes: list[tuple[int, float]]
    elsewhere: bool
    """Whether they may be alive in another container or on another machine."""


def _in_use(folder: Path) -> bool:
    """Whether the driver of a folder may still live."""
    note = _noted(folder)
    if note is None:
        pid = folder.name.removeprefix(SCRATCH).partition("-")[0]
        return not pid.isdecimal() or psutil.pid_exists(int(pid))
    return note.elsewhere or (bool(note.processes) and _alive(*note.processes[0]) is not None)


def _end_processes(folder: Path) -> None:
    """End what the driver of a folder had started, and nothing else."""
    note = _noted(folder)
    if note is not None:
        end_processes(
            [process for noted in note.processes if (process := _alive(*noted)) is not None]
        )


def end_processes(processes: Iterable[psutil.Process]) -> None:
    """Kill processes and wait until they are gone."""
    alive = list(processes)
    for process in alive:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=KILLED_S)


def _noted(folder: Path) -> _Note | None:
    """The note in a folder; None where there is none that can be read."""
    try:
        note = json.loads(read(folder / _NOTE))
        if note["machine"] == machine_id():
            return _Note(
                [(int(pid), float(birth)) for pid, birth in note["processes"]], elsewhere=False
            )
        other_boot = note["machine"].partition(" ")[0] != machine_id().partition(" ")[0]
        rebooted = note.get("host") == socket.gethostname() and other_boot
        return _Note([], elsewhere=not rebooted)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _alive(pid: int, birth: float) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        same = (
            abs(start_time(process) - birth) < START_TOLERANCE_S
            and process.status() != psutil.STATUS_ZOMBIE
        )
    except (psutil.Error, ValueError):
        return None
    return process if same else None
