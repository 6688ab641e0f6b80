"""The MLflow view of hand-made records, in a real SQLite store."""

import json
import re
import shutil
import threading
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType
from study_fixtures import (
    ROOT,
    SEARCHED,
    SMALL,
    candidate_configs,
    done,
    places_in,
    planned,
    unfinished,
)

from dh2l.errors import UserError
from dh2l.io.locks import Lock
from dh2l.results import EpochResult
from study.analysis.frames import cell_frame
from study.records.arrays import arrays_path
from study.records.paths import Places
from study.records.record import Record
from study.records.store import RecordStore
from study.reporting.page import to_markdown
from study.reporting.tables import render
from study.spec.plan import Plan
from study.state.load import read_state
from study.state.results import StudyResults
from study.state.study_state import StudyState
from study.tracking import live as live_view
from study.tracking import runs as tracking_runs
from study.tracking.live import LiveView
from study.tracking.mlflow_view import StudyView
from study.tracking.operations import sync_study, view_links
from study.tracking.run_names import TrialNames
from study.tracking.uri import store_file, tracking_uri

EXPERIMENT = "dh2l-study"
Content = tuple[str, dict[str, str], dict[str, str], dict[str, list[tuple[int, float, int]]]]
"""Status, tags, params and the points of every metric of a run."""


@pytest.fixture
def tracked(tmp_path: Path, empty_store: Path) -> Places:
    """Places with an empty MLflow store."""
    places = places_in(tmp_path)
    places.mlflow.mkdir(parents=True)
    shutil.copy(empty_store, store_file(places))
    return places


def file(places: Places, plan: Plan, *records: Record, epochs: int = 2) -> StudyState:
    """File records with a history of `epochs` epochs beside the finished ones, and read the
    standing.
    """
    for record in records:
        history = {
            "history.train_loss": np.linspace(2, 1, epochs),
            "history.validation_accuracy": np.linspace(0.1, 0.9, epochs),
            "history.time": 1.7e9 + np.arange(epochs),
        }
        RecordStore(places.trials).write(record, history if record.state == "done" else None)
    return read_state(plan, places)


def runs(places: Places, kind: str | None = None, *, experiment: str = EXPERIMENT) -> list[Run]:
    """The runs of one kind in the store, by key."""
    client = MlflowClient(tracking_uri=tracking_uri(places))
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    everything = client.search_runs([found.experiment_id], run_view_type=ViewType.ACTIVE_ONLY)
    return sorted(
        (run for run in everything if kind in (None, run.data.tags["dh2l.kind"])),
        key=lambda run: str(run.data.tags["dh2l.key"]),
    )


def cell(places: Places, key: str) -> Run:
    (run,) = (run for run in runs(places, "cell") if run.data.tags["dh2l.key"] == key)
    return run


def content(places: Places) -> dict[str, Content]:
    """Everything that the store says of every run."""
    client = MlflowClient(tracking_uri=tracking_uri(places))
    return {
        run.info.run_id: (
            run.info.status,
            run.data.tags,
            run.data.params,
            {
                name: [
                    (m.step, m.value, m.timestamp)
                    for m in client.get_metric_history(run.info.run_id, name)
                ]
                for name in run.data.metrics
            },
        )
        for run in runs(places)
    }


def all_done(plan: Plan, accuracy: float = 90) -> list[Record]:
    return [done(config, accuracy + config.seed) for config in plan.choosing.values()]


def test_a_study_is_one_parent_one_child_per_trial_and_one_run_per_cell(
    tmp_path: Path, tracked: Places
) -> None:
    plan = planned(tmp_path, SMALL)
    sync_study(StudyResults(file(tracked, plan, *all_done(plan))), tracked)
    (parent,) = runs(tracked, "study")
    trials, cells = runs(tracked, "trial"), runs(tracked, "cell")
    assert parent.info.run_name == "small"
    assert [run.data.tags["dh2l.key"] for run in trials] == sorted(plan.choosing)
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {parent.info.run_id}
    assert [run.data.tags["dh2l.key"] for run in cells] == [
        "baseline+l2 | baseline+l2 | digits",
        "cosine | E | digits",
    ]
    assert {run.info.status for run in runs(tracked)} == {"FINISHED"}
    assert parent.data.metrics["trials_done"] == 4


