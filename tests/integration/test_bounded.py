"""Every reader ends, within bounds of time and memory, whatever lies in the place of its file."""

import json
import os
import re
import resource
import shutil
import signal
import socket
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from data_fixtures import (
    cars_classes,
    random_split,
    write_cars,
    write_cifar100,
    write_cub,
    write_folders,
)
from scipy.io import savemat
from study_fixtures import SMALL, done, write_study

from dh2l import data, plugins
from dh2l.config import binding
from dh2l.config.train_config import TrainConfig
from dh2l.data.sources.archives import download, members
from dh2l.errors import DataError, UserError
from dh2l.io import npz
from dh2l.io import yaml as yamlfile
from dh2l.io.files import open_regular, read
from dh2l.models import pretrained as weights
from dh2l.training import checkpoint
from study.execution.logs import CrashLog, TrialLog, last_lines
from study.records.arrays import arrays_path, read_arrays
from study.records.leases import Claims
from study.records.paths import Places
from study.records.store import RecordStore
from study.spec.study_file import StudyFile, claim_name

PATIENCE_S = 20
MEMORY = 3 << 30
CONFIG = TrainConfig(seed=3)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(checkpoint.LARGEST + 1)


def folder(path: Path) -> None:
    path.mkdir()


OBSTACLES: tuple[Callable[[Path], None], ...] = (pipe, endless, huge, folder)
every_obstacle = pytest.mark.parametrize(
    "obstacle", OBSTACLES, ids=lambda obstacle: obstacle.__name__
)


@pytest.fixture(autouse=True)
def _bounds() -> Iterator[None]:
    """A reader that waits is interrupted, and one that reads on and on gets no more memory."""

    def give_up(*_: object) -> None:
        raise AssertionError(f"no end within {PATIENCE_S} s")

    before, (soft, hard) = (
        signal.signal(signal.SIGALRM, give_up),
        resource.getrlimit(resource.RLIMIT_AS),
    )
    used = (
        int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        * resource.getpagesize()
    )
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    signal.alarm(PATIENCE_S)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def reason(path: Path) -> str:
    with pytest.raises(OSError, match=r"file|bytes|directory") as caught:
        read(path)
    assert caught.value.filename == str(path)
    return str(caught.value.strerror)


def test_what_is_not_a_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    said = {}
    for obstacle in OBSTACLES:
        obstacle(tmp_path / obstacle.__name__)
        said[obstacle.__name__] = reason(tmp_path / obstacle.__name__)
    assert said == {
        "pipe": "it is not a regular file",
        "endless": "it is not a regular file",
        "huge": "it has more than 268,435,456 bytes",
        "folder": "Is a directory",
    }


def test_a_file_may_have_as_many_bytes_as_it_may_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read(path, 5) == b"12345"
    with pytest.raises(OSError, match="it has more than 4 bytes"):
        read(path, 4)
    assert read(Path("/proc/self/stat"))  # its size is said to be 0


@every_obstacle
def test_a_record_is_left_alone_with_a_sentence(
    tmp_path: Path, obstacle: Callable[[Path], None]
) -> None:
    store = RecordStore(tmp_path / "trials")
    store.write(done(TrainConfig(seed=4), 90))
    path = store.path(CONFIG.identity)
    assert isinstance(path, Path)
    obstacle(path)
    found = store.read()
    (warning,) = found.warnings()
    assert warning.startswith(f"the record {path} is left alone: it cannot be read (")
    assert len(found.records) == 1
    with pytest.raises(OSError, match=r"it is not a regular file|bytes|directory"):
        store.write(done(CONFIG, 90))


@every_obstacle
def test_arrays_are_a_sentence(tmp_path: Path, obstacle: Callable[[Path], None]) -> None:
    record = done(CONFIG, 90)
    path = tmp_path / f"{CONFIG.identity}.json"
    obstacle(Path(str(arrays_path(record, path))))
    with pytest.raises(UserError, match=r"the arrays .* cannot be read \("):
        read_arrays(record, path)


@every_obstacle
def test_a_checkpoint_is_left_out(tmp_path: Path, obstacle: Callable[[Path], None]) -> None:
    obstacle(tmp_path / "checkpoint.pt")
    with pytest.warns(UserWarning, match="is left out: it cannot be read"):
        assert checkpoint.load(tmp_path, "identity") is None


@every_obstacle
def test_a_claim_is_none(tmp_path: Path, obstacle: Callable[[Path], None]) -> None:
    claims = Claims(tmp_path)
    obstacle(tmp_path / "trial.json")
    assert (claims.everyone(), claims.alive("trial"), claims.read("trial")) == ({}, None, None)


