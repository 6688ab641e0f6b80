"""Machine limits that prevent Ray from starting, and how to lift them."""

import math
import os
import resource
import shutil
from pathlib import Path

import psutil

from dh2l.errors import UserError
from dh2l.system.cores import usable_cores
from study.execution.ray_backend._compat import STARTUP_TIMEOUT

ADDRESS_SPACE = 12 << 30
"""Bytes of address space that a worker with torch reserves. With less, Ray's processes abort."""
DISK, MEMORY = 200 << 20, 1 << 30
"""Free bytes below which disk or memory is a likely cause."""


def require_addresses() -> None:
    """Raise if Ray's processes would abort without an exception, for lack of address space.

    Raises:
        UserError: the limit is too low.
    """
    cause = _limit_of_addresses(ADDRESS_SPACE)
    if cause:
        raise UserError(f"Ray: it cannot start on this machine: {cause}")


def refusal(reason: str, folder: Path) -> str:
    """Return the error message for a local Ray that did not start, with the likely cause.

    Args:
        reason: first line of Ray's error.
        folder: folder to which Ray writes.
    """
    causes = (_limit_of_addresses(), _full(folder), _no_home(), _little_memory(), _busy(reason))
    cause = next(
        (f"The likely cause: {cause}" for cause in causes if cause),
        "Check free memory, free disk space and limits (ulimit -a), then run the command again.",
    )
    return f"Ray: it does not start on this machine ({reason.rstrip('.')}). {cause}"


def _limit_of_addresses(least: float = math.inf) -> str:
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY or limit >= least:
        return ""
    return (
        f"a process may have {limit / 2**30:.1f} GiB of addresses (ulimit -v); expected more than "
        f"{ADDRESS_SPACE >> 30} GiB. Run: ulimit -v unlimited"
    )


def _full(folder: Path) -> str:
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        return f"{folder} cannot be used ({error.strerror}). Set RAY_TMPDIR to another folder."
    if free >= DISK:
        return ""
    return (
        f"{folder.parent} has {free >> 20} MiB free; expected at least {DISK >> 20} MiB. Make "
        "room, or set RAY_TMPDIR to another folder."
    )


def _no_home() -> str:
    """Return a sentence if the home folder cannot be written, in which Ray keeps its token."""
    if any(map(os.environ.get, ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))):
        return ""
    try:
        home = Path.home()
    except RuntimeError:
        home = Path("~")
    folder = next((path for path in (home / ".ray", home) if path.exists()), home)
    if os.access(folder, os.W_OK | os.X_OK):
        return ""
    return (
        f"the home folder {home} cannot be written, but Ray keeps its token there. Set HOME to a "
        "folder that can be written."
    )


def _little_memory() -> str:
    free = psutil.virtual_memory().available
    if free >= MEMORY:
        return ""
    return (
        f"{free >> 20} MiB of memory are free; expected at least {MEMORY >> 20} MiB. End other "
        "programs."
    )


def _busy(reason: str) -> str:
    if STARTUP_TIMEOUT not in reason:
        return ""
    return (
        f"the machine is busy: its load is {os.getloadavg()[0]:.0f} on {usable_cores()} cores. Run "
        "the command again when the load is lower."
    )
