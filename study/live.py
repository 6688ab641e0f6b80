"""The MLflow view while a run goes on, written from a thread of its own."""

import contextlib
import queue
import threading
import time
from typing import TYPE_CHECKING, Any

from dh2l.config import TrainConfig
from dh2l.results import EpochResult
from study.places import Places
from study.records import Record
from study.redaction import reason
from study.states import Standing

if TYPE_CHECKING:
    from study.tracking import StudyView

QUEUED = 1000
"""So many changes wait at most; what comes on top is dropped, for the last sync makes it from the records."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 300.0
"""How long the view is let alone after a failure; each one after another doubles it."""
CLOSING_S, CLOSING_PER_TRIAL_S = 60.0, 0.3
"""How long a run waits at its end, in all, for its view to be whole; a healthy store needs half of it or less."""


class LiveView:
    """Shows a run in MLflow while it goes on, from a thread of its own: training never waits for it.

    A store that fails is let alone for a while, what happens meanwhile is dropped, and then it is opened anew. The
    last sync makes all of it from the records; where that fails too, `problem` says why, and `mlflow sync` can do it
    later.
    """

    def __init__(self, places: Places, study: str) -> None:
        self.problem = ""
        self._places, self._study = places, study
        self._queue: queue.Queue[tuple[Any, ...]] = queue.Queue(QUEUED)
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def started(self, config: TrainConfig) -> None:
        """Queue it."""
        self._put("begin", config)

    def epoch(self, config: TrainConfig, result: EpochResult) -> None:
        """Queue it."""
        self._put("epoch", config, result)

    def filed(self, record: Record) -> None:
        """Queue it."""
        self._put("trial", record)

    def note(self, sentence: str) -> None:
        """Nothing that MLflow shows."""

    def close(self, standing: Standing) -> None:
        """Finish what is queued, then bring the whole view up to date, within the time that is given to it."""
        limit = CLOSING_S + CLOSING_PER_TRIAL_S * len(standing.states)
        end = time.monotonic() + limit
        with contextlib.suppress(queue.Full):
            self._queue.put(("sync", standing), timeout=limit)
        self._thread.join(max(0.0, end - time.monotonic()))
        if self._thread.is_alive():
            self.problem = f"not done within {limit:.0f} s; {self.problem or 'the store is slow or does not answer'}"

    def _put(self, *item: Any) -> None:
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(item)

    def _work(self) -> None:
        view, pause, again, name = None, FIRST_PAUSE_S, 0.0, ""
        while name != "sync":
            name, *values = self._queue.get()
            if time.monotonic() < again and name != "sync":
                continue
            try:
                view = view or self._open()
                getattr(view, name)(*values)
            except Exception as error:  # noqa: BLE001 the view's edge: a sweep never stops because of its view
                view, again, pause = None, time.monotonic() + pause, min(2 * pause, LONGEST_PAUSE_S)
                self._note(error)
            else:
                pause, self.problem = FIRST_PAUSE_S, ""

    def _open(self) -> "StudyView":
        from study.tracking import StudyView  # MLflow takes seconds to import, while trials already train

        return StudyView(self._places, self._study)

    def _note(self, error: Exception) -> None:
        self.problem = reason(error)
