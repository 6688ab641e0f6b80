"""MLflow view of a study, built from its records.

A study has one parent run, one child run per trial, and one run per cell of the table. Filtered to
cells, the run table of the UI is the table of the study. The view can be rebuilt at any time.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from dh2l.config.train_config import TrainConfig, flat
from dh2l.errors import UserError
from dh2l.io.files import AnyPath, list_files
from dh2l.results import EpochResult
from study.analysis.frames import cells_of, trial_frame
from study.analysis.learning_curves import curve_epochs
from study.records.arrays import read_arrays
from study.records.paths import Places
from study.records.record import Record
from study.reporting.page import Page, to_markdown
from study.reporting.tables import render
from study.spec.plan import Plan
from study.state.remaining import missing_trials
from study.state.results import StudyResults
from study.state.states import State
from study.tracking import payload
from study.tracking._compat import SHARED_VIEW_TAG
from study.tracking.run_names import TrialNames
from study.tracking.runs import OnMessage, StudyRuns, extra_tags, ignore_message
from study.tracking.saved_views import saved_views

if TYPE_CHECKING:
    from mlflow.entities import Run  # imported by `study.tracking.runs`, after its settings

VIEW_NAME_TAG = "dh2l.view."
RUN_STATUS = {"done": "FINISHED", "diverged": "FAILED", "failed": "FAILED", "stopped": "KILLED"}


class StudyView:
    """MLflow view of one study. Every change is made under a lock."""

    def __init__(
        self,
        places: Places,
        study: str,
        names: TrialNames | None = None,
        on_message: OnMessage = ignore_message,
    ) -> None:
        """Open the store.

        Args:
            places: the folders of the study.
            study: the name of the study.
            names: the names of its trials' runs; by default their identities, until the first sync.
            on_message: called before a wait, and after a repair.

        Raises:
            Exception: one of `study.tracking.runs.STORE_ERRORS`.
        """
        self._places, self._study, self._names = places, study, names
        self._runs = StudyRuns(places, study, on_message)

    def begin(self, config: TrainConfig) -> None:
        """Show a trial, and its study, as running."""
        with self._runs.lock:
            for run in (self._trial_run(config), self._runs.study_run()):
                self._runs.client.update_run(run.info.run_id, status="RUNNING")

    def epoch(self, config: TrainConfig, result: EpochResult) -> None:
        """Show an epoch of a running trial, if it is a point of the thinned curve."""
        if result.epoch not in curve_epochs(config.epochs):
            return
        with self._runs.lock:
            run = self._trial_run(config)
            logged = self._runs.logged_epochs(run)
            if result.epoch not in logged:  # a trial that was killed trains some epochs again
                self._runs.log(run, payload.points(result.metrics, result.epoch))
                logged.add(result.epoch)

    def trial(
        self, record: Record, file: AnyPath | None = None, cell_tags: dict[str, str] | None = None
    ) -> bool:
        """Show a record: curves, scalars, state and cells.

        The tag that identifies the record is written last, so an interrupted update is repeated.

        Returns:
            False if the store already showed the record.
        """
        tags = payload.trial_tags(record)
        with self._runs.lock:
            run = self._run_of_record(record)
            if run.data.tags.get("dh2l.record") == tags["dh2l.record"]:
                return False
            logged = self._runs.logged_epochs(run)
            curves = payload.curves(record, self._arrays(record, file))
            missing = [point for point in curves if point.step not in logged]
            known = run.data.metrics
            changed = [
                point for point in payload.scalars(record) if known.get(point.name) != point.value
            ]
            self._runs.log(run, [*missing, *changed])
            logged |= {point.step for point in missing}
            self._runs.end(run, RUN_STATUS[record.state])
            self._runs.log(run, tags=tags | (cell_tags or {}))
            return True

    def _trial_run(self, config: TrainConfig) -> "Run":
        return self._find_or_create_trial(config.identity, config, config.flat())

    def _run_of_record(self, record: Record) -> "Run":
        """Return the run of a record; if its plugin is not loaded, its arm is unknown."""
        try:
            config = TrainConfig.model_validate(record.config)
        except ValidationError:
            config = None
        return self._find_or_create_trial(record.identity, config, flat(record.config))

    def _find_or_create_trial(
        self, identity: str, config: TrainConfig | None, params: dict[str, Any]
    ) -> "Run":
        name = identity
        if self._names is not None:
            params = self._names.absent | params
        if config is not None:
            params = {"arm": config.arm} | params
        if config is not None and self._names is not None:
            name = self._names.of(config, identity)
        return self._runs.find_or_create("trial", identity, name, params)

    def _arrays(self, record: Record, file: AnyPath | None) -> dict[str, Any]:
        """Read the arrays of a record, anywhere in the trials folder; none if they are damaged."""
        if record.arrays_sha256 is None:
            return {}
        with suppress(UserError):
            return read_arrays(record, file or self._places.trials / f"{record.identity}.json")
        for path in list_files(self._places.trials, f"**/{record.identity}.json"):
            with suppress(UserError):
                return read_arrays(record, path)
        return {}

    def sync(self, results: StudyResults) -> None:
        """Build the whole view from the records. A second sync changes nothing."""
        cell_tags, paths = payload.cell_tags_by_trial(trial_frame(results)), results.found.paths
        self._names = TrialNames.of_plan(results.plan)
        with self._runs.lock, self._runs.all_loaded():
            changed = [
                self.trial(record, paths.get(identity), cell_tags.get(identity))
                for identity, record in results.found.records.items()
            ]
            if any(changed):
                self._runs.reload()
            self._clear_trials(results)
            self._tag_trials(cell_tags)
            page = render(results)
            self._sync_cells(page)
            self._sync_parent(results, page)
            self._save_views(results.plan)

    def _clear_trials(self, results: StudyResults) -> None:
        """Delete trials that left the study, and end trials that no longer run."""
        states = results.state.states
        for identity, run in self._runs.loaded("trial").items():
            if identity not in states:
                self._runs.delete("trial", identity)
            elif run.info.status == "RUNNING" and states[identity] is not State.RUNNING:
                self._runs.end(run, "KILLED")

    def _tag_trials(self, cell_tags: dict[str, dict[str, str]]) -> None:
        """Tag each trial with its cells and the run of its study."""
        parent = {"mlflow.parentRunId": self._runs.study_run().info.run_id}
        known = self._runs.loaded("trial")
        for identity, tags in cell_tags.items():
            if identity in known:
                run = known[identity]
                changed = _changed(tags | parent, run.data.tags)
                if changed:
                    self._runs.log(run, tags=changed)

    def _sync_cells(self, page: Page) -> None:
        """Show each cell of the table, and delete cells that left the study."""
        kept, loaded = set(), self._runs.loaded("cell")
        for position, cell in enumerate(cells_of(page.frame)):
            words = (cell["row"], cell["arm"], cell["column"])
            key = " | ".join(words)
            kept.add(key)
            metrics, tags = payload.cell_metrics(cell), payload.cell_tags(cell, position)
            if key in loaded and not set(loaded[key].data.metrics) <= set(metrics):
                self._runs.delete("cell", key)  # MLflow cannot delete a single metric
            run = self._runs.find_or_create("cell", key, " ".join(dict.fromkeys(words)))
            changed = _changed(metrics, run.data.metrics)
            changed_tags = _changed(tags, run.data.tags)
            if changed or changed_tags or run.info.status != "FINISHED":
                self._runs.log(run, payload.points(changed, 0), changed_tags)
                self._runs.end(run, "FINISHED")
                self._runs.refresh("cell", key)
        for key in self._runs.loaded("cell").keys() - kept:
            self._runs.delete("cell", key)

    def _sync_parent(self, results: StudyResults, page: Page) -> None:
        """Show the table, the counts and the status of the study."""
        parent, client, markdown = self._runs.study_run(), self._runs.client, to_markdown(page)
        run_id, mark = parent.info.run_id, payload.fingerprint(markdown)
        if parent.data.tags.get("dh2l.table") != mark:
            client.log_text(run_id, markdown, "table.md")
            client.log_text(run_id, page.frame.to_csv(index=False), "cells.csv")
            counts = results.state.counts
            points = payload.points({f"trials_{s.value}": counts.get(s.value, 0) for s in State}, 0)
            self._runs.log(parent, points, {"mlflow.note.content": markdown, "dh2l.table": mark})
        status = "FAILED" if missing_trials(results.state) else "FINISHED"
        if client.get_run(run_id).info.status != status:
            self._runs.end(parent, status)

    def _save_views(self, plan: Plan) -> None:
        """Save the table, search and curves views of the study in the UI."""
        client, experiment = self._runs.client, self._runs.experiment
        known = client.get_experiment(experiment).tags
        for name, state in saved_views(plan).items():
            source = self._study if name == "table" else f"{self._study} {name}"
            key = payload.fingerprint(source)
            tags = {
                SHARED_VIEW_TAG + key: json.dumps(state),
                VIEW_NAME_TAG + key: f"{self._study}, {name}",
            }
            for tag, value in _changed(tags, known).items():
                client.set_experiment_tag(experiment, tag, value)

    def report(self, results: StudyResults, file: Path) -> None:
        """Log a report to the run of the study, unless the run already has it."""
        mark = payload.fingerprint(file.read_text(encoding="utf-8"))
        with self._runs.lock:
            self._sync_parent(results, render(results))
            run_id, client = self._runs.study_run().info.run_id, self._runs.client
            if client.get_run(run_id).data.tags.get("dh2l.report") != mark:
                client.log_artifact(run_id, str(file))
                client.set_tag(run_id, "dh2l.report", mark)

    def try_out(self) -> None:
        """Create a run, log to it, and delete it."""
        with self._runs.lock:
            client = self._runs.client
            run = client.create_run(self._runs.experiment, tags=extra_tags(), run_name=self._study)
            try:
                self._runs.log(run, payload.points({"probe": 1.0}, 0))
            finally:
                client.delete_run(run.info.run_id)


def _changed(new: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
    """Return the entries that are missing or different in the old values."""
    return {key: value for key, value in new.items() if old.get(key) != value}
