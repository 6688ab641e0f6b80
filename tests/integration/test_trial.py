"""One trial to its record: killed and run again, without Ray and MLflow, failing, diverging."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from data_fixtures import write_folders
from sklearn.datasets import load_digits
from study_fixtures import SEARCHED, CommandLine, checksummed, clean_environment, write_study

from dh2l.config.binding import bind
from dh2l.config.train_config import TrainConfig
from dh2l.data import load, prepare, read_manifest
from dh2l.system.processes import machine_id
from dh2l.training.training_state import Training
from study.execution.trial import run_to_completion, run_trial
from study.records.arrays import arrays_path, read_arrays
from study.records.leases import Claim
from study.records.paths import Places
from study.records.record import RECORD_VERSION, Record, parse_record
from study.records.store import RecordStore
from study.spec.plan import make_plan
from study.spec.study_file import find_study
from study.state.load import read_state
from study.state.results import StudyResults

TIMED = {"history.time", "history.seconds", "history.images_per_s"}

STUDY = """\
title: One trial
config:
  {dataset: digits, epochs: 3, batch_size: 256, metric: cos_hm, lambda_e: 0.1, lambda_l: 0.1, deterministic: true}
columns: [{name: digits}]
rows: [{arm: E+H}]
seeds: [0]
"""

KILL_POINTS: dict[str, tuple[str, int, list[int]]] = {
    "during training": ("training", 9, [1, 2]),
    "during evaluation": ("evaluation", 4, [1, 2]),
    "while writing a checkpoint": ("checkpoint", 2, [1, 2]),
    "while writing the last checkpoint": ("checkpoint", 3, [1, 3]),
    "while writing the arrays": ("trials.npz", 1, [1]),
    "between the arrays and the record": ("trials.json", 1, [1]),
}
"""What kills the trial, at which call of it (an epoch has 6 steps, and is evaluated on validation,
then on test), and the first epochs of the two attempts: what the checkpoint of the epoch before
saved is not trained again."""

DYING = """
import json, os, signal, sys
from pathlib import Path

from dh2l.training.batches import TrainBatches
from dh2l.training.evaluation import Evaluator
from dh2l.training.trainer import train
from study.cli import main

train.__kwdefaults__["checkpoint_seconds"] = 0.0  # a checkpoint after every epoch
study, data, results, points = sys.argv[1], sys.argv[2], Path(sys.argv[3]), json.loads(sys.argv[4])

def dying(function, n, counts=lambda *words: True):
    calls = 0
    def call(*words, **named):
        nonlocal calls
        if counts(*words):
            calls += 1
            if calls == n:
                os.kill(os.getpid(), signal.SIGKILL)
        return function(*words, **named)
    return call

def places(name):  # a file is written beside its place and then renamed, or linked
    if name == "checkpoint":
        return lambda source, target: Path(target).name == "checkpoint.pt"
    return lambda source, target: Path(target).parent.name + Path(target).suffix == name

for name, (point, n, _) in points.items():
    pid = os.fork()  # one process per trial; only the imports are shared
    if pid == 0:
        if point == "training":
            sizes, step = TrainBatches.__iter__, dying(lambda size: size, n)
            TrainBatches.__iter__ = lambda batches: map(step, sizes(batches))  # a GPU's steps are replayed, not called
        elif point == "evaluation":
            Evaluator.__call__ = dying(Evaluator.__call__, n)
        else:
            os.replace, os.link = dying(os.replace, n, places(point)), dying(os.link, n, places(point))
        sys.argv = ["dh2l-study", "trial", study, "digits", "--data", data, "--results", str(results / name)]
        main()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL, name