@every_obstacle
def test_a_log_costs_itself_alone(tmp_path: Path, obstacle: Callable[[Path], None]) -> None:
    path = tmp_path / "trial.log"
    obstacle(path)
    if obstacle is not huge:  # a regular file, to which a log may well append
        log, crash = TrialLog(path), CrashLog()
        with log.written():
            pass
        log.close(keep=True)
        crash.turn_to(path)
        crash.turn_to(None)
    assert len(last_lines(path)) <= 1


def test_a_log_is_not_written_through_a_link(tmp_path: Path) -> None:
    target, path = tmp_path / "another's", tmp_path / "trial.log"
    target.write_text("words", encoding="utf-8")
    path.symlink_to(target)
    TrialLog(path, anew=True).close(keep=True)
    assert target.read_text(encoding="utf-8") == "words"


@every_obstacle
def test_a_note_of_a_studys_file_names_none(
    tmp_path: Path, obstacle: Callable[[Path], None]
) -> None:
    places = Places.of(tmp_path / "results", tmp_path / "data")
    places.table("mine").mkdir(parents=True)
    obstacle(places.table("mine") / "file")

    def claim() -> None:
        claim_name(StudyFile(write_study(tmp_path, SMALL, "mine")), places)

    if obstacle is folder:
        with pytest.raises(IsADirectoryError):
            claim()
    else:
        claim()
        assert (places.table("mine") / "file").read_text(encoding="utf-8") == str(
            tmp_path / "mine.yaml"
        )


@every_obstacle
def test_what_a_user_names_is_a_sentence(tmp_path: Path, obstacle: Callable[[Path], None]) -> None:
    path = tmp_path / "users.py"
    obstacle(path)
    for reader in (lambda: plugins.load(str(path)), lambda: yamlfile.read_text(path, "a study")):
        with pytest.raises(UserError, match="cannot be"):
            reader()
    if obstacle is not huge:  # a file of this size may hold weights
        with pytest.raises(UserError, match="cannot be read"):
            weights._read(str(path))


def test_a_file_is_opened_for_writing_only_where_it_is_one(tmp_path: Path) -> None:
    pipe(tmp_path / "pipe")
    with pytest.raises(OSError, match="No such device or address"):
        open_regular(tmp_path / "pipe", os.O_WRONLY)
    with open_regular(tmp_path / "file", os.O_WRONLY | os.O_CREAT) as file:
        file.write(b"words")
    assert (tmp_path / "file").read_bytes() == b"words"


def replaced(path: Path, obstacle: Callable[[Path], None]) -> Path:
    path.unlink()
    obstacle(path)
    return path


@every_obstacle
def test_the_files_of_prepared_data_are_a_sentence(
    tmp_path: Path, digits: Path, obstacle: Callable[[Path], None]
) -> None:
    for name in ("manifest.json", "train_y.npy"):
        root = tmp_path / name
        shutil.copytree(digits, root)
        if name != "manifest.json":  # whose size is the one that the manifest says
            manifest = json.loads((root / "digits" / "manifest.json").read_text())
            manifest["files"][name]["bytes"] = 0
            (root / "digits" / "manifest.json").write_text(json.dumps(manifest))
        path = replaced(root / "digits" / name, obstacle)
        for reader in (data.load, data.verify):
            with pytest.raises(
                DataError, match=rf"{path} (cannot be read|has 17,179,869,185 bytes|is missing or)"
            ):
                reader("digits", root)


def test_a_manifest_with_a_number_that_is_not_finite_is_a_sentence(
    tmp_path: Path, digits: Path
) -> None:
    shutil.copytree(digits, tmp_path / "data")
    file = tmp_path / "data" / "digits" / "manifest.json"
    for number in ("NaN", "Infinity", "1e999"):
        content = json.loads((digits / "digits" / "manifest.json").read_text())
        file.write_text(json.dumps(content | {"mean": ["?"]}).replace('"?"', number))
        with pytest.raises(
            DataError, match=r"is damaged \(mean\.0: Input should be a finite number\)"
        ):
            data.load("digits", tmp_path / "data")


@every_obstacle
@pytest.mark.parametrize("shorter_side", [None, 8])
def test_an_image_is_a_sentence(
    tmp_path: Path, shorter_side: int | None, obstacle: Callable[[Path], None]
) -> None:
    images = write_folders(tmp_path / "images", random_split(2, 0), random_split(2, 1))
    path = replaced(images / "test" / "fish" / "ray" / "001.png", obstacle)
    with pytest.raises(
        DataError,
        match=rf"{path} (cannot be read|has 17,179,869,185 bytes)|lies beside .* 001.png/",
    ):
        data.prepare("own", tmp_path / "data", source=images, shorter_side=shorter_side)


