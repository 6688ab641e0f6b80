"""Whole runs through Ray Tune, each in a process of its own."""

import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from mlflow import MlflowClient
from study_fixtures import (
    STOPPING,
    CommandLine,
    clean_environment,
    command,
    unfinished,
    write_study,
)

from dh2l import plugins
from dh2l.data import read_manifest
from study.execution.observers import Observers
from study.execution.training import run_locally
from study.records.paths import Places
from study.records.store import RecordStore
from study.spec.plan import Plan, make_plan
from study.spec.study_file import find_study
from study.state.load import read_state
from study.state.results import StudyResults
from study.state.states import State
from study.state.study_state import StudyState

TWO_ARMS = """\
title: Two arms
config: {dataset: digits, epochs: 2, batch_size: 256}
columns: [{name: digits}]
rows:
  - arm: baseline+l2
  - {arm: E, metric: cosine, set: {lambda_e: 0.1}}
seeds: [0, 1]
"""
DIVERGING = TWO_ARMS.replace("seeds: [0, 1]", "  - {arm: baseline, set: {lr: 1e+30}}\nseeds: [0]")

LONG = TWO_ARMS.replace("epochs: 2", "epochs: 4")


def run(study: Path, places: Places, *words: str) -> "subprocess.CompletedProcess[str]":
    return command("run", study, "--results", places.results, "--data", places.data, *words)


def now(study: Path, places: Places) -> StudyState:
    plan: Plan = make_plan(find_study(str(study)), lambda name: read_manifest(name, places.data))
    return read_state(plan, places)


def files(places: Places) -> dict[str, int]:
    """The records and arrays with the time at which each was written."""
    return {path.name: path.stat().st_mtime_ns for path in places.trials.iterdir()}


def table(stdout: str) -> list[str]:
    """The lines of the table of accuracies, without its head."""
    accuracies = stdout.split("## What each number is worth")[0]
    return [line for line in accuracies.splitlines() if line.startswith("| ")][1:]


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> tuple[Path, Places, str]:
    """A study run once through Ray and MLflow: its file, its places, and what the run printed."""
    folder = tmp_path_factory.mktemp("complete")
    study, places = write_study(folder, TWO_ARMS, "two-arms"), Places.of(folder / "results", digits)
    ended = run(study, places)
    assert ended.returncode == 0, ended.stderr + ended.stdout
    assert ended.stderr == ""
    return study, places, ended.stdout


def test_a_run_ends_with_records_and_a_table_that_says_n(
    complete: tuple[Path, Places, str],
) -> None:
    study, places, printed = complete
    assert now(study, places).counts == {"done": 4}
    rows = table(printed)
    assert len(rows) == 2
    assert all("(n=2)" in row for row in rows)
    saved = places.results / "tables" / "two-arms" / "table.md"
    assert saved.read_text(encoding="utf-8") in printed
    assert str(saved) in printed
    assert str(places.trials) in printed
    assert str(places.mlflow / "mlflow.db") in printed
    assert "study ui" in printed


def test_a_run_leaves_nothing_but_results(complete: tuple[Path, Places, str]) -> None:
    _, places, _ = complete
    assert {path.suffix for path in places.trials.iterdir()} == {".json", ".npz"}
    assert len(list(places.trials.iterdir())) == 8
    assert list(places.claims.glob("*.json")) == []
    checkpoints = places.results / "checkpoints"
    assert not checkpoints.exists() or list(checkpoints.iterdir()) == []
    assert list(Path(tempfile.gettempdir()).glob(f"dh2l-study-{os.getpid()}-*")) == []