"""


def numbers(places: Places) -> tuple[Record, dict[str, np.ndarray]]:
    """The only record of some places and its arrays, without what depends on the clock."""
    (path,) = places.trials.glob("*.json")
    record = parse_record(path)
    arrays = read_arrays(record, path)
    assert set(arrays) >= TIMED
    return record, {name: array for name, array in arrays.items() if name not in TIMED}


def assert_same_numbers(places: Places, expected: Places) -> None:
    (record, arrays), (expected_record, expected_arrays) = numbers(places), numbers(expected)
    assert record.state == "done"
    assert record.numbers() == expected_record.numbers()
    assert record.parameters == expected_record.parameters
    assert set(arrays) == set(expected_arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, expected_arrays[name], err_msg=name)


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Places:
    """Places with the record of the trial that nothing happened to."""
    folder = tmp_path_factory.mktemp("never-killed")
    places = Places.of(folder / "results", digits)
    plan = make_plan(
        find_study(str(write_study(folder, STUDY))), lambda name: read_manifest(name, digits)
    )
    (config,) = plan.choosing.values()
    record = run_to_completion(run_trial(config, places, threads=1), lambda _: None, pytest.fail)
    assert record.state == "done"
    assert (
        len(read_arrays(record, places.trials / f"{record.identity}.json")["history.train_loss"])
        == 3
    )
    return places


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Path:
    """A folder with the results that the trial left when it was killed, for each kill point."""
    folder = tmp_path_factory.mktemp("killed")
    words = [write_study(folder, STUDY), digits, folder, json.dumps(KILL_POINTS)]
    ended = subprocess.run(
        [sys.executable, "-c", DYING, *map(str, words)],
        capture_output=True,
        text=True,
        timeout=180,
        env=clean_environment(),
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return folder


@pytest.mark.parametrize("point", list(KILL_POINTS))
def test_a_trial_killed_and_run_again_ends_with_the_numbers_of_one_never_killed(
    digits: Path, cli: CommandLine, never_killed: Places, killed: Path, point: str
) -> None:
    study = killed / "small.yaml"
    cli.places = places = Places.of(killed / point, digits)
    assert list(places.trials.glob("*.json")) == []
    assert "1 stale" in cli("plan", study)[1]

    code, _, error = cli("trial", study, "digits")
    assert (code, error) == (0, "")
    assert_same_numbers(places, never_killed)
    record, _ = numbers(places)
    assert [attempt["first_epoch"] for attempt in record.provenance.attempts] == KILL_POINTS[point][
        2
    ]
    path = places.trials / f"{record.identity}.json"
    assert set(places.trials.iterdir()) == {path, arrays_path(record, path)}
    assert record.provenance.retries == 1
    assert list(places.claims.glob("*.json")) == []
    assert not places.checkpoint(record.identity).exists()


@pytest.fixture(scope="module")
def without_ray_and_mlflow(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which Ray and MLflow cannot be imported."""
    folder = tmp_path_factory.mktemp("unimportable")
    for name in ("ray", "mlflow"):
        (folder / f"{name}.py").write_text(
            f"raise ImportError('{name} cannot be imported here')\n", encoding="utf-8"
        )
    environment = clean_environment()
    return environment | {"PYTHONPATH": os.pathsep.join([str(folder), environment["PYTHONPATH"]])}


@pytest.mark.parametrize(
    ("module", "missing"), [("execution.ray_backend", "ray"), ("tracking.mlflow_view", "mlflow")]
)
def test_the_environment_without_ray_and_mlflow_really_lacks_them(
    without_ray_and_mlflow: dict[str, str], module: str, missing: str
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", f"import study.{module}"],
        capture_output=True,
        text=True,
        env=without_ray_and_mlflow,
        check=False,
    )
    assert f"ImportError: {missing} cannot be imported here" in ended.stderr