def test_a_cell_has_the_numbers_of_the_table(tmp_path: Path, tracked: Places) -> None:
    config = "{dataset: cifar100, model: resnet20, protocol: paper,"
    text = SEARCHED.replace("{dataset: digits,", config) + "paper_table: 2\nrule: oracle\n"
    plan = planned(tmp_path, text)
    now = file(
        tracked,
        plan,
        *(done(c, 60 + c.lambda_e + c.seed, 50 + c.lambda_e) for c in plan.choosing.values()),
    )
    sync_study(StudyResults(now), tracked)
    shown = cell(tracked, "E | E | digits")
    row = cell_frame(StudyResults(now)).iloc[0]
    assert shown.data.metrics == pytest.approx(
        {
            "accuracy_percent": 70.5,
            "std_percent": round(row["std"], 2),
            "paper_percent": 68.11,
            "paper_difference_percent": 2.39,
            "n": 2,
            "candidates": 3,
            "selected_lambda_e": 10,
        },
        abs=1e-9,
    )
    assert shown.data.params == {}
    assert {key: shown.data.tags[key] for key in ("row", "arm", "column")} == {
        "row": "E",
        "arm": "E",
        "column": "digits",
    }
    assert json.loads(shown.data.tags["selected"]) == {"lambda_e": 10}


def test_syncing_twice_is_the_same_as_once(tmp_path: Path, tracked: Places) -> None:
    plan = planned(tmp_path, SMALL)
    first, second, third, _ = plan.choosing.values()
    now = file(
        tracked, plan, done(first, 90), unfinished(second, "failed"), unfinished(third, "diverged")
    )
    sync_study(StudyResults(now), tracked)
    once = content(tracked)
    sync_study(StudyResults(now), tracked)
    assert content(tracked) == once
    assert len(once) == 1 + 3 + 2


class Asked(MlflowClient):
    """A client that counts what it is asked."""

    counts: ClassVar[Counter[str]] = Counter()

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("_"):
            Asked.counts[name] += 1
        return super().__getattribute__(name)