@every_obstacle
def test_lists_and_archives_of_official_data_are_a_sentence(
    tmp_path: Path, obstacle: Callable[[Path], None]
) -> None:
    small = random_split(1, 0, shape=(32, 32, 3))
    cifar, cub = (
        write_cifar100(tmp_path / "cifar", small, small).folder,
        write_cub(tmp_path / "cub"),
    )
    cars = write_cars(tmp_path / "cars", cars_classes())
    replaced(cifar / "test", obstacle)
    replaced(cub / "train_test_split.txt", obstacle)
    replaced(cars / "devkit" / "cars_train_annos.mat", obstacle)
    for name, source in (("cifar100", cifar), ("cub200", cub), ("cars", cars)):
        with pytest.raises(
            DataError, match=r"is missing or .*\((it is not|it has more|Is a directory)"
        ):
            data.prepare(name, tmp_path / "data", source=source)
    obstacle(tmp_path / "archive.tgz")
    with pytest.raises(DataError, match=r"archive.tgz cannot be read as a .tar.gz archive"):
        list(members(tmp_path / "archive.tgz", re.compile(".*"), 100))


@pytest.mark.parametrize("obstacle", [pipe, endless, folder])
def test_a_download_is_not_written_to_what_is_no_file(
    tmp_path: Path, obstacle: Callable[[Path], None]
) -> None:
    (tmp_path / "downloads").mkdir()
    obstacle(tmp_path / "downloads" / "cifar-100-python.tar.gz")
    with pytest.raises(
        DataError, match=r"cifar-100-python.tar.gz is not a regular file, so .*; remove it"
    ):
        data.prepare("cifar100", tmp_path)


def test_a_server_that_says_nothing_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dh2l.data.sources.archives._PATIENCE_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:  # it accepts, and says nothing
        url = f"http://127.0.0.1:{server.getsockname()[1]}/x.tgz"
        with pytest.raises(DataError, match=r"own could not be downloaded from .* \(timed out\)"):
            download("own", url, "0" * 32, tmp_path / "x.tgz", "a folder", lambda _: None)
    assert socket.getdefaulttimeout() is None


@every_obstacle
def test_weights_and_packed_arrays_are_an_error(
    tmp_path: Path, obstacle: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binding, "_LARGEST", checkpoint.LARGEST)
    obstacle(tmp_path / "file")
    with pytest.raises(
        UserError, match=r"cannot be read \(it (is no regular file|has 17,179,869,185 bytes)"
    ):
        binding.weights_hash("resnet20", str(tmp_path / "file"))
    with pytest.raises(npz.UNREADABLE):
        npz.read(tmp_path / "file")


def test_what_would_unpack_to_more_than_it_may_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"zeros": torch.zeros(1_000_000)}, path)
    with (
        zipfile.ZipFile(path) as plain,
        zipfile.ZipFile(tmp_path / "packed.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with pytest.raises(UserError, match=r"packed.pt cannot be read: damaged, or"):
        weights._read(str(tmp_path / "packed.pt"))
    cars = write_cars(tmp_path / "cars", cars_classes())
    savemat(
        cars / "devkit" / "cars_meta.mat", {"class_names": np.zeros(4_000_000)}, do_compression=True
    )
    with pytest.raises(
        DataError, match=r"cars_meta.mat .* \(its elements have more than 20,000,000 bytes\)"
    ):
        data.prepare("cars", tmp_path / "data", source=cars)
    monkeypatch.setattr("dh2l.data.sources.archives._LARGEST_ARCHIVE", 10_000)
    with tarfile.open(tmp_path / "a.tgz", "w:gz") as tar:
        tar.add(cars / "devkit" / "cars_meta.mat", "not asked for")
        (tmp_path / "large").write_bytes(bytes(20_000))
        tar.add(tmp_path / "large", "nor this")
    with pytest.raises(DataError, match=r"a\.tgz would have more than 10,000 bytes, unpacked"):
        list(members(tmp_path / "a.tgz", re.compile("asked for"), 100))


@pytest.mark.parametrize("obstacle", [pipe, endless, folder])
def test_downloaded_weights_are_a_sentence(
    tmp_path: Path, obstacle: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    obstacle(tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth")
    config = TrainConfig(model="resnet18", weights="imagenet", weights_hash="f37072fd")
    with pytest.raises(
        UserError, match=r"resnet18-f37072fd.pth is damaged or another than .*; delete it"
    ):
        weights._downloaded(config)
