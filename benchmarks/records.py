"""From 10,000 records to a table, against json.loads and pandas."""

import os
import random
import statistics
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np

from benchmarks.frame import Curve, Measured, at_most, compared, paired
from benchmarks.made_up import NAME, prepare_made_up
from benchmarks.processes import python
from dh2l.config.train_config import TrainConfig
from dh2l.data import read_manifest
from dh2l.registry.entries import METRICS
from dh2l.results import TrainResult
from dh2l.tree import ClassTree
from study.records import provenance
from study.records.build import SCORE_FIELDS, finished_record
from study.records.paths import Places
from study.records.record import Record
from study.records.store import RecordStore
from study.spec.plan import Plan, make_plan
from study.spec.study_file import StudyFile

SEEDS = list(range(10))
METRICS_USED = list(METRICS)[:10]
STUDY = """\
title: Many records
config: {{dataset: {dataset}, epochs: 2}}
columns: [{{name: made-up images}}]
rows: [{{arm: E, metric: [{metrics}]}}]
seeds: {seeds}
search: {{lambda_e: {{grid: {grid}}}}}
"""
OURS, PLAIN = "dh2l-study table", "json.loads and pandas"


def measure(quick: bool) -> Measured:
    """Seconds by number of records; the row is of the most."""
    grids, rounds = ((1, 2), 1) if quick else ((1, 10, 30, 100), 3)
    lines: dict[str, list[tuple[float, float]]] = {OURS: [], PLAIN: []}
    with TemporaryDirectory() as name:
        places = Places.of(Path(name, "results"), Path(name, "data"))
        prepare_made_up(places.data)
        for candidates in grids:
            plan = plan_of(Path(name), places, candidates)
            file_records(plan, places)
            n = len(plan.choosing)
            print(f"  {n} records", flush=True)
            seconds = _seconds(plan, places, rounds)
            for way, times in seconds.items():
                lines[way].append((n, statistics.median(times)))
    row = compared(
        f"{n} records to a table, whole process",
        "json.loads and a pandas groupby over the same files, whole process",
        seconds[OURS],
        seconds[PLAIN],
        aim=at_most(3),
        bound=(
            "operations per record: plan its trial, read, hash and validate its file; both read "
            "every byte"
        ),
    )
    notes = [
        f"{len(METRICS_USED)} metrics × λe × {len(SEEDS)} seeds, and more values of λe for more "
        "records; flat in one "
        "folder, without their .npz, which neither way reads; the files are in the page cache for "
        "both",
        "the records are made by this project's own store, with os.fsync doing nothing meanwhile",
    ]
    curve = Curve(
        "table-against-records", "From records to a table", "records", "wall seconds", lines
    )
    return Measured([row], [curve], notes=notes)


def plan_of(folder: Path, places: Places, candidates: int) -> Plan:
    """Plan the study with some candidates per cell; its trials are also those of larger ones."""
    file = folder / f"candidates{candidates}.yaml"
    grid = [(i + 1) / 100 for i in range(candidates)]
    text = STUDY.format(dataset=NAME, metrics=", ".join(METRICS_USED), seeds=SEEDS, grid=grid)
    file.write_text(text, encoding="utf-8")
    return make_plan(StudyFile(file), lambda name: read_manifest(name, places.data))


def _seconds(plan: Plan, places: Places, rounds: int) -> dict[str, list[float]]:
    folder = plan.file.document.path.parent
    ours = [
        "study",
        "table",
        plan.file.document.path,
        "--results",
        places.results,
        "--data",
        places.data,
    ]
    plain = ["benchmarks.plain_table", places.trials]
    ways = {OURS: lambda: python(folder, "-m", *ours), PLAIN: lambda: python(folder, "-m", *plain)}
    return paired(ways, rounds, warm_up=0)  # writing the records has warmed the page cache


def file_records(plan: Plan, places: Places) -> None:
    """Write a record for every trial that has none, by the store itself.

    Each is written into an empty folder and then moved: beside thousands of others a write takes
    longer.
    """
    staging = RecordStore(places.results / "staging")
    places.trials.mkdir(parents=True, exist_ok=True)
    with mock.patch("os.fsync"):
        for identity, config in plan.choosing.items():
            target = RecordStore(places.trials).path(identity)
            if not target.exists():
                staging.write(_record(config))
                os.rename(str(staging.path(identity)), str(target))


def _record(config: TrainConfig) -> Record:
    """Make the record of a trial with invented scores."""
    numbers = random.Random(config.identity)  # noqa: S311 nothing secret
    attempt = {"device": "cpu", "threads": 1, "first_epoch": 1, "seconds": 2.5}
    result = TrainResult(
        history={name: [numbers.random() for _ in range(config.epochs)] for name in SCORE_FIELDS},
        predictions_last=np.zeros(0, dtype=np.int64),
        predictions_best=None,
        labels=np.zeros(1, dtype=np.int64),
        validation_labels=None,
        log_probabilities={
            f"test.{which}": np.zeros((1, 1), np.float16) for which in ("last", "best_validation")
        },
        vectors=np.zeros((0, 0), dtype=np.float32),
        parameters=272_474,
        attempts=[{**provenance.circumstances(), **attempt}],
    )
    return finished_record(config, datetime.now(UTC), result, ClassTree([("one",)]))
