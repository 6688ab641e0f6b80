"""Commands in processes of their own, as a user starts them."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
"""This project's checkout."""
TIMEOUT_S = 300
"""No command here takes half as long; one that hangs should not hang the benchmarks."""


def environment() -> dict[str, str]:
    """Return this environment without variables that redirect the harness, reporting off."""
    kept = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("MLFLOW_", "DH2L_", "RAY_", "TUNE_"))
    }
    off = {"RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return kept | off | {"PYTHONPATH": str(ROOT)}


def python(folder: Path, *words: object, timeout_s: float = TIMEOUT_S) -> str:
    """Run Python with these words from a folder; returns what it printed.

    Raises:
        RuntimeError: it failed; with the last line of what it said.
    """
    process = subprocess.run(  # noqa: S603 our own words
        [sys.executable, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=timeout_s,
        cwd=folder,
        env=environment(),
        check=False,
    )
    if process.returncode:
        said = last_line(process.stderr) or last_line(process.stdout)
        raise RuntimeError(
            f"{' '.join(map(str, words))} ended with exit code {process.returncode}: {said}"
        )
    return process.stdout


def status_kib(key: str) -> int:
    """Return a figure of this process's memory from Linux, `VmRSS` or `VmHWM` (peak), in KiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def last_line(text: str) -> str:
    """Return the last line with text, or ""."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")
