"""Records verify themselves, are written whole, merge across machines, and are never deleted."""

import errno
import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from study_fixtures import checksummed, done, unfinished

from dh2l.config.train_config import TrainConfig
from dh2l.errors import UserError
from dh2l.io.files import OLD_S, create_atomically, write_atomically
from dh2l.system.processes import machine_hash, start_time
from study.records.arrays import arrays_path, read_arrays
from study.records.record import RECORD_VERSION, Record, parse_record
from study.records.store import RecordStore

CONFIG = TrainConfig(metric="cosine", lambda_e=0.1, lr_milestones=(0.25, 0.5), seed=3)
RECORD = done(CONFIG, 97.25, 96.5, at_best_validation=(96, 98), at_best_test=(98.5, 95))


@pytest.fixture
def store(tmp_path: Path) -> RecordStore:
    return RecordStore(tmp_path / "trials")


def filed(store: RecordStore, record: Record = RECORD) -> Path:
    store.write(record)
    path = store.place(record)
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


def test_arrays_are_read_back_as_they_were_written_and_the_record_has_their_hash(
    store: RecordStore,
) -> None:
    arrays = {
        "history.train_loss": np.array([1.5, float("nan")]),
        "predictions.last": np.arange(5, dtype=np.uint16),
        "vectors": np.ones((2, 3), dtype=np.float32),
    }
    record = store.write(RECORD, arrays)
    path = store.path(CONFIG.identity)
    assert (
        record.arrays_sha256 == hashlib.sha256(arrays_path(record, path).read_bytes()).hexdigest()
    )
    assert parse_record(store.path(CONFIG.identity)) == record
    back = read_arrays(record, path)
    assert {name: array.dtype for name, array in back.items()} == {
        name: array.dtype for name, array in arrays.items()
    }
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
def test_every_edit_is_detected(
    data: st.DataObject, sound: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    raw = sound.read_bytes()
    start = data.draw(st.integers(0, len(raw)), label="start")
    end = data.draw(st.integers(start, min(len(raw), start + 40)), label="end")
    new = data.draw(
        st.one_of(st.binary(max_size=8), st.sampled_from([b"}\n", b"1", b" "])), label="new"
    )
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


def test_a_record_of_a_newer_version_is_left_alone_and_not_trained_over(
    store: RecordStore, tmp_path: Path
) -> None:
    path = filed(store)
    path.write_bytes(
        checksummed(RECORD.model_copy(update={"version": RECORD_VERSION + 1}).model_dump_json())
    )
    before, found = path.read_bytes(), store.read()
    assert (found.records, found.damaged, list(found.conflicts)) == ({}, {}, [CONFIG.identity])
    assert str(path) in found.warnings()[0]
    store.quarantine(found, tmp_path / "aside")
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
        store.quarantine(store.read(), aside)
        assert not path.exists()
    assert sorted(file.read_bytes() for file in aside.iterdir()) == contents


def test_two_drivers_may_set_the_same_record_aside(store: RecordStore, tmp_path: Path) -> None:
    filed(store).write_bytes(b"damage")
    found = store.read()
    for _ in range(2):
        store.quarantine(found, tmp_path / "aside")
    assert [file.read_bytes() for file in (tmp_path / "aside").iterdir()] == [b"damage"]


def test_asking_for_a_damaged_record_sets_it_aside(store: RecordStore, tmp_path: Path) -> None:
    aside = tmp_path / "aside"
    path = filed(store)
    assert store.get(CONFIG.identity, aside) == RECORD
    path.write_bytes(b"damage")
    assert store.get(CONFIG.identity, aside) is None
    assert store.get(CONFIG.identity, aside) is None
    assert [file.read_bytes() for file in aside.iterdir()] == [b"damage"]


def test_a_damaged_record_is_left_out_with_a_warning_that_names_it_and_a_sound_copy_is_used(
    store: RecordStore,
) -> None:
    path = filed(store)
    copy = store.folder / "from-elsewhere" / path.name
    write_atomically(copy, path.read_bytes())
    path.write_bytes(path.read_bytes()[:100])
    found = store.read()
    assert found.records == {CONFIG.identity: RECORD}
    assert found.warnings() == [f"the record {path} is left out: it is truncated, or not a record"]


def test_the_same_record_in_a_subfolder_is_merged(store: RecordStore) -> None:
    path = filed(store)
    elsewhere = done(
        CONFIG, 97.25, 96.5, at_best_validation=(96, 98), at_best_test=(98.5, 95), cpu="another one"
    )
    RecordStore(store.folder / "machine-2").write(elsewhere)
    found = store.read()
    assert found.warnings() == []
    assert found.records == {CONFIG.identity: parse_record(path)}


@pytest.mark.parametrize("known", [False, True])
def test_the_best_test_epoch_does_not_set_records_apart(store: RecordStore, known: bool) -> None:
    """It is known only where every epoch was evaluated; where one of two records has it, that one
    is used.
    """
    other = done(CONFIG, 97.25, 96.5, at_best_validation=(96, 98), at_best_test=(99, 95))
    RecordStore(store.folder / "a-machine-before").write(
        other if known else other.model_copy(update={"best_test": None})
    )
    path = filed(store)
    found = store.read()
    assert found.warnings() == []
    assert list(found.records) == [CONFIG.identity]
    assert known or found.paths[CONFIG.identity] == path


def test_other_numbers_with_the_best_test_epoch_are_for_the_studies_that_need_it(
    store: RecordStore,
) -> None:
    """On a GPU no two trainings agree, and neither the first record nor the second may be lost."""
    first = done(CONFIG, 97.5, 96.5).model_copy(update={"best_test": None})
    path = filed(store, first)
    assert store.write(RECORD) == RECORD
    found = store.read()
    assert (found.warnings(), found.records, found.paths) == (
        [],
        {CONFIG.identity: first},
        {CONFIG.identity: path},
    )
    found.require_best_test()
    again = store.evaluated / path.name
    assert (found.records, found.paths) == ({CONFIG.identity: RECORD}, {CONFIG.identity: again})
    (warning,) = found.warnings()
    assert f"this study uses {again}, studies without accuracy: oracle use {path}" in warning


def test_two_records_with_different_best_test_epochs_and_numbers_are_a_conflict(
    store: RecordStore,
) -> None:
    filed(store, done(CONFIG, 97.5, 96.5).model_copy(update={"best_test": None}))
    store.write(RECORD)
    other = RecordStore(store.folder / "machine-2")
    filed(other, done(CONFIG, 97.5, 96.5).model_copy(update={"best_test": None}))
    other.write(done(CONFIG, 90, 90))
    assert list(store.read().conflicts) == [CONFIG.identity]


@pytest.mark.parametrize(
    "other",
    [
        done(CONFIG, 97.5, 96.5, at_best_validation=(96, 98), at_best_test=(98.5, 95)),
        done(CONFIG, 97.25, 96, at_best_validation=(96, 98), at_best_test=(98.5, 95)),
        done(CONFIG, 97.25, 96.5, at_best_validation=(95, 98), at_best_test=(98.5, 95)),
        unfinished(CONFIG, "diverged"),
    ],
    ids=["test", "validation", "best validation", "diverged"],
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


def test_what_a_killed_writer_left_is_removed_and_what_a_live_one_writes_is_not(
    tmp_path: Path,
) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        birth = f"{start_time(psutil.Process(ended.pid)) * 100:.0f}"
    mark, mine = machine_hash(), f"{start_time(psutil.Process()) * 100:.0f}"
    left = [
        f".a.json~{mark}~{ended.pid}~{birth}~x1",
        f".a.json~{mark}~{os.getpid()}~1~x2",
        ".a.json~elsewhere~1~x3",
    ]
    alive = [
        f".a.json~{mark}~{os.getpid()}~{mine}~x4",
        f".a.json~another-machine~{ended.pid}~{birth}~x5",  # as of a container of the same host name
        f".a.json~{socket.gethostname()}~{ended.pid}~x6",  # of an earlier version, perhaps in such a container
    ]
    for name in (*left, *alive):
        (tmp_path / name).touch()
    os.utime(tmp_path / left[-1], times=(0, time.time() - OLD_S - 60))
    write_atomically(tmp_path / "b.json", b"{}")
    assert {file.name for file in tmp_path.iterdir()} == {*alive, "b.json"}


@pytest.mark.parametrize("umask", [0o002, 0o027, 0o077])
@pytest.mark.parametrize("write", [write_atomically, create_atomically], ids=["write", "create"])
def test_the_umask_says_who_may_read_a_file(
    tmp_path: Path, umask: int, write: Callable[[Path, bytes], object]
) -> None:
    before = os.umask(umask)
    try:
        write(tmp_path / "file", b"{}")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask


def test_an_error_of_a_temporary_file_names_the_file_that_it_is_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write_atomically(path, b"new")
    assert (caught.value.filename, caught.value.filename2) == (str(path), None)

    def full(name: object, *_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(name))

    monkeypatch.setattr(os, "open", full)  # as of a disk without inodes
    for write in (write_atomically, create_atomically):
        with pytest.raises(OSError, match="No space left") as caught_too:
            write(tmp_path / "other", b"new")
        assert caught_too.value.filename == str(tmp_path / "other")


def test_a_damaged_record_that_is_a_link_is_moved_as_a_link(
    store: RecordStore, tmp_path: Path
) -> None:
    secret, aside = tmp_path / "secret", tmp_path / "aside"
    secret.write_bytes(b"not for others")
    secret.chmod(0o600)
    path = store.path(CONFIG.identity)
    assert isinstance(path, Path)
    path.parent.mkdir(parents=True)
    path.symlink_to(secret)
    store.quarantine(store.read(), aside)
    (moved,) = aside.iterdir()
    assert moved.is_symlink()
    assert moved.readlink() == secret
    assert (secret.read_bytes(), secret.stat().st_mode & 0o777) == (b"not for others", 0o600)
    assert not os.path.lexists(path)


def test_a_record_that_is_a_link_to_nothing_is_left_alone(store: RecordStore) -> None:
    """As of a manager of large files that has not fetched it yet."""
    path = store.path(CONFIG.identity)
    assert isinstance(path, Path)
    path.parent.mkdir(parents=True)
    path.symlink_to("nothing")
    (warning,) = store.read().warnings()
    assert (
        warning == f"the record {path} is left alone: it cannot be read (it is a link to nothing)"
    )
    with pytest.raises(OSError, match="a link to nothing"):
        store.write(RECORD)


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.mkdir()
    with pytest.raises(OSError, match="directory"):
        write_atomically(path, b"new")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_record_filed_under_the_former_words_of_its_identity_is_the_same_trial_s(
    tmp_path: Path,
) -> None:
    config = TrainConfig.parse({"lambda_mma": 0.2})
    former = config.identity.replace("-mma0.2-", "-")
    store = RecordStore(tmp_path)
    old = done(config, 90).model_copy(update={"identity": former})
    filed = store.write(old, {"a": np.arange(3)})
    found = store.read([config.identity, TrainConfig().identity])
    record, path = found.records[config.identity], found.paths[config.identity]
    assert (list(found.records), found.bare) == ([config.identity], {})
    assert (record.identity, record.numbers(), path.stem) == (
        config.identity,
        filed.numbers(),
        former,
    )
    assert read_arrays(record, path)["a"].tolist() == [0, 1, 2]
    assert list(store.read().records) == [former]
