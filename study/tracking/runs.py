"""Runs of a study in the MLflow store: lookup, creation and batched logging."""

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

# MLflow reads these when it is imported. An unreachable store must not delay a run.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("PGCONNECT_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from dh2l.errors import UserError
from dh2l.io.locks import Lock
from study.records.paths import Places
from study.tracking import _compat
from study.tracking.database import move_damaged_aside, prepare
from study.tracking.payload import LAST_METRIC, Point, fingerprint, in_batches
from study.tracking.uri import is_local, redacted_reason, store_name, tracking_uri

LONGEST_WAIT_S = 600.0
"""The longest wait for another writer: the first sync of 10,000 records takes minutes."""
METRICS_PER_REQUEST, PARAMS_PER_REQUEST, RUNS_PER_PAGE = 1000, 100, 1000
"""Limits of MLflow."""
STORE_ERRORS = (MlflowException, SQLAlchemyError, sqlite3.Error, ImportError, OSError, ValueError)
"""Errors of a store that is down, damaged or refuses access, of a missing driver, of an invalid
address, and of a `MLFLOW_RUN_CONTEXT` that is not JSON."""

OnMessage = Callable[[str], None]


def ignore_message(_message: str) -> None:
    """Drop a message."""


def open_client(places: Places) -> MlflowClient:
    """Return a client of the store, which must be prepared."""
    return MlflowClient(tracking_uri=tracking_uri(places))


def writer_lock(places: Places, on_message: OnMessage) -> Lock:
    """Return the lock that a writer of the store holds."""
    places.mlflow.mkdir(parents=True, exist_ok=True)
    path = places.mlflow / "writer.lock"
    return Lock(path, "writer of the MLflow store", LONGEST_WAIT_S, on_message)


@contextmanager
def store_errors_as_user_errors(places: Places, action: str) -> Iterator[None]:
    """Convert the errors of a store into one sentence without secrets.

    Args:
        places: the folders of the study.
        action: the participle of the failed action, e.g. `read`.

    Raises:
        UserError: the store raised an error.
    """
    try:
        yield
    except UserError:
        raise
    except STORE_ERRORS as error:
        raise UserError(
            f"the MLflow store {store_name(places)} cannot be {action}: {redacted_reason(error)}"
        ) from None


def extra_tags() -> dict[str, str]:
    """Return the tags for every run from `MLFLOW_RUN_CONTEXT`, a JSON object."""
    context = os.environ.get("MLFLOW_RUN_CONTEXT")
    if context is None:
        return {}
    return {str(key): str(value) for key, value in json.loads(context).items()}


