"""MLflow: the only module that talks to it. The view of a study, made from its records.

Per study one parent run, one child run per trial, and one run per cell of the table, so that the run
table filtered to cells is the paper's table. All of it can be made again from the records at any time.
"""

import hashlib
import json
import logging
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.system_environment_context import SystemEnvironmentContext

from dh2l.config import TrainConfig
from dh2l.results import EpochResult
from study.places import Places
from study.records import Record, read_arrays
from study.states import Standing
from study.tables import cell_frame, cells_of, to_markdown

CURVE_POINTS = 100
"""A curve is thinned to about this many points."""
BATCH = 1000
"""Metrics per request, MLflow's own limit."""
PERCENT = ("accuracy", "std", "paper", "difference")
CELL_COLUMNS = ("accuracy_percent", "std_percent", "n", "paper_percent", "difference_percent")
VIEW_TAG = "mlflow.sharedViewState."
VIEW_DEFAULTS: dict[str, Any] = {
    "startTime": "ALL",
    "lifecycleFilter": "Active",
    "datasetsFilter": [],
    "modelVersionFilter": "All Runs",
    "runsExpanded": {},
    "runsPinned": [],
    "runsHidden": [],
    "runListHidden": False,
    "groupBy": None,
    "groupsExpanded": {},
}
STATUS = {"done": "FINISHED", "diverged": "FAILED", "failed": "FAILED", "stopped": "KILLED"}