def test_a_trial_costs_a_first_sync_six_requests_and_the_next_none(
    tmp_path: Path, tracked: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each takes milliseconds; of two studies, that of more seeds has four trials more in as many
    cells.
    """
    monkeypatch.setattr(tracking_runs, "MlflowClient", Asked)
    asked: dict[str, list[Counter[str]]] = {"few": [], "many": []}
    for name, seeds in (("few", "[0, 1]"), ("many", "[0, 1, 2, 3]")):
        plan = planned(tmp_path, SMALL.replace("[0, 1]", seeds), name)
        now = file(tracked, plan, *all_done(plan))
        for _ in range(2):
            Asked.counts.clear()
            sync_study(StudyResults(now), tracked)
            asked[name].append(Counter(Asked.counts))
    (few, few_again), (many, many_again) = asked.values()
    more = {request: (n - few[request]) / 4 for request, n in many.items() if n != few[request]}
    assert more == {"create_run": 1, "log_batch": 3, "get_metric_history": 1, "set_terminated": 1}
    assert few_again == many_again


def test_a_cell_that_the_study_no_longer_has_is_removed(tmp_path: Path, tracked: Places) -> None:
    plan = planned(tmp_path, SMALL)
    sync_study(StudyResults(file(tracked, plan, *all_done(plan))), tracked)
    smaller = planned(tmp_path, SMALL.replace("  - arm: baseline+l2\n", ""))
    sync_study(StudyResults(read_state(smaller, tracked)), tracked)
    assert [run.data.tags["dh2l.key"] for run in runs(tracked, "cell")] == ["cosine | E | digits"]


def test_a_cell_that_loses_its_accuracy_loses_the_metric(tmp_path: Path, tracked: Places) -> None:
    plan = planned(tmp_path, SMALL)
    sync_study(StudyResults(file(tracked, plan, *all_done(plan))), tracked)
    for config in candidate_configs(plan, 1)[0]:
        RecordStore(tracked.trials).path(config.identity).unlink()
    sync_study(StudyResults(read_state(plan, tracked)), tracked)
    lost, kept = (
        cell(tracked, "cosine | E | digits"),
        cell(tracked, "baseline+l2 | baseline+l2 | digits"),
    )
    assert lost.data.metrics == {"n": 0, "candidates": 1}
    assert lost.data.tags["problem"] == "missing (2 of 2)"
    assert kept.data.metrics["accuracy_percent"] == 90.5


def test_a_cell_whose_accuracy_falls_shows_the_new_one(tmp_path: Path, tracked: Places) -> None:
    plan = planned(tmp_path, SMALL)
    first, second = candidate_configs(plan, 1)[0]
    sync_study(StudyResults(file(tracked, plan, done(first, 90))), tracked)
    assert cell(tracked, "cosine | E | digits").data.metrics["accuracy_percent"] == 90
    now = file(tracked, plan, done(second, 70))
    sync_study(StudyResults(now), tracked)
    shown = cell(tracked, "cosine | E | digits").data.metrics
    assert (shown["accuracy_percent"], shown["n"]) == (80, 2)
    once = content(tracked)
    sync_study(StudyResults(now), tracked)
    assert content(tracked) == once


def test_the_parent_counts_the_trials_as_they_stand_now(tmp_path: Path, tracked: Places) -> None:
    plan = planned(tmp_path, SMALL)
    records = all_done(plan)
    sync_study(
        StudyResults(
            file(tracked, plan, records[0], unfinished(candidate_configs(plan)[0][1], "failed"))
        ),
        tracked,
    )
    (parent,) = runs(tracked, "study")
    counted = {k: v for k, v in parent.data.metrics.items() if v}
    assert counted == {"trials_done": 1, "trials_failed": 1, "trials_planned": 2}
    assert parent.info.status == "FAILED"
    sync_study(StudyResults(file(tracked, plan, *records)), tracked)
    (parent,) = runs(tracked, "study")
    assert {k: v for k, v in parent.data.metrics.items() if v} == {"trials_done": 4}
    assert parent.info.status == "FINISHED"


def test_a_study_whose_scheduler_stopped_the_losers_is_finished(
    tmp_path: Path, tracked: Places
) -> None:
    plan = planned(tmp_path, SEARCHED + "scheduler: {kind: asha}\n")
    loser, winner, other = candidate_configs(plan)
    records = [unfinished(config, "stopped") for config in (*loser, *other)]
    sync_study(
        StudyResults(file(tracked, plan, *records, *(done(config, 90) for config in winner))),
        tracked,
    )
    (parent,) = runs(tracked, "study")
    assert parent.info.status == "FINISHED"
    assert [run.info.status for run in runs(tracked, "trial")].count("KILLED") == 4


def test_the_rendered_table_is_the_parent_s_artifact_and_note(
    tmp_path: Path, tracked: Places
) -> None:
    plan = planned(tmp_path, SMALL)
    now = file(tracked, plan, *all_done(plan))
    sync_study(StudyResults(now), tracked)
    (parent,) = runs(tracked, "study")
    client = MlflowClient(tracking_uri=tracking_uri(tracked))
    path = client.download_artifacts(parent.info.run_id, "table.md", str(tmp_path))
    assert Path(path).read_text(encoding="utf-8") == to_markdown(render(StudyResults(now)))
    assert to_markdown(render(StudyResults(now))) in parent.data.tags["mlflow.note.content"]
    assert {artifact.path for artifact in client.list_artifacts(parent.info.run_id)} == {
        "table.md",
        "cells.csv",
    }


def test_a_trial_s_params_are_its_config_and_its_arm(tmp_path: Path, tracked: Places) -> None:
    plan = planned(tmp_path, SMALL)
    config = candidate_configs(plan, 1)[0][1]
    sync_study(StudyResults(file(tracked, plan, done(config, 90))), tracked)
    (run,) = runs(tracked, "trial")
    assert run.data.params == {"arm": "E"} | {k: str(v) for k, v in config.flat().items()}
    assert run.data.tags["dh2l.state"] == "done"
    assert run.info.run_name == f"s1 E {config.identity[-12:]}"


def test_a_record_of_a_trial_whose_plugin_is_not_loaded_is_shown_without_its_arm(
    tracked: Places, tmp_path: Path
) -> None:
    """Its config cannot be validated then, but says all that it said."""
    (config, *_) = planned(tmp_path, SMALL).choosing.values()
    record = done(config, 90)
    record = record.model_copy(
        update={"config": record.config | {"metric": "of_a_plugin", "lambda_e": 0.5}}
    )
    view = StudyView(tracked, "small")
    view.trial(record)
    (run,) = runs(tracked, "trial")
    assert run.data.params["metric"] == "of_a_plugin"
    assert "arm" not in run.data.params
    assert run.info.status == "FINISHED"


def test_a_trial_s_three_accuracies_are_kept_apart(tmp_path: Path, tracked: Places) -> None:
    plan = planned(tmp_path, SMALL)
    config = next(iter(plan.choosing.values()))
    record = done(config, 90, 60, at_best_validation=(91, 70), at_best_test=(92, 50))
    sync_study(StudyResults(file(tracked, plan, record)), tracked)
    (run,) = runs(tracked, "trial")
    assert {
        k: v for k, v in run.data.metrics.items() if k.startswith(("test_accuracy_", "epoch_"))
    } == {
        "test_accuracy_last": 0.90,
        "test_accuracy_at_best_validation": 0.91,
        "test_accuracy_oracle": 0.92,
        "epoch_last": 2,
        "epoch_at_best_validation": 1,
        "epoch_oracle": 1,
    }


def test_how_a_trial_ended_is_its_run_s_status(tmp_path: Path, tracked: Places) -> None:
    plan = planned(tmp_path, SMALL)
    a, b, c, d = plan.choosing.values()
    records = [
        done(a, 90),
        unfinished(b, "failed"),
        unfinished(c, "diverged"),
        unfinished(d, "stopped"),
    ]
    sync_study(StudyResults(file(tracked, plan, *records)), tracked)
    shown = {run.data.tags["dh2l.key"]: run for run in runs(tracked, "trial")}
    assert [shown[c.identity].info.status for c in (a, b, c, d)] == [
        "FINISHED",
        "FAILED",
        "FAILED",
        "KILLED",
    ]
    assert shown[b.identity].data.tags["dh2l.failure"] == "disk on fire"


def test_a_failed_trial_that_is_done_later_is_the_same_run_finished(
    tmp_path: Path, tracked: Places
) -> None:
    plan = planned(tmp_path, SMALL)
    config = next(iter(plan.choosing.values()))
    sync_study(StudyResults(file(tracked, plan, unfinished(config, "failed"))), tracked)
    (before,) = runs(tracked, "trial")
    sync_study(StudyResults(file(tracked, plan, done(config, 90))), tracked)
    (after,) = runs(tracked, "trial")
    assert (after.info.run_id, after.info.status) == (before.info.run_id, "FINISHED")
    assert after.data.tags["dh2l.failure"] == ""
    assert after.data.metrics["test_accuracy_last"] == 0.9


@pytest.mark.parametrize("epochs", [1, 2, 100, 101, 300])
def test_a_curve_has_at_most_100_points_the_last_epoch_among_them(
    tmp_path: Path, tracked: Places, epochs: int
) -> None:
    plan = planned(tmp_path, SMALL.replace("epochs: 2", f"epochs: {epochs}"))
    config = next(iter(plan.choosing.values()))
    sync_study(StudyResults(file(tracked, plan, done(config, 90), epochs=epochs)), tracked)
    (run,) = runs(tracked, "trial")
    client = MlflowClient(tracking_uri=tracking_uri(tracked))
    points = client.get_metric_history(run.info.run_id, "train_loss")
    steps = sorted(point.step for point in points)
    assert steps[-1] == epochs
    assert len(steps) == len(set(steps)) <= 100
    assert len(steps) >= min(epochs, 50)
    assert {point.step: point.value for point in points}[epochs] == (1 if epochs > 1 else 2)
    assert "time" not in run.data.metrics


def test_a_record_that_was_copied_in_with_its_arrays_is_shown_with_its_curves(
    tmp_path: Path, tracked: Places
) -> None:
    plan = planned(tmp_path, SMALL)
    config = next(iter(plan.choosing.values()))
    RecordStore(tracked.trials / "machine-2").write(
        done(config, 90), {"history.train_loss": np.array([2.0, 1.0])}
    )
    sync_study(StudyResults(read_state(plan, tracked)), tracked)
    (run,) = runs(tracked, "trial")
    assert run.data.metrics["test_accuracy_last"] == 0.9
    assert run.data.metrics["train_loss"] == 1


def test_damaged_arrays_cost_a_trial_its_curves_and_the_study_nothing(
    tmp_path: Path, tracked: Places
) -> None:
    plan = planned(tmp_path, SMALL)
    now = file(tracked, plan, *all_done(plan))
    first = next(iter(plan.choosing))
    arrays = arrays_path(now.found.records[first], now.found.paths[first])
    arrays.write_bytes(arrays.read_bytes()[:100])
    sync_study(StudyResults(now), tracked)
    assert len(runs(tracked, "trial")) == 4
    assert cell(tracked, "cosine | E | digits").data.metrics["accuracy_percent"] == 90.5


def test_the_store_lies_below_the_results_unless_mlflow_tracking_uri_says_otherwise(
    tmp_path: Path, tracked: Places, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = planned(tmp_path, SMALL)
    now = file(tracked, plan)
    sync_study(StudyResults(now), tracked)
    assert tracking_uri(tracked) == f"sqlite:///{tracked.results}/mlflow/mlflow.db"
    assert len(runs(tracked)) == 3
    other = tmp_path / "other.db"
    shutil.copy(empty_store, other)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{other}")
    file(tracked, plan, *all_done(plan))
    sync_study(StudyResults(read_state(plan, tracked)), tracked)
    assert len(runs(tracked)) == 7
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert len(runs(tracked)) == 3


def test_experiment_name_and_extra_tags_are_honoured(
    tmp_path: Path, tracked: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "another")
    monkeypatch.setenv(
        "MLFLOW_RUN_CONTEXT", json.dumps({"team": "spheres", "dh2l.kind": "nonsense"})
    )
    plan = planned(tmp_path, SMALL)
    sync_study(StudyResults(file(tracked, plan, *all_done(plan))), tracked)
    shown = runs(tracked, experiment="another")
    assert len(shown) == 1 + 4 + 2
    assert {run.data.tags["team"] for run in shown} == {"spheres"}
    assert {run.data.tags["dh2l.kind"] for run in shown} == {"study", "trial", "cell"}
    assert (
        MlflowClient(tracking_uri=tracking_uri(tracked)).get_experiment_by_name(EXPERIMENT) is None
    )


def test_two_studies_share_an_experiment_without_touching_each_other(
    tmp_path: Path, tracked: Places
) -> None:
    one, two = planned(tmp_path, SMALL, "one"), planned(tmp_path, SMALL, "two")
    sync_study(StudyResults(file(tracked, one, *all_done(one))), tracked)
    before = content(tracked)
    sync_study(StudyResults(read_state(two, tracked)), tracked)
    after = content(tracked)
    assert len(after) == 2 * len(before)
    assert {run_id: after[run_id] for run_id in before} == before


def epoch(number: int, begun: float = 1.7e9) -> EpochResult:
    return EpochResult(
        number, {"train_loss": 2.0 / number, "validation_accuracy": 0.5, "time": begun + number}
    )


def live_run(places: Places, plan: Plan, records: list[Record], epochs: int = 2) -> LiveView:
    """A run that was watched live."""
    live = LiveView(places, plan.name)
    for record in records:
        config = plan.choosing[record.identity]
        live.on_trial_start(config)
        for number in range(1, epochs + 1):
            live.on_epoch_end(config, epoch(number))
        file(places, plan, record)
        live.on_trial_end(record)
    live.close(StudyResults(read_state(plan, places)))
    return live


def test_a_run_watched_live_leaves_what_a_sync_makes(tmp_path: Path, tracked: Places) -> None:
    plan = planned(tmp_path, SMALL)
    live = live_run(tracked, plan, all_done(plan))
    assert live.problem == ""
    shown = content(tracked)
    assert {status for status, *_ in shown.values()} == {"FINISHED"}
    sync_study(StudyResults(read_state(plan, tracked)), tracked)
    assert content(tracked) == shown


def test_a_trial_that_was_killed_and_trained_again_has_each_epoch_once(
    tmp_path: Path, tracked: Places
) -> None:
    plan = planned(tmp_path, SMALL)
    config = next(iter(plan.choosing.values()))
    killed = StudyView(tracked, plan.name)
    killed.begin(config)
    killed.epoch(config, epoch(1, begun=1.6e9))
    live_run(tracked, plan, [done(config, 90)])
    (run,) = runs(tracked, "trial")
    client = MlflowClient(tracking_uri=tracking_uri(tracked))
    assert [point.step for point in client.get_metric_history(run.info.run_id, "train_loss")] == [
        1,
        2,
    ]


@pytest.mark.parametrize(
    "uri", ["nowhere://at-all", "http://127.0.0.1:9"], ids=["unknown scheme", "refused"]
)
def test_a_store_that_cannot_be_reached_is_a_problem_that_is_kept_and_stops_nothing_for_long(
    tmp_path: Path, tracked: Places, monkeypatch: pytest.MonkeyPatch, uri: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    plan = planned(tmp_path, SMALL)
    config = next(iter(plan.choosing.values()))
    live = LiveView(tracked, plan.name)
    live.on_trial_start(config)
    live.on_epoch_end(config, epoch(1))
    live.on_trial_end(done(config, 90))
    closing = threading.Thread(
        target=live.close, args=(StudyResults(read_state(plan, tracked)),), daemon=True
    )
    closing.start()
    closing.join(timeout=15)
    assert not closing.is_alive()
    assert live.problem


def test_a_store_that_cannot_be_reached_makes_a_sync_fail_with_a_sentence(
    tmp_path: Path, tracked: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nowhere://at-all")
    with pytest.raises(UserError, match="the MLflow store nowhere://at-all cannot be written"):
        sync_study(StudyResults(file(tracked, planned(tmp_path, SMALL))), tracked)


SEARCHED_ARMS = """\
title: Arms, one of which is searched
config: {dataset: digits, epochs: 2}
columns: [{name: digits}]
rows:
  - arm: baseline+l2
  - {arm: [E, E+H], metric: cosine, set: {lambda_e: 0.1}}
seeds: [0, 1]
search:
  lambda_l: {grid: [0.1, 0.5, 2.0]}
  lambda_c1: {grid: [1.0]}
"""
"""Three cells: 2, 2 and 6 trials."""


def searched_store(tmp_path: Path, places: Places, name: str = "quickstart") -> Plan:
    """A finished study in the store, of whose E+H trials those with the largest λl are best on
    validation.
    """
    plan = planned(tmp_path, SEARCHED_ARMS, name)
    records = [
        done(config, 90, 50 + 10 * float(config.flat()["lambda_l"]))
        for config in plan.choosing.values()
    ]
    sync_study(StudyResults(file(places, plan, *records)), places)
    return plan


def selected(places: Places, query: str) -> list[Run]:
    client = MlflowClient(tracking_uri=tracking_uri(places))
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id], query))


def states(places: Places) -> dict[str, dict[str, Any]]:
    """The shared views in the store, by their names."""
    experiment = MlflowClient(tracking_uri=tracking_uri(places)).get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    prefix = "dh2l.view."
    keys = {
        name: tag.removeprefix(prefix)
        for tag, name in experiment.tags.items()
        if tag.startswith(prefix)
    }
    return {
        name: json.loads(experiment.tags[f"mlflow.sharedViewState.{key}"])
        for name, key in keys.items()
    }


def test_the_three_filters_of_the_docs_find_cells_trials_of_an_arm_and_what_the_table_shows(
    tmp_path: Path, tracked: Places
) -> None:
    plan = searched_store(tmp_path, tracked)
    searched_store(tmp_path, tracked, "another")
    page = (ROOT / "docs" / "how-to" / "mlflow.md").read_text(encoding="utf-8")
    cells, trials, curves = re.findall(r"\| ``(.+?)`` \|", page)
    assert sorted(run.data.tags["arm"] for run in selected(tracked, cells)) == [
        "E",
        "E+H",
        "baseline+l2",
    ]
    candidates = {
        config.identity for candidate in candidate_configs(plan, 2) for config in candidate
    }
    assert {run.data.tags["dh2l.key"] for run in selected(tracked, trials)} == candidates
    shown = selected(tracked, curves)
    assert sorted(
        (run.data.params["arm"], run.data.params["lambda_l"], run.data.params["seed"])
        for run in shown
    ) == [
        ("E", "0.0", "0"),
        ("E", "0.0", "1"),
        ("E+H", "2.0", "0"),
        ("E+H", "2.0", "1"),
        ("baseline+l2", "0.0", "0"),
        ("baseline+l2", "0.0", "1"),
    ]
    assert {run.data.tags["dh2l.study"] for run in (*selected(tracked, cells), *shown)} == {
        "quickstart"
    }


def test_every_trial_has_numbers_for_parallel_coordinates(tmp_path: Path, tracked: Places) -> None:
    searched_store(tmp_path, tracked)
    (chart,) = states(tracked)["quickstart, search"]["compareRunCharts"]
    assert chart["type"] == "PARALLEL"
    assert chart["selectedParams"] == ["arm", "lambda_l"]  # an axis with one value chooses nothing
    assert chart["selectedMetrics"] == ["validation_accuracy"]
    for run in runs(tracked, "trial"):
        assert float(run.data.params["lambda_l"]) >= 0
        assert 0 <= run.data.metrics["validation_accuracy"] <= 1


def test_a_trial_s_tags_follow_what_the_table_shows(tmp_path: Path, tracked: Places) -> None:
    plan = searched_store(tmp_path, tracked)
    old, new = (candidate_configs(plan, 2)[i] for i in (2, 0))
    for config in old:
        RecordStore(tracked.trials).path(config.identity).unlink()
    sync_study(
        StudyResults(file(tracked, plan, *(done(config, 90, 20) for config in old))), tracked
    )
    shown = {run.data.tags["dh2l.key"]: run.data.tags for run in runs(tracked, "trial")}
    assert {shown[config.identity]["in_table"] for config in old} == {"no"}
    second = candidate_configs(plan, 2)[1]
    assert {shown[config.identity]["in_table"] for config in second} == {"yes"}
    assert {(tags["row"], tags["column"]) for tags in shown.values()} == {
        ("baseline+l2", "digits"),
        ("cosine", "digits"),
    }
    assert {shown[config.identity]["in_table"] for config in new} == {"no"}


def test_a_trial_that_two_rows_share_carries_both(tmp_path: Path, tracked: Places) -> None:
    twice = SMALL.replace("seeds:", "  - {name: again, arm: baseline+l2}\nseeds:")
    plan = planned(tmp_path, twice)
    sync_study(StudyResults(file(tracked, plan, *all_done(plan))), tracked)
    assert {run.data.tags["row"] for run in runs(tracked, "trial")} == {
        "baseline+l2; again",
        "cosine",
    }


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        (SEARCHED_ARMS, ["arm"]),
        (SMALL.replace("metric: cosine", "metric: [cosine, cos_hm]"), ["arm", "row"]),
        (
            SMALL.replace("seeds:", "  - {arm: H, metric: cosine, set: {lambda_l: 1}}\nseeds:"),
            ["arm"],
        ),
        (
            SMALL.replace("rows:", "  - {name: again, set: {model: resnet56}}\nrows:"),
            ["arm", "column"],
        ),
    ],
    ids=["arms alone", "two metrics", "one metric", "two columns"],
)
def test_curves_are_grouped_by_what_tells_the_cells_apart(
    tmp_path: Path, tracked: Places, text: str, groups: list[str]
) -> None:
    sync_study(StudyResults(file(tracked, planned(tmp_path, text))), tracked)
    curves = states(tracked)["small, curves"]
    assert [key["groupByData"] for key in curves["groupBy"]["groupByKeys"]] == groups
    assert {chart["lineSmoothness"] for chart in curves["compareRunCharts"]} == {0}


def test_a_study_that_chooses_on_test_shows_its_search_against_test(
    tmp_path: Path, tracked: Places
) -> None:
    text = (
        SEARCHED.replace("metric: cosine}", "metric: cosine, protocol: paper}") + "rule: oracle\n"
    )
    sync_study(StudyResults(file(tracked, planned(tmp_path, text))), tracked)
    (chart,) = states(tracked)["small, search"]["compareRunCharts"]
    assert chart["selectedMetrics"] == ["test_accuracy_last"]


def test_links_lead_to_a_table_and_to_charts_and_to_a_search_only_where_there_is_one(
    tmp_path: Path, tracked: Places
) -> None:
    sync_study(StudyResults(file(tracked, planned(tmp_path, SMALL))), tracked)
    searched_store(tmp_path, tracked)
    links = view_links(tracked)
    assert list(links) == [
        "quickstart, curves",
        "quickstart, search",
        "quickstart, table",
        "small, curves",
        "small, table",
    ]
    charts = {name for name, link in links.items() if link.endswith("&compareRunsMode=CHART")}
    assert charts == {"quickstart, curves", "quickstart, search", "small, curves"}
    assert {link.count("workflowType=machine_learning&") for link in links.values()} == {1}


def test_a_view_follows_the_study_file(tmp_path: Path, tracked: Places) -> None:
    sync_study(StudyResults(file(tracked, planned(tmp_path, SEARCHED))), tracked)
    more = SEARCHED.replace("search:", "search:\n  momentum: {grid: [0.8, 0.9]}")
    sync_study(StudyResults(file(tracked, planned(tmp_path, more))), tracked)
    (chart,) = states(tracked)["small, search"]["compareRunCharts"]
    assert chart["selectedParams"] == ["arm", "momentum", "lambda_e"]


RIVALS = """\
title: Two registered regularisers, each searched in an arm of its own
config: {dataset: digits, epochs: 2}
columns: [{name: thin, set: {model: resnet20}}, {name: deep, set: {model: resnet56}}]
rows:
  - arm: baseline+l2
  - {arm: mma, search: {lambda_mma: {grid: [0.1, 1]}}}
  - {arm: orthogonality, search: {lambda_orthogonality: {grid: [0.001, 0.01]}}}
seeds: [0, 1]
"""
WEIGHTS = ("lambda_mma", "lambda_orthogonality")


def test_a_trial_has_every_searched_weight_also_of_regularisers_that_it_lacks(
    tmp_path: Path, tracked: Places
) -> None:
    """A run without one of the axes is not a line in parallel coordinates."""
    plan = planned(tmp_path, RIVALS)
    sync_study(StudyResults(file(tracked, plan, *all_done(plan))), tracked)
    (chart,) = states(tracked)["small, search"]["compareRunCharts"]
    assert chart["selectedParams"] == ["arm", *WEIGHTS]
    found = {
        (run.data.params["arm"], *(run.data.params[name] for name in WEIGHTS))
        for run in runs(tracked, "trial")
    }
    assert found == {
        ("baseline+l2", "0.0", "0.0"),
        ("mma", "0.1", "0.0"),
        ("mma", "1.0", "0.0"),
        ("orthogonality", "0.0", "0.001"),
        ("orthogonality", "0.0", "0.01"),
    }


def test_a_trial_s_name_begins_with_what_varies_live_and_synced_and_of_earlier_versions(
    tmp_path: Path, tracked: Places
) -> None:
    plan = planned(tmp_path, RIVALS)
    *_, first, second, third = plan.choosing.values()
    StudyView(tracked, "small").trial(done(first, 90))  # with its identity for a name
    StudyView(tracked, "small", TrialNames.of_plan(plan)).begin(second)
    sync_study(StudyResults(file(tracked, plan, done(first, 90), done(third, 90))), tracked)
    names = {run.data.tags["dh2l.key"]: run.info.run_name for run in runs(tracked, "trial")}
    assert names == {
        config.identity: f"λ={weight} s1 orthogonality model={model} {config.identity[-12:]}"
        for config, weight, model in (
            (first, 0.01, "resnet20"),
            (second, 0.001, "resnet56"),
            (third, 0.01, "resnet56"),
        )
    }


def test_fields_that_rows_set_or_that_have_no_effect_in_an_arm_are_named_or_not(
    tmp_path: Path,
) -> None:
    text = """\
title: Centres
config: {dataset: digits, epochs: 2}
columns: [{name: digits}]
rows:
  - arm: baseline+l2
  - {arm: E+H, metric: [cosine, cos_hm], set: {lambda_e: 0.1}, search: {lambda_l: {grid: [0.5, 2]}}}
  - {arm: H0, name: parents, set: {centres: parent}}
seeds: [3]
"""
    plan = planned(tmp_path, text)
    names = TrialNames.of_plan(plan)
    shown = {
        names.of(config, identity).rpartition(" ")[0] for identity, config in plan.choosing.items()
    }
    assert shown == {
        "s3 baseline+l2",
        "λl=0.5 s3 E+H metric=cosine centres=learned",
        "λl=2 s3 E+H metric=cosine centres=learned",
        "λl=0.5 s3 E+H metric=cos_hm centres=learned",
        "λl=2 s3 E+H metric=cos_hm centres=learned",
        "s3 H0 centres=parent",
    }


def test_an_experiment_that_was_deleted_is_restored_and_said(
    tmp_path: Path, tracked: Places
) -> None:
    plan = planned(tmp_path, SMALL)
    now = file(tracked, plan, *all_done(plan))
    sync_study(StudyResults(now), tracked)
    before, client = content(tracked), MlflowClient(tracking_uri=tracking_uri(tracked))
    found = client.get_experiment_by_name(EXPERIMENT)
    assert found is not None
    client.delete_experiment(found.experiment_id)
    said: list[str] = []
    sync_study(StudyResults(now), tracked, said.append)
    (sentence,) = said
    assert sentence == (
        "the MLflow experiment dh2l-study was deleted and has been restored with its runs. "
        "Set MLFLOW_EXPERIMENT_NAME to use another."
    )
    assert content(tracked) == before
    client.delete_experiment(found.experiment_id)
    live = live_run(tracked, plan, [])
    assert (live.problem, live.notes) == ("", said)
    assert content(tracked) == before


def test_trials_whose_study_was_deleted_are_below_its_new_run(
    tmp_path: Path, tracked: Places
) -> None:
    plan = planned(tmp_path, SMALL)
    now = file(tracked, plan, *all_done(plan))
    sync_study(StudyResults(now), tracked)
    (deleted,) = runs(tracked, "study")
    MlflowClient(tracking_uri=tracking_uri(tracked)).delete_run(deleted.info.run_id)
    sync_study(StudyResults(now), tracked)
    (parent,) = runs(tracked, "study")
    assert {run.data.tags["mlflow.parentRunId"] for run in runs(tracked, "trial")} == {
        parent.info.run_id
    }


def test_a_wait_for_another_writer_is_announced_and_ends(
    tmp_path: Path, tracked: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking_runs, "LONGEST_WAIT_S", 0.2)
    monkeypatch.setattr(live_view, "CLOSING_S", 0.0)
    plan = planned(tmp_path, SMALL)
    now, raised = file(tracked, plan, *all_done(plan)), list[UserError]()

    def sync() -> None:
        try:
            sync_study(StudyResults(now), tracked, said.append)
        except UserError as error:
            raised.append(error)

    said: list[str] = []
    with Lock(tracked.mlflow / "writer.lock", "writer of the MLflow store", 0, said.append):
        other = threading.Thread(target=sync)
        other.start()
        other.join(timeout=30)
        monkeypatch.setattr(tracking_runs, "LONGEST_WAIT_S", 60.0)
        live = LiveView(tracked, plan.name)
        live.on_trial_start(next(iter(plan.choosing.values())))
        live.close(StudyResults(now))
    wait = (
        f"waiting for another writer of the MLflow store, which holds {tracked.mlflow}/writer.lock"
    )
    assert said == [f"{wait} (for 0.2 s at most)"]
    assert (
        "writer.lock: another writer of the MLflow store still holds it; expected its end"
        in str(*raised)
    )
    assert live.problem == f"not done within 1 s; {wait} (for 1 min at most)"
