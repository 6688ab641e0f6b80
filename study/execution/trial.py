"""One trial, from config to record. Ray's workers, shards and the command line all come through here."""

import time
import traceback
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeAlias

import numpy as np
import torch

from dh2l.config.binding import bind
from dh2l.config.train_config import TrainConfig
from dh2l.data import Manifest
from dh2l.errors import Diverged
from dh2l.io.files import AnyPath, remove_folder
from dh2l.plugins import plugin_location
from dh2l.results import EpochResult, TrainResult
from dh2l.training.allocator import freed_memory_kept
from dh2l.training.saved_networks import save_network
from dh2l.training.trainer import Training, arithmetic, train
from study.execution.logs import TrialLog, last_lines
from study.execution.options import TrialOptions
from study.execution.trial_data import load_trial_data
from study.records import provenance
from study.records.build import arrays_of, finished_record, probabilities_of, unfinished_record
from study.records.leases import ClaimedElsewhere, Claims, Holder
from study.records.paths import Places
from study.records.store import Failure, NewerRecord, Record, RecordStore

TRACEBACK_LINES = 30
WAIT_S = 2.0
"""Seconds between two attempts of a trial that waits."""


@dataclass(frozen=True)
class Waiting:
    """A trial that cannot go on now, or a file that it cannot leave, and why, in a sentence."""

    reason: str


@dataclass(frozen=True)
class Trained:
    """A record that is not filed yet, with the arrays and the weights beside it."""

    record: Record
    arrays: dict[str, np.ndarray] | None = None
    probabilities: dict[str, np.ndarray] | None = None
    weights: dict[str, torch.Tensor] | None = None
    manifest: Manifest | None = None


DEFAULTS = TrialOptions()

Trial: TypeAlias = Generator[EpochResult | Waiting, None, Record]
"""A trial in training: gives one result per epoch, and a `Waiting` every `WAIT_S` that it waits; returns its record."""


def run_trial(
    config: TrainConfig,
    places: Places,
    *,
    device: str | None = None,
    threads: int | None = None,
    options: TrialOptions = DEFAULTS,
) -> Trial:
    """Train one bound config to its record.

    Goes on from the trial's checkpoint; does nothing where a finished record exists; waits where another live process
    trains the same trial, and while the record cannot be written. Whatever goes wrong inside becomes a record too.

    Args:
        config: a config that is bound to its data (`dh2l.config.binding.bind`).
        places: where records, checkpoints and data lie.
        device: a torch device; default: the GPU where there is one.
        threads: CPU threads; default: as torch is set.
        options: how it is evaluated, and which of its files stay.

    Returns:
        The filed record.
    """
    store, claims = RecordStore(places.trials), Claims(places.claims)
    while True:
        try:
            with (
                claims.hold(
                    config.identity, config.epochs, config.model_dump(mode="json")
                ) as claim,
                freed_memory_kept(),
            ):
                try:
                    record = store.get(config.identity, places.set_aside)
                except NewerRecord as error:  # filed since the plan was made; this end of the trial is told, not filed
                    message = f"its record {store.path(config.identity)} is left alone: {error}"
                    return unfinished_record(
                        config, "failed", Failure(kind=NewerRecord.__name__, message=message)
                    )
                if (
                    record is None
                    or not record.settled
                    or (options.best_test and record.lacks_best_test)
                ):
                    record = yield from _logged(
                        config, places, claim, record, device, threads, options
                    )
                if record.settled and not options.keep:
                    remove_folder(places.checkpoint(config.identity))
                return record
        except ClaimedElsewhere as error:
            reason = str(error)
        except OSError as error:  # of the claim or a record that stands: what goes wrong in training is caught there
            reason = f"{config.identity} cannot begin: {places.results} fails ({error.strerror}); it is tried again"
        yield Waiting(reason)
        time.sleep(WAIT_S)


def train_one_step(
    config: TrainConfig, places: Places, *, device: str, threads: int
) -> Failure | None:
    """Take a training step with each size of a trial's batches and leave nothing; returns what went wrong."""
    try:
        data = load_trial_data(config, places.data, places.tree(config.tree_hash))
        with freed_memory_kept(), arithmetic(config, threads):
            training = Training(bind(config, data.manifest), data, torch.device(device))
            training.begin_epoch(1)
            next(iter(training.batches))  # brings the first batch to the device
            for size in dict.fromkeys(training.batches.sizes):
                training.step(size)
            training.objective.values()
            training.diagnostics.values()
    except Exception as error:  # noqa: BLE001 a trial's edge, as of one that is trained
        return _failure(error)
    return None