class StudyView:
    """One study's runs in MLflow. One writer at a time: everything happens under a lock."""

    def __init__(self, places: Places, study: str) -> None:
        """Open the store; the first time that takes some seconds.

        Raises:
            mlflow.exceptions.MlflowException: the store cannot be reached.
        """
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        places.mlflow.mkdir(parents=True, exist_ok=True)
        self.places, self.study, self.uri = places, study.replace("'", ""), places.tracking_uri
        self._lock = FileLock(places.mlflow / "writer.lock")
        with self._lock:
            self._client = MlflowClient(tracking_uri=self.uri)
            self._experiment = self._experiment_id()
            self._runs = {(run.data.tags["dh2l.kind"], run.data.tags["dh2l.key"]): run for run in self._search()}

    def _experiment_id(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "dh2l-study")
        known = self._client.get_experiment_by_name(name)
        if known is not None:
            return str(known.experiment_id)
        local = (self.places.mlflow / "artifacts").as_uri() if self.uri.startswith("sqlite:") else None
        kind = {"mlflow.experimentKind": "custom_model_development"}  # the UI's page for training runs
        return str(self._client.create_experiment(name, artifact_location=local, tags=kind))

    def _search(self) -> Iterator[Run]:
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment],
                f"tags.`dh2l.study` = '{self.study}'",
                run_view_type=ViewType.ACTIVE_ONLY,
                max_results=1000,
                page_token=token,
            )
            yield from page
            token = page.token
            if not token:
                return

    def _run(self, kind: str, key: str, name: str, params: dict[str, Any] | None = None) -> Run:
        """The run of one thing; made where there is none yet."""
        run = self._runs.get((kind, key))
        if run is None:
            tags = {
                **_extra_tags(),
                "mlflow.runName": name,
                "dh2l.study": self.study,
                "dh2l.kind": kind,
                "dh2l.key": key,
            }
            if kind == "trial":  # cells stay at the top level, where the run table shows them without unfolding
                tags["mlflow.parentRunId"] = self._run("study", self.study, self.study).info.run_id
            run = self._client.create_run(self._experiment, tags=tags, run_name=name)
            rows = [Param(k, str(v)) for k, v in (params or {}).items()]
            for part in _parts(rows, 100):
                self._client.log_batch(run.info.run_id, params=part)
            self._runs[kind, key] = run
        return run

    def _trial_run(self, config: TrainConfig) -> Run:
        return self._run("trial", config.identity, config.identity, {"arm": config.arm, **config.model_dump()})

    def begin(self, config: TrainConfig) -> None:
        """Show a trial as running."""
        with self._lock:
            run = self._trial_run(config)
            if run.info.status != "RUNNING":
                self._client.update_run(run.info.run_id, status="RUNNING")

    def epoch(self, config: TrainConfig, result: EpochResult) -> None:
        """Show one epoch of a running trial, if it is one of the thinned curve's points."""
        if result.epoch in _points(config.epochs):
            with self._lock:
                run_id = self._trial_run(config).info.run_id
                self._client.log_batch(run_id, metrics=_metrics(result.metrics, result.epoch))

    def trial(self, record: Record, arrays: Path) -> None:
        """Show a trial's record: curves, scalars, state. Does nothing where that is shown already."""
        mark = hashlib.sha256(record.model_dump_json().encode()).hexdigest()[:16]
        with self._lock:
            config = TrainConfig.model_validate(record.config)
            run = self._trial_run(config)
            if run.data.tags.get("dh2l.record") == mark:
                return
            run_id = run.info.run_id
            shown = {m.step for m in self._client.get_metric_history(run_id, "train_loss")}
            rows = [row for row in _curves(record, arrays) if row.step not in shown] + _scalars(record)
            for part in _parts(rows, BATCH):
                self._client.log_batch(run_id, metrics=part)
            tags = {
                "dh2l.record": mark,
                "dh2l.state": record.state,
                "dh2l.commit": record.provenance.commit or "unknown",
                "dh2l.failure": record.failure.message[:500] if record.failure else "",
            }
            self._client.log_batch(run_id, tags=[RunTag(k, v) for k, v in tags.items()])
            self._client.set_terminated(run_id, STATUS[record.state])
            self._runs["trial", record.identity] = self._client.get_run(run_id)

    def sync(self, standing: Standing) -> None:
        """Make the whole view from the records: parent, trials, cells, table. Twice is the same as once."""
        for identity, record in standing.found.records.items():
            self.trial(record, self.places.trials / f"{identity}.npz")
        with self._lock:
            self._cells(standing)
            self._share_cell_view()
            parent = self._run("study", self.study, self.study)
            markdown, study = to_markdown(standing), standing.plan.file.study
            mark = hashlib.sha256(markdown.encode()).hexdigest()[:16]
            if self._client.get_run(parent.info.run_id).data.tags.get("dh2l.table") == mark:
                return
            tags = {"mlflow.note.content": f"{study.title}\n\n{markdown}", "dh2l.table": mark}
            self._client.log_text(parent.info.run_id, markdown, "table.md")
            self._client.log_text(parent.info.run_id, cell_frame(standing).to_csv(index=False), "cells.csv")
            self._client.log_batch(
                parent.info.run_id,
                metrics=_metrics({f"trials_{s}": float(n) for s, n in standing.counts.items()}, 0),
                tags=[RunTag(k, v) for k, v in tags.items()],
            )
            self._client.set_terminated(parent.info.run_id, "FINISHED" if not standing.missing else "FAILED")

    def _cells(self, standing: Standing) -> None:
        """One run per cell as the table shows it now; cells that the study no longer has are removed."""
        kept = set()
        for position, cell in enumerate(cells_of(cell_frame(standing))):
            key = f"{cell['row']} | {cell['arm']} | {cell['column']}"
            kept.add(key)
            metrics = {f"{name}_percent": cell[name] for name in PERCENT} | {
                "n": float(cell["n"]),
                "candidates": float(cell["candidates"]),
            }
            selected = json.loads(cell["selected"]) if cell["selected"] else {}
            metrics |= {
                f"selected_{k}": float(v)
                for k, v in selected.items()
                if isinstance(v, (int, float)) and not isinstance(v, bool)
            }
            metrics = {k: round(float(v), 4) for k, v in metrics.items() if v is not None and not math.isnan(v)}
            tags = {
                k: str(cell[k]) for k in ("row", "arm", "column", "selected", "problem", "note", "commits", "hardware")
            }
            run = self._runs.get(("cell", key))
            if run is not None and not set(run.data.metrics) <= set(metrics):
                self._client.delete_run(run.info.run_id)  # a number that no longer holds cannot be taken back singly
                del self._runs["cell", key]
            tags["dh2l.position"] = f"{position:04}"
            words = dict.fromkeys([cell["row"], cell["arm"], cell["column"]])
            run = self._run("cell", key, " ".join(words))
            changed = {k: v for k, v in metrics.items() if run.data.metrics.get(k) != v}
            renamed = {k: v for k, v in tags.items() if run.data.tags.get(k) != v}
            if changed or renamed:
                self._client.log_batch(
                    run.info.run_id,
                    metrics=_metrics(changed, 0),
                    tags=[RunTag(k, v) for k, v in renamed.items()],
                )
                self._client.set_terminated(run.info.run_id, "FINISHED")
                self._runs["cell", key] = self._client.get_run(run.info.run_id)
        for kind, key in [(kind, key) for kind, key in self._runs if kind == "cell" and key not in kept]:
            self._client.delete_run(self._runs.pop((kind, key)).info.run_id)

    def _share_cell_view(self) -> None:
        """Leave a shared view in the UI, as its Share button does: this study's cells, as a table."""
        columns = [f"tags.`{name}`" for name in ("row", "arm", "column")]
        columns += [f"metrics.`{name}`" for name in CELL_COLUMNS]
        view = {
            "searchFilter": f"tags.`dh2l.kind` = 'cell' AND tags.`dh2l.study` = '{self.study}'",
            "orderByKey": "tags.`dh2l.position`",
            "orderByAsc": True,
            "selectedColumns": columns,
            "viewMaximized": True,
        }
        tag = VIEW_TAG + self.study
        if tag not in self._client.get_experiment(self._experiment).tags:
            self._client.set_experiment_tag(self._experiment, tag, json.dumps(VIEW_DEFAULTS | view))


