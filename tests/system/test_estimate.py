"""Cost of trials to come: arithmetic on hand-made measurements, and real ones."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from study_fixtures import (
    SEARCHED,
    SMALL,
    CommandLine,
    command,
    done,
    planned,
    standing_of,
    write_study,
)

from dh2l.config.binding import bind
from dh2l.config.train_config import TrainConfig
from dh2l.data import Planted, prepare, read_manifest, register_planted
from dh2l.data.registry import DATA_SETS
from dh2l.errors import UserError
from study.cli.estimate import estimate_lines, estimate_values, size
from study.execution.estimate.cost import (
    Estimate,
    Timing,
    WorkerPool,
    estimate,
    figure,
    makespan,
    mean_timing,
    require_within,
)
from study.execution.estimate.timing import TimedTrial
from study.execution.estimate.workload import TimingTask, Workload, kind_of
from study.execution.estimation import remaining_workload, timing_tasks
from study.execution.observers import Observers
from study.execution.training import run_locally
from study.records.paths import Places
from study.records.store import RecordStore
from study.spec.plan import make_plan
from study.spec.study_file import StudyFile
from study.state.load import open_study
from study.state.remaining import trials_to_come

CONFIRMED = SEARCHED + "confirm: {seeds: [5, 6, 7]}\n"
OPTUNA = (
    SEARCHED.replace("{grid: [0.1, 1, 10]}", "{loguniform: [0.1, 10]}") + "searcher: {trials: 4}\n"
)
TINY = """\
title: A tiny planted study
config: {dataset: small-planted, epochs: 2, batch_size: 64, metric: cosine, lambda_e: 0.1}
columns: [{name: planted}]
rows: [{arm: E}]
seeds: [0, 1]
"""


def timing(
    epoch_s: float, once_s: float = 10.0, record: int = 1 << 10, checkpoint: int = 1 << 20
) -> Timing:
    return Timing(once_s, epoch_s, 20, 500, record, checkpoint, 4.0)


def cost_of(work: Workload, pool: WorkerPool, *timings: Timing) -> Estimate:
    return estimate(work, dict(zip(work.kinds, timings, strict=True)), pool)


@pytest.mark.parametrize(
    ("seconds", "places", "expected"),
    [
        ([], 3, 0.0),
        ([5.0, 1.0], 1, 6.0),
        ([5.0, 1.0], 4, 5.0),
        ([1.0, 1.0, 4.0], 2, 5.0),  # the longest begins last: the plan's order, not the best one
        ([4.0, 1.0, 1.0], 2, 4.0),
    ],
)
def test_trials_begin_in_their_order_on_the_first_free_place(
    seconds: list[float], places: int, expected: float
) -> None:
    assert makespan(seconds, places) == expected


@given(st.lists(st.integers(0, 100), min_size=1), st.integers(1, 9))
def test_the_wall_time_lies_between_the_bounds_of_list_scheduling(
    seconds: Sequence[int], places: int
) -> None:
    """Graham: at least the mean load and the longest trial, at most their sum."""
    found, lower = makespan(seconds, places), max(sum(seconds) / places, max(seconds))
    assert lower <= found <= sum(seconds) / places + max(seconds)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 3},
        {"epochs": 9},
        {"lambda_e": 2.0},
        {"metric": "cos_hm"},
        {"lr": 0.5},
        {"lr_milestones": (0.1,)},
    ],
    ids=str,
)
def test_trials_that_differ_in_seed_epochs_or_strength_are_of_one_kind(
    change: dict[str, object],
) -> None:
    values = {"lambda_e": 1.0, "metric": "cosine"}
    assert kind_of(TrainConfig.parse(values)) == kind_of(TrainConfig.parse(values | change))


@pytest.mark.parametrize(
    "change",
    [
        *(
            {"model": "resnet32"},
            {"batch_size": 64},
            {"lambda_e": 0.0},
            {"protocol": "paper"},
            {"precision": "bf16"},
        ),
        *(
            {"classifier": "hierarchical"},
            {"dataset": "cifar100"},
            {"micro_batch": 8},
            {"lambda_mma": 1.0},
        ),
    ],
    ids=str,
)
def test_trials_that_differ_in_model_data_batch_or_arm_are_of_different_kinds(
    change: dict[str, object],
) -> None:
    values = {"lambda_e": 1.0, "metric": "cosine"}
    assert kind_of(TrainConfig.parse(values)) != kind_of(TrainConfig.parse(values | change))


def test_an_estimate_adds_up_by_hand(tmp_path: Path, empty: Places) -> None:
    """Two kinds with two trials of 2 epochs each, two side by side: 110 and 210 s a trial, in
    turn.
    """
    work = remaining_workload(standing_of(planned(tmp_path, SMALL), empty, []))
    cost = cost_of(
        work,
        WorkerPool(2, 1, 0.5, 20.0, 8.0),
        timing(50.0),
        timing(100.0, record=3 << 10, checkpoint=3 << 20),
    )
    assert [kind.config.arm for kind in cost.kinds] == ["baseline+l2", "E"]
    assert [kind.trials for kind in cost.kinds] == [2, 2]
    assert [kind.hours * 3600 for kind in cost.kinds] == pytest.approx(
        [0.5 * 2 * 110, 0.5 * 2 * 210]
    )
    assert cost.hours * 3600 == pytest.approx(0.5 * (2 * 110 + 2 * 210))
    assert cost.wall_s == 420.0  # one place trains 110 + 110, the other 210 + 210
    assert cost.record_bytes == 2 * (1 << 10) + 2 * (3 << 10)
    assert cost.checkpoint_bytes == 2 * (3 << 20)
    assert estimate_lines(cost) == [
        "trials:  4 missing",
        "compute: 0.0889 GPU hours",
        "wall:    7 min: 20 s to start Ray, 8 s to start its workers, and 7 min of training with "
        "2 side by side, "
        "0.5 GPUs each, in the plan's order",
        "disk:    8 KiB of records, at a time 6 MiB of checkpoints; MLflow's store is not counted",
        "These are estimates, from 8 s measured over 2 kinds of trials.",
    ]


def test_what_is_done_costs_nothing_more(tmp_path: Path, empty: Places) -> None:
    plan = planned(tmp_path, SMALL)
    first, *rest = plan.choosing.values()
    work = remaining_workload(standing_of(plan, empty, [done(config, 90) for config in rest]))
    assert work == Workload((first,))


@pytest.mark.parametrize(
    ("text", "missing", "searched", "confirming"),
    [(CONFIRMED, 6, 0, 3), (OPTUNA, 0, 8, 0)],
    ids=["confirm", "optuna"],
)
def test_trials_that_depend_on_results_are_counted_apart(
    tmp_path: Path, empty: Places, text: str, missing: int, searched: int, confirming: int
) -> None:
    now = standing_of(planned(tmp_path, text), empty, [])
    work = remaining_workload(now)
    assert (len(work.missing), len(work.searched), len(work.confirming)) == (
        missing,
        searched,
        confirming,
    )
    assert len(work.later) == trials_to_come(now)


def test_a_second_stage_is_of_another_kind_starts_workers_again_and_is_at_most_what_is_said(
    tmp_path: Path, empty: Places
) -> None:
    """Six trials of 50 s on three places, then three that confirm, 70 s each."""
    work = remaining_workload(standing_of(planned(tmp_path, CONFIRMED), empty, []))
    assert [config.protocol for config in work.kinds.values()] == ["validated", "paper"]
    cost = cost_of(work, WorkerPool(3, 2, 0, 5.0, 3.0), timing(20.0), timing(30.0))
    assert estimate_lines(cost)[:3] == [
        "trials:  6 missing, and at most 3 that depend on results",
        "compute: 0.167 CPU-core hours, and at most 0.117 for those that depend on results",
        "wall:    3 min: 5 s to start Ray, 2 × 3 s to start its workers, and 3 min of training "
        "with 3 side by side, "
        "2 CPUs each, in the plan's order",
    ]
    values = json.loads(json.dumps(estimate_values(cost)))
    assert (values["wall_s"], values["start_s"], values["at_most_later"]) == (181.0, 11.0, 3)
    assert [kind["trial_s"] for kind in values["kinds"]] == [50.0, 70.0]


def test_with_a_scheduler_the_estimate_is_an_upper_bound(tmp_path: Path, empty: Places) -> None:
    now = standing_of(planned(tmp_path, SEARCHED + "scheduler: {kind: asha}\n"), empty, [])
    (*_, last) = estimate_lines(
        cost_of(remaining_workload(now), WorkerPool(1, 1, 0, 1, 1), timing(1))
    )
    assert last == (
        "These are estimates, from 4 s measured over 1 kind of trials; the scheduler may stop "
        "some early, so at most "
        "that."
    )


def test_several_workers_timings_of_a_kind_are_averaged_and_their_seconds_add_up() -> None:
    assert mean_timing([timing(1.0), timing(3.0)]) == Timing(
        10.0, 2.0, 20, 500, 1 << 10, 1 << 20, 8.0
    )


def test_more_gpu_hours_than_allowed_are_refused_with_both_numbers(
    tmp_path: Path, empty: Places
) -> None:
    work = remaining_workload(standing_of(planned(tmp_path, CONFIRMED), empty, []))
    cost = cost_of(work, WorkerPool(3, 2, 1, 5.0, 3.0), timing(20.0), timing(30.0))
    assert cost.hours + cost.later_hours == pytest.approx(510 / 3600)
    require_within(cost, 0.15, "mine")
    with pytest.raises(UserError) as refused:
        require_within(cost, 0.1, "mine")
    assert str(refused.value) == (
        "mine takes about 0.142 GPU hours by estimate (9 trials, 3 of which depend on results), "
        "but --max-gpu-hours "
        "is 0.1; nothing was trained. Raise the limit, or train less with --set: fewer epochs or "
        "seeds. Several "
        "trials on a GPU (--trials-per-gpu auto) may need fewer hours."
    )


@pytest.mark.parametrize(
    ("value", "words"),
    [(0.012345, "0.0123"), (1.0, "1"), (99.94, "99.9"), (1234.5, "1,234"), (0, "0")],
)
def test_a_figure_has_three_digits(value: float, words: str) -> None:
    assert figure(value) == words


@pytest.mark.parametrize(
    ("n_bytes", "words"), [(512, "0.5 KiB"), (3 << 20, "3 MiB"), (1536 << 20, "1.5 GiB")], ids=str
)
def test_bytes_are_said_in_a_persons_units(n_bytes: int, words: str) -> None:
    assert size(n_bytes) == words


def test_a_timed_trial_measures_what_a_real_one_takes_and_leaves(places: Places) -> None:
    """Steps, images and bytes are those of the trial itself; seconds depend on the machine."""
    values = {
        "epochs": 2,
        "batch_size": 256,
        "classifier": "hierarchical",
        "lambda_l": 0.1,
        "metric": "cosine",
    }
    config = bind(TrainConfig.parse(values), read_manifest("digits", places.data))
    trial = TimedTrial(TimingTask(config, places.data, None, seconds=0.2), device="cpu", threads=1)
    found = trial.measure()
    assert (found.steps, found.evaluated) == (6, 143 + 355)
    assert 0 < found.once_s < 30
    assert 0 < found.epoch_s < 60
    assert found.measured_s > 0.2

    run_locally([config], places, Observers([]), threads=1)
    files = [*places.trials.iterdir(), *(places.results / "probabilities").iterdir()]
    real = sum(path.stat().st_size for path in files)
    assert 0.9 * real < found.record_bytes < 2 * real  # how well numbers compress depends on them
    assert found.checkpoint_bytes > 2 * 4 * 270_000  # weights and momentum of resnet20


@pytest.mark.parametrize(("accuracy", "evaluations"), [("last", 1.5), ("oracle", 2.0)])
def test_an_epoch_s_estimate_has_the_evaluations_of_the_test_set_that_the_study_needs(
    accuracy: str,
    evaluations: float,
    tmp_path: Path,
    places: Places,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every second of 60 epochs is evaluated, unless the study shows the best. An evaluation is set
    to take an hour.
    """
    text = TINY.replace("small-planted, epochs: 2", "digits, epochs: 60")
    file = write_study(tmp_path, f"{text}accuracy: {accuracy}\n", "tiny")
    now = open_study(str(file), [], places, note=pytest.fail, warn=pytest.fail)
    (task,) = timing_tasks(now, remaining_workload(now), places).values()
    monkeypatch.setattr(TimedTrial, "_evaluated", lambda *_: 3600.0)
    found = TimedTrial(replace(task, seconds=0.2), device="cpu", threads=1).measure()
    assert found.epoch_s == pytest.approx(evaluations * 3600, abs=600)


