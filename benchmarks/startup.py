"""Waiting times of a user, from the command to its output.

Commands that only look, and the quickstart up to its table.
"""

import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.frame import Detail, Measured, compared, figure, paired
from benchmarks.processes import environment, last_line, python
from study.records.arrays import read_arrays
from study.records.paths import Places
from study.records.store import RecordStore

COMMANDS = ("--help", "list", "plan quickstart", "table quickstart")
IMPORTS = "import torch, ray, mlflow"
LOOK_S = 0.02
"""Seconds between two looks at a run's folders."""


@dataclass(frozen=True)
class Phase:
    """Part of a run, from the end of the one before it."""

    name: str
    end: float
    """Seconds since 1970."""
    source: str
    """How its end is known."""


def measure(quick: bool) -> Measured:
    """Measure the commands that only look, then the quickstart."""
    with TemporaryDirectory() as name:
        print("  commands that only look", flush=True)
        looks = _looks(Path(name, "looks"), 1 if quick else 2)
        print("  the quickstart", flush=True)
        started, phases = _quickstart(
            Path(name, "quickstart"), ["--set", "epochs=1"] if quick else []
        )
    rows = [
        compared(
            f"`{command}`, whole process",
            f"python -c '{IMPORTS}'",
            looks[command],
            looks[IMPORTS],
            bound="imported modules: files opened, bytes read, code run",
        )
        for command in COMMANDS
    ]
    ends = {phase.name: phase.end for phase in phases}
    first_step, last_record, table = (
        ends[name] for name in ("network built", "the rest of the training", "table")
    )
    rows += [
        compared(
            "`run quickstart`, from the command to the first training step",
            f"python -c '{IMPORTS}'",
            [first_step - started],
            [statistics.median(looks[IMPORTS])],
            bound=(
                "processes started one after the other: Ray's, then Tune's workers, which import "
                "torch"
            ),
        ),
        compared(
            "`run quickstart`, from the command to the table",
            "its training alone, from the first step to the last record",
            [table - started],
            [last_record - first_step],
            bound=(
                "training: operations of the trials side by side, a core each; then the processes "
                "of Ray"
            ),
        ),
    ]
    notes = [
        "the commands that only look: whole processes, the quickstart's data prepared, no "
        "records, a warm page cache",
        "the quickstart: one run, fresh results and data folders; what is read off its folders is "
        "known to "
        f"{1000 * LOOK_S:.0f} ms",
    ]
    return Measured(rows, details=[_seconds_of(started, phases)], notes=notes)


def _looks(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Seconds of the commands that only look, and of the imports that they go without."""
    tmp = folder / "tmp"
    tmp.mkdir(parents=True)
    where = ["--results", folder / "results", "--data", folder / "data"]
    python(folder, "-m", "study", "data", "prepare", "digits", "--data", folder / "data")
    ways: dict[str, Callable[[], object]] = {IMPORTS: partial(python, folder, "-c", IMPORTS)}
    for command in COMMANDS:
        words = ["-m", "study", *command.split(), *(where if "quickstart" in command else [])]
        ways[command] = partial(python, folder, *words)
    return paired(ways, rounds)


def _quickstart(folder: Path, more: list[str]) -> tuple[float, list[Phase]]:
    """Run the quickstart as a first user does; return its start, and its phases in order."""
    tmp = folder / "tmp"
    tmp.mkdir(parents=True)
    places = Places.of(folder / "results", folder / "data")
    words = [
        "study",
        "run",
        "quickstart",
        *more,
        "--results",
        str(places.results),
        "--data",
        str(places.data),
    ]
    looked, ended = dict[str, float](), threading.Event()
    watch = threading.Thread(target=_watch, args=(places, tmp, looked, ended))
    said: list[tuple[float, str]] = []
    started = time.time()
    with subprocess.Popen(  # noqa: S603 our own words
        [sys.executable, "-m", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
        env=environment() | {"TMPDIR": str(tmp)},
    ) as process:
        watch.start()
        try:
            said.extend((time.time(), line) for line in process.stdout or ())
        finally:
            ended.set()
            watch.join()
    exited = time.time()
    if process.returncode:
        said_last = last_line("".join(line for _, line in said))
        raise RuntimeError(
            f"{' '.join(words)} ended with exit code {process.returncode}: {said_last}"
        )

    def line(beginning: str) -> float:
        return next(moment for moment, text in said if text.startswith(beginning))

    store = RecordStore(places.trials).read()
    history = [
        read_arrays(record, store.paths[identity]) for identity, record in store.records.items()
    ]
    first_epochs = [(arrays["history.time"][0], arrays["history.seconds"][0]) for arrays in history]
    first_step = min(end - seconds for end, seconds in first_epochs)
    last_record = max(path.stat().st_mtime for path in store.paths.values())
    # A folder is looked at now and then: what it shows was there before what was timed after it.
    claim, gone = min(looked["claim"], first_step), min(looked["gone"], line("# "))
    return started, [
        Phase("process, imports, study file", looked["data"], "the data folder appears"),
        Phase(
            "data prepared and verified, plan",
            line("quickstart"),
            "the line that counts the trials",
        ),
        Phase("Ray imported and started", looked["scratch"], "Tune writes into its scratch folder"),
        Phase(
            "workers started, torch imported there", claim, "the first claim under results/running"
        ),
        Phase("network built", first_step, "the least `time` − `seconds` of a first epoch"),
        Phase(
            "first epoch", min(end for end, _ in first_epochs), "the least `time` of a first epoch"
        ),
        Phase("the rest of the training", last_record, "the latest change of a record's file"),
        Phase("Tune and Ray stopped", gone, "the scratch folder is gone"),
        Phase("table", line("# "), "the table's title is printed"),
        Phase("MLflow view completed", line("records:"), "the line `records: ...`"),
        Phase("process ended", exited, "the process is gone"),
    ]


def _watch(places: Places, tmp: Path, looked: dict[str, float], ended: threading.Event) -> None:
    """Note when things first appear in a run's folders."""
    signs: dict[str, Callable[[], bool]] = {
        "data": places.data.exists,
        "scratch": lambda: any(tmp.glob("dh2l-study-*/*")),
        "claim": lambda: any(places.claims.glob("*.json")),
        "gone": lambda: "scratch" in looked and not any(tmp.glob("dh2l-study-*")),
    }
    while not ended.wait(LOOK_S):
        for name, sign in signs.items():
            if name not in looked and sign():
                looked[name] = time.time()


def _seconds_of(started: float, phases: list[Phase]) -> Detail:
    """Tabulate the seconds of a run by phase."""
    starts = [started, *(phase.end for phase in phases)]
    rows = [
        (phase.name, figure(phase.end - start), figure(phase.end - started), phase.source)
        for start, phase in zip(starts, phases, strict=False)
    ]
    return Detail(
        "Where the quickstart's seconds go",
        ("phase", "seconds", "since the command", "it ends when"),
        rows,
    )
