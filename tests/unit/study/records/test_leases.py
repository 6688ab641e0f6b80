"""A claim is one live process's; a dead owner's can be taken over."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from study_fixtures import clean_environment
from upath import UPath

from dh2l.system.processes import machine_id
from study.records.leases import STILL_S, ClaimedElsewhere, Claims
from study.records.loaded_records import LoadedRecords
from study.state.states import State, trial_states

HOLDER = """
import sys, time
from pathlib import Path
from study.records.leases import Claims
with Claims(Path(sys.argv[1])).hold("trial", 7):
    print("held", flush=True)
    time.sleep(600)
"""

CONTENDER = """
import sys, time
from pathlib import Path
from study.records import leases as claims
def slowed(function):  # widens every gap between looking and claiming, in which another may do the same
    def call(*words):
        result = function(*words)
        time.sleep(0.3)
        return result
    return call
claims.Claims._row = slowed(claims.Claims._row)
claims.Claim.model_dump_json = slowed(claims.Claim.model_dump_json)
print("ready", flush=True)
sys.stdin.readline()
try:
    with claims.Claims(Path(sys.argv[1])).hold("trial", 7):
        time.sleep(1.2)
        print("held", flush=True)
        sys.stdin.readline()
except claims.ClaimedElsewhere:
    print("refused", flush=True)
"""


@pytest.fixture
def claims(tmp_path: Path) -> Claims:
    return Claims(tmp_path / "running")


def _file(claims: Claims) -> Path:
    assert claims.folder is not None
    claims.folder.mkdir(exist_ok=True)
    return claims.folder / "trial.json"


def _start(script: str, claims: Claims) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", script, str(claims.folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=clean_environment(),
    )


@contextmanager
def another_process(claims: Claims) -> "Iterator[subprocess.Popen[str]]":
    """A live process that holds the claim."""
    with _start(HOLDER, claims) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_a_claim_says_who_trains_and_how_far_and_is_gone_afterwards(claims: Claims) -> None:
    assert claims.read("trial") is None
    with claims.hold("trial", 7) as holder:
        claim = claims.alive("trial")
        assert claim is not None
        assert (claim.host, claim.pid) == (socket.gethostname(), os.getpid())
        assert claim.born == pytest.approx(psutil.Process().create_time() - psutil.boot_time())
        assert (claim.epoch, claim.epochs, claim.validation_accuracy) == (0, 7, None)
        holder.renew(3, 0.75)
        renewed = claims.alive("trial")
        assert renewed is not None
        assert (renewed.pid, renewed.epoch, renewed.epochs, renewed.validation_accuracy) == (
            os.getpid(),
            3,
            7,
            0.75,
        )
    assert claims.everyone() == {}


def test_a_claim_is_gone_when_training_raises(claims: Claims) -> None:
    with pytest.raises(ZeroDivisionError), claims.hold("trial", 7):
        raise ZeroDivisionError
    assert claims.read("trial") is None


def test_a_trial_that_a_live_process_holds_cannot_be_claimed(claims: Claims) -> None:
    with another_process(claims) as owner:
        with pytest.raises(ClaimedElsewhere, match=f"is being trained by process {owner.pid} on "):
            claims.hold("trial", 7).__enter__()
        still = claims.alive("trial")
        assert still is not None
        assert still.pid == owner.pid
        with claims.hold("another trial", 7):
            pass


def test_the_claim_of_a_killed_process_is_dead_and_can_be_taken_over(claims: Claims) -> None:
    with another_process(claims) as owner:
        owner.send_signal(signal.SIGKILL)
        owner.wait()
        left = claims.read("trial")
        assert left is not None
        assert left.pid == owner.pid
        assert claims.alive("trial") is None
        with claims.hold("trial", 7):
            mine = claims.alive("trial")
            assert mine is not None
            assert mine.pid == os.getpid()
    assert claims.read("trial") is None


def test_a_killed_process_that_nobody_has_waited_for_is_dead(claims: Claims) -> None:
    with another_process(claims) as owner:
        owner.send_signal(signal.SIGKILL)
        deadline = time.monotonic() + 10
        while psutil.Process(owner.pid).status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert claims.alive("trial") is None


def _contend(claims: Claims) -> list[str]:
    """Return the answers of two processes that claim the trial at the same time, sorted."""
    contenders = [_start(CONTENDER, claims) for _ in range(2)]
    try:
        pipes = [
            (c.stdin, c.stdout) for c in contenders if c.stdin is not None and c.stdout is not None
        ]
        assert [answer.readline() for _, answer in pipes] == ["ready\n"] * 2
        for order, _ in pipes:
            order.write("go\n")
            order.flush()
        return sorted(answer.readline() for _, answer in pipes)
    finally:
        for contender in contenders:
            contender.kill()
            contender.communicate()


def test_of_two_that_claim_a_trial_at_the_same_time_one_gets_it(claims: Claims) -> None:
    assert _contend(claims) == ["held\n", "refused\n"]


def test_of_two_that_take_a_dead_claim_over_at_the_same_time_one_gets_it(claims: Claims) -> None:
    _write(claims, born=-1000)
    assert _contend(claims) == ["held\n", "refused\n"]


def _write(claims: Claims, **changes: object) -> None:
    owner = psutil.Process(os.getppid())
    claim = {
        "host": socket.gethostname(),
        "machine": machine_id(),
        "pid": owner.pid,
        "born": owner.create_time() - psutil.boot_time(),
        "token": "another claim's",
        "epoch": 1,
        "epochs": 7,
    }
    _file(claims).write_text(json.dumps(claim | changes), encoding="utf-8")


def test_a_process_id_that_is_another_process_s_by_now_is_dead(claims: Claims) -> None:
    _write(claims)
    assert claims.alive("trial") is not None
    _write(claims, born=-1000)
    assert claims.alive("trial") is None
    with claims.hold("trial", 7):
        pass


def _elapse(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    now = time.monotonic() + seconds
    monkeypatch.setattr(time, "monotonic", lambda: now)


def test_a_claim_of_another_machine_is_dead_when_its_counter_has_stood_still_for_long(
    claims: Claims, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(claims, machine="elsewhere", pid=1, beats=3)
    assert claims.alive("trial") is not None
    _elapse(monkeypatch, STILL_S - 1)
    with pytest.raises(ClaimedElsewhere):
        claims.hold("trial", 7).__enter__()
    _write(claims, machine="elsewhere", pid=1, beats=4)
    _elapse(monkeypatch, STILL_S - 1)
    assert claims.alive("trial") is not None  # for it moved
    _elapse(monkeypatch, STILL_S + 1)
    assert claims.alive("trial") is None
    with claims.hold("trial", 7) as holder:
        assert holder.retries == 1


def test_the_wall_clock_makes_no_claim_dead_or_alive(
    claims: Claims, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the machine's, which may jump under the claim of a process here; nor that of the files'
    times.
    """
    wall, boot = time.time, psutil.boot_time()
    with another_process(claims):
        monkeypatch.setattr(time, "time", lambda: wall() + 1e6)
        monkeypatch.setattr(psutil, "boot_time", lambda: boot + 1e6)
        monkeypatch.setattr(
            psutil.Process,
            "create_time",
            lambda self, of=psutil.Process.create_time: of(self) + 1e6,
        )
        os.utime(_file(claims), (0, 0))
        assert claims.alive("trial") is not None
        with pytest.raises(ClaimedElsewhere):
            claims.hold("trial", 7).__enter__()