class StudyRuns:
    """Runs of one study by kind and key. Callers hold `lock`.

    A request to the store takes milliseconds, so written values are noted in the `Run` objects and
    not read back.

    Attributes:
        client: the client of the store.
        experiment: the identity of the experiment.
        lock: the lock that a writer of the store holds.
    """

    def __init__(self, places: Places, study: str, on_message: OnMessage) -> None:
        """Open the store, which takes some seconds the first time; replace a damaged local one.

        Args:
            places: the folders of the study.
            study: the name of the study.
            on_message: called before a wait, and after a repair.

        Raises:
            Exception: one of `STORE_ERRORS`.
        """
        if is_local():
            _compat.set_artifact_root((places.mlflow / "artifacts").as_uri())
        self.lock = writer_lock(places, on_message)
        self._places, self._study, self._on_message = places, study, on_message
        self._runs: dict[tuple[str, str], Run] = {}
        self._all_loaded = False
        self._logged_epochs: dict[str, set[int]] = {}
        with self.lock:
            moved_to = move_damaged_aside(places)
            if moved_to is not None:
                on_message(
                    f"the MLflow store was damaged and has been moved to {moved_to}. The new store "
                    "contains only this study; run `dh2l-study mlflow sync` for the others."
                )
                prepare(places)
            self.client = open_client(places)
            self.experiment = self._find_or_create_experiment()

    def _find_or_create_experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "dh2l-study")
        known = self.client.get_experiment_by_name(name)
        if known is None:
            return self._create_experiment(name)
        if known.lifecycle_stage == LifecycleStage.DELETED:  # it keeps its name and accepts no runs
            self.client.restore_experiment(known.experiment_id)
            self._on_message(
                f"the MLflow experiment {name} was deleted and has been restored with its runs. "
                "Set MLFLOW_EXPERIMENT_NAME to use another."
            )
        return str(known.experiment_id)

    def _create_experiment(self, name: str) -> str:
        artifacts = (self._places.mlflow / "artifacts").as_uri() if is_local() else None
        try:
            return str(
                self.client.create_experiment(
                    name, artifact_location=artifacts, tags=_compat.EXPERIMENT_KIND
                )
            )
        except MlflowException as error:
            known = self.client.get_experiment_by_name(name)
            if known is None:
                raise error from None
            return str(known.experiment_id)  # another process created it meanwhile

    @contextmanager
    def all_loaded(self) -> Iterator[None]:
        """Load all runs of the study, so that no lookup reads the store inside the context."""
        self.reload()
        self._all_loaded = True
        try:
            yield
        finally:
            self._all_loaded = False

    def reload(self) -> None:
        """Read the runs of the study anew, and delete duplicates from concurrent writers."""
        self._runs = {}
        for run in self._search(""):
            key = (run.data.tags["dh2l.kind"], run.data.tags["dh2l.key"])
            if key in self._runs:
                self.client.delete_run(run.info.run_id)
            else:
                self._runs[key] = run

    def refresh(self, kind: str, key: str) -> None:
        """Read one run anew."""
        self._runs[kind, key] = self.client.get_run(self._runs[kind, key].info.run_id)

    def loaded(self, kind: str) -> dict[str, Run]:
        """Return the runs of one kind that were read or created, by key."""
        return {key: run for (its_kind, key), run in self._runs.items() if its_kind == kind}

    def delete(self, kind: str, key: str) -> None:
        """Delete a run that was read or created."""
        self.client.delete_run(self._runs.pop((kind, key)).info.run_id)

    def study_run(self) -> Run:
        """Return the run of the study, the parent of its trials."""
        return self.find_or_create("study", self._study, self._study)

    def find_or_create(
        self, kind: str, key: str, name: str, params: dict[str, Any] | None = None
    ) -> Run:
        """Return the run of a study, trial or cell, and log the parameters that it lacks."""
        run, mark = self._runs.get((kind, key)), fingerprint(f"{kind} {key}")
        if run is None and not self._all_loaded:
            run = next(self._search(f" AND tags.`dh2l.mark` = '{mark}'"), None)
        if run is None:
            run = self._create(kind, key, mark, name)
        elif run.info.run_name == key != name:  # earlier versions named trials by their identity
            self.client.update_run(run.info.run_id, name=name)
        self._log_missing_params(run, params or {})
        self._runs[kind, key] = run
        return run

    def _create(self, kind: str, key: str, mark: str, name: str) -> Run:
        tags = {
            **extra_tags(),
            "mlflow.runName": name,
            "dh2l.study": self._study,
            "dh2l.kind": kind,
            "dh2l.key": key,
            "dh2l.mark": mark,
        }
        if kind == "trial":  # cells stay at the top level, where the UI shows them unfolded
            tags["mlflow.parentRunId"] = self.study_run().info.run_id
        return self.client.create_run(self.experiment, tags=tags, run_name=name)

    def _log_missing_params(self, run: Run, params: dict[str, Any]) -> None:
        missing = {k: str(value) for k, value in params.items() if k not in run.data.params}
        rows = [Param(key, value) for key, value in missing.items()]
        for batch in in_batches(rows, PARAMS_PER_REQUEST):
            self.client.log_batch(run.info.run_id, params=batch)
        run.data.params.update(missing)

    def _search(self, condition: str) -> Iterator[Run]:
        token, query = None, f"tags.`dh2l.study` = '{self._study}'{condition}"
        while True:
            page = self.client.search_runs(
                [self.experiment],
                query,
                run_view_type=ViewType.ACTIVE_ONLY,
                max_results=RUNS_PER_PAGE,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            yield from page
            token = page.token
            if not token:
                return

    def log(
        self, run: Run, points: Iterable[Point] = (), tags: dict[str, str] | None = None
    ) -> None:
        """Log metrics, then tags."""
        metrics = [Metric(point.name, point.value, point.timestamp, point.step) for point in points]
        for batch in in_batches(metrics, METRICS_PER_REQUEST):
            self.client.log_batch(run.info.run_id, metrics=batch)
        if tags:
            run_tags = [RunTag(key, value) for key, value in tags.items()]
            self.client.log_batch(run.info.run_id, tags=run_tags)

    def end(self, run: Run, status: str) -> None:
        """Set the final status of a run."""
        self.client.set_terminated(run.info.run_id, status)

    def logged_epochs(self, run: Run) -> set[int]:
        """Return the epochs that a trial's run has; callers add to the set what they log."""
        run_id = run.info.run_id
        if run_id not in self._logged_epochs:
            history = self.client.get_metric_history(run_id, LAST_METRIC)
            self._logged_epochs[run_id] = {metric.step for metric in history}
        return self._logged_epochs[run_id]
