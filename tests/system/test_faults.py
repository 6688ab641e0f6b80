"""Faults during a run, done for real.

Processes are killed, a node is lost, memory ends, a user is in a hurry.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import numpy as np
import psutil
import pytest
from study_fixtures import (
    SMALL,
    CommandLine,
    clean_environment,
    done,
    places_in,
    planned,
    standing_of,
    write_study,
)

from dh2l import plugins
from dh2l.data import read_manifest
from study.execution.observers import Observers
from study.execution.preflight import preflight_checks
from study.execution.training import run_locally
from study.records.arrays import read_arrays
from study.records.leases import Claim, Claims
from study.records.paths import Places
from study.records.record import Record
from study.records.store import RecordStore
from study.spec.plan import Plan, make_plan
from study.spec.study_file import find_study
from study.state.load import read_state
from study.state.study_state import StudyState

pytestmark = pytest.mark.usefixtures("forgotten")

LOOPBACK = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": "a-token-of-these-tests-alone-of-some-length",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # 127.0.0.1 stays what it is: no other machine may join
}
"""The environment of a Ray that only this machine can reach."""
LATER_S = 12.0
"""By then Ray by itself would have ended workers that go on."""
T = TypeVar("T")

TIMED = {"history.time", "history.seconds", "history.images_per_s"}

PLUGIN = """
import ctypes, os, sys, time, warnings
from pathlib import Path

import torch

from dh2l.registry import penalty
from dh2l.training.trainer import train

train.__kwdefaults__["checkpoint_seconds"] = 0.0  # a checkpoint after every epoch


def has_checkpoint(name):
    return any(Path(os.environ["CHECKPOINTS"]).glob(f"*{name}*/checkpoint.pt"))


@penalty("once")
def once(cos):
    marker = Path(os.environ["HAS_CRASHED"])
    if not marker.exists() and has_checkpoint("once"):
        marker.touch()
        ctypes.string_at(0)
    return cos


@penalty("always")
def always(cos):
    if has_checkpoint("always"):
        ctypes.string_at(0)
    return cos


@penalty("failing")
def failing(cos):
    if has_checkpoint("failing"):
        print("what the user's code prints")
        warnings.warn("what it warns of", stacklevel=1)
        raise RuntimeError("what it raises")
    return cos


@penalty("broken")
def broken(cos):
    raise ValueError("it never works")


def gpus():
    import ray

    return ray.get_runtime_context().get_assigned_resources()["GPU"]


@penalty("hungry")
def hungry(cos):
    if gpus() < 1:
        raise torch.OutOfMemoryError("CUDA out of memory. Evaluated to allocate 2.00 GiB.")
    return cos


@penalty("starving")
def starving(cos):
    raise torch.OutOfMemoryError(f"CUDA out of memory on {gpus()} GPUs.")


@penalty("sleepy")
def sleepy(cos):
    while Path(os.environ["ASLEEP"]).exists():
        time.sleep(0.1)
    return cos
"""

STUDY = """\
title: Faults
config: {dataset: digits, epochs: 4, batch_size: 256}
columns: [{name: digits}]
rows:
ROWS
seeds: [0]
"""

E = "{{arm: E, metric: {}, set: {{lambda_e: 0.1}}}}"


def study_of(folder: Path, *rows: str, epochs: int = 4, seeds: str = "[0]") -> Path:
    text = STUDY.replace("ROWS", "\n".join(f"  - {row}" for row in rows))
    return write_study(
        folder, text.replace("epochs: 4", f"epochs: {epochs}").replace("[0]", seeds), "faults"
    )


def asleep(folder: Path) -> Path:
    """The file that keeps trials asleep while it is there; the same in all tests, as is a cluster's
    environment.
    """
    return folder.parent / "asleep"


@pytest.fixture
def plugin(tmp_path: Path, places: Places, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's code of these studies, which this process has loaded too."""
    monkeypatch.setenv("CHECKPOINTS", str(places.results / "checkpoints"))
    monkeypatch.setenv("HAS_CRASHED", str(tmp_path / "has-crashed"))
    monkeypatch.setenv("ASLEEP", str(asleep(tmp_path)))
    path = tmp_path / "faulty.py"
    path.write_text(PLUGIN, encoding="utf-8")
    plugins.load(str(path))
    return path


