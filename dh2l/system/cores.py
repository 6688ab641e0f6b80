"""The CPU cores that this process may use."""

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

BOUND = 1 << 20
"""Bytes that are read of a kernel's file at most."""


def usable_cores(root: Path = Path("/")) -> int:
    """Return the number of cores that this process may use, by affinity and control groups' quotas.

    The kernel keeps an affinity within the cpuset. A part of a core does not count, but one core
    always does.

    Args:
        root: the folder with the kernel's `proc` and `sys`.
    """
    allowed = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(1, int(min([allowed, *_quotas(root)])))


def _quotas(root: Path) -> Iterator[float]:
    """Yield the quotas, in cores, of this process's control groups and of all above them."""
    groups = _groups(root)
    for line in _text(root / "proc/self/mountinfo").splitlines():
        fields, _, words = (part.split() for part in line.partition(" - "))
        if len(fields) < 5 or len(words) < 3:
            continue
        second = words[0] == "cgroup2"
        if not second and not (words[0] == "cgroup" and "cpu" in words[2].split(",")):
            continue
        group, mounted = PurePosixPath(groups.get(second, "/")), PurePosixPath(fields[3])
        inside = group.relative_to(mounted) if group.is_relative_to(mounted) else PurePosixPath()
        for part in (inside, *inside.parents):
            quota = _quota(root / fields[4].lstrip("/") / part)
            if quota is not None:
                yield quota


def _groups(root: Path) -> dict[bool, str]:
    """Return the path of the group that limits CPUs, by whether it is of the second version."""
    groups: dict[bool, str] = {}
    for line in _text(root / "proc/self/cgroup").splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0" and not controllers:
            groups[True] = path
        elif "cpu" in controllers.split(","):
            groups[False] = path
    return groups


def _quota(folder: Path) -> float | None:
    """Return the quota that a group's folder sets, in cores; None where it sets none."""
    quota, period = [*_text(folder / "cpu.max").split(), "", ""][:2]
    if not quota:
        quota, period = (
            _text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")
        )
    if not (quota.isdecimal() and period.isdecimal() and int(period)):
        return None  # the kernel writes "max" or -1 where there is none
    return int(quota) / int(period)


def _text(path: Path) -> str:
    """Return a kernel's file, empty where there is none."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(BOUND)
    except OSError:
        return ""
