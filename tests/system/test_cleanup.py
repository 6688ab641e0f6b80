"""Remains of a killed driver: its folder and processes go, another's stay."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Timer

import psutil
import pytest

from dh2l.errors import UserError
from dh2l.system.processes import machine_id
from study.execution.ray_backend import cleanup
from study.execution.ray_backend.cleanup import RAY, SCRATCH, note_processes, scratch_folder

WRITER = """
import sys
from pathlib import Path

n = 0
while True:
    n += 1
    folder = Path(sys.argv[1]) / str(n % 500)
    try:
        folder.mkdir(exist_ok=True, parents=len(sys.argv) > 2)
        (folder / str(n)).touch()
    except FileNotFoundError:  # removed meanwhile
        continue
"""
"""A process that never stops to write into a folder."""

DRIVER = f"""
import os, subprocess, sys, time
from pathlib import Path

from study.execution.ray_backend.cleanup import note_processes, scratch_folder

WRITER = {WRITER!r}
with scratch_folder() as scratch:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(scratch), "parents"])
    note_processes(scratch)
    while len(list(scratch.glob("*"))) < 400:
        time.sleep(0.01)
    print(scratch, flush=True)
    time.sleep(600)
"""
"""A driver with a process that never stops to write into its folder."""


def test_the_wall_clock_makes_no_driver_dead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    note_processes(tmp_path)
    boot = psutil.boot_time
    monkeypatch.setattr(psutil, "boot_time", lambda: boot() + 1e6)
    monkeypatch.setattr(
        psutil.Process, "create_time", lambda self, of=psutil.Process.create_time: of(self) + 1e6
    )
    assert cleanup._in_use(tmp_path)


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of temporary files with a short name."""
    with TemporaryDirectory(prefix="t", dir="/tmp") as name:
        monkeypatch.setenv("RAY_TMPDIR", name)
        yield Path(name)


@pytest.fixture
def driver(temporary: Path) -> "Iterator[tuple[subprocess.Popen[str], Path]]":  # noqa: ARG001 it works there
    """A driver at work among temporary files of its own, and its folder."""
    command = [sys.executable, "-c", DRIVER]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process, Path(process.stdout.readline().strip())
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def test_what_a_killed_driver_left_is_removed_with_the_processes_that_still_write_into_it(
    driver: "tuple[subprocess.Popen[str], Path]", temporary: Path
) -> None:
    process, folder = driver
    process.kill()
    process.wait(timeout=60)
    assert folder.parent == temporary
    assert folder.exists()
    with scratch_folder() as own:
        assert [path for path in temporary.iterdir() if path != own] == []
    assert list(temporary.iterdir()) == []


def test_the_folder_of_a_driver_at_work_stays(driver: "tuple[subprocess.Popen[str], Path]") -> None:
    _, folder = driver
    with scratch_folder():
        pass
    assert len(list(folder.iterdir())) >= 400


def test_what_is_written_into_a_folder_while_a_later_driver_runs_is_removed_at_its_end(
    temporary: Path,
) -> None:
    left = temporary / f"{SCRATCH}{2**22 + 1}-gone"  # no process can have this number
    with scratch_folder():
        left.mkdir()
    assert not left.exists()


@pytest.mark.parametrize(
    ("host", "machine", "stays"),
    [
        ("another", "another-boot pid:[1]", True),
        (socket.gethostname(), f"{machine_id().partition(' ')[0]} pid:[1]", True),
        (socket.gethostname(), "another-boot pid:[1]", False),
    ],
    ids=["another machine's", "another container's", "from before the machine started anew"],
)
def test_a_folder_stays_while_its_driver_may_live_where_nobody_here_sees_it(
    host: str, machine: str, stays: bool, temporary: Path
) -> None:
    left = temporary / f"{SCRATCH}{2**22 + 1}-0"
    left.mkdir()
    note = {"host": host, "machine": machine, "processes": [[1, 0.0]]}
    (left / "processes.json").write_text(json.dumps(note), encoding="utf-8")
    with scratch_folder():
        pass
    assert left.exists() == stays


def test_a_folder_is_its_owners_alone_and_short_enough_for_sockets_below_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    long = tmp_path / "a-folder-with-a-long-name"
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with scratch_folder() as scratch:
        assert stat.S_IMODE(scratch.stat().st_mode) == 0o700
        sockets = scratch / RAY / "session_2025-01-01_00-00-00_000000_4194304" / "sockets"
        sockets.mkdir(parents=True)
        with socket.socket(socket.AF_UNIX) as longest:
            longest.bind(str(sockets / "plasma_store"))
        with scratch_folder() as second:
            assert second != scratch
    assert list(long.iterdir()) == []
    assert not scratch.exists()


@pytest.mark.parametrize("given", ["file/below", "long", "file"])
def test_a_ray_tmpdir_that_cannot_be_used_is_refused(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "long").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / given))
    with (
        pytest.raises(
            UserError, match=r"^RAY_TMPDIR: .*; expected .*\. .* or unset the variable\.$"
        ),
        scratch_folder(),
    ):
        pass


def test_where_no_sockets_are_a_ray_tmpdir_may_be_long_and_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "not" / "there"))
    with scratch_folder(sockets=False) as scratch:
        assert scratch.parent == tmp_path / "not" / "there"


def test_a_folder_goes_with_what_ending_processes_still_write_into_it(temporary: Path) -> None:
    command = [sys.executable, "-c", WRITER]
    with scratch_folder() as scratch:
        process = subprocess.Popen([*command, str(scratch)])
        while len(list(scratch.iterdir())) < 100:
            time.sleep(0.01)
        Timer(0.5, process.kill).start()
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert list(temporary.iterdir()) == []
