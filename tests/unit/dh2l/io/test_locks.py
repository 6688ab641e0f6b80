"""Locks between processes: waits are announced and end, also where a file system locks no files."""

import errno
import fcntl
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dh2l.data.writer import locked
from dh2l.errors import UserError
from dh2l.io.locks import ERRNO_NO_LOCKS, Lock


@pytest.fixture(
    params=[0, *sorted({*ERRNO_NO_LOCKS})], ids=lambda number: errno.errorcode.get(number, "flock")
)
def file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """A file system that locks files, and those that answer with an error."""
    number = int(request.param)
    if number:
        monkeypatch.setattr(fcntl, "flock", refusing(number))
    return number


def refusing(number: int) -> Callable[..., None]:
    """The system call of a file system without locks."""

    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return flock


def beside(work: Callable[[], None]) -> list[BaseException]:
    """Return the error of a thread that works with its own lock."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except UserError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(timeout=30)
    assert not thread.is_alive()
    return raised


@pytest.mark.usefixtures("file_system")
def test_one_holds_a_lock_and_may_take_it_again_and_another_waits_for_a_stated_time(
    tmp_path: Path,
) -> None:
    said: list[str] = []
    first, second = (Lock(tmp_path / "lock", "writer of it", 0.2, said.append) for _ in range(2))

    def take() -> None:
        with second:
            said.append("taken")

    with first, first:
        (error,) = beside(take)
    held = tmp_path / str(error).partition(":")[0]
    assert said == [f"waiting for another writer of it, which holds {held} (for 0.2 s at most)"]
    assert str(error).startswith(
        f"{held}: another writer of it still holds it; expected its end within 0.2 s. Try "
    )
    assert beside(take) == []
    assert said[1:] == ["taken"]


@pytest.mark.usefixtures("file_system")
def test_a_lock_whose_holder_was_killed_is_free(tmp_path: Path) -> None:
    process = os.fork()
    if process == 0:
        Lock(tmp_path / "lock", "writer", 0, print).__enter__()
        os.kill(os.getpid(), 9)
    os.waitpid(process, 0)
    said: list[str] = []
    with Lock(tmp_path / "lock", "writer", 0.2, said.append):
        assert said == []


def test_where_nothing_locks_the_sentence_names_the_file_to_remove(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", refusing(errno.ENOLCK))
    (tmp_path / "lock.held").write_text("123\nanother-machine\n")
    with pytest.raises(UserError, match=f"died on another machine, remove {tmp_path}/lock.held"):
        Lock(tmp_path / "lock", "writer", 0.1, print).__enter__()


def test_a_lock_that_cannot_be_written_says_so_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        Lock(tmp_path / "file" / "lock", "writer", 60, print).__enter__()


@pytest.mark.usefixtures("file_system")
def test_a_preparation_waits_for_another_where_nothing_locks_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dh2l.data.writer.LONGEST_WAIT_S", 0.1)
    said: list[str] = []

    def second() -> None:
        with locked("own", tmp_path, said.append):
            said.append("prepared")

    with locked("own", tmp_path, said.append):
        (error,) = beside(second)
    assert "another preparation of own still holds it; expected its end within 0.1 s" in str(error)
    assert [line.split(",")[0] for line in said] == ["waiting for another preparation of own"]
    assert beside(second) == []
    assert said[-1] == "prepared"
