"""One record's trial trained again from the record alone, and whether its numbers come out the same, bit for bit."""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch

from dh2l.config.binding import find_hash_mismatch
from dh2l.config.identity import digest_of
from dh2l.config.train_config import TrainConfig
from dh2l.data import PreparedData
from dh2l.errors import DataError, Diverged, UserError
from dh2l.io.files import AnyPath
from dh2l.results import EpochResult, TrainResult
from dh2l.training.allocator import freed_memory_kept
from dh2l.training.trainer import train
from dh2l.wording import counted
from study.execution.trial_data import load_trial_data
from study.records import provenance
from study.records.build import arrays_of, finished_record, unfinished_record
from study.records.lookup import find_record
from study.records.paths import Places
from study.records.store import Failure, Record, Scores, read_arrays

TIMED = ("history.time", "history.seconds", "history.images_per_s")
"""Arrays that say how long a trial took: no two runs agree in them."""
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Difference:
    """Something in which the replay is not the record.

    Attributes:
        what: where: ``last.test_accuracy``, ``history.train_loss in epoch 3``, ``commit``.
        recorded: what the record says.
        replayed: what the replay says.
        note: by how much, where that can be said.
    """

    what: str
    recorded: str
    replayed: str
    note: str = ""


@dataclass(frozen=True)
class Replay:
    """What became of a replay.

    Attributes:
        identity: the trial's.
        state: the replay's: done or diverged.
        differences: in numbers; empty where they agree bit for bit.
        circumstances: in what the numbers were made by and on, as far as the record tells.
        unread: why the arrays beside the record could not be compared; empty where they were.
        seconds: that the replay took.
    """

    identity: str
    state: str
    differences: tuple[Difference, ...]
    circumstances: tuple[Difference, ...]
    unread: str
    seconds: float

    @property
    def agrees(self) -> bool:
        """Whether all numbers are there and the same, bit for bit."""
        return not self.differences and not self.unread


def replayable(name: str, places: Places) -> tuple[Record, AnyPath]:
    """Find a settled record and its file, by the trial's identity or enough of it to be unique.

    Raises:
        UserError: there is none or several, it is damaged or in conflict, or its trial left no numbers.
    """
    record, path = find_record(name, places)
    if not record.settled:
        why = (
            record.failure.message.splitlines()[0]
            if record.failure and record.failure.message
            else "no reason given"
        )
        raise UserError(
            f"the record of {record.identity} has no numbers to compare: the trial {record.state} ({why}); "
            + (
                "its scheduler stopped it"
                if record.state == "stopped"
                else "`dh2l-study run` trains it again"
            )
        )
    return record, path


def replay(
    record: Record,
    path: AnyPath,
    places: Places,
    *,
    device: str | None = None,
    threads: int | None = None,
    note: Callable[[TrainConfig, EpochResult], None] = lambda *_: None,
) -> Replay:
    """Train a settled record's trial again and compare. Nothing is written; a trial of several attempts takes one.

    Args:
        record: the record.
        path: its file; its arrays lie beside it.
        places: where data lie, and the class tree, if a study gave one.
        device: a torch device; default: the GPU if the record's was one, else the CPU.
        threads: CPU threads; default: the record's.
        note: told of every epoch.

    Raises:
        UserError: the trial cannot be trained here as it was: its code, data, tree, weights or device are not here.
    """
    config = _config(record)
    data = _data(config, places)
    attempts: list[dict[str, Any]] = record.provenance.attempts or [{"device": "cpu", "threads": 1}]
    recorded_device = attempts[-1]["device"]
    where = device or ("cpu" if recorded_device == "cpu" else "cuda")
    if where.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(
            f"{record.identity} was trained on {recorded_device}, but torch sees no GPU here; --device cpu replays it "
            "on the CPU, where its numbers are others"
        )
    threads, started, clock = (
        threads or attempts[-1]["threads"],
        datetime.now(UTC),
        time.perf_counter(),
    )
    here = provenance.circumstances()
    try:
        with (
            freed_memory_kept(),
            closing(train(config, data, device=where, threads=threads, circumstances=here)) as run,
        ):
            while True:
                try:
                    note(config, next(run))
                except StopIteration as stop:
                    result: TrainResult = stop.value
                    break
        again = finished_record(config, started, result, data.manifest.tree)
        arrays = arrays_of(result.history, result)
    except Diverged as error:
        failure = Failure(kind="Diverged", message=str(error), epoch=error.epoch, term=error.term)
        again, arrays = unfinished_record(config, "diverged", failure), arrays_of(error.history)
    unread, recorded_arrays = "", None
    try:
        recorded_arrays = read_arrays(record, path)
    except UserError as error:
        unread = str(error)
    differences = _numbers(record, again)
    if recorded_arrays is not None:
        differences += compare_arrays(recorded_arrays, arrays)
    name = torch.cuda.get_device_name(torch.device(where)) if where.startswith("cuda") else "cpu"
    return Replay(
        identity=record.identity,
        state=again.state,
        differences=tuple(differences),
        circumstances=tuple(
            _circumstances(record, again, {**here, "device": name, "threads": threads})
        ),
        unread=unread,
        seconds=time.perf_counter() - clock,
    )


def _config(record: Record) -> TrainConfig:
    try:
        config = TrainConfig.parse(record.config)
    except UserError as error:
        raise UserError(
            f"the config of {record.identity} is not valid here: {error}; if its trial used a plugin, give it "
            "with --plugin"
        ) from None
    if digest_of(config.identity) != digest_of(record.identity):
        raise UserError(
            f"with the code here the config of {record.identity} is another trial, {config.identity}: the project's "
            f"numerics or a plugin's source changed since; go back to commit {(record.provenance.commit or '?')[:10]}, "
            "or give the plugin of then with --plugin"
        )
    return config


