"""MLflow: the only module that talks to it. The view of a study, made from its records.

Per study one parent run, one child run per trial, and one run per cell of the table, so that the run
table filtered to cells is the paper's table. All of it can be made again from the records at any time.
"""

import json
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # a view that is down must not hold a run up
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("PGCONNECT_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # else two lines for every run that ends

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.system_environment_context import SystemEnvironmentContext
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from dh2l.atomic import AnyPath, files
from dh2l.config import TrainConfig, flat
from dh2l.errors import UserError
from dh2l.results import EpochResult
from study import shown
from study.frames import cells_of, trial_frame
from study.places import Places
from study.plan import Plan
from study.records import Record, read_arrays
from study.redaction import reason
from study.running import missing_trials
from study.states import Standing, State
from study.store import prepare, set_aside_damaged
from study.tables import Page, render, to_markdown
from study.views import link, shared_views

BATCH = 1000
"""Metrics per request, MLflow's own limit."""
VIEW_TAG, VIEW_NAME_TAG = "mlflow.sharedViewState.", "dh2l.view."
STATUS = {"done": "FINISHED", "diverged": "FAILED", "failed": "FAILED", "stopped": "KILLED"}
UNREACHABLE = (MlflowException, SQLAlchemyError, ImportError, OSError, ValueError)
"""What a store raises that is down, damaged or refuses, whose driver is not installed or whose address is none; or a
`MLFLOW_RUN_CONTEXT` that is no JSON."""


class StudyView:
    """One study's runs in MLflow. Every change is made under a lock, on the runs as they then are."""

    def __init__(self, places: Places, study: str) -> None:
        """Open the store; the first time that takes some seconds.

        Raises:
            Exception: one of `UNREACHABLE`.
        """
        for name in ("mlflow", "alembic", "urllib3"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what goes wrong is raised, and said once
        if places.local_store:  # else MLflow leaves an empty ./mlruns wherever the command was typed
            os.environ.setdefault("_MLFLOW_SERVER_ARTIFACT_ROOT", (places.mlflow / "artifacts").as_uri())
        self.places, self.study = places, study
        self._lock = FileLock(_lock_file(places))
        self._runs: dict[tuple[str, str], Run] = {}
        self._all_known = False
        self._shown_steps: dict[str, set[int]] = {}
        with self._lock:
            prepare(places)
            self._client = MlflowClient(tracking_uri=places.tracking_uri)
            self._experiment = self._experiment_id()

    def _experiment_id(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "dh2l-study")
        known = self._client.get_experiment_by_name(name)
        if known is not None:
            return str(known.experiment_id)
        local = (self.places.mlflow / "artifacts").as_uri() if self.places.local_store else None
        kind = {"mlflow.experimentKind": "custom_model_development"}  # the UI's page for training runs
        try:
            return str(self._client.create_experiment(name, artifact_location=local, tags=kind))
        except MlflowException as error:
            known = self._client.get_experiment_by_name(name)
            if known is None:
                raise error from None
            return str(known.experiment_id)  # another run made it meanwhile

    def _reload(self) -> None:
        """Read the study's runs anew, and delete what another writer made twice. The lock is held."""
        self._runs = {}
        for run in self._search(""):
            key = (run.data.tags["dh2l.kind"], run.data.tags["dh2l.key"])
            if key in self._runs:
                self._client.delete_run(run.info.run_id)
            else:
                self._runs[key] = run

    @contextmanager
    def _all_runs_read(self) -> Iterator[None]:
        """All of the study's runs are known until the context ends, for the lock is held."""
        self._reload()
        self._all_known = True
        try:
            yield
        finally:
            self._all_known = False

    def _search(self, also: str) -> Iterator[Run]:
        token, query = None, f"tags.`dh2l.study` = '{self.study}'{also}"
        while True:
            page = self._client.search_runs(
                [self._experiment],
                query,
                run_view_type=ViewType.ACTIVE_ONLY,
                max_results=1000,
                order_by=["attributes.start_time ASC"],
                page_token=token,
            )
            yield from page
            token = page.token
            if not token:
                return

    def _run(self, kind: str, key: str, name: str, params: dict[str, Any] | None = None) -> Run:
        """The run of one thing, made where there is none yet. The lock is held.

        Each request to the store takes milliseconds, so what was just written is noted here and not read back.
        """
        run, mark = self._runs.get((kind, key)), shown.digest(f"{kind} {key}")
        if run is None and not self._all_known:
            run = next(self._search(f" AND tags.`dh2l.mark` = '{mark}'"), None)
        if run is None:
            tags = {
                **_extra_tags(),
                "mlflow.runName": name,
                "dh2l.study": self.study,
                "dh2l.kind": kind,
                "dh2l.key": key,
                "dh2l.mark": mark,
            }
            if kind == "trial":  # cells stay at the top level, where the run table shows them without unfolding
                tags["mlflow.parentRunId"] = self._run("study", self.study, self.study).info.run_id
            run = self._client.create_run(self._experiment, tags=tags, run_name=name)
        absent = [Param(k, str(v)) for k, v in (params or {}).items() if k not in run.data.params]
        if absent:
            for part in shown.parts(absent, 100):
                self._client.log_batch(run.info.run_id, params=part)
            run.data.params.update({param.key: param.value for param in absent})
        self._runs[kind, key] = run
        return run

    def _trial_run(self, config: TrainConfig) -> Run:
        return self._run("trial", config.identity, config.identity, {"arm": config.arm, **config.flat()})

    def _run_of_record(self, record: Record) -> Run:
        """A record's run; of a trial whose plugin is not loaded its config as it stands, without the arm."""
        try:
            arm = {"arm": TrainConfig.model_validate(record.config).arm}
        except ValidationError:
            arm = {}
        return self._run("trial", record.identity, record.identity, arm | flat(record.config))

    def _log(self, run: Run, points: Iterable[shown.Point] = (), tags: dict[str, str] | None = None) -> None:
        rows = [Metric(point.name, point.value, point.timestamp, point.step) for point in points]
        for part in shown.parts(rows, BATCH):
            self._client.log_batch(run.info.run_id, metrics=part)
        if tags:
            self._client.log_batch(run.info.run_id, tags=[RunTag(k, v) for k, v in tags.items()])

    def begin(self, config: TrainConfig) -> None:
        """Show a trial, and so its study, as running."""
        with self._lock:
            runs = [self._trial_run(config), self._run("study", self.study, self.study)]
            for run in runs:
                self._client.update_run(run.info.run_id, status="RUNNING")

    def epoch(self, config: TrainConfig, result: EpochResult) -> None:
        """Show one epoch of a running trial, if it is one of the thinned curve's points."""
        if result.epoch in shown.curve_epochs(config.epochs):
            with self._lock:
                run = self._trial_run(config)
                steps = self._steps(run)
                if result.epoch not in steps:  # a trial that was killed trains some epochs again
                    self._log(run, shown.points(result.metrics, result.epoch))
                    steps.add(result.epoch)

    def _steps(self, run: Run) -> set[int]:
        """The epochs that a trial's run shows already."""
        run_id = run.info.run_id
        if run_id not in self._shown_steps:
            history = self._client.get_metric_history(run_id, shown.LAST)
            self._shown_steps[run_id] = {metric.step for metric in history}
        return self._shown_steps[run_id]

    def trial(self, record: Record, file: AnyPath | None = None, places: dict[str, str] | None = None) -> bool:
        """Show a trial's record: curves, scalars, state, and its places. Does nothing where it is shown already.

        The tags, whose mark says that it is shown, come last: what is cut off before them is made again.

        Returns:
            Whether anything was to be done.
        """
        tags = shown.trial_tags(record)
        with self._lock:
            run = self._run_of_record(record)
            if run.data.tags.get("dh2l.record") == tags["dh2l.record"]:
                return False
            steps = self._steps(run)
            curves = [point for point in shown.curves(record, self._arrays(record, file)) if point.step not in steps]
            scalars = [point for point in shown.scalars(record) if run.data.metrics.get(point.name) != point.value]
            self._log(run, [*curves, *scalars])
            steps |= {point.step for point in curves}
            self._client.set_terminated(run.info.run_id, STATUS[record.state])
            self._log(run, tags=tags | (places or {}))
            return True

    def _arrays(self, record: Record, file: AnyPath | None) -> dict[str, Any]:
        """The arrays beside a record, wherever below the trials folder it lies; none where they are damaged."""
        if record.arrays_sha256 is None:
            return {}
        with suppress(UserError):
            return read_arrays(record, file or self.places.trials / f"{record.identity}.json")
        for path in files(self.places.trials, f"**/{record.identity}.json"):
            with suppress(UserError):
                return read_arrays(record, path)
        return {}

    def sync(self, standing: Standing) -> None:
        """Make the whole view from the records: parent, trials, cells, table. Twice is the same as once."""
        places, paths = shown.places(trial_frame(standing)), standing.found.paths
        with self._lock, self._all_runs_read():
            changed = [
                self.trial(record, paths.get(identity), places.get(identity))
                for identity, record in standing.found.records.items()
            ]
            if any(changed):
                self._reload()
            self._clear_trials(standing)
            self._place_trials(places)
            page = render(standing)
            self._cells(page)
            self._parent(standing, page)
            self._share_views(standing.plan)

    def _clear_trials(self, standing: Standing) -> None:
        """End what looks as if it still ran, and remove trials that the study no longer has."""
        for (kind, identity), run in list(self._runs.items()):
            if kind == "trial" and identity not in standing.states:
                self._client.delete_run(self._runs.pop((kind, identity)).info.run_id)
            elif kind == "trial" and run.info.status == "RUNNING" and standing.states[identity] is not State.RUNNING:
                self._client.set_terminated(run.info.run_id, "KILLED")

    def _place_trials(self, places: dict[str, dict[str, str]]) -> None:
        """Tag every trial with its cell, and with whether the table shows it now."""
        for identity, tags in places.items():
            run = self._runs.get(("trial", identity))
            if run is not None and (changed := {k: v for k, v in tags.items() if run.data.tags.get(k) != v}):
                self._log(run, tags=changed)

    def _parent(self, standing: Standing, page: Page) -> None:
        parent, markdown = self._run("study", self.study, self.study), to_markdown(page)
        if parent.data.tags.get("dh2l.table") != (mark := shown.digest(markdown)):
            self._client.log_text(parent.info.run_id, markdown, "table.md")
            self._client.log_text(parent.info.run_id, page.frame.to_csv(index=False), "cells.csv")
            counts = {f"trials_{state.value}": standing.counts.get(state.value, 0) for state in State}
            self._log(parent, shown.points(counts, 0), {"mlflow.note.content": markdown, "dh2l.table": mark})
        status = "FAILED" if missing_trials(standing) else "FINISHED"
        if self._client.get_run(parent.info.run_id).info.status != status:
            self._client.set_terminated(parent.info.run_id, status)

    def report(self, standing: Standing, file: Path) -> None:
        """Log a report with the study's parent run, unless it is the one that lies there."""
        mark = shown.digest(file.read_text(encoding="utf-8"))
        with self._lock:
            self._parent(standing, render(standing))
            run_id = self._run("study", self.study, self.study).info.run_id
            if self._client.get_run(run_id).data.tags.get("dh2l.report") != mark:
                self._client.log_artifact(run_id, str(file))
                self._client.set_tag(run_id, "dh2l.report", mark)

    def try_out(self) -> None:
        """Make a run, log to it, and delete it."""
        with self._lock:
            run = self._client.create_run(self._experiment, tags=_extra_tags(), run_name=self.study)
            try:
                self._log(run, shown.points({"probe": 1.0}, 0))
            finally:
                self._client.delete_run(run.info.run_id)

    def _cells(self, page: Page) -> None:
        """One run per cell as the table shows it now; cells that the study no longer has are removed."""
        kept = set()
        for position, cell in enumerate(cells_of(page.frame)):
            words = (cell["row"], cell["arm"], cell["column"])
            key = " | ".join(words)
            kept.add(key)
            metrics, tags = shown.cell_metrics(cell), shown.cell_tags(cell, position)
            run = self._runs.get(("cell", key))
            if run is not None and not set(run.data.metrics) <= set(metrics):
                # A number that no longer holds cannot be taken back singly.
                self._client.delete_run(self._runs.pop(("cell", key)).info.run_id)
            run = self._run("cell", key, " ".join(dict.fromkeys(words)))
            changed = {k: v for k, v in metrics.items() if run.data.metrics.get(k) != v}
            renamed = {k: v for k, v in tags.items() if run.data.tags.get(k) != v}
            if changed or renamed or run.info.status != "FINISHED":
                self._log(run, shown.points(changed, 0), renamed)
                self._client.set_terminated(run.info.run_id, "FINISHED")
                self._runs["cell", key] = self._client.get_run(run.info.run_id)
        for kind, key in [k for k in self._runs if k[0] == "cell" and k[1] not in kept]:
            self._client.delete_run(self._runs.pop((kind, key)).info.run_id)

    def _share_views(self, plan: Plan) -> None:
        """Leave shared views in the UI, as its Share button does: this study's table, search and curves."""
        known = self._client.get_experiment(self._experiment).tags
        for kind, state in shared_views(plan).items():
            key = shown.digest(self.study if kind == "table" else f"{self.study} {kind}")
            tags = {VIEW_TAG + key: json.dumps(state), VIEW_NAME_TAG + key: f"{self.study}, {kind}"}
            for tag, value in tags.items():
                if known.get(tag) != value:
                    self._client.set_experiment_tag(self._experiment, tag, value)


def view_links(places: Places) -> dict[str, str]:
    """Address, within the UI, of each study's shared views: its table, its search, its curves.

    Raises:
        UserError: the store cannot be read.
    """
    try:
        with FileLock(_lock_file(places)):
            prepare(places)
        experiments = MlflowClient(tracking_uri=places.tracking_uri).search_experiments()
    except UNREACHABLE as error:
        raise _refusal(places, error, "read") from None
    links = {}
    for experiment in experiments:
        for tag, name in experiment.tags.items():
            if tag.startswith(VIEW_NAME_TAG):
                key = tag.removeprefix(VIEW_NAME_TAG)
                links[name] = link(experiment.experiment_id, key, json.loads(experiment.tags[VIEW_TAG + key]))
    return dict(sorted(links.items()))


def sync_study(standing: Standing, places: Places) -> Path | None:
    """Make a study's whole view from its records.

    Returns:
        Where the local store now lies that was damaged and gave way to a new one; else None.

    Raises:
        UserError: the store cannot be reached or refuses.
    """
    try:
        with FileLock(_lock_file(places)):
            aside = set_aside_damaged(places)
        StudyView(places, standing.plan.name).sync(standing)
    except UNREACHABLE as error:
        raise _refusal(places, error, "written") from None
    return aside


def log_report(standing: Standing, places: Places, page: Path) -> None:
    """Log a study's report with its parent run, which is made where there is none yet.

    Raises:
        UserError: the store cannot be reached or refuses.
    """
    try:
        StudyView(places, standing.plan.name).report(standing, page)
    except UNREACHABLE as error:
        raise _refusal(places, error, "written") from None


def _lock_file(places: Places) -> Path:
    """The file whose lock a writer of the store holds."""
    places.mlflow.mkdir(parents=True, exist_ok=True)
    return places.mlflow / "writer.lock"


def _refusal(places: Places, error: Exception, act: str) -> UserError:
    return UserError(f"the MLflow store {places.store_name} cannot be {act}: {reason(error)}")


def _extra_tags() -> dict[str, str]:
    """Tags for every run from `MLFLOW_RUN_CONTEXT`, a JSON object, as MLflow itself reads it."""
    context: Any = SystemEnvironmentContext
    return {str(k): str(v) for k, v in context().tags().items()} if context().in_context() else {}


def probe(places: Places) -> None:
    """Make a run in the store as studies do, write into it, and delete it.

    Raises:
        UserError: the store cannot be reached or refuses.
    """
    try:
        StudyView(places, "doctor").try_out()
    except UNREACHABLE as error:
        raise _refusal(places, error, "written") from None
