"""What one record more costs the commands that read them all, among many and among few; and their peak memory."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

from benchmarks.frame import Aim, Detail, Measured, Row, at_most, figure
from benchmarks.made_up import prepare_made_up
from benchmarks.records import file_records, plan_of
from benchmarks.watched import Report, watched
from study.places import Places

Commands: TypeAlias = dict[str, tuple[str, ...]]
PER_CANDIDATE = 100
"""Records of one more candidate per cell in the study of `benchmarks.records`."""
READING: Commands = {"plan": ("plan",), "run, nothing left to train": ("run", "--no-mlflow"), "table": ("table",)}
SYNCING: Commands = {"mlflow sync, first": ("mlflow", "sync"), "mlflow sync, again": ("mlflow", "sync")}
BOUNDS = {
    "plan": "operations per record: plan its trial, read, hash and validate its file",
    "run, nothing left to train": "as `plan`: it reads the records twice, and makes the table",
    "table": "operations per record: as `plan`, and a few rows of a frame",
    "mlflow sync, first": "transactions of MLflow's store, about ten for a trial",
    "mlflow sync, again": "reading every run of the study back",
}
Seen: TypeAlias = dict[int, Report]


def measure(quick: bool) -> Measured:
    """Whole commands by number of records; a row says what one record more costs, and how much memory."""
    reading = (1, 2) if quick else (1, 10, 100)
    syncing = () if quick else (1, 3, 10)
    seen: dict[str, Seen] = {}
    commands_read = {name: words for name, words in READING.items() if not (quick and words[0] == "run")}
    for commands, sizes in ((commands_read, reading), (SYNCING, syncing)):
        for size in sizes:
            for name, report in _watch(commands, size).items():
                seen.setdefault(name, {})[size * PER_CANDIDATE] = report
    rows = [row for name, reports in seen.items() for row in _rows(name, reports, at_most(1.5), BOUNDS[name])]
    header = ("command", "records", "wall seconds", "processor seconds", "peak memory, MiB")
    lines = [
        (name, str(n), figure(report.seconds), figure(report.cpu_s), figure(report.peak_mib))
        for name, reports in seen.items()
        for n, report in reports.items()
    ]
    notes = [
        "the records of `records`; what one more costs is the difference of two sizes over the difference of their "
        "numbers, in processor seconds of the process: the start, which all sizes share, would hide it",
        "`run` trains nothing and leaves MLflow alone; `mlflow sync` writes into a new local SQLite store, "
        "of fewer records: the first of 10,000 takes ten minutes and more",
        "each command once; peak memory is VmHWM of the command's process, the libraries that it maps among it",
    ]
    return Measured(rows, details=[Detail("Commands by number of records", header, lines)], notes=notes)


def _watch(commands: Commands, candidates: int) -> dict[str, Report]:
    """The commands one after the other on records of their own."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        places = Places.of(folder / "results", folder / "data")
        prepare_made_up(places.data)
        plan = plan_of(folder, places, candidates)
        file_records(plan, places)
        print(f"  {len(plan.configs)} records: {', '.join(commands)}", flush=True)
        where = ["--results", places.results, "--data", places.data]
        file = plan.file.document.path
        return {key: watched(folder, "study", *words, file, *where) for key, words in commands.items()}


def _rows(name: str, seen: Seen, aim: Aim, bound: str) -> list[Row]:
    """What one record more costs among the most, over the same among the fewest; and the same of memory."""
    sizes = sorted(seen)
    time = {n: report.cpu_s for n, report in seen.items()}
    few, many = (_each(time, sizes[i : i + 2]) for i in (0, len(sizes) - 2))
    memory = {n: report.peak_mib * 2**10 for n, report in seen.items()}
    ratio = many / few if few > 0 else None
    return [
        Row(
            f"`{name}`, one record more, {sizes[-2]} to {sizes[-1]}",
            f"the same, {sizes[0]} to {sizes[1]}",
            ratio,
            aim.text,
            None if ratio is None else aim.holds(ratio),
            f"{figure(1000 * many)} ms and {figure(_each(memory, sizes[-2:]))} KiB",
            f"{figure(1000 * few)} ms",
            1,
            bound,
        )
    ]


def _each(figures: dict[int, float], sizes: Sequence[int]) -> float:
    """What one record more takes between two sizes."""
    few, many = sizes
    return (figures[many] - figures[few]) / (many - few)
