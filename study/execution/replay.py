"""Replay: a second training of a recorded trial, to compare every number."""

import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import torch

from dh2l.config.binding import find_hash_mismatch
from dh2l.config.identity import digest_of
from dh2l.config.train_config import TrainConfig
from dh2l.data import PreparedData
from dh2l.errors import DataError, Diverged, UserError
from dh2l.io.files import AnyPath
from dh2l.results import EpochResult, TrainResult
from dh2l.training.allocator import retain_freed_memory
from dh2l.training.trainer import train
from study.execution.replay_differences import (
    Arrays,
    Difference,
    compare_arrays,
    compare_circumstances,
    compare_records,
)
from study.execution.trial_data import load_trial_data
from study.records import provenance
from study.records.arrays import read_arrays
from study.records.build import arrays_of, finished_record, unfinished_record
from study.records.lookup import find_record
from study.records.paths import Places
from study.records.record import Failure, Record


@dataclass(frozen=True)
class Replay:
    """Result of a replay.

    Attributes:
        identity: identity of the trial.
        state: state of the replay: done or diverged.
        differences: differences between the numbers; empty if they agree bit for bit.
        circumstances: differences between the code and machines of the two runs, as far as the
            record has them.
        unread: reason why the arrays beside the record were not compared; empty if they were.
        seconds: duration of the replay.
    """

    identity: str
    state: str
    differences: tuple[Difference, ...]
    circumstances: tuple[Difference, ...]
    unread: str
    seconds: float

    @property
    def agrees(self) -> bool:
        """True if all numbers are there and the same, bit for bit."""
        return not self.differences and not self.unread


def replayable(name: str, places: Places) -> tuple[Record, AnyPath]:
    """Find a settled record and its file, by the trial's identity or a unique part of it.

    Raises:
        UserError: there is none or several, it is damaged or in conflict, or it has no numbers.
    """
    record, path = find_record(name, places)
    if not record.settled:
        raise UserError(
            f"the record of {record.identity} has no numbers to compare: the trial "
            f"{record.state} ({_first_line_of_failure(record)}); {_remedy(record)}"
        )
    return record, path


def _first_line_of_failure(record: Record) -> str:
    if record.failure and record.failure.message:
        return record.failure.message.splitlines()[0]
    return "no reason given"


def _remedy(record: Record) -> str:
    if record.state == "stopped":
        return "its scheduler stopped it"
    return "`dh2l-study run` trains it again"


def replay(
    record: Record,
    path: AnyPath,
    places: Places,
    *,
    device: str | None = None,
    threads: int | None = None,
    note: Callable[[TrainConfig, EpochResult], None] = lambda *_: None,
) -> Replay:
    """Train the trial of a settled record again and compare the numbers. Writes nothing.

    A trial that took several attempts is trained in one.

    Args:
        record: the record.
        path: its file, with its arrays beside it.
        places: paths of data, and of the class tree if the study gave one.
        device: a torch device; default: the GPU if the record's was one, else the CPU.
        threads: CPU threads; default: the record's.
        note: receives the result of each epoch.

    Raises:
        UserError: the trial's code, data, class tree, weights or device are not available here.
    """
    config = _parse_config(record)
    data = _load_data(config, places)
    attempts: list[dict[str, Any]] = record.provenance.attempts or [{"device": "cpu", "threads": 1}]
    device = _select_device(record, attempts[-1]["device"], device)
    threads = threads or attempts[-1]["threads"]
    started, clock = datetime.now(UTC), time.perf_counter()
    here = provenance.circumstances()
    training = train(config, data, device=device, threads=threads, environment=here)
    try:
        with retain_freed_memory():
            result = _run(training, lambda epoch: note(config, epoch))
        replayed = finished_record(config, started, result, data.manifest.tree)
        arrays = arrays_of(result.history, result)
    except Diverged as error:
        failure = Failure(kind="Diverged", message=str(error), epoch=error.epoch, term=error.term)
        replayed = unfinished_record(config, "diverged", failure)
        arrays = arrays_of(error.history)
    recorded_arrays, unread = _read_arrays(record, path)
    differences = compare_records(record, replayed)
    if recorded_arrays is not None:
        differences += compare_arrays(recorded_arrays, arrays)
    machine = {**here, "device": _device_name(device), "threads": threads}
    return Replay(
        identity=record.identity,
        state=replayed.state,
        differences=tuple(differences),
        circumstances=tuple(compare_circumstances(record, replayed, machine)),
        unread=unread,
        seconds=time.perf_counter() - clock,
    )


def _run(
    training: Generator[EpochResult, None, TrainResult], note: Callable[[EpochResult], None]
) -> TrainResult:
    """Train to the end."""
    with closing(training):
        while True:
            try:
                note(next(training))
            except StopIteration as stop:
                result: TrainResult = stop.value
                return result


def _read_arrays(record: Record, path: AnyPath) -> tuple[Arrays | None, str]:
    """Return the arrays beside a record, or the reason why they cannot be read."""
    try:
        return read_arrays(record, path), ""
    except UserError as error:
        return None, str(error)


def _select_device(record: Record, recorded: str, given: str | None) -> str:
    """Return the torch device of a replay.

    Raises:
        UserError: it is a GPU, and there is none.
    """
    device = given or ("cpu" if recorded == "cpu" else "cuda")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(
            f"{record.identity} was trained on {recorded}, but torch sees no GPU here; pass "
            "--device cpu to replay it on the CPU, which gives other numbers"
        )
    return device


def _device_name(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(torch.device(device))
    return "cpu"


def _parse_config(record: Record) -> TrainConfig:
    try:
        config = TrainConfig.parse(record.config)
    except UserError as error:
        raise UserError(
            f"the config of {record.identity} is not valid here: {error}; if its trial used a "
            "plugin, pass it with --plugin"
        ) from None
    if digest_of(config.identity) != digest_of(record.identity):
        commit = (record.provenance.commit or "?")[:10]
        raise UserError(
            f"the current code assigns this config the identity {config.identity}, not "
            f"{record.identity}: the project's numerics or a plugin's source changed since. Check "
            f"out commit {commit}, or pass the original plugin with --plugin."
        )
    return config


def _load_data(config: TrainConfig, places: Places) -> PreparedData:
    try:
        data = load_trial_data(config, places.data, places.tree(config.tree_hash))
    except FileNotFoundError as error:
        raise DataError(
            f"the class tree {config.tree} of the trial is not at {error.filename}; copy it from "
            "the results folder where the trial ran"
        ) from None
    other = find_hash_mismatch(config, data.manifest)
    if other is not None:
        raise DataError(
            f"the data set {config.dataset} under {places.data} has the {other.what} "
            f"{other.found[:12]}, but the trial was trained on {other.expected[:12]}; prepare it "
            "from its original source again, or pass another --data"
        )
    return data
