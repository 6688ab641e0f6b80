"""Whatever is in a data set's files, its reader gives images or a sentence, never another
exception.
"""

import gzip
import io
import json
import os
import pickle
import re
import shutil
import tarfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_fixtures import (
    TorchvisionFiles,
    cars_classes,
    random_split,
    write_cars,
    write_cifar100,
    write_cub,
)
from fuzzing import EDITS, Edit, cases, mangled, sentence_or_value
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from dh2l.data import load, read_manifest, verify
from dh2l.data.manifest import FILES, MANIFEST
from dh2l.data.sources.archives import members
from dh2l.data.sources.cars import read_cars
from dh2l.data.sources.cifar import read_cifar
from dh2l.data.sources.cub import read_cub200
from dh2l.data.sources.folders import read_folders
from dh2l.io.pickles import unpickled

SMALL_CIFAR = random_split(1, 0, shape=(32, 32, 3))


def say_nothing(_line: str) -> None:
    """A report that goes nowhere."""


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> TorchvisionFiles:
    return write_cifar100(tmp_path_factory.mktemp("cifar"), SMALL_CIFAR, SMALL_CIFAR)


@pytest.fixture(scope="module")
def tar() -> bytes:
    """The files' archive, not compressed, with long names that need headers of their own."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in ("cifar-100-python/meta", "cifar-100-python/" + "x" * 200 + "ü"):
            head = tarfile.TarInfo(name)
            head.size = 4
            archive.addfile(head, io.BytesIO(b"meta"))
    return buffer.getvalue()


@cases(300)
@given(EDITS, st.booleans())
@example([(0.0, 0, b"")], True)
@example([(0.5, 10**6, b"")], True)
def test_a_mangled_archive_is_read_or_a_sentence(
    tmp_path: Path, tar: bytes, edits: list[Edit], before: bool
) -> None:
    packed = (
        gzip.compress(mangled(tar, edits), 1) if before else mangled(gzip.compress(tar, 1), edits)
    )
    path = tmp_path / "cifar-100-python.tar.gz"
    path.write_bytes(packed)
    sentence_or_value(lambda: list(members(path, re.compile(".*"), 10**6)))
    sentence_or_value(lambda: read_cifar("cifar100", path, tmp_path, say_nothing))


@cases(400)
@given(EDITS)
@example([(0.0, 10**6, b"\x80\x02}r\xff\xff\xff\x7f.")])
@example([(0.0, 10**6, b"cposix\nsystem\n(S'true'\ntR.")])
def test_a_mangled_batch_of_cifar_is_read_or_a_sentence(
    cifar: TorchvisionFiles, edits: list[Edit]
) -> None:
    for name in ("meta", "test"):
        content = (cifar.folder / name).read_bytes()
        sentence_or_value(lambda content=content: unpickled(mangled(content, edits), "a batch"))  # type: ignore[misc]


@pytest.fixture(scope="module")
def cars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cars(tmp_path_factory.mktemp("cars"), cars_classes())


@cases(120)
@given(st.sampled_from(["cars_meta.mat", "cars_train_annos.mat"]), EDITS)
@example("cars_meta.mat", [(0.0, 10**6, b"")])
def test_mangled_lists_of_cars_are_read_or_a_sentence(
    cars: Path, name: str, edits: list[Edit]
) -> None:
    file = cars / "devkit" / name
    whole = file.read_bytes()
    try:
        file.write_bytes(mangled(whole, edits))
        sentence_or_value(lambda: read_cars(cars, cars, say_nothing))
    finally:
        file.write_bytes(whole)


@pytest.fixture(scope="module")
def cub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cub(tmp_path_factory.mktemp("cub"))


@cases(150)
@given(
    st.sampled_from(
        ["classes.txt", "images.txt", "image_class_labels.txt", "train_test_split.txt"]
    ),
    EDITS,
)
@example("images.txt", [(0.0, 0, b"1 ../../../x.jpg\n")])
def test_mangled_lists_of_cub_are_read_or_a_sentence(
    cub: Path, name: str, edits: list[Edit]
) -> None:
    file = cub / name
    whole = file.read_bytes()
    try:
        file.write_bytes(mangled(whole, edits))
        found = sentence_or_value(lambda: read_cub200(cub, cub, say_nothing))
    finally:
        file.write_bytes(whole)
    if found is not None:
        assert all(
            (cub / "images") in image.resolve().parents for part in found.train for image in part
        )


def image(kind: str, **words: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(next(iter(SMALL_CIFAR.values()))[0]).resize((9, 8)).save(buffer, kind, **words)
    return buffer.getvalue()


IMAGES = {
    ".png": image("PNG"), ".jpg": image("JPEG"), ".webp": image("WEBP"), ".bmp": image("BMP"), ".ppm": image("PPM"),
    ".tiff": image("TIFF", compression="tiff_lzw"),
}  # fmt: skip


@cases(400)
@given(st.sampled_from(sorted(IMAGES)), EDITS)
@example(".ppm", [(0.0, 10**6, b"P6 99999999 99999999 255\n")])
@example(".ppm", [(0.0, 10**6, b"P6 9000 9000 255\n")])
def test_a_mangled_image_is_decoded_or_a_sentence(
    tmp_path: Path, suffix: str, edits: list[Edit]
) -> None:
    for part in ("train", "test"):
        folder = tmp_path / part / "class"
        folder.mkdir(parents=True, exist_ok=True)
        for file in folder.iterdir():
            file.unlink()
        (folder / f"image{suffix}").write_bytes(mangled(IMAGES[suffix], edits))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of what it passes over
        sentence_or_value(
            lambda: read_folders(tmp_path, size=8, resizable=True, report=say_nothing)
        )


@pytest.fixture
def prepared(tmp_path: Path, digits: Path) -> Path:
    return Path(shutil.copytree(digits, tmp_path / "data"))


VALUES = st.none() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=3)


@cases(150)
@given(
    EDITS
    | st.dictionaries(
        st.sampled_from(["classes", "image_shape", "n_train", "files", "mean"]), VALUES
    )
)
@example([(0.0, 10**6, b"[" * 100_000)])
@example([(0.0, 10**6, b'{"version": ' + b"9" * 5000 + b"}")])
@example({"image_shape": [-8, -8, 1]})
@example({"n_train": 10**30})
def test_a_mangled_manifest_is_read_or_a_sentence(prepared: Path, change: Any) -> None:
    file = prepared / "digits" / MANIFEST
    whole = file.read_bytes()
    changed = (
        json.dumps(json.loads(whole) | change).encode()
        if isinstance(change, dict)
        else mangled(whole, change)
    )
    try:
        file.write_bytes(changed)
        sentence_or_value(lambda: read_manifest("digits", prepared))
        sentence_or_value(lambda: load("digits", prepared))
    finally:
        file.write_bytes(whole)


@cases(150)
@given(st.sampled_from(FILES), st.integers(0, 127), st.binary(min_size=1, max_size=60))
@example("train_y.npy", 10, b"(" * 60)
def test_a_mangled_array_is_mapped_or_a_sentence(
    prepared: Path, name: str, at: int, instead: bytes
) -> None:
    file = prepared / "digits" / name
    whole = file.read_bytes()
    try:
        file.write_bytes(whole[:at] + instead + whole[at + len(instead) :])
        sentence_or_value(lambda: verify("digits", prepared))
    finally:
        file.write_bytes(whole)


def test_code_in_a_batch_of_cifar_is_not_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(ran),)

    content = {"data": np.zeros((1, 3072), dtype=np.uint8), "fine_labels": [Evil()]}
    with pytest.raises(ValueError, match=r"it names posix\.mkdir"):
        unpickled(pickle.dumps(content, protocol=2), "a batch")
    assert not ran.exists()
    assert "system" in str(sentence_of(b"cposix\nsystem\n(S'true'\ntR."))


def sentence_of(content: bytes) -> ValueError:
    with pytest.raises(ValueError, match="it names") as refused:
        unpickled(content, "a batch")
    return refused.value


def test_a_batch_as_python_2_wrote_it_is_read() -> None:
    content = (
        b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85U\x01b"
        b"\x87Rq\x05(K\x01K\x02K\x03\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff\xff\xff"
        b"J\xff\xff\xff\xffK\x00tb\x89U\x06\x00\x01\x02\xfd\xfe\xfftbU\x06labels]K\x07au."
    )
    found = unpickled(content, "a batch")
    np.testing.assert_array_equal(found["data"], [[0, 1, 2], [253, 254, 255]])
    assert found["labels"] == [7]
