"""Images of many sizes: what is stored of them, in what order, and what a killed preparation
leaves.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from data_fixtures import CLASSES, save_image
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_data import tiny_config

from dh2l.data import load, prepare, prepared, read_manifest, verify
from dh2l.data.canonical import statistics
from dh2l.data.ragged_array import RaggedArray
from dh2l.data.ragged_decode import decode_groups
from dh2l.errors import DataError
from dh2l.training.batches import make_splits, plain_batches

Pixels = npt.NDArray[np.uint8]
N = {"train": 3, "test": 2}


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Images of 12 to 19 pixels a side: of three classes, 3 to train on and 2 to test."""
    for part, n in N.items():
        for c, path in enumerate(CLASSES):
            for i in range(n):
                number = 100 * n + 10 * c + i
                save_image(tmp_path.joinpath("images", part, *path, f"{i}.png"), number)
    return tmp_path / "images"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


def scaled(file: Path, shorter_side: int) -> Pixels:
    """The slow way, in the words of the definition."""
    with Image.open(file) as image:
        width, height = image.size
        factor = shorter_side / min(width, height)
        size = (
            (shorter_side, int(height * factor + 1e-9))
            if width <= height
            else (int(width * factor + 1e-9), shorter_side)
        )
        return np.asarray(image.convert("RGB").resize(size, Image.Resampling.BILINEAR))


def test_images_keep_their_proportions_and_lie_by_class_height_width_and_bytes(
    images: Path, root: Path
) -> None:
    manifest = prepare("own", root, source=images, shorter_side=9, crop=8)
    data = load("own", root)
    assert manifest == verify("own", root) == prepared(root)[0]
    assert (manifest.stored, manifest.image_shape, manifest.crop_padding) == (
        "ragged",
        (8, 8, 3),
        0,
    )
    for part, pixels, sizes, labels in (
        ("train", data.train_x, data.train_size, data.train_y),
        ("test", data.test_x, data.test_size, data.test_y),
    ):
        assert sizes is not None
        expected = []
        for path in sorted(CLASSES):
            found = [scaled(file, 9) for file in images.joinpath(part, *path).iterdir()]
            expected += sorted(found, key=lambda image: (*image.shape[:2], image.tobytes()))
        assert labels.tolist() == [label for label in range(3) for _ in range(N[part])]
        assert sizes.tolist() == [list(image.shape[:2]) for image in expected]
        np.testing.assert_array_equal(
            pixels, np.concatenate([image.reshape(-1, 3) for image in expected])
        )
    assert (manifest.mean, manifest.std) == statistics(data.train_x[None])


def test_a_network_is_given_the_centres_of_what_is_stored(images: Path, root: Path) -> None:
    prepare("own", root, source=images, shorter_side=9, crop=6)
    data = load("own", root)
    assert data.test_size is not None
    splits = make_splits(tiny_config(), data, torch.device("cpu"))
    ((found, labels),) = plain_batches(splits.test, 100)
    assert labels.tolist() == data.test_y.tolist()
    for crop, (height, width), start in zip(
        found, data.test_size, np.cumsum([0, *data.test_size.prod(axis=1)]), strict=False
    ):
        image = data.test_x[start : start + height * width].reshape(height, width, 3)
        row, column = (height - 6) // 2, (width - 6) // 2
        np.testing.assert_array_equal(crop.numpy(), image[row : row + 6, column : column + 6])


def test_grey_images_become_rgb_and_the_crop_is_seven_eighths_by_default(
    images: Path, root: Path
) -> None:
    Image.new("L", (30, 16), 77).save(images / "test" / "fish" / "cod" / "grey.png")
    assert prepare("own", root, source=images, shorter_side=16).image_shape == (14, 14, 3)
    data = load("own", root)
    assert data.test_size is not None
    place = data.test_size.tolist().index([16, 30])
    start = int(data.test_size[:place].prod(axis=1).sum())
    assert (data.test_x[start : start + 16 * 30] == 77).all()


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(0, 1)), min_size=1, max_size=6
    )
)
def test_pieces_are_written_and_sized_as_the_array_that_they_make(
    shapes: list[tuple[int, int, int]],
) -> None:
    pieces = [np.full((height, width, 2), value, dtype=np.uint8) for height, width, value in shapes]
    whole = np.concatenate([piece.reshape(-1, 2) for piece in pieces])
    assert RaggedArray(tuple(pieces)).shape == whole.shape
    assert len(RaggedArray(tuple(pieces))) == len(whole)


def test_images_that_begin_alike_are_ordered_by_the_rest(tmp_path: Path) -> None:
    files = []
    for i, last in enumerate((9, 3, 7, 3)):
        pixels = np.zeros((4, 4, 3), dtype=np.uint8)
        pixels[-1, -1, -1] = last
        files.append(tmp_path / f"{i}.png")
        Image.fromarray(pixels).save(files[-1])
    (found,) = decode_groups([files], 4, tmp_path / "parts", lambda _: None)
    assert [int(image[-1, -1, -1]) for image in found.images] == [3, 3, 7, 9]
    assert found.histogram.sum(axis=1).tolist() == [64] * 3
    assert found.histogram[2, [3, 7, 9]].tolist() == [2, 1, 1]


def test_another_shorter_side_or_crop_gives_another_data_hash(images: Path, root: Path) -> None:
    sizes = ((9, 8), (9, 7), (10, 8), (9, 8))
    hashes = [
        prepare("own", root, source=images, shorter_side=a, crop=b).data_hash for a, b in sizes
    ]
    assert len(set(hashes)) == 3
    assert hashes[0] == hashes[3]