def now(study: Path, places: Places) -> StudyState:
    plan: Plan = make_plan(find_study(str(study)), lambda name: read_manifest(name, places.data))
    return read_state(plan, places)


@contextmanager
def running(study: Path, places: Places, *words: object) -> "Iterator[subprocess.Popen[str]]":
    """`dh2l-study run` in a session of its own; nothing of it outlives the context."""
    where = ["--no-mlflow", "--results", places.results, "--data", places.data]
    with subprocess.Popen(
        [sys.executable, "-m", "study", "run", *map(str, [study, *where, *words])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(**LOOPBACK),
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                for member in family_of(psutil.Process(process.pid)):
                    with suppress(psutil.NoSuchProcess):
                        member.kill()


def family_of(process: psutil.Process) -> list[psutil.Process]:
    """A process and all that it has started."""
    return [process, *process.children(recursive=True)]


def ended(process: "subprocess.Popen[str]") -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a run."""
    out, error = process.communicate(timeout=300)
    return process.returncode, out, error


def eventually(what: Callable[[], T | None], process: "subprocess.Popen[str]") -> T:
    """Wait for a value while a run goes on; the deadline only guards against hanging."""
    deadline = time.monotonic() + 180
    while (found := what()) is None:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it does not come to pass"
        time.sleep(0.02)
    return found


def checkpointed(places: Places, word: str) -> Claim | None:
    """The claim of the trial in whose name the word is, once it has a checkpoint to go on from."""
    for identity, claim in Claims(places.claims).everyone().items():
        if word in identity and (places.checkpoint(identity) / "checkpoint.pt").exists():
            return claim
    return None


def records(places: Places) -> dict[str, Record]:
    return RecordStore(places.trials).read().records


def assert_undisturbed(study: Path, places: Places, others: Places, identities: list[str]) -> None:
    """These trials' records are those that they have when nothing happens to them."""
    plan = now(study, places).plan
    run_locally(
        [plan.choosing[identity] for identity in identities], others, Observers([]), threads=1
    )
    found, expected = records(places), records(others)
    for identity in identities:
        assert found[identity].state == "done"
        assert found[identity].numbers() == expected[identity].numbers()
        arrays, those = (
            read_arrays(its[identity], there.trials / f"{identity}.json")
            for its, there in ((found, places), (expected, others))
        )
        for name in those.keys() - TIMED:
            np.testing.assert_array_equal(arrays[name], those[name], err_msg=name)


def first_epochs(record: Record) -> list[int]:
    return [attempt["first_epoch"] for attempt in record.provenance.attempts]


def test_trials_whose_worker_is_killed_or_crashes_go_on_from_their_checkpoints_on_another(
    tmp_path: Path, places: Places, plugin: Path
) -> None:
    rows = [E.format("always"), "arm: baseline+l2", E.format("once"), E.format("failing")]
    study = study_of(tmp_path, *rows, epochs=8)
    with running(study, places, "--plugin", plugin) as process:
        claim = eventually(lambda: checkpointed(places, "baseline"), process)
        os.kill(claim.pid, signal.SIGKILL)
        code, out, error = ended(process)
    assert code == 1, out + error
    of_arm = {record.config["metric"] or "baseline": record for record in records(places).values()}
    assert {name: record.state for name, record in of_arm.items()} == {
        "baseline": "done",
        "once": "done",
        "always": "failed",
        "failing": "failed",
    }
    for name in ("baseline", "once"):
        first, *later = first_epochs(of_arm[name])
        assert first == 1
        assert len(later) == of_arm[name].provenance.retries == 1
        assert later[0] > 1
    assert_undisturbed(
        study,
        places,
        Places.of(tmp_path / "undisturbed", places.data),
        [of_arm[name].identity for name in ("baseline", "once")],
    )
    always = of_arm["always"].failure
    assert always is not None
    assert (always.kind, of_arm["always"].provenance.retries) == ("WorkerDied", 2)
    assert always.log[0] == "Fatal Python error: Segmentation fault"
    assert any("faulty.py" in line for line in always.log)
    failing = of_arm["failing"].failure
    assert failing is not None
    assert failing.log[0] == "what the user's code prints"
    assert any("what it warns of" in line for line in failing.log)
    logs = {path.stem for path in (places.results / "logs").iterdir()}
    assert logs == {of_arm[name].identity for name in ("always", "failing")}


def test_a_kind_of_trial_that_cannot_take_a_step_stops_the_run_before_it_trains(
    tmp_path: Path, places: Places, plugin: Path
) -> None:
    study = study_of(tmp_path, "arm: baseline+l2", E.format("broken"), seeds="[0, 1]", epochs=50)
    with running(study, places, "--plugin", plugin) as process:
        code, out, error = ended(process)
    assert code == 2, out + error
    (line,) = error.splitlines()
    assert line.startswith("error: ")
    assert "cell broken / E / digits" in line
    assert "it never works" in line
    assert "--no-check" in line
    assert records(places) == {}


def test_a_run_stops_once_as_many_trials_have_failed_as_it_may(
    tmp_path: Path, places: Places, plugin: Path
) -> None:
    study = study_of(tmp_path, E.format("broken"), seeds="[0, 1, 2, 3, 4, 5, 6, 7]")
    with running(study, places, "--plugin", plugin, "--no-check", "--max-failures", 2) as process:
        code, out, error = ended(process)
    assert code == 1, out + error
    assert "--max-failures 2" in out
    assert "run the same command again to go on" in error
    assert "| missing" in out or "failed" in out
    assert 2 <= len(records(places)) < 8
    assert {record.state for record in records(places).values()} == {"failed"}


def test_a_shard_stops_at_the_failure_after_which_it_may_not_go_on(
    tmp_path: Path, places: Places, plugin: Path, cli: CommandLine
) -> None:
    study = study_of(tmp_path, E.format("broken"), seeds="[0, 1, 2]")
    code, out, _ = cli("run", study, "--shard", "1/1", "--max-failures", 2, "--plugin", plugin)
    assert code == 1
    assert "--max-failures 2" in out
    assert len(records(places)) == 2


CLUSTER = """
import sys
from ray.cluster_utils import Cluster

here = {"node_ip_address": "127.0.0.1", "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args={**here, "num_cpus": 0})
nodes = [cluster.add_node(num_cpus=1, **here), cluster.add_node(num_cpus=1, num_gpus=1, **here)]
cluster.wait_for_nodes()
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, psutil.Process]]:
    """The address and owner of a Ray cluster: a head that trains nothing and two nodes, one with a
    GPU in name only.
    """
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=clean_environment(**LOOPBACK, ASLEEP=str(tmp_path_factory.getbasetemp() / "asleep")),
        start_new_session=True,
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdin is not None
            yield process.stdout.readline().strip(), psutil.Process(process.pid)
            process.stdin.close()
            process.wait(timeout=60)
        finally:
            if process.poll() is None:
                for member in reversed(family_of(psutil.Process(process.pid))):
                    with suppress(psutil.NoSuchProcess):
                        member.kill()


ON_A_GPU = """
import sys
from pathlib import Path

from dh2l import plugins
from dh2l.data import read_manifest
from study.execution.ray_backend import Resources
from study.execution.observers import Observers
from study.records.paths import Places
from study.spec.plan import make_plan
from study.execution.training import run_plan
from study.state.load import read_state
from study.spec.study_file import find_study

address, study, plugin, results, data = sys.argv[1:]
loaded = (plugins.load(plugin),)
places = Places.of(Path(results), data)
plan = make_plan(find_study(study), lambda name: read_manifest(name, places.data))
resources = Resources(address, 0.5, gpus=0.5, plugins=loaded, device="cpu")
run_plan(read_state(plan, places), places, resources, Observers([]))
"""


def test_a_trial_that_ran_out_of_memory_on_a_share_of_a_gpu_is_tried_once_more_with_a_whole_one(
    tmp_path: Path, places: Places, plugin: Path, cluster: tuple[str, psutil.Process]
) -> None:
    study = study_of(tmp_path, E.format("hungry"), E.format("starving"), epochs=1, seeds="[0, 1]")
    words = [cluster[0], study, plugin, places.results, places.data]
    subprocess.run(
        [sys.executable, "-c", ON_A_GPU, *map(str, words)],
        env=clean_environment(**LOOPBACK),
        timeout=300,
        check=True,
    )
    found = records(places).values()
    assert [record.state for record in found if record.config["metric"] == "hungry"] == [
        "done",
        "done",
    ]
    failures = [record.failure for record in found if record.config["metric"] == "starving"]
    assert len(failures) == 2
    for failure in failures:
        assert failure is not None
        assert failure.message.startswith("also alone on a whole GPU: ")
        assert "on 1.0 GPUs" in failure.message
    assert {record.provenance.retries for record in found} == {1}


OTHER_JOB = """
import sys

import ray

ray.init(address=sys.argv[1], log_to_driver=False)
held = [ray.remote(num_cpus=1)(type("Held", (), {"answer": lambda self: None})).remote() for _ in range(2)]
ray.get([actor.answer.remote() for actor in held])
print("busy", flush=True)
sys.stdin.read()
"""


def test_a_run_on_a_busy_cluster_says_that_it_waits_and_ends_with_the_first_signal(
    tmp_path: Path, places: Places, cluster: tuple[str, psutil.Process]
) -> None:
    study = study_of(tmp_path, "arm: baseline+l2", epochs=1)
    with subprocess.Popen(
        [sys.executable, "-c", OTHER_JOB, cluster[0]],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=clean_environment(**LOOPBACK),
    ) as other:
        try:
            assert other.stdout is not None
            assert other.stdin is not None
            assert other.stdout.readline() == "busy\n"
            with running(study, places, "--address", cluster[0], "--gpus-per-trial", 0) as process:
                assert process.stdout is not None
                assert any("waiting for the cluster" in line for line in process.stdout)
                time.sleep(4.0)  # by then a worker is asked for
                process.send_signal(signal.SIGINT)
                out, error = process.communicate(timeout=60)
            other.stdin.close()
            other.wait(timeout=60)
        finally:
            other.kill()
    assert process.returncode == 130, out + error
    assert records(places) == {}


def test_a_trial_whose_node_is_lost_goes_on_from_its_checkpoint_on_another(
    tmp_path: Path, places: Places, plugin: Path, cluster: tuple[str, psutil.Process]
) -> None:
    address, owner = cluster
    study = study_of(tmp_path, "arm: baseline+l2", E.format("sleepy"), epochs=8)
    with running(
        study, places, "--plugin", plugin, "--address", address, "--gpus-per-trial", 0
    ) as process:
        claim = eventually(lambda: checkpointed(places, "sleepy"), process)
        asleep(tmp_path).touch()  # the worker may live a little longer than its node
        worker = psutil.Process(claim.pid)
        (node,) = [parent for parent in worker.parents() if parent.name() == "raylet"]
        assert node in owner.children(recursive=True)
        node.kill()
        eventually(lambda: None if left([worker]) else True, process)
        asleep(tmp_path).unlink()
        code, out, error = ended(process)
    assert code == 0, out + error
    found = records(places)
    (lost,) = [identity for identity in found if "sleepy" in identity]
    first, *later = first_epochs(found[lost])
    assert first == 1
    assert len(later) == found[lost].provenance.retries == 1
    assert later[0] > 1
    assert_undisturbed(study, places, Places.of(tmp_path / "undisturbed", places.data), list(found))


def left(family: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those of some processes that still live; a zombie does not."""
    return [
        member
        for member in family
        if member.is_running() and member.status() != psutil.STATUS_ZOMBIE
    ]


@pytest.mark.parametrize("words", [(), ("--shard", "1/1")], ids=["ray", "shard"])
def test_a_run_told_to_end_leaves_a_checkpoint_of_the_epoch_that_it_waited_for(
    tmp_path: Path, places: Places, cli: CommandLine, words: tuple[str, ...]
) -> None:
    """Without it the next would be due after seconds or minutes. `timeout` tells the whole group of
    processes.
    """
    study = study_of(tmp_path, "arm: baseline+l2", epochs=15)
    with running(study, places, *words) as process:
        claims = Claims(places.claims)
        eventually(
            lambda: next((True for claim in claims.everyone().values() if claim.epoch > 1), None),
            process,
        )
        os.killpg(process.pid, signal.SIGTERM)
        code, out, error = ended(process)
    assert code == 130, error
    assert "stopping when each running trial has finished its epoch" in out
    assert "missing (1 of 1)" in out
    assert claims.everyone() == {}
    assert list(places.results.glob("checkpoints/*/checkpoint.pt"))
    assert cli("run", study, "--shard", "1/1")[0] == 0
    (record,) = records(places).values()
    first, later = first_epochs(record)
    assert first == 1 < 2 < later
    assert record.provenance.retries == 0


def test_a_run_interrupted_twice_stops_in_the_middle_of_an_epoch_and_goes_on_from_there_later(
    tmp_path: Path, places: Places, plugin: Path, cli: CommandLine
) -> None:
    study = study_of(tmp_path, "arm: baseline+l2", E.format("sleepy"), epochs=8)
    with running(study, places, "--plugin", plugin) as process:
        eventually(lambda: checkpointed(places, "sleepy"), process)
        asleep(tmp_path).touch()
        eventually(lambda: True if records(places) else None, process)
        filed = {path: path.read_bytes() for path in places.trials.iterdir()}
        family = family_of(psutil.Process(process.pid))
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
        assert process.stdout is not None
        assert any("Ctrl-C again stops at once" in line for line in process.stdout)
        time.sleep(LATER_S)
        assert process.poll() is None  # it waits for the epoch, which does not end
        os.killpg(process.pid, signal.SIGINT)
        code, out, error = ended(process)
    assert code == 130, error
    assert "Traceback" not in error
    assert "Run the same command again to resume" in error
    assert "(n=1)" in out
    assert "missing (1 of 1)" in out
    assert left(family) == []
    assert {path: path.read_bytes() for path in places.trials.iterdir()} == filed
    asleep(tmp_path).unlink()

    assert cli("run", study, "--shard", "1/1", "--plugin", plugin)[0] == 0
    (sleepy,) = [
        record for record in records(places).values() if record.config["metric"] == "sleepy"
    ]
    first, later = first_epochs(sleepy)
    assert first == 1 < later
    assert_undisturbed(
        study, places, Places.of(tmp_path / "undisturbed", places.data), [sleepy.identity]
    )


def test_a_driver_that_is_killed_leaves_no_process_and_a_later_run_ends_with_the_same_numbers(
    tmp_path: Path, places: Places, plugin: Path
) -> None:
    study = study_of(tmp_path, "arm: baseline+l2", E.format("cosine"), seeds="[0, 1]", epochs=6)
    with running(study, places, "--plugin", plugin) as process:
        eventually(lambda: checkpointed(places, "digits"), process)
        time.sleep(random.SystemRandom().uniform(0, 2))
        eventually(
            lambda: checkpointed(places, "digits"), process
        )  # of a trial that is still to be done
        family = family_of(psutil.Process(process.pid))
        process.kill()
        process.wait(timeout=60)
        assert len(family) > 3
        with running(study, places, "--plugin", plugin) as second:
            code, out, error = ended(second)
        assert code == 0, out + error
        assert left(family) == []
    assert not list(Path(tempfile.gettempdir()).glob(f"dh2l-study-{process.pid}-*"))
    found = records(places)
    assert len(found) == 4
    assert sum(record.provenance.retries for record in found.values()) > 0
    assert_undisturbed(study, places, Places.of(tmp_path / "undisturbed", places.data), list(found))


def test_a_kind_of_trial_is_checked_once_and_not_where_one_is_done(tmp_path: Path) -> None:
    plan = planned(tmp_path, SMALL)
    places = places_in(tmp_path)
    nothing = standing_of(plan, places, [])
    assert [
        check.cell.split(" / ")[1] for check in preflight_checks(nothing, plan.choosing.values())
    ] == [
        "baseline+l2",
        "E",
    ]
    (first, *_) = plan.choosing.values()
    found = preflight_checks(standing_of(plan, places, [done(first, 50)]), plan.choosing.values())
    assert [check.config.arm for check in found] == ["E"]
