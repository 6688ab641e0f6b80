"""Refusals of a Ray that cannot start: at once, with the likely cause."""

import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray
from study_fixtures import SMALL, CommandLine, clean_environment, write_study

from dh2l.errors import UserError
from study.execution.ray_backend import _compat, start_failures
from study.execution.ray_backend.addresses import listening
from study.execution.ray_backend.connection import Resources, cluster, require_fit


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No cluster is known here, by a variable or by what `ray start` left."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))


@pytest.mark.usefixtures("alone")
def test_auto_without_a_cluster_is_refused_at_once() -> None:
    """Ray would go through the machine's processes, and try each Ray that it finds for minutes."""
    started = time.monotonic()
    with pytest.raises(
        UserError, match=r"^--address auto: no Ray cluster is known on this machine; expected "
    ):
        listening("auto", 0.0)
    assert time.monotonic() - started < 5


@pytest.mark.usefixtures("alone")
def test_auto_is_the_cluster_that_was_started_last(tmp_path: Path) -> None:
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:1", encoding="utf-8")
    with pytest.raises(
        UserError, match=r"^the Ray cluster at 127\.0\.0\.1:1 cannot be reached: .*refused"
    ):
        listening("auto", 0.0)


@pytest.mark.parametrize("address", ["", " "])
def test_an_empty_address_is_a_mistake(cli: CommandLine, tmp_path: Path, address: str) -> None:
    said = (
        "--address: it is empty; expected HOST:PORT or auto. Leave it out to start Ray on this "
        "machine."
    )
    study = write_study(tmp_path, SMALL)
    for words in (["run", study, "--no-mlflow"], ["plan", study, "--estimate"], ["doctor", study]):
        assert cli.mistake(*words, "--address", address) == said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--gpus-per-trial", 1], "trials need a GPU, but this machine has none; "),
        (["--trials-per-gpu", 2], "trials need a GPU, but this machine has none; "),
        (["--trials-per-gpu", "auto"], "trials need a GPU, but this machine has none; "),
        (
            ["--cpus-per-trial", 5000],
            "one trial needs 5000 CPUs and 0 GPUs, but this machine has ",
        ),
    ],
)
def test_trials_that_do_not_fit_on_this_machine_are_refused_before_ray_starts(
    cli: CommandLine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[object],
    said: str,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr("ray.init", lambda **_: pytest.fail("Ray is started"))
    study = write_study(tmp_path, SMALL)
    assert cli.mistake("run", study, "--no-mlflow", *words).startswith(said)
    assert cli.mistake("plan", study, "--estimate", *words).startswith(said)


def test_gpus_that_are_hidden_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert _compat.count_local_gpus() == 0
    require_fit(Resources("10.0.0.1:6379", gpus=1.0))  # a cluster's are counted there


ADDRESSES = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (8 << 30, 8 << 30))
from dh2l.errors import UserError
from study.execution.ray_backend.connection import cluster
try:
    with cluster(None):
        pass
except UserError as error:
    print(error)
"""


def test_too_few_addresses_are_a_sentence() -> None:
    run = subprocess.run(
        [sys.executable, "-c", ADDRESSES],
        capture_output=True,
        text=True,
        env=clean_environment(),
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == (
        "Ray: it cannot start on this machine: a process may have 8.0 GiB of addresses (ulimit "
        "-v); expected more than "
        "12 GiB. Run: ulimit -v unlimited\n"
    )


def test_a_ray_that_cannot_start_for_want_of_a_home_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/proc/nowhere")
    likely = r"^Ray: it does not start on this machine \(.* The likely cause: the home folder /proc/nowhere cannot be wri"
    with pytest.raises(UserError, match=likely), cluster(None):
        pass


def test_a_full_disk_and_any_limit_of_addresses_are_likely_causes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "given")
    plain = start_failures.refusal("It timed out.", tmp_path)
    assert plain.startswith("Ray: it does not start on this machine (It timed out). ")
    monkeypatch.setattr(start_failures, "DISK", 1 << 60)
    assert f"{tmp_path.parent} has " in start_failures.refusal("It timed out.", tmp_path)
    monkeypatch.setattr(resource, "getrlimit", lambda _: (20 << 30, 20 << 30))
    assert "20.0 GiB of addresses (ulimit -v)" in start_failures.refusal("It timed out.", tmp_path)
    start_failures.require_addresses()


SLOW = (
    "The current node timed out during startup. This could happen because some of the raylet "
    "failed to startup."
)


class SlowRay:
    """Ray whose first starts take longer than it gives its processes, and leave what they had
    started.
    """

    def __init__(self, slow: int, reason: str = SLOW) -> None:
        self.slow, self.reason = slow, reason
        self.started: list[subprocess.Popen[bytes]] = []

    def init(self, **_: object) -> None:
        self.started.append(
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        )
        if len(self.started) <= self.slow:
            raise Exception(self.reason)

    def end(self) -> list[bool]:
        """Return for each start whether its process still lived."""
        lived = [process.poll() is None for process in self.started]
        for process in self.started:
            process.kill()
            process.wait()
        return lived


@pytest.mark.parametrize("slow", [0, 1, 2])
def test_a_start_that_a_busy_machine_makes_too_slow_is_ended_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, slow: int
) -> None:
    fake = SlowRay(slow)
    monkeypatch.setattr(ray, "init", fake.init)
    with cluster(None):
        pass
    assert fake.end() == [False] * slow + [True]


def test_a_machine_that_stays_busy_is_named_as_the_likely_cause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake = SlowRay(100)
    monkeypatch.setattr(ray, "init", fake.init)
    with (
        pytest.raises(
            UserError,
            match=r"The likely cause: the machine is busy: its load is \d+ on \d+ cores\. Run",
        ),
        cluster(None),
    ):
        pass
    assert fake.end() == [False, False, True]


def test_another_reason_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SlowRay(100, "no such thing")
    monkeypatch.setattr(ray, "init", fake.init)
    with pytest.raises(UserError, match="no such thing"), cluster(None):
        pass
    assert len(fake.end()) == 1
