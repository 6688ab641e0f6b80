"""Training of one trial, from its config to its record."""

import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TypeAlias

import torch

from dh2l.config.binding import bind
from dh2l.config.train_config import TrainConfig
from dh2l.errors import Diverged
from dh2l.io.files import remove_folder
from dh2l.results import EpochResult, TrainResult
from dh2l.training.allocator import retain_freed_memory
from dh2l.training.numeric_settings import numeric_settings
from dh2l.training.trainer import train
from dh2l.training.training_state import Training
from study.execution.failures import describe_failure
from study.execution.logs import TrialLog, last_lines
from study.execution.options import TrialOptions
from study.execution.trial_data import load_trial_data
from study.execution.trial_output import (
    WAIT_S,
    TrialOutput,
    Waiting,
    save_weights,
    write_record,
)
from study.records import provenance
from study.records.build import arrays_of, finished_record, probabilities_of, unfinished_record
from study.records.leases import ClaimedElsewhere, Claims, Holder
from study.records.paths import Places
from study.records.record import Failure, NewerRecord, Record
from study.records.store import RecordStore

DEFAULTS = TrialOptions()

Trial: TypeAlias = Generator[EpochResult | Waiting, None, Record]
"""A trial in training. It returns its record.

It yields one result per epoch. While it cannot continue, it yields a `Waiting` every `WAIT_S`.
"""


@dataclass(frozen=True)
class _Task:
    """A trial to train, and the arguments of `run_trial`."""

    config: TrainConfig
    places: Places
    device: str | None
    threads: int | None
    options: TrialOptions

    def is_satisfied_by(self, record: Record) -> bool:
        """Return whether a record has all that the task asks for."""
        lacks_scores = self.options.best_test and record.lacks_best_test
        return record.settled and not lacks_scores


def run_trial(
    config: TrainConfig,
    places: Places,
    *,
    device: str | None = None,
    threads: int | None = None,
    options: TrialOptions = DEFAULTS,
) -> Trial:
    """Train one bound config and write its record.

    Resumes from the trial's checkpoint, and skips a trial that has a finished record. Waits while
    another live process trains the same trial, and while the record cannot be written. Errors of
    training become failed records.

    Args:
        config: a config that is bound to its data (`dh2l.config.binding.bind`).
        places: paths of records, checkpoints and data.
        device: a torch device; default: the GPU if there is one.
        threads: CPU threads; default: as torch is set.
        options: evaluation of the trial, and which of its files are kept.

    Returns:
        The record that was written.
    """
    task = _Task(config, places, device, threads, options)
    store, claims = RecordStore(places.trials), Claims(places.claims)
    while True:
        try:
            return (yield from _attempt(task, store, claims))
        except ClaimedElsewhere as error:
            reason = str(error)
        except OSError as error:
            # A lease or a record could not be read. Errors of training are caught where they occur.
            reason = (
                f"cannot start {config.identity}: {places.results} fails ({error.strerror}); "
                f"retrying every {WAIT_S:g} s"
            )
        yield Waiting(reason)
        time.sleep(WAIT_S)


def train_one_step(
    config: TrainConfig, places: Places, *, device: str, threads: int
) -> Failure | None:
    """Take a training step with each size of a trial's batches, without writing files.

    Returns:
        The failure; None if all steps succeed.
    """
    try:
        data = load_trial_data(config, places.data, places.tree(config.tree_hash))
        with retain_freed_memory(), numeric_settings(config, threads):
            training = Training(bind(config, data.manifest), data, torch.device(device))
            training.begin_epoch(1)
            next(iter(training.batches))  # brings the first batch to the device
            for size in dict.fromkeys(training.batches.sizes):
                training.step(size)
            training.objective.values()
            training.diagnostics.values()
    except Exception as error:  # noqa: BLE001 any error is the result of the check
        return describe_failure(error)
    return None


def run_to_completion(
    trial: Trial,
    note: Callable[[EpochResult], None],
    wait: Callable[[str], None],
    stop: Callable[[], bool] = lambda: False,
) -> Record:
    """Run a trial to its end and return its record.

    Args:
        trial: the trial.
        note: receives the result of each epoch.
        wait: receives the reason whenever the trial waits for a new one.
        stop: returns True if the user has asked to stop.

    Raises:
        KeyboardInterrupt: `stop` returned True after an epoch. The trial has left a checkpoint.
    """
    last_reason = ""
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
        elif step.reason != last_reason:
            last_reason = step.reason
            wait(last_reason)