@pytest.mark.parametrize(
    "words",
    [["trial", "STUDY", "digits"], ["run", "STUDY", "--shard", "1/1"]],
    ids=["trial", "run"],
)
def test_without_ray_and_mlflow_a_trial_is_trained_to_the_same_numbers(
    tmp_path: Path,
    places: Places,
    never_killed: Places,
    without_ray_and_mlflow: dict[str, str],
    words: list[str],
) -> None:
    study = str(write_study(tmp_path, STUDY))
    where = ["--results", str(places.results), "--data", str(places.data)]
    ended = subprocess.run(
        [
            sys.executable,
            "-m",
            "study",
            *(study if word == "STUDY" else word for word in words),
            *where,
        ],
        capture_output=True,
        text=True,
        timeout=120,
        env=without_ray_and_mlflow,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert_same_numbers(places, never_killed)


def _remove(path: Path) -> None:
    path.unlink()


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-8])


@pytest.mark.parametrize("damage", [_remove, _truncate])
def test_damaged_data_are_refused_before_anything_is_trained(
    tmp_path: Path, places: Places, cli: CommandLine, damage: Callable[[Path], None]
) -> None:
    cli.places = Places.of(places.results, shutil.copytree(places.data, tmp_path / "damaged"))
    study = write_study(tmp_path, STUDY)
    damage(cli.places.data / "digits" / "test_x.npy")
    for words in (("trial", study, "digits"), ("run", study, "--shard", "1/1")):
        assert "test_x.npy" in cli.mistake(*words)
    assert list(places.trials.glob("*")) == []


@pytest.mark.parametrize("damage", [_remove, _truncate])
def test_a_trial_whose_data_are_damaged_later_becomes_a_failed_record_and_a_run_retries_it(
    tmp_path: Path,
    places: Places,
    cli: CommandLine,
    never_killed: Places,
    damage: Callable[[Path], None],
) -> None:
    damaged = Places.of(places.results, shutil.copytree(places.data, tmp_path / "damaged"))
    study = write_study(tmp_path, STUDY)
    plan = make_plan(find_study(str(study)), lambda name: read_manifest(name, places.data))
    damage(damaged.data / "digits" / "test_x.npy")

    (config,) = plan.choosing.values()
    failed = run_to_completion(
        run_trial(config, damaged, threads=1),
        lambda epoch: pytest.fail(f"trained {epoch}"),
        pytest.fail,
    )
    assert parse_record(RecordStore(places.trials).place(failed)) == failed
    assert (failed.state, failed.last) == ("failed", None)
    assert failed.failure is not None
    assert failed.failure.kind == "DataError"
    assert "test_x.npy" in failed.failure.message
    assert "Traceback" in failed.failure.traceback
    assert "DataError" in failed.failure.traceback.splitlines()[-1]
    assert list(places.claims.glob("*.json")) == []

    code, out, error = cli("run", study, "--shard", "1/1")
    assert (code, error) == (0, "")
    assert "(n=1)" in out
    assert_same_numbers(places, never_killed)


def test_a_diverged_trial_becomes_a_record_that_names_the_term_and_is_not_run_again(
    tmp_path: Path, places: Places, cli: CommandLine
) -> None:
    study = write_study(tmp_path, STUDY.replace("epochs: 3", "lr: 1e+30, epochs: 3"))
    code, out, _ = cli("trial", study, "digits")
    assert code == 1
    assert "diverged" in out
    (path,) = places.trials.glob("*.json")
    record = parse_record(path)
    assert record.state == "diverged"
    assert record.failure is not None
    assert record.failure.kind == "Diverged"
    assert record.failure.epoch == 1
    assert record.failure.term
    assert record.failure.message == f"the {record.failure.term} became non-finite in epoch 1"

    before = path.stat().st_mtime_ns
    code, out, _ = cli("run", study, "--no-mlflow")
    assert code == 1
    assert "diverged (1 of 1)" in out
    assert path.stat().st_mtime_ns == before


