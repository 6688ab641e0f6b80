"""The identity of this running system and of its processes."""

import hashlib
import os
import socket
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil

START_TOLERANCE_S = 2.0
"""By how much a process's birth may seem to move: the kernel rounds."""


@cache
def machine_id() -> str:
    """Return the name of this running system.

    Containers that share a host name have different names, because each has its own process ids.
    """
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts = [Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()]
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


@cache
def machine_hash() -> str:
    """Return a hash of `machine_id`, short enough for a file name."""
    return hashlib.sha256(machine_id().encode()).hexdigest()[:16]


def start_time(process: psutil.Process) -> float:
    """Seconds from the machine's start to the process's: setting the clock moves both."""
    machine = psutil.boot_time()
    return process.create_time() - machine


@cache
def own_start_time(pid: int) -> float:
    """Return the start time of this process; `pid` is its id, because a fork has another."""
    return start_time(psutil.Process(pid))


def is_running(pid: int, birth_s: float) -> bool:
    """Return True if a process of this machine still runs.

    Its id alone may belong to another process by now.
    """
    try:
        process = psutil.Process(pid)
        return (
            abs(start_time(process) - birth_s) < START_TOLERANCE_S
            and process.status() != psutil.STATUS_ZOMBIE
        )
    except (psutil.NoSuchProcess, ValueError):  # ended, or a number that no process can have
        return False
