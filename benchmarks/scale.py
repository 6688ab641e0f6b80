"""Cost of one more record for commands that read all of them.

Costs are compared among many records and among few, with peak memory.
"""

import statistics
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

from benchmarks.frame import Detail, Measured, Row, at_most, figure
from benchmarks.made_up import prepare_made_up
from benchmarks.records import file_records, plan_of
from benchmarks.watched import Report, watched
from study.records.paths import Places

Commands: TypeAlias = dict[str, tuple[str, ...]]
PER_CANDIDATE = 100
"""Records of one more candidate per cell in the study of `benchmarks.records`."""
READING: Commands = {
    "plan": ("plan",),
    "run, nothing left to train": ("run", "--no-mlflow"),
    "table": ("table",),
}
SYNCING: Commands = {
    "mlflow sync, first": ("mlflow", "sync"),
    "mlflow sync, again": ("mlflow", "sync"),
}
BOUNDS = {
    "plan": (
        "operations per record: plan its trial, read, hash and validate its file, and print a line "
        "of it"
    ),
    "run, nothing left to train": (
        "operations per record: as `table`, but it reads the records twice"
    ),
    "table": (
        "operations per record: plan its trial, read, hash and validate its file, and a few rows "
        "of a frame"
    ),
    "mlflow sync, first": "transactions of MLflow's store, six for a trial",
    "mlflow sync, again": "reading every run of the study back",
}
Seen: TypeAlias = dict[int, list[Report]]
"""What was seen of a command, round by round, by number of records."""


def measure(quick: bool) -> Measured:
    """Measure commands by number of records: the cost of one more record, and peak memory."""
    reading, rounds = ((1, 2), 1) if quick else ((10, 50, 100), 3)
    syncing = () if quick else (1, 10, 100)
    seen: dict[str, Seen] = {}
    commands_read = {
        name: words for name, words in READING.items() if not (quick and words[0] == "run")
    }
    for commands, sizes, times in ((commands_read, reading, rounds), (SYNCING, syncing, 1)):
        for size in sizes:
            for name, reports in _watch(commands, size, times).items():
                seen.setdefault(name, {})[size * PER_CANDIDATE] = reports
    rows = [_row(name, by_size) for name, by_size in seen.items()]
    header = ("command", "records", "wall seconds", "processor seconds", "peak memory, MiB")
    lines = [
        (
            name,
            str(n),
            *(
                figure(statistics.median(values))
                for values in zip(*map(_figures, reports), strict=True)
            ),
        )
        for name, by_size in seen.items()
        for n, reports in by_size.items()
    ]
    notes = [
        "the records of `records`; what one more costs is the difference of two sizes over the "
        "difference of their "
        "numbers, in processor seconds of the process: the start, which all sizes share, would "
        "hide it, and between "
        "sizes of a few hundred records its noise would hide what one costs",
        "`run` trains nothing and leaves MLflow alone; `mlflow sync` writes into a new local "
        "SQLite store, "
        "and once, for the first takes long",
        "figures are medians of the rounds; peak memory is VmHWM of the command's process, the "
        "libraries "
        "that it maps among it",
    ]
    return Measured(
        rows, details=[Detail("Commands by number of records", header, lines)], notes=notes
    )


def _watch(commands: Commands, candidates: int, rounds: int) -> dict[str, list[Report]]:
    """Run the commands one after the other, in rounds, each on its own records."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        places = Places.of(folder / "results", folder / "data")
        prepare_made_up(places.data)
        plan = plan_of(folder, places, candidates)
        file_records(plan, places)
        print(f"  {len(plan.choosing)} records: {'; '.join(commands)}", flush=True)
        where = [plan.file.document.path, "--results", places.results, "--data", places.data]
        seen: dict[str, list[Report]] = {key: [] for key in commands}
        for _ in range(rounds):
            for key, words in commands.items():
                seen[key].append(watched(folder, "study", *words, *where))
    return seen


def _figures(report: Report) -> tuple[float, float, float]:
    return report.seconds, report.cpu_s, report.peak_mib


def _row(name: str, seen: Seen) -> Row:
    """Compare the cost of one more record among the most with that among the fewest."""
    sizes, aim = sorted(seen), at_most(1.5)
    time = {n: statistics.median(report.cpu_s for report in reports) for n, reports in seen.items()}
    memory = {
        n: statistics.median(report.peak_mib for report in reports) * 2**10
        for n, reports in seen.items()
    }
    few, many = sizes[:2], sizes[-2:]
    ours, theirs = (
        f"{figure(1000 * _each(time, step))} ms, {figure(_each(memory, step))} KiB"
        for step in (many, few)
    )
    ratio = (
        _each(time, many) / _each(time, few) if _each(time, few) > 0 else None
    )  # noise, with few records
    return Row(
        f"`{name}`, one record more, {many[0]} to {many[1]}",
        f"the same, {few[0]} to {few[1]}",
        ratio,
        aim.text,
        None if ratio is None else aim.holds(ratio),
        ours,
        theirs,
        rounds=len(seen[many[1]]),
        bound=BOUNDS[name],
    )


def _each(figures: dict[int, float], sizes: Sequence[int]) -> float:
    """Return the cost of one more record between two sizes."""
    few, many = sizes
    return (figures[many] - figures[few]) / (many - few)