def _attempt(task: _Task, store: RecordStore, claims: Claims) -> Trial:
    """Train a trial under its lease, unless its record is complete.

    Raises:
        ClaimedElsewhere: another process trains the trial.
        OSError: a lease or a record cannot be read or written.
    """
    config, places = task.config, task.places
    values = config.model_dump(mode="json")
    with claims.hold(config.identity, config.epochs, values) as claim, retain_freed_memory():
        try:
            record = store.get(config.identity, places.set_aside)
        except NewerRecord as error:
            # Another version wrote it since the plan was made: report it, but leave the file.
            message = f"its record {store.path(config.identity)} is left alone: {error}"
            failure = Failure(kind=NewerRecord.__name__, message=message)
            return unfinished_record(config, "failed", failure)
        if record is None or not task.is_satisfied_by(record):
            record = yield from _train_and_write(task, claim, record)
        if record.settled and not task.options.keep:
            remove_folder(places.checkpoint(config.identity))
        return record


def _train_and_write(task: _Task, claim: Holder, before: Record | None) -> Trial:
    """Train to a record and write it, with a log that is kept unless the trial is done.

    Args:
        task: the trial.
        claim: its lease.
        before: record of an earlier failure, or of training without the best test epoch.
    """
    config, places = task.config, task.places
    path = places.log(config.identity)
    done = False
    log = TrialLog(path, anew=before is not None)
    try:
        output = yield from _train(task, claim, log)
        record = output.record.retried(_retries(claim, before)).logged(last_lines(path))
        written = yield from write_record(
            RecordStore(places.trials), replace(output, record=record)
        )
        if not (task.options.best_test and written.lacks_best_test):
            # Otherwise the study cannot use the record on disk.
            record = written
        done = record.state == "done"
        if task.options.keep and output.weights is not None and output.manifest is not None:
            folder = places.checkpoint(config.identity)
            yield from save_weights(folder, output.weights, config, output.manifest)
        return record
    finally:
        log.close(keep=not done)


def _retries(claim: Holder, before: Record | None) -> int:
    """Return how many attempts of a trial came before this one."""
    if before is None or before.settled:
        return claim.retries
    return max(claim.retries, before.provenance.retries + 1)


def _train(task: _Task, claim: Holder, log: TrialLog) -> Generator[EpochResult, None, TrialOutput]:
    """Train a trial. Any error of training becomes the record of a failure.

    Raises:
        ClaimedElsewhere: another process has taken over the trial, because this one was stopped
            for too long.
    """
    config, places, options = task.config, task.places, task.options
    started, here = datetime.now(UTC), provenance.circumstances()
    checkpoints = places.checkpoint(config.identity)
    try:
        with log.written():
            data = load_trial_data(config, places.data, places.tree(config.tree_hash))
        training = train(
            config,
            data,
            device=task.device,
            threads=task.threads,
            checkpoints=checkpoints,
            evaluate_every=options.evaluate_every,
            best_test=options.best_test,
            environment=here,
        )
        result = yield from _epochs(config, training, claim, log)
    except ClaimedElsewhere:
        raise
    except Diverged as error:
        failure = Failure(kind="Diverged", message=str(error), epoch=error.epoch, term=error.term)
        record = unfinished_record(config, "diverged", failure, started=started)
        return TrialOutput(record, arrays_of(error.history))
    except Exception as error:  # noqa: BLE001 any error of training becomes a failed record
        failure = describe_failure(error)
        return TrialOutput(unfinished_record(config, "failed", failure, started=started))
    return TrialOutput(
        finished_record(config, started, result, data.manifest.tree),
        arrays_of(result.history, result),
        probabilities_of(result) if options.probabilities else None,
        result.weights,
        data.manifest,
    )


def _epochs(
    config: TrainConfig,
    training: Generator[EpochResult, None, TrainResult],
    claim: Holder,
    log: TrialLog,
) -> Generator[EpochResult, None, TrainResult]:
    """Train epoch by epoch, and renew the lease after each.

    Raises:
        ClaimedElsewhere: another process has taken over the trial.
    """
    with closing(training):
        while True:
            try:
                with log.written():
                    epoch = next(training)
            except StopIteration as stop:
                result: TrainResult = stop.value
                return result
            claim.renew(epoch.epoch, epoch.metrics.get("validation_accuracy"))
            if claim.lost:
                raise ClaimedElsewhere(f"{config.identity} was taken over by another process")
            yield epoch
