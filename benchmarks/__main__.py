"""Runner of all benchmarks, which writes one table and the plots.

    python -m benchmarks [--only NAME ...] [--quick] [--out FOLDER]

Each section runs in its own process. Exit codes: 0 all was measured, 1 a section failed (the others
are in the table), 2 invalid arguments.
"""

import argparse
import os
import platform
import shlex
import subprocess
import sys
import time
from datetime import UTC, datetime
from importlib import import_module, metadata
from pathlib import Path

from pydantic import TypeAdapter

from benchmarks.frame import Measured, draw, not_measured, pipe_table, rows_table
from benchmarks.processes import ROOT, last_line
from dh2l.system.cores import usable_cores
from study.records import provenance

SECTIONS = {
    "throughput": "benchmarks.throughput",
    "epochs": "benchmarks.epochs",
    "regularisers": "benchmarks.regularisers",
    "packing": "benchmarks.packing",
    "overhead": "benchmarks.overhead",
    "records": "benchmarks.records",
    "startup": "benchmarks.startup",
    "scale": "benchmarks.scale",
    "drivers": "benchmarks.drivers",
}
"""Module of each section, in the table's order."""
PACKAGES = ("torch", "ray", "mlflow", "pandas")
MEASURED = TypeAdapter(Measured)


def main() -> int:
    """Measure what is asked for; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures what this project costs, as ratios to what it replaces.",
    )
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", default=list(SECTIONS), help=", ".join(SECTIONS)
    )
    parser.add_argument("--quick", action="store_true", help="small and few: does it run at all?")
    parser.add_argument("--out", type=Path, metavar="FOLDER", default=Path("results/benchmarks"))
    parser.add_argument("--section", help=argparse.SUPPRESS)  # what this command calls itself with
    options = parser.parse_args()
    out = options.out.absolute()
    if options.section:
        measured = import_module(SECTIONS[options.section]).measure(options.quick)
        _file(options.section, out).write_bytes(MEASURED.dump_json(measured, indent=1))
        return 0
    if unknown := [name for name in options.only if name not in SECTIONS]:
        print(
            f"error: there is no benchmark {unknown[0]!r}; there are {', '.join(SECTIONS)}",
            file=sys.stderr,
        )
        return 2
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(
            f"error: the folder {out} cannot be made ({error.strerror}); give another with --out",
            file=sys.stderr,
        )
        return 2
    load, started, failed = os.getloadavg()[0], time.monotonic(), False
    found: dict[str, Measured] = {}
    for name in [name for name in SECTIONS if name in options.only]:
        section_started = time.monotonic()
        print(f"{name} ...", flush=True)
        problem = _measure_apart(name, out, quick=options.quick)
        print(
            f"{name}: "
            f"{f'failed: {problem}, ' * bool(problem)}{time.monotonic() - section_started:.0f} s",
            flush=True,
        )
        if problem:
            failed = True
            found[name] = Measured([not_measured(name, "", f"failed: {problem}")])
        else:
            found[name] = MEASURED.validate_json(_file(name, out).read_bytes())
    plots = [draw(curve, out) for measured in found.values() for curve in measured.curves]
    header = _circumstances(load, time.monotonic() - started, quick=options.quick)
    table = out / "table.md"
    table.write_text(_document(header, found, plots), encoding="utf-8")
    print(f"\n{table.read_text(encoding='utf-8')}\ntable: {table}")
    for plot in plots:
        print(f"plot:  {plot}")
    return int(failed)


def _file(name: str, out: Path) -> Path:
    """Return the path of a section's measurements."""
    return out / f"{name}.json"


def _measure_apart(name: str, out: Path, *, quick: bool) -> str:
    """Run a section in a fresh process, so that no section's imports or threads colour another.

    Returns:
        Why it failed, in a line; empty where it did not.
    """
    words = [
        sys.executable,
        "-m",
        "benchmarks",
        "--section",
        name,
        "--out",
        str(out),
        *["--quick"] * quick,
    ]
    process = subprocess.run(  # noqa: S603 our own words
        words, stderr=subprocess.PIPE, text=True, errors="replace", cwd=ROOT, check=False
    )
    if process.stderr:
        print(process.stderr, file=sys.stderr, end="", flush=True)
    return (
        (last_line(process.stderr) or f"exit code {process.returncode}")
        if process.returncode
        else ""
    )


def _circumstances(load: float, seconds: float, *, quick: bool) -> str:
    """Describe the machine and versions behind the numbers."""
    import torch

    head, dirty = provenance.commit()
    commit = "no checkout" if head is None else head + " and changes on top" * bool(dirty)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    versions = [
        f"python {platform.python_version()}",
        *(f"{name} {_version(name)}" for name in PACKAGES),
    ]
    facts = {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "command": shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
        + " (sizes too small to state as results)" * quick,
        "commit": commit,
        "processor": (
            f"{provenance.cpu_name()}, {usable_cores()} cores; load before the start {load:.1f}"
        ),
        "GPU": gpu,
        "versions": ", ".join(versions),
        "duration": f"{seconds:.0f} s",
    }
    return "\n".join(f"- {name}: {fact}" for name, fact in facts.items())


def _version(package: str) -> str:
    """Return a package's version; a machine that only trains lacks Ray and MLflow."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "is not installed"


def _document(header: str, found: dict[str, Measured], plots: list[Path]) -> str:
    parts = [
        "# Benchmarks",
        header,
        rows_table([row for measured in found.values() for row in measured.rows]),
    ]
    for measured in found.values():
        for detail in measured.details:
            parts += [f"## {detail.title}", pipe_table(detail.header, detail.rows)]
    notes = [f"- {name}: {note}" for name, measured in found.items() for note in measured.notes]
    if notes:
        parts += ["## How it was measured", "\n".join(notes)]
    parts += [f"![{plot.stem}]({plot.name})" for plot in plots]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.exit(main())
