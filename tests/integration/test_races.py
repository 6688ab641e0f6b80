"""Two writers of one record: the first settled one stays with its arrays, the second is kept
beside.
"""

import errno
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from study_fixtures import ROOT, checksummed, clean_environment, done, unfinished

from dh2l.config.train_config import TrainConfig
from dh2l.io.files import move, write_atomically
from study.records import store as records
from study.records.arrays import arrays_path, read_arrays
from study.records.record import Record, parse_content, parse_record
from study.records.store import RecordStore

ROUNDS = 20
CONFIG = TrainConfig(seed=3)
IDENTITY = CONFIG.identity

WRITER = """
import errno, os, sys, time
from pathlib import Path
import numpy as np
from study_fixtures import done
from dh2l.config.train_config import TrainConfig
from study.records.store import RecordStore

def no_link(*words, **settings):
    raise OSError(errno.EPERM, "no hard links here")

me, config = int(sys.argv[1]), TrainConfig(seed=3)
print("ready", flush=True)
for line in sys.stdin:
    folder, links, start = line.rstrip().split("|")
    os.link = os.link if links == "links" else no_link
    record, arrays = done(config, 80 + me), {"history.x": np.arange(2000) + me}
    while time.monotonic() < float(start):
        pass
    print(RecordStore(Path(folder)).write(record, arrays).last.test_accuracy, flush=True)
"""
"""A process that writes a record when it is told, at the same moment as another."""


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    return RecordStore(tmp_path / "trials")


def nothing(store: RecordStore) -> None:
    """Leave the trial without a record."""


def failed(store: RecordStore) -> None:
    store.write(unfinished(CONFIG, "failed"))


def failed_earlier(store: RecordStore) -> None:
    """As earlier versions filed it: where settled records lie."""
    path = store.path(IDENTITY)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(checksummed(unfinished(CONFIG, "failed").model_dump_json(indent=1)))


def damaged(store: RecordStore) -> None:
    path = store.path(IDENTITY)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"damage")


BEFORE: tuple[Callable[[RecordStore], None], ...] = (nothing, failed, failed_earlier, damaged)


def sound(store: RecordStore) -> Record:
    """The trial's settled record, whose arrays are there; the second is beside, whole too."""
    found = store.read()
    assert found.warnings() == []
    record = found.records[IDENTITY]
    read_arrays(record, found.paths[IDENTITY])
    (beside,) = store.repetitions.glob("*.json")
    second = parse_content(beside.read_bytes(), IDENTITY)
    assert second.numbers() != record.numbers()
    read_arrays(second, beside)
    return record


