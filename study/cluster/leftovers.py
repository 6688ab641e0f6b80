"""What a driver leaves if it is killed: a folder and processes, which the next driver on this machine removes."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from dh2l.atomic import write_atomically
from study.claims import BIRTH_S, born, this_machine

SCRATCH = "dh2l-study-"
KILLED_S = 10.0
"""How long a killed process may take to be gone, in seconds."""
_NOTE = "processes.json"


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for what Ray Tune writes, removed afterwards; also what killed drivers of this user left.

    It lies among the system's temporary files, as Ray's own: a results folder that is full stops no run.
    """
    _remove_left()
    scratch = Path(tempfile.mkdtemp(prefix=f"{SCRATCH}{os.getpid()}-"))
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        _remove_left()  # what a dying process wrote into a folder while it was removed


def _remove_left() -> None:
    for left in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*"):
        with suppress(OSError):
            if left.lstat().st_uid == os.getuid() and not _in_use(left):
                _end_processes(left)
                shutil.rmtree(left, ignore_errors=True)


def note_processes(scratch: Path) -> None:
    """Note this process and all that it has started, each with its birth: a process id alone may be another's later."""
    own = psutil.Process()
    births = [(process.pid, born(process)) for process in (own, *own.children(recursive=True))]
    with suppress(OSError):
        note = {"machine": this_machine(), "processes": births}
        write_atomically(scratch / _NOTE, json.dumps(note).encode(), durable=False)


def _in_use(folder: Path) -> bool:
    """Whether the driver of a folder may still live."""
    noted = _noted(folder)
    if noted:
        return _alive(*noted[0]) is not None
    pid = folder.name.removeprefix(SCRATCH).partition("-")[0]
    return not pid.isdecimal() or psutil.pid_exists(int(pid))


def _end_processes(folder: Path) -> None:
    """End what the driver of a folder had started, and nothing else."""
    alive = [process for noted in _noted(folder) if (process := _alive(*noted)) is not None]
    for process in alive:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=KILLED_S)


def _noted(folder: Path) -> list[tuple[int, float]]:
    """The driver, then what it had started; nothing where there is no note, or it is another machine's."""
    try:
        note = json.loads((folder / _NOTE).read_bytes())
        return [(int(pid), float(birth)) for pid, birth in note["processes"] if note["machine"] == this_machine()]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _alive(pid: int, birth: float) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        same = abs(born(process) - birth) < BIRTH_S and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, ValueError):
        return None
    return process if same else None
