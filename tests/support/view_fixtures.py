"""Hand-made runs that are watched live, and what a store then says of them."""

from typing import Any

import numpy as np
from mlflow import MlflowClient
from mlflow.entities import ViewType
from study_fixtures import done, unfinished

from dh2l.results import EpochResult
from study.records.paths import Places
from study.records.record import Record
from study.records.store import RecordStore
from study.spec.plan import Plan
from study.tracking.live import LiveView

HISTORY = {"train_loss": [2.0, 1.0], "validation_accuracy": [0.1, 0.9], "time": [1.7e9, 1.7e9 + 1]}
OF_THE_STORE = ("dh2l.mark", "dh2l.table", "mlflow.parentRunId", "mlflow.artifactLocation")
"""Tags that differ between two views of the same: digests of their study's name, and identities of
runs."""

View = dict[tuple[str, str], Any]


def mixed_records(plan: Plan) -> list[Record]:
    """Records of all a plan's trials: the last was stopped by a scheduler, the others are done."""
    *most, last = plan.choosing.values()
    return [*(done(config, 90 + config.seed) for config in most), unfinished(last, "stopped")]


def train(live: LiveView, places: Places, plan: Plan, record: Record) -> None:
    """Tell a live view of one trial from its start to its record, which is filed."""
    config = plan.choosing[record.identity]
    live.on_trial_start(config)
    if record.state == "done":
        for number in (1, 2):
            metrics: dict[str, float | None] = {
                name: values[number - 1] for name, values in HISTORY.items()
            }
            live.on_epoch_end(config, EpochResult(number, metrics))
    live.on_trial_end(file_record(places, record))


def file_record(places: Places, record: Record) -> Record:
    """File a record, with its history where it is done."""
    arrays = {f"history.{name}": np.array(values) for name, values in HISTORY.items()}
    return RecordStore(places.trials).write(record, arrays if record.state == "done" else None)


def view_of(uri: str, study: str, *, times: bool = False) -> View:
    """All that a store says of a study's runs, by kind and key; without identities, so that two
    views compare.

    Args:
        uri: the store.
        study: its name, which is left out wherever it stands.
        times: with identities and times, so that any change shows.
    """
    client = MlflowClient(tracking_uri=uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    query = f"tags.`dh2l.study` = '{study}'"
    view: View = {}
    for run in client.search_runs(experiments, query, run_view_type=ViewType.ACTIVE_ONLY):
        run_id = run.info.run_id
        curves = {name: client.get_metric_history(run_id, name) for name in run.data.metrics}
        points = {
            name: sorted((m.step, m.value, m.timestamp if times else 0) for m in history)
            for name, history in curves.items()
            if name != "duration_s" or times
        }
        tags = {k: v if times else v.replace(study, "STUDY") for k, v in run.data.tags.items()}
        kept = {k: v for k, v in tags.items() if times or k not in OF_THE_STORE}
        key = (tags["dh2l.kind"], tags["dh2l.key"])
        assert key not in view, f"{key} is there twice"
        identity = (run_id, run.info.start_time, run.info.end_time) if times else ()
        artifacts = sorted(artifact.path for artifact in client.list_artifacts(run_id))
        view[key] = (run.info.status, kept, run.data.params, points, artifacts, identity)
    return view
