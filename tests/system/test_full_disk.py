"""Results on a disk that is full, or cannot be written: a small file system of its own, mounted for
each test.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from study_fixtures import CommandLine, clean_environment, write_study

from dh2l.data import read_manifest
from dh2l.training import checkpoint
from dh2l.training.trainer import train
from study.execution.observers import Observers
from study.execution.training import run_locally
from study.execution.trial import run_trial
from study.execution.trial_output import Waiting
from study.records.leases import Claims
from study.records.paths import Places
from study.spec.plan import Plan, make_plan
from study.spec.study_file import find_study
from study.state.load import read_state
from study.state.states import State

STUDY = """\
title: Two arms
config: {dataset: digits, epochs: 4, batch_size: 256}
columns: [{name: digits}]
rows:
  - arm: baseline+l2
  - {arm: E, metric: cosine, set: {lambda_e: 0.1}}
seeds: [0]
"""
SIZE = "12m"
"""Room for the checkpoints of two trials, and what else they leave."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small file system."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a file system: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture
def plan(tmp_path: Path, digits: Path) -> Plan:
    return make_plan(
        find_study(str(write_study(tmp_path, STUDY))), lambda name: read_manifest(name, digits)
    )


@pytest.fixture
def places(disk: Path, digits: Path, tmp_path: Path) -> Places:
    """Results on the disk; logs, which stay open, beside it, for what is written cannot be made
    read-only.
    """
    return Places(disk / "results", digits, tmp_path / "local")


class Full:
    """Takes all room that is left on a disk, and gives it back."""

    def __init__(self, disk: Path) -> None:
        self._filler = disk / "filler"

    def set(self) -> None:
        with self._filler.open("wb", buffering=0) as file:
            for size in (2**16, 2**12):  # the last pages too
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue

    def mend(self) -> None:
        self._filler.unlink()


class ReadOnly:
    """Makes a disk one that cannot be written, and back."""

    def __init__(self, disk: Path) -> None:
        self._disk = disk

    def set(self) -> None:
        command = ["mount", "-o", "remount,ro", str(self._disk)]
        for _ in range(100):  # a claim may be in the middle of a sign of life
            if not subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode:
                return
            time.sleep(0.05)
        pytest.fail("the disk cannot be made read-only")

    def mend(self) -> None:
        subprocess.run(["mount", "-o", f"remount,rw,size={SIZE}", self._disk], check=True)


@pytest.mark.parametrize(
    ("fault", "reason"), [(Full, "No space left on device"), (ReadOnly, "Read-only file system")]
)
def test_a_trial_waits_with_its_record_and_nothing_is_ever_half_written(
    disk: Path,
    plan: Plan,
    places: Places,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: type[Full | ReadOnly],
    reason: str,
) -> None:
    monkeypatch.setitem(train.__kwdefaults__ or {}, "checkpoint_seconds", 0.0)
    config, trouble = next(iter(plan.choosing.values())), fault(disk)
    training = run_trial(config, places, threads=1)
    next(training)  # its checkpoint is written
    trouble.set()
    with pytest.warns(
        UserWarning, match=rf"no checkpoint is saved in .* \({reason}\); training goes on"
    ):
        waiting = next(step for step in training if isinstance(step, Waiting))
    expected = (
        f"cannot write the record of {config.identity} to {places.trials}: {reason}; "
        "retrying every 2 s"
    )
    assert waiting == Waiting(expected)
    assert next(training) == waiting
    now = read_state(plan, places)
    assert now.states[config.identity] is State.RUNNING
    assert now.found.warnings() == []
    saved = checkpoint.load(places.checkpoint(config.identity), config.identity)
    assert saved is not None
    assert saved["epochs_done"] == 1

    trouble.mend()
    assert [step for step in training if step != waiting] == []
    now = read_state(plan, places)
    assert now.counts == {"done": 1, "planned": 1}
    assert not places.checkpoint(config.identity).exists()
    here = Places.of(tmp_path / "undisturbed", places.data)
    run_locally([config], here, Observers([]), threads=1)
    assert (
        now.found.records[config.identity].numbers()
        == read_state(plan, here).found.records[config.identity].numbers()
    )


@pytest.mark.parametrize(
    ("fault", "reason"), [(Full, "No space left on device"), (ReadOnly, "Read-only file system")]
)
def test_a_run_that_cannot_write_is_a_sentence_and_what_is_there_can_be_read(
    disk: Path,
    plan: Plan,
    places: Places,
    cli: CommandLine,
    fault: type[Full | ReadOnly],
    reason: str,
) -> None:
    cli.places = places
    study, trouble = plan.file.document.path, fault(disk)
    first, _ = plan.choosing.values()
    run_locally([first], places, Observers([]), threads=1)
    trouble.set()
    for command in (["run", study, "--shard", "1/1"], ["run", study], ["trial", study, "E-cosine"]):
        said = cli.mistake(*command)
        assert said.startswith(f"the results folder {places.results} cannot be written ({reason})")
    assert "1 done" in cli("status", study)[1]
    assert "1 planned" in cli("plan", study)[1]
    assert "(n=1)" in cli("table", study)[1]
    trouble.mend()
    assert cli("run", study, "--shard", "1/1")[0] == 0
    assert Claims(places.claims).everyone() == {}


def test_a_sweep_whose_disk_is_full_says_so_and_goes_on_when_there_is_room(
    disk: Path, plan: Plan, places: Places
) -> None:
    """Through Ray, with the MLflow view on the same disk."""
    full = Full(disk)
    words = ["run", plan.file.document.path, "--results", places.results, "--data", places.data]
    with subprocess.Popen(
        [sys.executable, "-m", "study", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=clean_environment(),
    ) as running:
        assert running.stdout is not None
        said = []
        for line in running.stdout:
            said.append(line)
            if line.startswith("starting Ray"):
                full.set()
            if "No space left on device" in line:
                full.mend()
                break
        said.extend(running.stdout)
    printed = "".join(said)
    assert running.returncode == 0, printed
    assert "retrying every 2 s" in " ".join(printed.split())
    assert printed.count("(n=1)") >= 2
    assert read_state(plan, places).counts == {"done": 2}