@pytest.mark.parametrize("before", BEFORE, ids=lambda before: before.__name__)
def test_a_record_filed_between_any_two_steps_of_another_writer_is_not_lost(
    store: RecordStore, before: Callable[[RecordStore], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before each step of a writer in turn, a second one files a whole record."""
    steps = ("parse_record", "move", "read", "write_atomically", "create_atomically", "arrays_path")
    real = {step: getattr(records, step) for step in steps}
    for turn in range(1000):
        here = RecordStore(store.folder / str(turn) / "trials")
        before(here)
        left, filed = [turn], list[Record]()

        def meddle(
            step: str, here: RecordStore, left: list[int], filed: list[Record]
        ) -> Callable[..., Any]:
            def stepped(*words: Any, **settings: Any) -> Any:
                left[0] -= 1
                if left[0] == -1:
                    filed.append(here.write(done(CONFIG, 81), {"history.x": np.arange(1000)}))
                return real[step](*words, **settings)

            return stepped

        for step in steps:
            monkeypatch.setattr(records, step, meddle(step, here, left, filed))
        told = here.write(done(CONFIG, 80), {"history.x": np.arange(2000)})
        for step in steps:
            monkeypatch.setattr(records, step, real[step])
        if not filed:
            assert turn > 5
            return
        stands = sound(here)
        assert told == stands
        assert filed == [stands]
        assert not (here.unsettled / f"{IDENTITY}.json").exists()
    raise AssertionError("a writer without end")


@pytest.mark.parametrize("before", BEFORE, ids=lambda before: before.__name__)
def test_a_failure_that_is_filed_late_costs_no_numbers(
    store: RecordStore, before: Callable[[RecordStore], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a driver that takes a worker for dead, which has just filed its trial's record."""
    before(store)
    filed = list[Record]()

    def overtaken(*words: Any, **settings: Any) -> None:
        if not filed:
            filed.append(done(CONFIG, 80))
            filed[0] = store.write(filed[0], {"history.x": np.arange(2000)})
        write_atomically(*words, **settings)

    monkeypatch.setattr(records, "write_atomically", overtaken)
    assert store.write(unfinished(CONFIG, "failed")) == filed[0]
    found = store.read()
    assert found.records == {IDENTITY: filed[0]}
    read_arrays(filed[0], found.paths[IDENTITY])


@pytest.fixture
def writers() -> Iterator[list["subprocess.Popen[str]"]]:
    environment = clean_environment() | {
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'support'}"
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(number)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for number in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    yield processes
    for process in processes:
        process.communicate(timeout=30)


def test_of_two_processes_that_file_a_record_at_once_both_learn_which_stands(
    tmp_path: Path, writers: list["subprocess.Popen[str]"]
) -> None:
    for turn in range(ROUNDS):
        for before in BEFORE:
            for links in ("links", "none"):
                store = RecordStore(tmp_path / f"{turn}-{before.__name__}-{links}" / "trials")
                before(store)
                start = time.monotonic() + 0.01
                for number, process in enumerate(writers):
                    assert process.stdin is not None
                    process.stdin.write(
                        f"{store.folder}|{links}|{start + number * (turn % 5) * 0.0004}\n"
                    )
                    process.stdin.flush()
                told = [
                    float(process.stdout.readline())
                    for process in writers
                    if process.stdout is not None
                ]
                stands = sound(store).last
                assert stands is not None
                assert told == [stands.test_accuracy] * 2


def test_a_record_that_is_settled_while_a_damaged_one_is_set_aside_stays(
    store: RecordStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another driver has set it aside, trained the trial and filed it since it was found to be
    damaged.
    """
    damaged(store)
    found, arrays = store.read(), {"history.x": np.arange(2000)}
    filed = store.write(done(CONFIG, 80), arrays)
    store.quarantine(found, tmp_path / "aside")
    assert parse_record(store.path(IDENTITY)) == filed
    assert read_arrays(filed, store.path(IDENTITY)).keys() == arrays.keys()

    damaged(store)
    found = store.read()

    def slow(path: Any, target: Any) -> None:
        move(path, target)
        if target.suffix == ".json":
            with suppress(FileNotFoundError):
                store.write(done(CONFIG, 80), arrays)

    monkeypatch.setattr(records, "move", slow)
    store.quarantine(found, tmp_path / "aside")
    read_arrays(parse_record(store.path(IDENTITY)), store.path(IDENTITY))


def test_a_file_system_without_hard_links_loses_no_record(
    store: RecordStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There a reader may meet half a record: it sets it aside, and the writer writes again."""

    def no_link(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", no_link)
    real, met = os.fsync, list[int]()

    def overtaken(descriptor: int) -> None:
        real(descriptor)
        path = store.path(IDENTITY)
        if path.exists() and not met:
            met.append(descriptor)
            path.rename(tmp_path / "set aside by a reader")

    monkeypatch.setattr(os, "fsync", overtaken)
    filed = store.write(done(CONFIG, 80))
    assert met
    assert parse_record(store.path(IDENTITY)) == filed


def test_a_record_whose_arrays_are_gone_is_told_of_and_a_whole_copy_is_used(
    store: RecordStore,
) -> None:
    record = store.write(done(CONFIG, 80), {"history.x": np.arange(3)})
    assert store.read().warnings() == []
    arrays = arrays_path(record, store.path(IDENTITY))
    arrays.unlink()
    (warning,) = store.read().warnings()
    assert warning.startswith(f"1 record without arrays, first {arrays}: ")
    copy = RecordStore(store.folder / "machine-2")
    copy.write(done(CONFIG, 80), {"history.x": np.arange(3)})
    found = store.read()
    assert (found.warnings(), found.paths) == ([], {IDENTITY: copy.path(IDENTITY)})
