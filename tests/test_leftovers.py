"""What a killed driver leaves: its folder and its processes go, another's stay."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from study.cluster import leftovers
from study.cluster.leftovers import SCRATCH, note_processes, scratch_folder

DRIVER = """
import os, subprocess, sys, time
from pathlib import Path

from study.cluster.leftovers import note_processes, scratch_folder

WRITER = '''
import sys
from pathlib import Path

n = 0
while True:
    n += 1
    folder = Path(sys.argv[1]) / str(n % 500)
    folder.mkdir(exist_ok=True, parents=True)
    (folder / str(n)).touch()
'''
with scratch_folder() as scratch:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(scratch)])
    note_processes(scratch)
    while len(list(scratch.glob("*"))) < 400:
        time.sleep(0.01)
    print(scratch, flush=True)
    time.sleep(600)
"""
"""A driver with a process that never stops to write into its folder."""


def test_the_wall_clock_makes_no_driver_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    note_processes(tmp_path)
    boot = psutil.boot_time
    monkeypatch.setattr(psutil, "boot_time", lambda: boot() + 1e6)
    monkeypatch.setattr(psutil.Process, "create_time", lambda self, of=psutil.Process.create_time: of(self) + 1e6)
    assert leftovers._in_use(tmp_path)


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Iterator[tuple[subprocess.Popen[str], Path]]":
    """A driver at work among temporary files of its own, and its folder."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    command = [sys.executable, "-c", DRIVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        try:
            yield process, Path(process.stdout.readline().strip())
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def test_what_a_killed_driver_left_is_removed_with_the_processes_that_still_write_into_it(
    driver: "tuple[subprocess.Popen[str], Path]", tmp_path: Path
) -> None:
    process, folder = driver
    process.kill()
    process.wait(timeout=60)
    assert folder.exists()
    with scratch_folder() as own:
        assert [path for path in tmp_path.iterdir() if path != own] == []
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_driver_at_work_stays(driver: "tuple[subprocess.Popen[str], Path]") -> None:
    _, folder = driver
    with scratch_folder():
        pass
    assert len(list(folder.iterdir())) >= 400


def test_what_is_written_into_a_folder_while_a_later_driver_runs_is_removed_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = tmp_path / f"{SCRATCH}{2**22 + 1}-gone"  # no process can have this number
    with scratch_folder():
        left.mkdir()
    assert not left.exists()