def table_links(places: Places) -> dict[str, str]:
    """Address, within the UI, of each study's table of cells."""
    client = MlflowClient(tracking_uri=places.tracking_uri)
    return {
        tag.removeprefix(VIEW_TAG): f"/#/experiments/{experiment.experiment_id}/runs?viewStateShareKey={quote(key)}"
        for experiment in client.search_experiments()
        for tag in experiment.tags
        if tag.startswith(VIEW_TAG) and (key := tag.removeprefix(VIEW_TAG))
    }


def sync_study(standing: Standing, places: Places) -> str:
    """Make a study's whole view from its records.

    Returns:
        The tracking URI.

    Raises:
        ConnectionError: the store cannot be reached or refuses.
    """
    try:
        view = StudyView(places, standing.plan.name)
        view.sync(standing)
    except MlflowException as error:
        raise ConnectionError(str(error).splitlines()[0]) from error
    return view.uri


def _points(epochs: int) -> set[int]:
    """The epochs, counted from 1, that a thinned curve keeps: evenly spaced, the last among them."""
    step = max(1, math.ceil(epochs / CURVE_POINTS))
    return {epoch for epoch in range(1, epochs + 1) if (epochs - epoch) % step == 0}


def _metrics(values: dict[str, Any], step: int) -> list[Metric]:
    timestamp = int(1000 * values.get("time", 0))
    return [
        Metric(k, v, timestamp, step) for k, v in values.items() if k != "time" and v is not None and not math.isnan(v)
    ]


def _curves(record: Record, path: Path) -> list[Metric]:
    if record.arrays_sha256 is None or not path.exists():
        return []
    history = {k.removeprefix("history."): v for k, v in read_arrays(path).items() if k.startswith("history.")}
    epochs = _points(record.config["epochs"])
    length = max((len(values) for values in history.values()), default=0)
    return [
        row
        for i in range(length)
        if i + 1 in epochs
        for row in _metrics({name: float(values[i]) for name, values in history.items()}, i + 1)
    ]


def _scalars(record: Record) -> list[Metric]:
    """The accuracies that are never mixed: at the last, the best validation and the best test epoch."""
    scores = {"last": record.last, "at_best_validation": record.best_validation, "oracle": record.best_test}
    values: dict[str, Any] = {"duration_s": record.provenance.duration_s}
    for name, score in scores.items():
        if score is not None:
            values |= {f"test_accuracy_{name}": score.test_accuracy, f"epoch_{name}": float(score.epoch)}
    return _metrics(values, 0)


def _parts(rows: list[Any], size: int) -> Iterable[list[Any]]:
    return (rows[i : i + size] for i in range(0, len(rows), size))


def _extra_tags() -> dict[str, str]:
    """Tags for every run from `MLFLOW_RUN_CONTEXT`, a JSON object, as MLflow itself reads it."""
    context: Any = SystemEnvironmentContext
    return {str(k): str(v) for k, v in context().tags().items()} if context().in_context() else {}