def test_a_run_is_finished_in_mlflow_with_a_run_per_trial_and_cell(
    complete: tuple[Path, Places, str],
) -> None:
    _, places, printed = complete
    client = MlflowClient(tracking_uri=f"sqlite:///{places.mlflow / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("dh2l-study")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    kinds = [run.data.tags["dh2l.kind"] for run in runs]
    assert sorted(kinds) == ["cell", "cell", "study", "trial", "trial", "trial", "trial"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run_ in runs:
        if run_.data.tags["dh2l.kind"] == "cell":
            assert f"{run_.data.metrics['accuracy_percent']:.2f} ± " in printed
            assert run_.data.metrics["n"] == 2
        if run_.data.tags["dh2l.kind"] == "trial":
            history = client.get_metric_history(run_.info.run_id, "validation_accuracy")
            assert [point.step for point in history] == [1, 2]


def test_ray_trains_to_the_same_numbers_as_this_process(
    tmp_path: Path, complete: tuple[Path, Places, str]
) -> None:
    study, places, _ = complete
    theirs, here = now(study, places), Places.of(tmp_path / "results", places.data)
    run_locally(
        list(theirs.plan.choosing.values())[:2], here, Observers([]), threads=1
    )  # seed 0 of both arms
    ours = now(study, here).found.records
    assert len(ours) == 2
    for identity, record in ours.items():
        assert theirs.found.records[identity].numbers() == record.numbers()


def test_a_complete_study_run_again_trains_nothing_and_starts_no_ray(
    complete: tuple[Path, Places, str],
) -> None:
    study, places, _ = complete
    before = files(places)
    ended = run(study, places)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "starting Ray" not in ended.stdout
    assert files(places) == before
    assert all("(n=2)" in row for row in table(ended.stdout))


def test_a_study_with_a_diverging_arm_ends_with_exit_code_1_its_table_and_the_trials_of_others(
    tmp_path: Path, complete: tuple[Path, Places, str]
) -> None:
    _, places, _ = complete
    study, before = write_study(tmp_path, DIVERGING, "diverging"), files(places)
    ended = run(study, places, "--no-mlflow")
    assert ended.returncode == 1, ended.stderr
    assert now(study, places).counts == {"done": 2, "diverged": 1}
    assert before.items() <= files(places).items()
    plain, with_energy, diverged = table(ended.stdout)
    assert "(n=1)" in plain
    assert "(n=1)" in with_energy
    assert "| diverged (1 of 1)" in diverged
    assert (
        ended.stdout.count("became non-finite in epoch 1") == 2
    )  # as it ended, and below the table


FAILING = """\
from dh2l.registry import penalty

calls = 0


@penalty("failing")
def failing(cos):
    global calls
    calls += 1
    if calls > 9:
        raise RuntimeError("what a user's code may raise")
    return cos
"""


@pytest.mark.usefixtures("forgotten")
def test_trials_that_fail_cost_no_other_trial_and_no_worker(tmp_path: Path, digits: Path) -> None:
    """More failures than workers, between trials that are sound: every trial is accounted for."""
    text = TWO_ARMS.replace("seeds: [0, 1]", "seeds: [0, 1, 2, 3]").replace(
        "metric: cosine", "metric: failing"
    )
    study, plugin = write_study(tmp_path, text, "failing"), tmp_path / "failing.py"
    plugin.write_text(FAILING, encoding="utf-8")
    plugins.load(str(plugin))
    places = Places.of(tmp_path / "results", digits)
    doomed = [identity for identity in now(study, places).states if "-E-" in identity]
    ended = run(study, places, "--no-mlflow", "--no-check", "--plugin", str(plugin))
    assert ended.returncode == 1, ended.stderr
    then = now(study, places)
    assert then.counts == {"done": 4, "failed": 4}
    assert [identity for identity, state in then.states.items() if state is State.FAILED] == doomed
    assert ended.stdout.count("/8] done ") == ended.stdout.count("/8] failed ") == 4
    failure = then.found.records[doomed[0]].failure
    assert failure is not None
    assert "what a user's code may raise" in failure.message


@pytest.mark.parametrize("value", ["2", "auto"])
def test_a_share_of_a_gpu_that_is_not_there_is_a_sentence(
    tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    study, places = (
        write_study(tmp_path, TWO_ARMS, "two-arms"),
        Places.of(tmp_path / "results", digits),
    )
    ended = run(study, places, "--no-mlflow", "--trials-per-gpu", value)
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: ")
    assert ended.stderr.count("\n") == 1
    assert "--trials-per-gpu" in ended.stderr


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> tuple[Path, Places, str]:
    """A study with early stopping, run once."""
    folder = tmp_path_factory.mktemp("stopped")
    study, places = write_study(folder, STOPPING, "stopping"), Places.of(folder / "results", digits)
    ended = run(study, places, "--no-mlflow")
    assert ended.returncode == 0, ended.stderr + ended.stdout
    return study, places, ended.stdout


def test_a_scheduler_stops_losers_that_enter_no_table_and_leaves_a_winner(
    stopped: tuple[Path, Places, str],
) -> None:
    study, places, printed = stopped
    then = now(study, places)
    assert then.counts["stopped"] >= 1
    assert set(then.counts) == {"done", "stopped"}
    result = StudyResults(then).cells[0]
    assert result.problem == ""
    assert [record.state for record in result.records] == ["done"]
    assert "lr=0.05 (of 3)" in printed
    assert "(n=1)" in table(printed)[0]
    for k, n in re.findall(r"^\[(\d+)/(\d+)\]", printed, re.MULTILINE):
        assert int(k) <= int(n) == 3


def test_stopped_trials_that_a_table_needs_are_finished_also_by_a_later_run(
    tmp_path: Path, digits: Path
) -> None:
    text = STOPPING.replace("epochs: 3", "epochs: 2").replace("[0.05, 1e-7, 1e-8]", "[0.05, 0.01]")
    study, places = write_study(tmp_path, text), Places.of(tmp_path / "results", digits)
    for config in now(
        study, places
    ).plan.choosing.values():  # as if interrupted before the survivor was finished
        RecordStore(places.trials).write(unfinished(config, "stopped"))
    assert run(study, places, "--no-mlflow").returncode == 0
    after = now(study, places)
    assert after.counts == {"done": 2}
    assert StudyResults(after).cells[0].selected is not None


def test_a_run_interrupted_once_shows_what_is_there_and_a_later_run_ends_with_the_same_numbers(
    tmp_path: Path, places: Places, cli: CommandLine
) -> None:
    study = write_study(tmp_path, LONG, "long")
    words = ["run", study, "--no-mlflow", "--results", places.results, "--data", places.data]
    with subprocess.Popen(
        [sys.executable, "-m", "study", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(),
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("[1/4] done"):
                    break
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
            printed, error = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130, error
    assert "Traceback" not in error
    assert "Run the same command again to resume" in error
    assert len(table(printed)) == 2
    assert any("missing" in row for row in table(printed))
    then = now(study, places)
    assert set(then.counts) == {"done", "planned"}
    before = files(places)

    code, printed, error = cli("run", study, "--shard", "1/1")
    assert (code, error) == (0, "")
    assert before.items() <= files(places).items()
    assert all("(n=2)" in row for row in table(printed))
    uninterrupted = Places.of(tmp_path / "uninterrupted", places.data)
    left = [
        config
        for identity, config in then.plan.choosing.items()
        if then.states[identity] is not State.DONE
    ][:2]
    run_locally(left, uninterrupted, Observers([]), threads=1)
    resumed = now(study, places).found.records
    for identity, record in now(study, uninterrupted).found.records.items():
        assert resumed[identity].numbers() == record.numbers()
    assert now(study, uninterrupted).counts["done"] == len(left) == 2
