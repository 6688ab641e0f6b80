"""The MLflow view while a run goes on, written from a thread of its own."""

import queue
import threading
from typing import TYPE_CHECKING, Any

from dh2l.config import TrainConfig
from dh2l.results import EpochResult
from study.places import Places
from study.records import Record
from study.redaction import redacted
from study.states import Standing

if TYPE_CHECKING:
    from study.tracking import StudyView


class LiveView:
    """Shows a run in MLflow while it goes on, from a thread of its own: training never waits for it.

    The view is made in that thread too, and whatever goes wrong there is kept in `problem`, for
    `mlflow sync` can make all of it again.
    """

    def __init__(self, places: Places, study: str) -> None:
        self.problem = ""
        self._places, self._study = places, study
        self._queue: queue.SimpleQueue[tuple[Any, ...] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def started(self, config: TrainConfig) -> None:
        """Queue it."""
        self._queue.put(("begin", config))

    def epoch(self, config: TrainConfig, result: EpochResult) -> None:
        """Queue it."""
        self._queue.put(("epoch", config, result))

    def filed(self, record: Record) -> None:
        """Queue it."""
        self._queue.put(("trial", record))

    def note(self, sentence: str) -> None:
        """Nothing that MLflow shows."""

    def close(self, standing: Standing) -> None:
        """Finish what is queued, then bring the whole view up to date."""
        self._queue.put(("sync", standing))
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        view = self._open()
        while (item := self._queue.get()) is not None:
            if view is None:
                continue
            try:
                getattr(view, item[0])(*item[1:])
            except Exception as error:  # noqa: BLE001 the view's edge: a sweep never stops because of its view
                self._note(error)
            else:
                if item[0] == "sync":
                    self.problem = ""  # whatever went wrong before, the view is whole now

    def _open(self) -> "StudyView | None":
        """The view; None where its store cannot be opened, which is not tried again."""
        try:
            from study.tracking import StudyView  # MLflow takes seconds to import, while trials already train

            return StudyView(self._places, self._study)
        except Exception as error:  # noqa: BLE001 as above
            self._note(error)
            return None

    def _note(self, error: Exception) -> None:
        line = redacted((str(error).splitlines() or [""])[0])
        self.problem = f"{type(error).__name__}: {line[:300]}"
