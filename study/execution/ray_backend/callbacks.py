"""Callbacks of Ray Tune, which report trials to the observer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray import tune

from dh2l.config.train_config import TrainConfig
from dh2l.errors import UserError
from dh2l.io.files import read
from dh2l.results import EpochResult
from study.execution.logs import last_lines
from study.execution.observers import Observer
from study.execution.ray_backend import _compat
from study.execution.ray_backend.connection import Resources, has_fraction
from study.execution.ray_backend.search_algorithm import NotPickled, config_of
from study.records.build import unfinished_record
from study.records.leases import Claims
from study.records.paths import Places
from study.records.record import Failure, Record
from study.records.store import RecordStore

RETRIES = 2
"""Number of times that a trial whose worker died resumes from its checkpoint."""


class DriverCallback(NotPickled, tune.Callback):  # type: ignore[misc] # ray is untyped here
    """Callback that reports trials to the observer.

    It also writes the records that no worker can write: of trials that a scheduler stopped, and
    of trials whose worker died.

    Attributes:
        problem: error message of a check that failed; empty if none did.
        out_of_memory: configs of trials that ran out of memory on their share of a GPU.
    """

    def __init__(
        self,
        places: Places,
        observer: Observer,
        resources: Resources,
        should_stop: Callable[[], bool],
        *,
        is_retry: bool = False,
    ) -> None:
        """Report to an observer.

        Args:
            places: paths of records and leases.
            observer: receives all events.
            resources: resources of one trial.
            should_stop: returns True when the run should end early.
            is_retry: True if these trials already ran out of GPU memory once.
        """
        self.problem = ""
        self.out_of_memory: list[TrainConfig] = []
        self._places = places
        self._store, self._claims = RecordStore(places.trials), Claims(places.claims)
        self._observer, self._should_stop, self._is_retry = observer, should_stop, is_retry
        self._shared = has_fraction(resources)
        self._waiting: dict[str, str] = {}
        self._checked: set[str] = set()
        self._running: set[str] = set()

    @property
    def stopping(self) -> bool:
        """True if the run should end early."""
        return bool(self.problem) or self._should_stop()

    @property
    def ended(self) -> bool:
        """True if the run should end now: a check failed, or it should end and no trial runs."""
        return bool(self.problem) or (self.stopping and not self._running)

    def note(self, sentence: str) -> None:
        """Forward a message to the observer."""
        self._observer.on_message(sentence)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._running.add(trial.trial_id)
        self._observer.on_trial_start(config_of(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        config = config_of(trial)
        if result["checked"]:
            self._checked.add(result["checked"])
        if result["problem"]:
            self._refuse(result["checked"], result["problem"])
        if result["epoch"]:
            self._observer.on_epoch_end(config, EpochResult(result["epoch"], result["metrics"]))
        reason = result["waiting"]
        if reason and reason != self._waiting.get(config.identity):
            self._waiting[config.identity] = reason
            self._observer.on_message(reason)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._running.discard(trial.trial_id)
        config = config_of(trial)
        last = trial.last_result or {}
        _compat.drop_metric_history(trial)
        if last.get("state") is not None:
            self._report_ended(config, last["state"])
        elif not self.stopping:
            failure = Failure(
                kind="Stopped", message="stopped early by the scheduler", epoch=last.get("epoch")
            )
            self._write(unfinished_record(config, "stopped", failure))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._running.discard(trial.trial_id)
        config = config_of(trial)
        _compat.drop_metric_history(trial)
        cells = [check["cell"] for check in trial.config["checks"]]
        unchecked = [cell for cell in cells if cell not in self._checked]
        if unchecked:
            self._refuse(unchecked[0], f"its worker died; Ray says: {_last_line(trial.error_file)}")
            return
        written = self._read(config.identity)
        if written is not None and written.state == "failed":
            # The worker lived long enough to write the reason.
            self._observer.on_trial_end(written)
            return
        message = f"the worker died {RETRIES + 1} times; Ray says: {_last_line(trial.error_file)}"
        failure = Failure(kind="WorkerDied", message=message)
        claim = self._claims.read(config.identity)
        retries = claim.retries if claim else RETRIES
        record = unfinished_record(config, "failed", failure).retried(retries)
        self._write(record.logged(last_lines(self._places.log(config.identity))))

    def _report_ended(self, config: TrainConfig, state: str) -> None:
        """Report the record of a trial whose worker has written it."""
        record = self._read(config.identity)
        if record is not None:
            self._report(config, record)
        elif not self._store.path(config.identity).exists():
            self._observer.on_message(
                f"{config.identity} ended as {state}, but its record is not under "
                f"{self._places.trials}: every node must see the same results folder"
            )

    def _report(self, config: TrainConfig, record: Record) -> None:
        """Report a record, unless the trial is retried because it ran out of GPU memory."""
        failure = record.failure
        if failure is None or record.state != "failed" or not failure.out_of_memory:
            self._observer.on_trial_end(record)
        elif self._shared:
            self.out_of_memory.append(config)
            self._observer.on_message(
                f"{config.identity} ran out of memory on its share of a GPU; it is tried once more "
                "at the end, alone on a whole GPU"
            )
        elif self._is_retry:
            message = f"also alone on a whole GPU: {failure.message}"
            final = failure.model_copy(update={"message": message})
            self._write(record.model_copy(update={"failure": final}))
        else:
            self._observer.on_trial_end(record)

    def _refuse(self, cell: str, reason: str) -> None:
        """Note the first check that failed, which ends the run."""
        if not self.problem:
            self.problem = (
                f"the run is stopped, because the first step of the cell {cell} fails ({reason}); "
                "correct it, or pass --no-check"
            )

    def _read(self, identity: str) -> Record | None:
        try:
            return self._store.get(identity, self._places.set_aside)
        except (OSError, UserError) as error:
            self._observer.on_message(f"the record of {identity} cannot be read: {error}")
            return None

    def _write(self, record: Record) -> None:
        try:
            self._observer.on_trial_end(self._store.write(record))
        except OSError as error:
            self._observer.on_message(
                f"the record of {record.identity} cannot be written ({error.strerror})"
            )


class StopWhen(NotPickled, tune.Stopper):  # type: ignore[misc] # ray is untyped here
    """Stopper of all trials once the run should end.

    Each running trial stops at the end of its epoch. Trials that wait are stopped once none runs.
    """

    def __init__(self, reports: DriverCallback) -> None:
        self._reports = reports

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return self._reports.stopping

    def stop_all(self) -> bool:
        return self._reports.ended


def _last_line(path: str | None) -> str:
    if path is None:
        return "nothing"
    try:
        lines = read(Path(path)).decode("utf-8", errors="replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "nothing")
    except OSError:
        return "nothing"