def _data(config: TrainConfig, places: Places) -> PreparedData:
    try:
        data = load_trial_data(config, places.data, places.tree(config.tree_hash))
    except FileNotFoundError as error:
        raise DataError(
            f"the class tree {config.tree} of the trial is not at {error.filename}; copy it from the results folder "
            "where the trial ran"
        ) from None
    if (other := find_hash_mismatch(config, data.manifest)) is not None:
        raise DataError(
            f"the data set {config.dataset} under {places.data} has the {other.what} {other.found[:12]}, but the trial "
            f"was trained on {other.expected[:12]}; prepare it again from what it was made of then, or give another "
            "--data"
        )
    return data


def _numbers(record: Record, again: Record) -> list[Difference]:
    """Differences in what two records of a trial must agree on."""
    found = []

    def compare(what: str, then: object, now: object) -> None:
        if then != now:
            change = ""
            if isinstance(then, int | float) and isinstance(now, int | float):
                change = f"{now - then:+.3g}"
            found.append(Difference(what, str(then), str(now), change))

    compare("state", record.state, again.state)
    compare("parameters", record.parameters, again.parameters)
    for which in ("last", "best_validation"):
        then, now = getattr(record, which), getattr(again, which)
        if then is None or now is None:
            compare(which, then, now)
            continue
        for name in Scores.model_fields:
            if getattr(then, name) is None and name == "test_probabilities":
                continue  # an earlier version kept none
            compare(f"{which}.{name}", getattr(then, name), getattr(now, name))
    if record.failure and again.failure:
        compare("epoch of divergence", record.failure.epoch, again.failure.epoch)
        compare("term that diverged", record.failure.term, again.failure.term)
    return found


def compare_arrays(then: Arrays, now: Arrays) -> list[Difference]:
    """Differences between the arrays of two runs of a trial: where the history parts first, then all others.

    A metric of the second run alone is not a difference: it was introduced since.
    """
    names = [name for name in {**then, **now} if name not in TIMED]
    names = [name for name in names if name in then or not name.startswith("history.")]
    found = [
        Difference(name, *("there" if name in arrays else "not there" for arrays in (then, now)))
        for name in names
        if (name in then) != (name in now)
    ]
    shared = [name for name in names if name in then and name in now]
    found += _history(
        {name: (then[name], now[name]) for name in shared if name.startswith("history.")}
    )
    for name in shared:
        a, b = then[name], now[name]
        if name.startswith("history.") or (
            a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        ):
            continue
        if a.shape != b.shape or a.dtype != b.dtype:
            found.append(Difference(name, f"{a.dtype} {a.shape}", f"{b.dtype} {b.shape}"))
        elif a.dtype.kind == "f":
            largest = float(np.abs(a - b).max())
            found.append(
                Difference(
                    name,
                    f"{a.size} of them",
                    f"{int((a != b).sum())} others",
                    f"by ≤ {largest:.3g}",
                )
            )
        else:
            found.append(Difference(name, f"{a.size} of them", f"{int((a != b).sum())} others"))
    return found


def _history(pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> list[Difference]:
    """The metrics of the first epoch in which any differs, and lengths that differ."""
    unequal = {name: (len(a), len(b)) for name, (a, b) in pairs.items() if len(a) != len(b)}
    found = [
        Difference(name, counted(n, "epoch"), counted(m, "epoch"))
        for name, (n, m) in unequal.items()
    ]
    epochs = min((min(map(len, pair)) for pair in pairs.values()), default=0)
    for epoch in range(epochs):
        of_epoch = {name: (float(a[epoch]), float(b[epoch])) for name, (a, b) in pairs.items()}
        apart = {name: pair for name, pair in of_epoch.items() if _differ(name, *pair)}
        if apart:
            return found + [
                Difference(f"{name} in epoch {epoch + 1}", repr(a), repr(b), f"{b - a:+.3g}")
                for name, (a, b) in apart.items()
            ]
    return found


def _differ(name: str, a: float, b: float) -> bool:
    """Whether two values of an epoch differ; the test set need not have been evaluated after the same epochs."""
    if name.startswith("history.test_") and (math.isnan(a) or math.isnan(b)):
        return False
    return a != b and not (math.isnan(a) and math.isnan(b))


def _circumstances(record: Record, again: Record, here: dict[str, Any]) -> list[Difference]:
    """In what the circumstances of a replay differ from those that the record tells of."""
    then, now = record.provenance, again.provenance
    pairs: list[tuple[str, object, object]] = [("commit", then.commit, now.commit)]
    if then.dirty or now.dirty:
        pairs.append(
            ("uncommitted changes", then.dirty, f"{now.dirty} (what they are is not recorded)")
        )
    pairs += [
        (name, then.versions.get(name), now.versions.get(name))
        for name in sorted({**then.versions, **now.versions})
    ]
    if then.attempts:
        for name in ("cpu", "device", "threads"):
            values = list(dict.fromkeys(str(a[name]) for a in then.attempts if name in a))
            pairs.append((name, ", then ".join(values) or None, str(here[name])))
    else:
        pairs.append(("cpu", then.hardware.get("cpu"), here["cpu"]))
    pairs.append(("attempts", max(1, len(then.attempts)), 1))
    return [Difference(name, str(a), str(b)) for name, a, b in pairs if a != b]