def test_a_record_of_a_newer_version_stops_its_own_trial_alone_and_a_share_without_its_number_is_not_complete(
    tmp_path: Path, places: Places, cli: CommandLine, never_killed: Places
) -> None:
    study = write_study(tmp_path, STUDY)
    identity = numbers(never_killed)[0].identity
    path = places.trials / f"{identity}.json"
    body = json.dumps({"version": RECORD_VERSION + 1, "identity": identity})
    path.parent.mkdir(parents=True)
    path.write_bytes(checksummed(body))
    before = path.read_bytes()
    plan = make_plan(find_study(str(study)), lambda name: read_manifest(name, places.data))
    told = run_to_completion(
        run_trial(plan.choosing[identity], places),
        lambda epoch: pytest.fail(f"trained {epoch}"),
        pytest.fail,
    )
    assert told.failure is not None
    assert str(path) in told.failure.message
    assert path.read_bytes() == before
    code, out, _ = cli("run", study, "--shard", "1/1")
    assert code == 1
    assert path.read_bytes() == before
    assert "conflict" in out


@pytest.mark.parametrize("words", [[], ["--keep"]], ids=" ".join)
def test_what_a_process_left_that_was_killed_after_it_had_filed_its_record_is_gone_after_a_run(
    tmp_path: Path, places: Places, cli: CommandLine, never_killed: Places, words: list[str]
) -> None:
    study = write_study(tmp_path, STUDY)
    shutil.copytree(str(never_killed.trials), str(places.trials))
    identity = numbers(places)[0].identity
    left = Claim(host="here", machine=machine_id(), pid=os.getpid(), born=-1000, token=identity)
    path = places.claims / f"{identity}.json"
    path.parent.mkdir(parents=True)
    path.write_text(left.model_dump_json(), encoding="utf-8")
    places.checkpoint(identity).mkdir(parents=True)
    assert cli("run", study, "--shard", "1/1", *words)[0] == 0
    assert list(path.parent.iterdir()) == []
    assert places.checkpoint(identity).exists() == bool(words)


def test_damaged_arrays_of_a_finished_trial_are_named_by_every_command_that_reads_them(
    tmp_path: Path, places: Places, cli: CommandLine, never_killed: Places
) -> None:
    study = write_study(tmp_path, STUDY)
    shutil.copytree(str(never_killed.trials), str(places.trials))
    (arrays,) = Path(str(places.trials)).glob("*.npz")
    arrays.write_bytes(arrays.read_bytes()[:200])
    warning = f"1 record with damaged arrays, first {arrays}: curves, predictions and class vectors"
    for command in (
        ["run", study, "--shard", "1/1"],
        ["table", study],
        ["report", study],
        ["compare", study, "E+H", "E+H"],
        ["export", study, "--format", "csv"],
    ):
        error = cli(*command)[2]
        assert warning in " ".join(error.split()), command
    arrays.write_bytes(next(Path(str(never_killed.trials)).glob("*.npz")).read_bytes())
    assert cli("table", study)[2] == ""


def test_a_finished_trial_is_not_trained_again(
    tmp_path: Path, cli: CommandLine, never_killed: Places
) -> None:
    cli.places = never_killed
    (path,) = never_killed.trials.glob("*.json")
    before = path.stat().st_mtime_ns
    code, out, _ = cli("trial", write_study(tmp_path, STUDY), "digits")
    assert code == 0
    assert "epoch" not in out
    assert path.stat().st_mtime_ns == before


def test_each_shard_trains_its_share_and_together_they_complete_the_table(
    tmp_path: Path, places: Places, cli: CommandLine
) -> None:
    study = write_study(tmp_path, STUDY.replace("epochs: 3", "epochs: 1").replace("[0]", "[0, 1]"))
    assert "(n=1), missing (1 of 2)" in cli("run", study, "--shard", "2/2")[1]
    (first,) = places.trials.glob("*.json")
    assert parse_record(first).seed == 1
    code, out, _ = cli("run", study, "--shard", "1/2")
    assert code == 0
    assert "(n=2)" in out