def test_a_held_claim_counts_on_by_itself(claims: Claims, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("study.records.leases.BEAT_S", 0.01)
    with claims.hold("trial", 7):
        deadline = time.monotonic() + 20
        while (claim := claims.read("trial")) is None or claim.beats < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_claim_that_another_has_taken_over_is_lost_and_left_to_it(claims: Claims) -> None:
    with claims.hold("trial", 7) as holder:
        _write(claims, machine="elsewhere", pid=1)
        holder.renew(2, None)
        assert holder.lost
    left = claims.read("trial")
    assert left is not None
    assert (left.machine, left.epoch) == ("elsewhere", 1)


def test_a_claim_that_cannot_be_read_for_once_is_not_lost(
    claims: Claims, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(path: Path) -> bytes:
        raise OSError(errno.EIO, "Input/output error", str(path))

    with claims.hold("trial", 7) as holder:
        with monkeypatch.context() as once:
            once.setattr(Path, "read_bytes", failing)
            holder.renew(2, None)
        assert not holder.lost
        holder.renew(3, None)
        renewed = claims.alive("trial")
        assert renewed is not None
        assert renewed.epoch == 3
    assert claims.everyone() == {}


def test_who_takes_over_counts_how_many_have_died_before(claims: Claims) -> None:
    _write(claims, born=-1000, retries=1)
    with claims.hold("trial", 7) as holder:
        assert holder.retries == 2
    with claims.hold("trial", 7) as holder:
        assert holder.retries == 0


def test_who_died_before_is_not_forgotten_by_an_interruption(claims: Claims) -> None:
    def interrupted() -> int:
        with claims.hold("trial", 7) as holder:
            raise KeyboardInterrupt(holder.retries)

    _write(claims, born=-1000)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt, match=r"^1$"):
            interrupted()
        assert claims.alive("trial") is None
    assert trial_states(["trial"], LoadedRecords({}), claims) == {"trial": State.PLANNED}
    with claims.hold("trial", 7) as holder:
        assert holder.retries == 1
    assert claims.everyone() == {}


def test_an_interruption_is_not_replaced_by_what_its_disk_says(
    claims: Claims, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(path: Path, **_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(path))

    def interrupted() -> None:
        with claims.hold("trial", 7):
            monkeypatch.setattr(Path, "unlink", read_only)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()


def test_a_damaged_claim_is_no_claim(claims: Claims) -> None:
    _file(claims).write_text('{"host": ', encoding="utf-8")
    assert claims.read("trial") is None
    assert claims.alive("trial") is None
    with claims.hold("trial", 7):
        assert claims.alive("trial") is not None
    assert claims.everyone() == {}


def test_in_an_object_store_nothing_is_claimed() -> None:
    claims = Claims(UPath("memory://claims"))
    with claims.hold("trial", 7) as one, claims.hold("trial", 7) as other:
        one.renew(1, None)
        other.renew(1, None)
        assert (one.lost, other.lost, claims.everyone()) == (False, False, {})
