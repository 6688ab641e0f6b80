"""Records verify themselves, are written whole, merge across machines, and are never deleted."""

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from study_fixtures import checksummed, done, unfinished

from dh2l.atomic import write_atomically
from dh2l.config import TrainConfig
from dh2l.errors import UserError
from study.records import RECORD_VERSION, Record, RecordStore, arrays_path, parse_record, read_arrays

CONFIG = TrainConfig(metric="cosine", lambda_e=0.1, lr_milestones=(0.25, 0.5), seed=3)
RECORD = done(CONFIG, 97.25, 96.5, at_best_validation=(96, 98), at_best_test=(98.5, 95))


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    return RecordStore(tmp_path / "trials")


def filed(store: RecordStore, record: Record = RECORD) -> Path:
    store.write(record)
    path = store.path(record.identity)
    assert isinstance(path, Path)
    return path


def reason(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        parse_record(path)
    return str(caught.value)


@pytest.mark.parametrize(
    "record",
    [RECORD, *(unfinished(CONFIG, state) for state in ("diverged", "failed", "stopped"))],
    ids=lambda record: record.state,
)
def test_a_record_is_read_back_as_it_was_written(store: RecordStore, record: Record) -> None:
    path = filed(store, record)
    assert parse_record(path) == record
    found = store.read()
    assert (found.records, found.damaged, found.conflicts) == ({CONFIG.identity: record}, {}, {})
    assert TrainConfig.model_validate(parse_record(path).config) == CONFIG


def test_a_record_is_json_of_a_few_kilobytes(store: RecordStore) -> None:
    path = filed(store)
    content = json.loads(path.read_bytes())
    assert content["record"]["version"] == RECORD_VERSION
    assert content["record"]["identity"] == CONFIG.identity
    assert path.stat().st_size < 5000


def test_arrays_are_read_back_as_they_were_written_and_the_record_has_their_hash(store: RecordStore) -> None:
    arrays = {
        "history.train_loss": np.array([1.5, float("nan")]),
        "predictions.last": np.arange(5, dtype=np.uint16),
        "vectors": np.ones((2, 3), dtype=np.float32),
    }
    record = store.write(RECORD, arrays)
    path = store.path(CONFIG.identity)
    assert record.arrays_sha256 == hashlib.sha256(arrays_path(record, path).read_bytes()).hexdigest()
    assert parse_record(store.path(CONFIG.identity)) == record
    back = read_arrays(record, path)
    assert {name: array.dtype for name, array in back.items()} == {name: array.dtype for name, array in arrays.items()}
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return filed(RecordStore(tmp_path_factory.mktemp("sound")))


def test_every_flipped_byte_is_detected(sound: Path, tmp_path: Path) -> None:
    raw, copy = sound.read_bytes(), tmp_path / sound.name
    for position in range(len(raw)):
        damaged = bytearray(raw)
        damaged[position] ^= 0x01
        copy.write_bytes(damaged)
        reason(copy)


@given(data=st.data())
@settings(deadline=None, max_examples=200)
def test_every_edit_is_detected(data: st.DataObject, sound: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    raw = sound.read_bytes()
    start = data.draw(st.integers(0, len(raw)), label="start")
    end = data.draw(st.integers(start, min(len(raw), start + 40)), label="end")
    new = data.draw(st.one_of(st.binary(max_size=8), st.sampled_from([b"}\n", b"1", b" "])), label="new")
    edited = raw[:start] + new + raw[end:]
    copy = tmp_path_factory.getbasetemp() / sound.name
    copy.write_bytes(edited)
    if edited == raw:
        assert parse_record(copy).identity == CONFIG.identity
    else:
        reason(copy)


def test_every_truncation_is_detected(sound: Path, tmp_path: Path) -> None:
    raw, copy = sound.read_bytes(), tmp_path / sound.name
    for length in range(len(raw)):
        copy.write_bytes(raw[:length])
        assert "truncated" in reason(copy) or "damaged" in reason(copy)


def test_a_better_accuracy_written_in_by_hand_is_detected(store: RecordStore) -> None:
    path = filed(store)
    text = path.read_text(encoding="utf-8")
    assert text.count("0.9725") == 1
    path.write_text(text.replace("0.9725", "0.9925"), encoding="utf-8")
    assert reason(path) == "its checksum does not fit: it was edited or damaged"
    assert store.read().records == {}


def test_a_record_under_another_trial_s_name_is_refused(store: RecordStore) -> None:
    path = filed(store)
    other = path.with_name("digits-resnet20-other-s0-000000000000.json")
    path.rename(other)
    assert reason(other) == f"it is the record of {CONFIG.identity}"
    assert store.read().damaged == {other: reason(other)}


def test_a_record_of_a_newer_version_is_refused_with_both_versions(store: RecordStore) -> None:
    path = filed(store)
    body = RECORD.model_copy(update={"version": RECORD_VERSION + 1}).model_dump_json()
    path.write_bytes(checksummed(body))
    assert f"version {RECORD_VERSION + 1}" in reason(path)
    assert f"this project reads up to {RECORD_VERSION}" in reason(path)
    path.write_bytes(checksummed(json.dumps(json.loads(body) | {"a field of the future": 1})))
    assert f"version {RECORD_VERSION + 1}" in reason(path)


def test_a_record_of_a_newer_version_is_left_alone_and_not_trained_over(store: RecordStore, tmp_path: Path) -> None:
    path = filed(store)
    path.write_bytes(checksummed(RECORD.model_copy(update={"version": RECORD_VERSION + 1}).model_dump_json()))
    before, found = path.read_bytes(), store.read()
    assert (found.records, found.damaged, list(found.conflicts)) == ({}, {}, [CONFIG.identity])
    assert str(path) in found.warnings()[0]
    store.set_aside(found, tmp_path / "aside")
    assert path.read_bytes() == before
    store.write(RECORD)  # trained meanwhile
    assert path.read_bytes() == before
    (beside,) = store.repetitions.iterdir()
    assert beside.name.startswith(f"{CONFIG.identity}.")


def test_setting_aside_moves_and_never_overwrites(store: RecordStore, tmp_path: Path) -> None:
    aside = tmp_path / "aside"
    contents = [f"damage number {i}".encode() for i in range(3)]
    for content in contents:
        path = filed(store)
        path.write_bytes(content)
        store.set_aside(store.read(), aside)
        assert not path.exists()
    assert sorted(file.read_bytes() for file in aside.iterdir()) == contents


def test_two_drivers_may_set_the_same_record_aside(store: RecordStore, tmp_path: Path) -> None:
    filed(store).write_bytes(b"damage")
    found = store.read()
    for _ in range(2):
        store.set_aside(found, tmp_path / "aside")
    assert [file.read_bytes() for file in (tmp_path / "aside").iterdir()] == [b"damage"]


def test_asking_for_a_damaged_record_sets_it_aside(store: RecordStore, tmp_path: Path) -> None:
    aside = tmp_path / "aside"
    path = filed(store)
    assert store.get(CONFIG.identity, aside) == RECORD
    path.write_bytes(b"damage")
    assert store.get(CONFIG.identity, aside) is None
    assert store.get(CONFIG.identity, aside) is None
    assert [file.read_bytes() for file in aside.iterdir()] == [b"damage"]


def test_a_damaged_record_is_left_out_with_a_warning_that_names_it_and_a_sound_copy_is_used(store: RecordStore) -> None:
    path = filed(store)
    copy = store.folder / "from-elsewhere" / path.name
    write_atomically(copy, path.read_bytes())
    path.write_bytes(path.read_bytes()[:100])
    found = store.read()
    assert found.records == {CONFIG.identity: RECORD}
    assert found.warnings() == [f"the record {path} is left out: it is truncated, or not a record"]


def test_the_same_record_in_a_subfolder_is_merged(store: RecordStore) -> None:
    path = filed(store)
    elsewhere = done(CONFIG, 97.25, 96.5, at_best_validation=(96, 98), at_best_test=(98.5, 95), cpu="another one")
    RecordStore(store.folder / "machine-2").write(elsewhere)
    found = store.read()
    assert found.warnings() == []
    assert found.records == {CONFIG.identity: parse_record(path)}


@pytest.mark.parametrize(
    "other",
    [
        done(CONFIG, 97.5, 96.5, at_best_validation=(96, 98), at_best_test=(98.5, 95)),
        done(CONFIG, 97.25, 96, at_best_validation=(96, 98), at_best_test=(98.5, 95)),
        done(CONFIG, 97.25, 96.5, at_best_validation=(95, 98), at_best_test=(98.5, 95)),
        done(CONFIG, 97.25, 96.5, at_best_validation=(96, 98), at_best_test=(99, 95)),
        unfinished(CONFIG, "diverged"),
    ],
    ids=["test", "validation", "best validation", "best test", "diverged"],
)
def test_two_records_of_one_trial_with_different_numbers_are_a_conflict_that_names_both(
    store: RecordStore, other: Record
) -> None:
    paths = [RecordStore(store.folder / "machine-2").path(CONFIG.identity), filed(store)]
    RecordStore(store.folder / "machine-2").write(other)
    found = store.read()
    assert found.records == {}
    assert list(found.conflicts) == [CONFIG.identity]
    (warning,) = found.warnings()
    assert all(str(path) in warning for path in paths)


@pytest.mark.parametrize("state", ["failed", "stopped"])
def test_a_finished_record_settles_what_failed_or_was_stopped_elsewhere(
    store: RecordStore, state: Literal["failed", "stopped"]
) -> None:
    filed(store, unfinished(CONFIG, state))
    RecordStore(store.folder / "machine-2").write(RECORD)
    found = store.read()
    assert found.conflicts == {}
    assert found.records == {CONFIG.identity: RECORD}


def test_only_the_records_asked_for_are_read(store: RecordStore) -> None:
    other = done(CONFIG.model_copy(update={"seed": 4}), 90)
    filed(store)
    filed(store, other).write_bytes(b"damage")
    found = store.read([CONFIG.identity])
    assert list(found.records) == [CONFIG.identity]
    assert not found.damaged


def test_a_folder_that_does_not_exist_has_no_records(store: RecordStore) -> None:
    assert store.read().records == {}


def test_a_reader_never_sees_half_a_file_and_none_is_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [bytes([65 + i]) * 300_000 for i in range(4)]
    write_atomically(path, contents[0])
    seen, over = list[bytes](), threading.Event()

    def poll() -> None:
        while not over.is_set():
            seen.append(path.read_bytes())

    reader = threading.Thread(target=poll)
    reader.start()
    for i in range(100):
        write_atomically(path, contents[i % 4])
    over.set()
    reader.join()
    assert len(seen) > 20
    assert set(seen) <= set(contents)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_what_a_killed_writer_left_is_removed_and_what_a_live_one_writes_is_not(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    host = socket.gethostname()
    dead, live, other = (
        tmp_path / name
        for name in (
            f".a.json~{host}~{ended.pid}~x1",
            f".a.json~{host}~{os.getpid()}~x2",
            f".a.json~elsewhere~{ended.pid}~x3",
        )
    )
    for file in (dead, live, other):
        file.touch()
    write_atomically(tmp_path / "b.json", b"{}")
    assert {file.name for file in tmp_path.iterdir()} == {live.name, other.name, "b.json"}


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        write_atomically(path, b"new")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
