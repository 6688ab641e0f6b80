"""What becomes of a run's trials: passed on to the observer, and filed where only the driver can know it."""

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
from study.records.store import Failure, Record, RecordStore

RETRIES = 2
"""How often a trial whose worker died goes on elsewhere from its checkpoint."""


class DriverCallback(NotPickled, tune.Callback):  # type: ignore[misc] # ray is untyped here
    """Passes what trials report to the observer, and files what only the driver can know.

    Args:
        places: where records and claims lie.
        observer: told of everything.
        resources: what one trial gets.
        enough: whether the run is to end before its time.
        again: whether these trials had too little memory before.

    Attributes:
        problem: what a check found wrong, as a sentence; empty where nothing is.
        out_of_memory: trials for which a share of a GPU had too little memory.
    """

    def __init__(
        self,
        places: Places,
        observer: Observer,
        resources: Resources,
        enough: Callable[[], bool],
        *,
        again: bool = False,
    ) -> None:
        self.problem, self.out_of_memory, self._again = "", list[TrainConfig](), again
        self._store, self._claims, self._places = (
            RecordStore(places.trials),
            Claims(places.claims),
            places,
        )
        self._observer, self._enough, self._shared = observer, enough, has_fraction(resources)
        self._waiting: dict[str, str] = {}
        self._checked: set[str] = set()
        self._running: set[str] = set()

    @property
    def stopping(self) -> bool:
        """Whether the run is to end before its time."""
        return bool(self.problem) or self._enough()

    @property
    def ended(self) -> bool:
        """Whether nothing that runs is to be waited for, and the run is to end: at once where a check failed."""
        return bool(self.problem) or (self.stopping and not self._running)

    def note(self, sentence: str) -> None:
        """Pass a sentence on to the observer."""
        self._observer.on_message(sentence)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._running.add(trial.trial_id)
        self._observer.on_trial_start(config_of(trial))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        config, reason = config_of(trial), result["waiting"]
        if result["checked"]:
            self._checked.add(result["checked"])
        if result["problem"]:
            self._refuse(result["checked"], result["problem"])
        if result["epoch"]:
            self._observer.on_epoch_end(config, EpochResult(result["epoch"], result["metrics"]))
        if reason and reason != self._waiting.get(config.identity):
            self._waiting[config.identity] = reason
            self._observer.on_message(reason)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._running.discard(trial.trial_id)
        config, last = config_of(trial), trial.last_result or {}
        _compat.drop_metric_history(trial)
        if last.get("state") is not None:
            record = self._record(config.identity)
            if record is not None:
                self._ended(config, record)
            elif not self._store.path(config.identity).exists():
                self._observer.on_message(
                    f"{config.identity} ended as {last['state']}, but its record is not under {self._places.trials}: "
                    "every node must see the same results folder"
                )
        elif not self.stopping:
            failure = Failure(
                kind="Stopped", message="stopped early by the scheduler", epoch=last.get("epoch")
            )
            self._file(unfinished_record(config, "stopped", failure))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._running.discard(trial.trial_id)
        config = config_of(trial)
        _compat.drop_metric_history(trial)
        unchecked = [
            check["cell"] for check in trial.config["checks"] if check["cell"] not in self._checked
        ]
        if unchecked:
            self._refuse(unchecked[0], f"its worker died; Ray says: {_last_line(trial.error_file)}")
            return
        filed = self._record(config.identity)
        if filed is not None and filed.state == "failed":  # the worker lived to say why
            self._observer.on_trial_end(filed)
            return
        message = f"the worker died {RETRIES + 1} times; Ray says: {_last_line(trial.error_file)}"
        died, claim = (
            Failure(kind="WorkerDied", message=message),
            self._claims.read(config.identity),
        )
        record = unfinished_record(config, "failed", died).retried(
            claim.retries if claim else RETRIES
        )
        self._file(record.logged(last_lines(self._places.log(config.identity))))

    def _ended(self, config: TrainConfig, record: Record) -> None:
        failure = record.failure
        if failure is None or record.state != "failed" or not failure.out_of_memory:
            self._observer.on_trial_end(record)
        elif self._shared:
            self.out_of_memory.append(config)
            self._observer.on_message(
                f"{config.identity} ran out of memory on its share of a GPU; it is tried once more at the end, alone "
                "on a whole one"
            )
        elif self._again:
            message = f"also alone on a whole GPU: {failure.message}"
            again = failure.model_copy(update={"message": message})
            self._file(record.model_copy(update={"failure": again}))
        else:
            self._observer.on_trial_end(record)

    def _refuse(self, cell: str, reason: str) -> None:
        self.problem = self.problem or (
            f"the run is stopped, for a first step of the cell {cell} fails ({reason}); mend it, or give --no-check"
        )

    def _record(self, identity: str) -> Record | None:
        try:
            return self._store.get(identity, self._places.set_aside)
        except (OSError, UserError) as error:
            self._observer.on_message(f"the record of {identity} cannot be read: {error}")
            return None

    def _file(self, record: Record) -> None:
        try:
            self._observer.on_trial_end(self._store.write(record))
        except OSError as error:
            self._observer.on_message(
                f"the record of {record.identity} cannot be written ({error.strerror})"
            )


class StopWhen(NotPickled, tune.Stopper):  # type: ignore[misc] # ray is untyped here
    """Once the run is to end, stops each trial at the end of its epoch, and those that wait once none runs."""

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