def tiny_study(folder: Path) -> tuple[Path, Path]:
    """A study on a small planted data set, and the folder where it is prepared."""
    try:
        register_planted("small-planted", Planted(branching=(2, 2), n_train=20, n_test=10))
        prepare("small-planted", folder / "data")
    finally:
        DATA_SETS.pop("small-planted", None)
    return write_study(folder, TINY, "tiny"), folder / "data"


def test_a_plan_is_estimated_through_ray_and_nothing_is_left(tmp_path: Path) -> None:
    study, data = tiny_study(tmp_path)
    ended = command(
        "plan", study, "--estimate", "--json", "--results", tmp_path / "results", "--data", data
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)["estimate"]
    assert "timing 1 kind of trials" in ended.stderr
    assert (found["trials"], found["at_most_later"]) == (2, 0)
    (kind,) = found["kinds"]
    assert (
        kind["arm"],
        kind["trials"],
        kind["steps_per_epoch"],
        kind["images_evaluated_per_epoch"],
    ) == ("E", 2, 2, 48)
    assert 0 < kind["epoch_s"] < kind["trial_s"]
    assert found["wall_s"] > found["start_s"] > 0
    assert found["hours"] > 0
    assert not (tmp_path / "results").exists()


def test_a_limit_of_gpu_hours_where_there_is_no_gpu_is_a_sentence_with_the_core_hours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    study, data = tiny_study(tmp_path)
    results = tmp_path / "results"
    ended = command(
        "run", study, "--max-gpu-hours", "5", "--no-mlflow", "--results", results, "--data", data
    )
    assert ended.returncode == 2, ended.stdout
    assert ended.stderr.startswith(
        "error: --max-gpu-hours 5 counts GPU hours, but trials train on CPU cores here: tiny "
    )
    assert "CPU-core hours and no GPU; nothing was trained" in ended.stderr
    assert list((results / "trials").iterdir()) == []


def test_a_shard_has_no_limit_of_gpu_hours(cli: CommandLine, tmp_path: Path) -> None:
    said = cli.mistake(
        "run", write_study(tmp_path, SMALL), "--shard", "1/2", "--max-gpu-hours", "1"
    )
    assert said.endswith("--trials-per-gpu and --max-gpu-hours do not go with it")


def test_a_complete_study_has_nothing_to_estimate(cli: CommandLine, tmp_path: Path) -> None:
    """Ray is not started for it."""
    study = write_study(tmp_path, SMALL)
    plan = make_plan(StudyFile(study), lambda name: read_manifest(name, cli.places.data))
    for config in plan.choosing.values():
        RecordStore(cli.places.trials).write(done(config, 90))
    code, out, error = cli("plan", study, "--estimate")
    assert (code, error) == (0, "")
    assert out.splitlines()[-1] == "No trials are left to train, so there is nothing to estimate."
    assert json.loads(cli("plan", study, "--estimate", "--json")[1])["estimate"] is None
