"""Live MLflow view of a run, written by its own thread."""

import contextlib
import queue
import threading
import time
from typing import TYPE_CHECKING, Any

from dh2l.config.train_config import TrainConfig
from dh2l.results import EpochResult
from study.execution.display import Tracker
from study.records.paths import Places
from study.records.record import Record
from study.state.results import StudyResults
from study.tracking.run_names import TrialNames
from study.tracking.uri import redacted_reason, require_persistent_store

if TYPE_CHECKING:
    from study.tracking.mlflow_view import StudyView

MAX_QUEUED = 1000
"""The most changes that wait. Further ones are dropped, because the last sync reads the records."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 300.0
"""Pauses after a failure of the store; each further failure doubles the pause."""
CLOSING_S, CLOSING_PER_TRIAL_S = 60.0, 0.3
"""The time limit of the last sync, in all and per trial. A healthy store needs at most half."""


class LiveView(Tracker):
    """Observer that shows a run in MLflow from a thread of its own. Training never waits for it.

    After a failure, the thread pauses, drops the changes that arrive meanwhile, and then opens the
    store anew. The last sync builds the whole view from the records.

    Attributes:
        problem: the current failure of the store; empty if there is none.
        notes: messages about repairs of the store.
    """

    def __init__(self, places: Places, study: str, names: TrialNames | None = None) -> None:
        """Start the thread.

        Args:
            places: the folders of the study.
            study: the name of the study.
            names: the names of its trials' runs; by default their identities, until the last sync.

        Raises:
            UserError: the store is in memory.
        """
        require_persistent_store(places)
        self.problem = ""
        self.notes: list[str] = []
        self._places, self._study, self._names = places, study, names
        self._queue: queue.Queue[tuple[Any, ...]] = queue.Queue(MAX_QUEUED)
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def on_trial_start(self, config: TrainConfig) -> None:
        """Queue the start of a trial."""
        self._put("begin", config)

    def on_epoch_end(self, config: TrainConfig, result: EpochResult) -> None:
        """Queue an epoch of a trial."""
        self._put("epoch", config, result)

    def on_trial_end(self, record: Record) -> None:
        """Queue the record of a trial."""
        self._put("trial", record)

    def close(self, results: StudyResults) -> None:
        """Finish the queue, then sync the whole view, within a time limit."""
        limit = CLOSING_S + CLOSING_PER_TRIAL_S * len(results.state.states)
        end = time.monotonic() + limit
        with contextlib.suppress(queue.Full):
            self._queue.put(("sync", results), timeout=limit)
        self._thread.join(max(0.0, end - time.monotonic()))
        if self._thread.is_alive():
            cause = self.problem or "the store is slow or does not respond"
            self.problem = f"not done within {limit:.0f} s; {cause}"

    def _put(self, *item: Any) -> None:
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(item)

    def _work(self) -> None:
        view, pause, resume_at, name = None, FIRST_PAUSE_S, 0.0, ""
        while name != "sync":
            name, *values = self._queue.get()
            if time.monotonic() < resume_at and name != "sync":
                continue
            try:
                view = view or self._open()
                getattr(view, name)(*values)
            except Exception as error:  # noqa: BLE001 the view must never stop a sweep
                self._on_failure(error)
                view, resume_at = None, time.monotonic() + pause
                pause = min(2 * pause, LONGEST_PAUSE_S)
            else:
                pause, self.problem = FIRST_PAUSE_S, ""

    def _open(self) -> "StudyView":
        # MLflow takes seconds to import; trials already train meanwhile.
        from study.tracking.mlflow_view import StudyView

        return StudyView(self._places, self._study, self._names, self._on_message)

    def _on_message(self, message: str) -> None:
        """Keep a message; a wait for the lock is a problem until it ends."""
        if message.startswith("waiting"):
            self.problem = message
        else:
            self.notes.append(message)

    def _on_failure(self, error: Exception) -> None:
        self.problem = redacted_reason(error)
