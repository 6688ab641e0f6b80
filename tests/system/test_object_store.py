"""Results in an object store: an S3 of our own, through which records and checkpoints travel."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import s3fs
from moto.server import ThreadedMotoServer
from study_fixtures import clean_environment, done, planned, write_study
from upath import UPath

from dh2l.data import read_manifest
from dh2l.io.files import remove_folder
from study.cli import main
from study.execution.observers import Observer
from study.execution.training import run_locally
from study.execution.trial import run_trial
from study.execution.trial_output import Waiting
from study.records.paths import Places
from study.records.store import RecordStore
from study.spec.plan import make_plan
from study.spec.study_file import find_study
from study.state.load import read_state

STUDY = """\
title: Two seeds
config: {dataset: digits, epochs: 3, batch_size: 256}
columns: [{name: digits}]
rows: [{arm: baseline+l2}]
seeds: [0, 1]
"""
OFTEN = """\
import os
import dh2l.training.trainer

dh2l.training.trainer.train.__kwdefaults__["checkpoint_seconds"] = 0.0
if os.environ.get("SLOW"):
    import dh2l.training.checkpoint, time
    save = dh2l.training.checkpoint.save
    dh2l.training.checkpoint.save = lambda *words: (save(*words), time.sleep(60))
"""


class Observed(Observer):
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def on_message(self, sentence: str) -> None:
        self.notes.append(sentence)


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadedMotoServer]:
    """An S3 on this machine, which can be stopped and started at the same port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def bucket(
    server: ThreadedMotoServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[str]:
    """The URL of an empty place, which processes started from here reach too; the working folder is
    another.
    """
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "us",
        "AWS_SECRET_ACCESS_KEY": "ours",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_RETRY_MODE": "standard",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("bucket")
    yield "s3://bucket/mine"
    s3fs.S3FileSystem().rm("bucket", recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()


def run(
    folder: Path, study: Path, bucket: str, data: Path, *words: object, **variables: str
) -> "subprocess.Popen[str]":
    """`run` in a process of its own, from a folder."""
    folder.mkdir(exist_ok=True)
    amazon = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "study",
            "run",
            *map(str, (study, "--results", bucket, "--data", data, *words)),
        ],
        cwd=folder,
        env=clean_environment() | amazon | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def names(bucket: str, place: str) -> list[str]:
    return sorted(
        str(path).removeprefix(f"{bucket}/{place}/") for path in UPath(bucket, place).rglob("*.*")
    )


def test_a_trial_begun_on_one_machine_goes_on_elsewhere_from_its_checkpoint(
    bucket: str, tmp_path: Path, digits: Path
) -> None:
    """A shard is killed after a checkpoint; a driver elsewhere, through Ray, finishes it and the
    rest.
    """
    study, plugin = write_study(tmp_path, STUDY), tmp_path / "often.py"
    plugin.write_text(OFTEN, encoding="utf-8")
    plan = make_plan(find_study(str(study)), lambda name: read_manifest(name, digits))
    first, second = plan.choosing
    with run(
        tmp_path / "one", study, bucket, digits, "--shard", "1/2", "--plugin", plugin, SLOW="1"
    ) as dying:
        deadline = time.monotonic() + 120
        while not (saved := names(bucket, "checkpoints")):
            assert time.monotonic() < deadline
            assert dying.poll() is None, dying.communicate()
            time.sleep(0.2)
        dying.kill()
    assert saved == [f"{first}/checkpoint.pt"]
    assert names(bucket, "trials") == []

    with run(tmp_path / "two", study, bucket, digits, "--plugin", plugin, "--no-mlflow") as ended:
        out, error = ended.communicate(timeout=200)
    assert (ended.returncode, error) == (0, ""), out + error
    assert f"records: {bucket}/trials" in out
    assert names(bucket, "checkpoints") == []
    there = read_state(plan, Places.of(bucket, digits))
    assert there.counts == {"done": 2}
    records = there.found.records
    first_epochs = {
        i: [attempt["first_epoch"] for attempt in r.provenance.attempts] for i, r in records.items()
    }
    assert first_epochs == {first: [1, 2], second: [1]}

    here = Places.of(tmp_path / "undisturbed", digits)
    run_locally(plan.choosing.values(), here, Observed(), threads=1)
    undisturbed = read_state(plan, here).found.records
    assert {i: r.numbers() for i, r in records.items()} == {
        i: r.numbers() for i, r in undisturbed.items()
    }


def test_of_two_records_of_a_trial_the_first_stays_and_the_second_is_compared(
    bucket: str, tmp_path: Path
) -> None:
    plan = planned(tmp_path, STUDY)
    config, other = plan.choosing.values()
    places = Places.of(bucket, tmp_path / "data")
    store = RecordStore(places.trials)
    for record in (done(config, 80), done(config, 80), done(config, 81), done(other, 70)):
        store.write(record)
    now = read_state(plan, places)
    assert now.counts == {"done": 2}
    assert now.found.records[config.identity].numbers() == done(config, 80).numbers()
    (warning,) = now.found.warnings()
    assert warning.startswith(
        f"{config.identity} was trained twice at once, with different numbers; "
    )
    assert len(names(bucket, "repeated")) == 1


def test_a_store_that_does_not_answer_costs_no_trial(
    bucket: str, tmp_path: Path, digits: Path, server: ThreadedMotoServer
) -> None:
    """It goes away while a trial trains, and is back later: the trial waits with its record."""
    plan = make_plan(
        find_study(str(write_study(tmp_path, STUDY))), lambda name: read_manifest(name, digits)
    )
    config, places = next(iter(plan.choosing.values())), Places.of(bucket, digits)
    training = run_trial(config, places, threads=1)
    assert not isinstance(next(training), Waiting)
    server.stop()
    try:
        with pytest.warns(UserWarning, match="no checkpoint is saved in "):
            waiting = next(step for step in training if isinstance(step, Waiting))
        assert waiting.reason.startswith(
            f"cannot write the record of {config.identity} to {bucket}/trials: "
        )
        assert waiting.reason.endswith("; retrying every 2 s")
        assert next(training) == waiting
    finally:
        server.start()
    assert all(step == waiting for step in training)
    assert read_state(plan, places).counts == {"done": 1, "planned": 1}


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("s4://bucket/mine", "unknown kind of store 's4'; "),
        ("s3:///mine", "s3:///mine names no bucket; give s3://BUCKET/PLACE"),
        (
            "s3://nowhere/mine",
            "the results folder s3://nowhere/mine cannot be written (The specified bucket",
        ),
        (
            "gs://bucket/mine",
            "gs://bucket/mine needs gcsfs, which is not installed; pip install it",
        ),
    ],
)
def test_a_place_that_is_none_is_a_sentence(
    place: str,
    reason: str,
    tmp_path: Path,
    digits: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = [
        "run",
        write_study(tmp_path, STUDY),
        "--results",
        place,
        "--data",
        digits,
        "--shard",
        "1/2",
    ]
    monkeypatch.setattr("sys.argv", ["dh2l-study", *map(str, words)])
    with pytest.raises(SystemExit) as exited:
        main()
    assert exited.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {reason}")


def test_a_store_that_cannot_be_reached_is_a_sentence(
    bucket: str,
    tmp_path: Path,
    digits: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr(
        "sys.argv",
        [
            "dh2l-study",
            "plan",
            str(write_study(tmp_path, STUDY)),
            "--results",
            bucket,
            "--data",
            str(digits),
        ],
    )
    with pytest.raises(SystemExit) as exited:
        main()
    assert exited.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: EndpointConnectionError: Could not connect")
    assert error.count("\n") == 1


def test_removing_a_folder_of_the_store_leaves_what_lies_beside_it(bucket: str) -> None:
    for name in ("a/1.pt", "a/2.pt", "ab/1.pt"):
        UPath(bucket, name).write_bytes(b"x")
    remove_folder(UPath(bucket, "a"))
    remove_folder(UPath(bucket, "never there"))
    assert [path.name for path in UPath(bucket).iterdir()] == ["ab"]