def run_to_completion(
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
    config: TrainConfig,
    places: Places,
    claim: Holder,
    before: Record | None,
    device: str | None,
    threads: int | None,
    options: TrialOptions,
) -> Trial:
    """Train to a record and file it, with a log that is kept where the trial is not done.

    `before` is the record of an earlier failure, or of training without the best test epoch.
    """
    path, done = places.log(config.identity), False
    log = TrialLog(path, anew=before is not None)
    try:
        trained = yield from _trained(config, places, claim, log, device, threads, options)
        again = before is not None and not before.settled
        retries = max(
            claim.retries, before.provenance.retries + 1 if before is not None and again else 0
        )
        record = trained.record.retried(retries).logged(last_lines(path))
        stands = yield from _filed(RecordStore(places.trials), replace(trained, record=record))
        if not (
            options.best_test and stands.lacks_best_test
        ):  # else the study cannot use what stands
            record = stands
        done = record.state == "done"
        if options.keep and trained.weights is not None and trained.manifest is not None:
            folder = places.checkpoint(config.identity)
            yield from _weights_saved(folder, trained.weights, config, trained.manifest)
        return record
    finally:
        log.close(keep=not done)


def _trained(
    config: TrainConfig,
    places: Places,
    claim: Holder,
    log: TrialLog,
    device: str | None,
    threads: int | None,
    options: TrialOptions,
) -> Generator[EpochResult, None, Trained]:
    """Train to a record that is not filed yet, and its arrays.

    Raises:
        ClaimedElsewhere: another process has taken the trial over, for this one stood still too long.
    """
    started, here = datetime.now(UTC), provenance.circumstances()
    checkpoints = places.checkpoint(config.identity)
    try:
        with log.written():
            data = load_trial_data(config, places.data, places.tree(config.tree_hash))
        training = train(
            config,
            data,
            device=device,
            threads=threads,
            checkpoints=checkpoints,
            evaluate_every=options.evaluate_every,
            best_test=options.best_test,
            circumstances=here,
        )
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
        return Trained(
            unfinished_record(config, "diverged", failure, started=started),
            arrays_of(error.history),
        )
    except Exception as error:  # noqa: BLE001 a trial's edge: whatever goes wrong becomes a failed record
        return Trained(unfinished_record(config, "failed", _failure(error), started=started))
    record = finished_record(config, started, result, data.manifest.tree)
    return Trained(
        record,
        arrays_of(result.history, result),
        probabilities_of(result) if options.probabilities else None,
        result.weights,
        data.manifest,
    )


def _failure(error: Exception) -> Failure:
    """Why a trial failed: in the message first the line of a user's code, in the traceback first the error's cause."""
    place, message = plugin_location(error), str(error)
    if place not in message:
        message = place + message
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    lines = "".join(traceback.format_exception(cause)).splitlines()[-TRACEBACK_LINES:]
    if cause is not error:
        lines += "".join(traceback.format_exception_only(error)).splitlines()
    return Failure(kind=type(error).__name__, message=message[:2000], traceback="\n".join(lines))


def _filed(store: RecordStore, trained: Trained) -> Generator[Waiting, None, Record]:
    """File a record, however long it takes until there is room: what was computed is not given up."""
    while True:
        try:
            return store.write(trained.record, trained.arrays, trained.probabilities)
        except OSError as error:
            reason = error.strerror or str(error)
        identity = trained.record.identity
        yield Waiting(
            f"{identity} cannot be filed in {store.folder}: {reason}; it is tried again until it can"
        )
        time.sleep(WAIT_S)


def _weights_saved(
    folder: AnyPath, weights: dict[str, torch.Tensor], config: TrainConfig, manifest: Manifest
) -> Generator[Waiting]:
    """Save the weights of a finished trial, and say so where they cannot be saved."""
    try:
        save_network(folder, weights, config, manifest)
    except OSError as error:
        reason = error.strerror or str(error)
        yield Waiting(
            f"the weights of {config.identity} are not kept in {folder}: {reason}. "
            "Train the trial again in another folder: run --keep --results FOLDER"
        )