def test_an_image_much_longer_than_wide_is_named(images: Path, root: Path) -> None:
    file = images / "train" / "trees" / "oak" / "line.png"
    Image.new("RGB", (1, 17)).save(file)
    with pytest.raises(
        DataError, match=rf"{file} has 1×17 pixels, but an image's longer side may be 16 times"
    ):
        prepare("own", root, source=images, shorter_side=9)


def test_sizes_that_were_changed_are_found(images: Path, root: Path) -> None:
    prepare("own", root, source=images, shorter_side=9, crop=8)
    file = root / "own" / "train_size.npy"
    sizes = np.load(file)
    sizes[0] = 7
    np.save(file, sizes)
    with pytest.raises(
        DataError, match=r"train_size.npy holds images smaller than the crop; prepare the data set"
    ):
        load("own", root)
    sizes[0] = 30
    np.save(file, sizes)
    with pytest.raises(DataError, match=r"train_x.npy holds uint8 .* but its manifest says uint8"):
        load("own", root)


KILLED = """
import os, signal, sys
from pathlib import Path
from threading import Lock
from dh2l.data import prepare

left, replace, lock = int(sys.argv[3]), os.replace, Lock()

def deadly(*args):
    global left
    with lock:
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(*args)

os.replace = deadly
prepare("own", Path(sys.argv[1]), source=Path(sys.argv[2]), shorter_side=9, crop=8)
"""


def kill(root: Path, images: Path, point: int) -> None:
    """Prepare in a process that is killed before it finishes its n-th file: two a part, pixels and
    summary.
    """
    command = [sys.executable, "-c", KILLED, str(root), str(images), str(point)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL


@pytest.mark.parametrize("point", [1, 2, 7, 12])
def test_a_preparation_that_was_killed_goes_on_from_what_was_decoded(
    point: int, images: Path, root: Path, tmp_path: Path
) -> None:
    kill(root, images, point)
    assert prepared(root) == []
    parts = root / ".own.parts"
    before = {file.name: file.stat().st_mtime_ns for file in parts.glob("*.npz")}
    assert max(0, point - 7) <= len(before) <= (point - 1) // 2
    said: list[str] = []
    manifest = prepare("own", root, source=images, shorter_side=9, crop=8, report=said.append)
    decoded_before = [
        line
        for line in said
        if line.endswith("of 15 images were decoded by an earlier preparation")
    ]
    assert bool(decoded_before) == bool(before)
    assert (
        verify("own", root)
        == manifest
        == prepare("own", tmp_path / "b", source=images, shorter_side=9, crop=8)
    )
    assert sorted(os.listdir(root)) == [".own.lock", "own"]


def test_a_file_that_was_changed_and_another_size_are_decoded_anew(
    images: Path, root: Path, tmp_path: Path
) -> None:
    kill(root, images, 12)
    kept = len(list((root / ".own.parts").glob("*.npz")))
    assert kept == 5
    said: list[str] = []
    file = images / "train" / "fish" / "cod" / "0.png"
    save_image(file, 999)
    changed = prepare("own", root, source=images, shorter_side=9, crop=8, report=said.append)
    assert changed == prepare("own", tmp_path / "b", source=images, shorter_side=9, crop=8)
    kill(tmp_path / "c", images, 12)
    said.clear()
    prepare("own", tmp_path / "c", source=images, shorter_side=10, crop=8, report=said.append)
    assert not any("earlier preparation" in line for line in said)


def test_after_damage_the_sound_classes_need_no_second_decoding(images: Path, root: Path) -> None:
    file = images / "train" / "fish" / "cod" / "0.png"
    whole = file.read_bytes()
    file.write_bytes(whole[:-30])
    with pytest.raises(DataError, match=rf"^{file} cannot be decoded"):
        prepare("own", root, source=images, shorter_side=9)
    assert prepared(root) == []
    file.write_bytes(whole)
    said: list[str] = []
    prepare("own", root, source=images, shorter_side=9, report=said.append)
    assert said == [
        "12 of 15 images were decoded by an earlier preparation",
        "decoded 15 of 15 images",
        f"writing {root / 'own'}",
    ]


def test_a_part_that_was_cut_short_is_decoded_anew(
    images: Path, root: Path, tmp_path: Path
) -> None:
    kill(root, images, 12)
    for file in (root / ".own.parts").glob("*.pixels"):
        file.write_bytes(file.read_bytes()[:-1])
    said: list[str] = []
    found = prepare("own", root, source=images, shorter_side=9, crop=8, report=said.append)
    assert not any("earlier preparation" in line for line in said)
    assert found == prepare("own", tmp_path / "b", source=images, shorter_side=9, crop=8)


def test_a_full_disk_is_said_with_what_to_do(
    images: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(
        DataError, match=r"own.parts cannot be written \(No space left on device\); make room and"
    ):
        prepare("own", root, source=images, shorter_side=9)


def test_a_manifest_written_before_sizes_could_differ_is_read_as_it_was(
    images: Path, root: Path
) -> None:
    prepare("own", root, source=images, size=8)
    file = root / "own" / "manifest.json"
    text = file.read_text()
    file.write_text(text.replace(' "stored": "fixed",\n', ""))
    assert file.read_text() != text
    assert verify("own", root) == read_manifest("own", root)
    assert read_manifest("own", root).stored == "fixed"
