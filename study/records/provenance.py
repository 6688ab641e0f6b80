"""Provenance of numbers: commit, versions, hardware."""

import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("dh2l-study", "torch", "torchvision", "numpy", "scikit-learn")


@cache
def commit() -> tuple[str | None, bool | None]:
    """Return the commit of this project's checkout, and True if its code differs from it.

    Without a checkout both are None.
    """
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None, None
    try:
        head = _git(root, "rev-parse", "HEAD")
        return head, bool(_git(root, "status", "--porcelain", "--", "dh2l", "study"))
    except (OSError, subprocess.CalledProcessError):
        return None, None


def _git(root: Path, *words: str) -> str:
    command = ["git", "-C", str(root), "-c", f"safe.directory={root}", *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603 fixed words


@cache
def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def circumstances() -> dict[str, Any]:
    """Describe the code and machine of a process that begins to train."""
    head, dirty = commit()
    return {"commit": head, "dirty": dirty, "cpu": cpu_name()}


def hardware(device: str | None) -> dict[str, Any]:
    """Processor, core count and system of this machine, and the GPU, if that is the device."""
    gpu = None if device == "cpu" else device
    return {
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "gpu": gpu,
        "system": f"{platform.system()} {platform.machine()}",
    }


@cache
def cpu_name() -> str:
    """Return the processor's name for itself."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
