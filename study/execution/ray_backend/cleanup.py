"""Scratch folders of drivers, and cleanup after drivers that were killed.

A killed driver leaves a folder and processes, which the next driver on the machine removes.
"""

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
"""Folder of Ray's session below the scratch folder.

It is not the scratch folder itself, because Ray makes it readable for everybody.
"""
SHORT = ("/tmp", "/var/tmp")  # noqa: S108 each run makes its own folder there
"""Folders of temporary files whose names are short."""
SOCKET_BYTES = 103 if sys.platform == "darwin" else 107
"""Maximum length of the name of a Unix socket, in bytes."""
ROOM = SOCKET_BYTES - len(
    f"/{SCRATCH}4194304-0/{RAY}/session_2025-01-01_00-00-00_000000_4194304/sockets/plasma_store"
)
"""Maximum length of the path in which scratch folders are made, in bytes."""
KILLED_S = 10.0
"""Seconds to wait for the end of a killed process."""
_NOTE = "processes.json"


@contextmanager
def scratch_folder(*, sockets: bool = True) -> Iterator[Path]:
    """Create a private folder for the files of Ray and Ray Tune, and remove it afterwards.

    It also removes the folders that killed drivers left. The folder is among the system's
    temporary files, so that a full results folder does not stop a run.

    Args:
        sockets: True if a local Ray keeps its sockets there, whose names must be short.

    Raises:
        UserError: `RAY_TMPDIR` cannot be used.
    """
    _remove_leftovers()
    scratch = _create_scratch(_base(ROOM if sockets else sys.maxsize))
    note_processes(scratch)
    try:
        yield scratch
    finally:
        _remove(scratch)
        # A dying process may have written into a folder during its removal.
        _remove_leftovers()


def _base(room: int) -> Path:
    """Return the folder in which scratch folders are made: `RAY_TMPDIR`, else a temporary one.

    Args:
        room: maximum length of its path, in bytes.

    Raises:
        UserError: `RAY_TMPDIR` cannot be used.
    """
    given = os.environ.get("RAY_TMPDIR")
    if given:
        return _given_base(given, room)
    for folder in _temporary_folders():
        if len(os.fsencode(folder)) <= room and _is_writable(folder):
            return folder
    return Path(tempfile.gettempdir())


def _given_base(given: str, room: int) -> Path:
    folder = Path(os.path.abspath(given))
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)  # as Ray does
    if not folder.is_dir() or not _is_writable(folder):
        raise UserError(
            f"RAY_TMPDIR: {given} is not a folder that can be written; expected one. Name another, "
            "or unset the variable."
        )
    length = len(os.fsencode(folder))
    if length > room:
        raise UserError(
            f"RAY_TMPDIR: {folder} has {length} bytes, which leaves Ray's sockets no room; "
            f"expected at most {room}. Name a shorter folder, or unset the variable."
        )
    return folder


def _is_writable(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK)


def _temporary_folders() -> list[Path]:
    """Return the folders of temporary files, the user's own first."""
    own = os.path.abspath(tempfile.gettempdir())
    return [Path(folder) for folder in dict.fromkeys((own, *SHORT))]


def _create_scratch(base: Path) -> Path:
    """Create a folder that only its owner can enter."""
    for number in count():
        scratch = base / f"{SCRATCH}{os.getpid()}-{number}"
        try:
            scratch.mkdir(mode=0o700)
        except FileExistsError:  # a process of another container may have the same number
            continue
        return scratch
    raise AssertionError("unreachable")


def _remove(scratch: Path) -> None:
    """Remove a folder of this process. Processes that are about to end may still write into it."""
    deadline = time.monotonic() + KILLED_S
    shutil.rmtree(scratch, ignore_errors=True)
    while scratch.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
        shutil.rmtree(scratch, ignore_errors=True)


def _remove_leftovers() -> None:
    """Remove the scratch folders and processes of this user's drivers that were killed."""
    bases = _temporary_folders()
    given = os.environ.get("RAY_TMPDIR")
    if given:
        bases.insert(0, Path(os.path.abspath(given)))
    for base in dict.fromkeys(bases):
        for left in base.glob(f"{SCRATCH}*"):
            with suppress(OSError):
                if left.lstat().st_uid == os.getuid() and not _in_use(left):
                    _end_processes_of(left)
                    shutil.rmtree(left, ignore_errors=True)


def note_processes(scratch: Path) -> None:
    """Note this process and all that it has started, each with its start time.

    A process ID alone may later belong to another process.
    """
    own = psutil.Process()
    processes = (own, *own.children(recursive=True))
    starts = [(process.pid, start_time(process)) for process in processes]
    with suppress(OSError):
        note = {"host": socket.gethostname(), "machine": machine_id(), "processes": starts}
        write_atomically(scratch / _NOTE, json.dumps(note).encode(), durable=False)


@dataclass(frozen=True)
class _Note:
    """Processes of a scratch folder.

    Attributes:
        processes: ID and start time of the driver, then of the processes that it had started;
            empty if they do not belong to this running system.
        elsewhere: True if they may be alive in another container or on another machine.
    """

    processes: list[tuple[int, float]]
    elsewhere: bool


def _in_use(folder: Path) -> bool:
    """Return whether the driver of a folder may still be alive."""
    note = _read_note(folder)
    if note is None:
        pid = folder.name.removeprefix(SCRATCH).partition("-")[0]
        return not pid.isdecimal() or psutil.pid_exists(int(pid))
    return note.elsewhere or (bool(note.processes) and _alive(*note.processes[0]) is not None)


def _end_processes_of(folder: Path) -> None:
    """End the processes that the driver of a folder had started, and no others."""
    note = _read_note(folder)
    if note is not None:
        found = [_alive(*noted) for noted in note.processes]
        end_processes([process for process in found if process is not None])


def end_processes(processes: Iterable[psutil.Process]) -> None:
    """Kill processes and wait until they are gone."""
    alive = list(processes)
    for process in alive:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=KILLED_S)


def _read_note(folder: Path) -> _Note | None:
    """Return the note in a folder; None if there is none that can be read."""
    try:
        note = json.loads(read(folder / _NOTE))
        if note["machine"] == machine_id():
            processes = [(int(pid), float(start)) for pid, start in note["processes"]]
            return _Note(processes, elsewhere=False)
        other_boot = note["machine"].partition(" ")[0] != machine_id().partition(" ")[0]
        rebooted = note.get("host") == socket.gethostname() and other_boot
        return _Note([], elsewhere=not rebooted)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _alive(pid: int, start: float) -> psutil.Process | None:
    """Return a process that was noted, if it is alive."""
    try:
        process = psutil.Process(pid)
        same = abs(start_time(process) - start) < START_TOLERANCE_S
        if same and process.status() != psutil.STATUS_ZOMBIE:
            return process
    except (psutil.Error, ValueError):
        return None
    return None
