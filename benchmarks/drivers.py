"""Cost of one more trial for a run's driver: seconds and memory.

The trials train a model without layers for an epoch of one step and leave their records, so what is
left is the harness: Ray Tune, the driver, workers, leases, records, and the MLflow view.
"""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.frame import Curve, Detail, Measured, Row, at_most, figure
from benchmarks.made_up import NAME, prepare_made_up
from benchmarks.watched import Report, watched
from study.records.paths import Places

STUDY = """\
title: Trials that return at once
config: {{dataset: {dataset}, epochs: 1, batch_size: 36, model: colours}}
columns: [{{name: made-up images}}]
rows: [{{arm: baseline}}]
seeds: {seeds}
"""
MODEL = """\
from torch import nn

from dh2l.registry import model


@model("colours")
class Colours(nn.Module):
    n_features = 3

    def __init__(self, request):
        super().__init__()

    def forward(self, images):
        return images.mean(dim=(2, 3))
"""
MOST, EARLY, LATE = (0.1, 1.0), (0.2, 0.4), (0.8, 1.0)
"""Shares of a run's trials."""
WAYS = {"without MLflow": ("--no-mlflow",), "with the live view": ()}


@dataclass(frozen=True)
class Driven:
    """Measurements of a run."""

    report: Report
    filed: list[float]
    """When its trials' records were filed, in seconds, in order."""

    def each(self, first: float, last: float) -> float:
        """Seconds a trial between two shares of the trials done."""
        start, end = (round(share * (len(self.filed) - 1)) for share in (first, last))
        return (self.filed[end] - self.filed[start]) / max(1, end - start)


def measure(quick: bool) -> Measured:
    """Whole runs by number of trials."""
    counts = (2,) if quick else (100, 300, 1000)
    ways = {"without MLflow": WAYS["without MLflow"]} if quick else WAYS
    runs = {way: {n: _drive(n, words) for n in counts} for way, words in ways.items()}
    rows = [row for way, driven in runs.items() for row in _rows(way, driven)]
    header = (
        "run",
        "trials",
        "wall seconds",
        "seconds a trial",
        "processor seconds of the driver",
        "peak memory, MiB",
    )
    lines = [
        (way, str(n), *map(figure, (r.seconds, driven.each(*MOST), r.cpu_s, r.peak_mib)))
        for way, by_count in runs.items()
        for n, driven in by_count.items()
        for r in [driven.report]
    ]
    looks = [
        (way, thread, where, f"{100 * share:.1f} %")
        for way, by_count in runs.items()
        for thread, shares in (
            ("the driver's", by_count[counts[-1]].report.looks),
            ("the view's", by_count[counts[-1]].report.view),
        )
        for where, share in sorted(shares.items(), key=lambda item: -item[1])
    ]
    details = [
        Detail("Runs by number of trials", header, lines),
        Detail(
            f"Where the threads of a run of {counts[-1]} are",
            ("run", "thread", "where", "share"),
            looks,
        ),
    ]
    curve = Curve(
        "driver-memory-against-trials",
        "Trials that return at once",
        "trials",
        "peak memory of the driver, MiB",
        {
            way: [(n, driven.report.peak_mib) for n, driven in by_count.items()]
            for way, by_count in runs.items()
        },
    )
    notes = [
        "whole `run` commands, each once, with fresh folders and MLflow stores, one CPU per "
        "trial; the model is a "
        "plugin without layers: its 36 images take one step",
        "seconds a trial: between the records' times of filing, in the table of runs from the "
        "tenth part on, when "
        "workers have started; the threads are looked at a "
        "hundred times a second, and `start and end` is what is not within Tune's loop",
    ]
    return Measured(rows, [curve], details, notes)


def _drive(trials: int, words: tuple[str, ...]) -> Driven:
    print(f"  {trials} trials {' '.join(words)}", flush=True)
    with TemporaryDirectory() as name:
        folder = Path(name)
        places = Places.of(folder / "results", folder / "data")
        prepare_made_up(places.data)
        plugin, file = folder / "colours.py", folder / "study.yaml"
        plugin.write_text(MODEL, encoding="utf-8")
        file.write_text(STUDY.format(dataset=NAME, seeds=list(range(trials))), encoding="utf-8")
        where = ["--plugin", plugin, "--results", places.results, "--data", places.data]
        report = watched(folder, "study", "run", file, *where, *words)
        filed = sorted(
            path.stat().st_mtime for path in (folder / "results" / "trials").glob("*.json")
        )
    if len(filed) != trials:
        raise RuntimeError(f"{len(filed)} of {trials} trials left a record")
    return Driven(report, filed)


def _rows(way: str, driven: dict[int, Driven]) -> list[Row]:
    """Compare late trials of the longest run with early ones, and its memory with the shortest."""
    fewest, *more = sorted(driven)
    longest = more[-1] if more else fewest
    early, late = (driven[longest].each(*shares) for shares in (EARLY, LATE))
    rows = [
        _row(
            f"seconds a trial, the last fifth of {longest} trials, {way}",
            "the second fifth of the same run",
            (late, early, "s", 1.2),
            "messages between Tune and its workers, then the training step and two small files",
        )
    ]
    rows += [
        _row(
            f"peak memory of the driver, {trials} trials, {way}",
            f"the run of {fewest}",
            (driven[trials].report.peak_mib, driven[fewest].report.peak_mib, "MiB", 1.05),
            "bytes: imported libraries; what Tune keeps of every trial to the end",
        )
        for trials in more
    ]
    return rows


def _row(measure: str, against: str, figures: tuple[float, float, str, float], bound: str) -> Row:
    ours, theirs, unit, most = figures
    aim, ratio = at_most(most), ours / theirs
    return Row(
        measure,
        against,
        ratio,
        aim.text,
        aim.holds(ratio),
        figure(ours, unit),
        figure(theirs, unit),
        1,
        bound,
    )
