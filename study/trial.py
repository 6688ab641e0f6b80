"""One trial, from config to record. Ray's workers, shards and the command line all come through here."""

import time
import traceback
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias

import numpy as np
import torch

from dh2l.atomic import remove_folder
from dh2l.config import TrainConfig
from dh2l.errors import Diverged
from dh2l.memory import freed_memory_kept
from dh2l.optimizer import learning_rate
from dh2l.results import EpochResult, TrainResult
from dh2l.trainer import Training, arithmetic, train
from dh2l.weights import with_weights_hash
from study import provenance
from study.claims import ClaimedElsewhere, Claims, Holder
from study.filing import arrays_of, finished_record, unfinished_record
from study.log import TrialLog, last_lines
from study.places import Places
from study.prepared import data_of
from study.records import Failure, NewerRecord, Record, RecordStore

TRACEBACK_LINES = 30
WAIT_S = 2.0
"""Seconds between two attempts of a trial that waits."""


@dataclass(frozen=True)
class Waiting:
    """A trial that cannot go on now, and why, in a sentence."""

    reason: str


Trial: TypeAlias = Generator[EpochResult | Waiting, None, Record]
"""A trial in training: gives one result per epoch, and a `Waiting` every `WAIT_S` that it waits; returns its record."""


def run_trial(
    config: TrainConfig, places: Places, *, device: str | None = None, threads: int | None = None, keep: bool = False
) -> Trial:
    """Train one bound config to its record.

    Goes on from the trial's checkpoint; does nothing where a finished record exists; waits where another live process
    trains the same trial, and while the record cannot be written. Whatever goes wrong inside becomes a record too.

    Args:
        config: a config that is bound to its data (`TrainConfig.bound`).
        places: where records, checkpoints and data lie.
        device: a torch device; default: the GPU where there is one.
        threads: CPU threads; default: as torch is set.
        keep: leave the checkpoint of a finished trial where it is.

    Returns:
        The filed record.
    """
    store, claims = RecordStore(places.trials), Claims(places.claims)
    while True:
        try:
            with (
                claims.hold(config.identity, config.epochs, config.model_dump(mode="json")) as claim,
                freed_memory_kept(),
            ):
                try:
                    record = store.get(config.identity, places.set_aside)
                except NewerRecord as error:  # filed since the plan was made; this end of the trial is told, not filed
                    message = f"its record {store.path(config.identity)} is left alone: {error}"
                    return unfinished_record(config, "failed", Failure(kind=NewerRecord.__name__, message=message))
                if record is None or not record.settled:
                    record = yield from _logged(config, places, claim, record, device, threads)
                if record.settled and not keep:
                    remove_folder(places.checkpoint(config.identity))
                return record
        except ClaimedElsewhere as error:
            reason = str(error)
        except OSError as error:  # of the claim or a record that stands: what goes wrong in training is caught there
            reason = f"{config.identity} cannot begin: {places.results} fails ({error.strerror}); it is tried again"
        yield Waiting(reason)
        time.sleep(WAIT_S)


def one_step(config: TrainConfig, places: Places, *, device: str, threads: int) -> Failure | None:
    """Take one training step of a trial and leave nothing; returns what went wrong."""
    try:
        data = data_of(config, places.data, places.tree(config.tree_hash))
        with freed_memory_kept(), arithmetic(config, threads):
            training = Training(with_weights_hash(config.bound(data.manifest)), data, torch.device(device))
            training.step.begin(1, learning_rate(config, 1))
            training.step(next(iter(training.batches)))
            training.objective.values()
    except Exception as error:  # noqa: BLE001 a trial's edge, as of one that is trained
        return _failure(error)
    return None


def drain(
    trial: Trial,
    note: Callable[[EpochResult], None],
    wait: Callable[[str], None],
    stop: Callable[[], bool] = lambda: False,
) -> Record:
    """Run a trial to its end, telling `note` of every epoch and `wait` why it waits; returns the record.

    Raises:
        KeyboardInterrupt: `stop` says so after an epoch; the trial has left a checkpoint to go on from.
    """
    said = ""
    while True:
        try:
            step = next(trial)
        except StopIteration as end:
            record: Record = end.value
            return record
        if stop():
            trial.close()
            raise KeyboardInterrupt
        if isinstance(step, EpochResult):
            note(step)
        elif step.reason != said:
            wait(said := step.reason)


def _logged(
    config: TrainConfig, places: Places, claim: Holder, before: Record | None, device: str | None, threads: int | None
) -> Trial:
    """Train to a record and file it, with a log that is kept where the trial is not done; before, it had failed."""
    path, done = places.log(config.identity), False
    log = TrialLog(path, anew=before is not None)
    try:
        record, arrays = yield from _trained(config, places, claim, log, device, threads)
        retries = max(claim.retries, 0 if before is None else before.provenance.retries + 1)
        record = yield from _filed(RecordStore(places.trials), record.retried(retries).logged(last_lines(path)), arrays)
        done = record.state == "done"
        return record
    finally:
        log.close(keep=not done)


def _trained(
    config: TrainConfig, places: Places, claim: Holder, log: TrialLog, device: str | None, threads: int | None
) -> Generator[EpochResult, None, tuple[Record, dict[str, np.ndarray] | None]]:
    """Train to a record that is not filed yet, and its arrays.

    Raises:
        ClaimedElsewhere: another process has taken the trial over, for this one stood still too long.
    """
    started, here = datetime.now(UTC), provenance.circumstances()
    checkpoints = places.checkpoint(config.identity)
    try:
        with log.written():
            data = data_of(config, places.data, places.tree(config.tree_hash))
        training = train(config, data, device=device, threads=threads, checkpoints=checkpoints, circumstances=here)
        with closing(training):
            while True:
                try:
                    with log.written():
                        epoch = next(training)
                except StopIteration as stop:
                    result: TrainResult = stop.value
                    break
                claim.renew(epoch.epoch, epoch.metrics.get("validation_accuracy"))
                if claim.lost:
                    raise ClaimedElsewhere(f"{config.identity} was taken over by another process")
                yield epoch
    except ClaimedElsewhere:
        raise
    except Diverged as error:
        failure = Failure(kind="Diverged", message=str(error), epoch=error.epoch, term=error.term)
        return unfinished_record(config, "diverged", failure, started=started), arrays_of(error.history)
    except Exception as error:  # noqa: BLE001 a trial's edge: whatever goes wrong becomes a failed record
        return unfinished_record(config, "failed", _failure(error), started=started), None
    return finished_record(config, started, result), arrays_of(result.history, result)


def _failure(error: Exception) -> Failure:
    lines = "".join(traceback.format_exception(error)).splitlines()[-TRACEBACK_LINES:]
    return Failure(kind=type(error).__name__, message=str(error)[:2000], traceback="\n".join(lines))


def _filed(
    store: RecordStore, record: Record, arrays: dict[str, np.ndarray] | None
) -> Generator[Waiting, None, Record]:
    """File a record, however long it takes until there is room: what was computed is not given up."""
    while True:
        try:
            return store.write(record, arrays)
        except OSError as error:
            reason = error.strerror or str(error)
        yield Waiting(f"{record.identity} cannot be filed in {store.folder}: {reason}; it is tried again until it can")
        time.sleep(WAIT_S)