@pytest.fixture(scope="module")
def two_labellings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data sets `truth` and `shuffled`: the same training images, but test images under shuffled
    labels.
    """
    root = tmp_path_factory.mktemp("two-labellings")
    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images * 255 / 16).astype(np.uint8).reshape(-1, 8, 8, 1)
    paths: dict[int, tuple[str, ...]] = {
        digit: ("even" if digit % 2 == 0 else "odd", f"digit{digit}") for digit in range(10)
    }
    of_class = {digit: pixels[labels == digit] for digit in paths}
    train = {paths[digit]: of_class[digit][:40] for digit in paths}
    test = {paths[digit]: of_class[digit][40:60] for digit in paths}
    mixed = np.concatenate(list(test.values()))[np.random.default_rng(0).permutation(200)]
    shuffled = dict(zip(test, mixed.reshape(10, 20, 8, 8, 1), strict=True))
    for name, split in (("truth", test), ("shuffled", shuffled)):
        prepare(name, root / "data", source=write_folders(root / name, train, split), flip=False)
    return root / "data"


def test_shuffled_test_labels_change_neither_validation_histories_nor_what_is_selected(
    tmp_path: Path, cli: CommandLine, two_labellings: Path
) -> None:
    cli.places = Places.of(tmp_path / "results", two_labellings)
    text = SEARCHED.replace(
        "epochs: 2", "epochs: 3, batch_size: 32, lr: 0.02, deterministic: true"
    ).replace("[0.1, 1, 10]", "[100, 0.1]")
    study = write_study(tmp_path, text)
    selected, tests, histories = [], [], list[list[dict[str, np.ndarray]]]()
    for name in ("truth", "shuffled"):
        assert cli("run", study, "--set", f"dataset={name}", "--shard", "1/1")[0] == 0
        plan = make_plan(
            find_study(str(study), [f"dataset={name}"]),
            lambda name: read_manifest(name, cli.places.data),
        )
        now = read_state(plan, cli.places)
        result = StudyResults(now).cells[0]
        assert result.selected is not None
        selected.append((result.selected.values, result.choice.score))
        tests.append([now.found.records[identity].last for identity in plan.choosing])
        arrays = [
            read_arrays(now.found.records[identity], cli.places.trials / f"{identity}.json")
            for identity in plan.choosing
        ]
        histories.append(
            [{k: v for k, v in a.items() if k not in TIMED and "test" not in k} for a in arrays]
        )
    assert selected[0] == selected[1]
    assert len(histories[0]) == len(histories[1]) == 4
    for truth, shuffled in zip(*histories, strict=True):
        assert (
            set(truth)
            == set(shuffled)
            >= {"history.validation_accuracy", "history.validation_loss", "vectors"}
        )
        for key in truth.keys() - {"predictions.last", "predictions.best_validation", "labels"}:
            np.testing.assert_array_equal(truth[key], shuffled[key], err_msg=key)
    for here, there in zip(*tests, strict=True):
        assert here is not None
        assert there is not None
        assert here.test_accuracy > there.test_accuracy  # the labels were really shuffled


def test_trials_of_one_node_share_the_prepared_images(digits: Path) -> None:
    """They read them where they are mapped: after an epoch no page of the files is a process's
    own.
    """
    data = load("digits", digits)
    config = bind(TrainConfig(batch_size=256, epochs=1), data.manifest)
    training = Training(config, data, torch.device("cpu"))
    training.train_epoch(1)
    assert training.splits.train.pixels.data_ptr() == data.train_x.ctypes.data
    assert training.splits.test.pixels.data_ptr() == data.test_x.ctypes.data
    smaps, own = Path("/proc/self/smaps").read_text(encoding="utf-8"), dict[str, int]()
    for mapping in re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", smaps, flags=re.MULTILINE):
        path = Path(mapping.partition("\n")[0].split(" ")[-1])
        if path.is_relative_to(digits):
            own[path.name] = int(re.findall(r"Private_Dirty: +(\d+)", mapping)[0])
    assert {"train_x.npy", "test_x.npy"} <= set(own)
    assert set(own.values()) == {0}
