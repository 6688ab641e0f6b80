"""Preparation from each source: canonical order, hashes, and one sentence for whatever is wrong."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from threading import Thread
from time import sleep

import numpy as np
import psutil
import pytest
from data_fixtures import TorchvisionFiles, random_split, write_cifar100, write_folders
from PIL import Image

from dh2l.data import load, prepare, prepared, read_manifest, verify
from dh2l.data.sources import cifar as cifar_reader
from dh2l.errors import DataError, UserError

TRAIN, TEST = random_split(3, seed=0), random_split(2, seed=1)
CIFAR_TRAIN, CIFAR_TEST = (
    random_split(3, 0, shape=(32, 32, 3)),
    random_split(2, 1, shape=(32, 32, 3)),
)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_folders(tmp_path / "images", TRAIN, TEST)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TorchvisionFiles:
    """A CIFAR-100 of 3 classes in torchvision's format, and tables that say this were the official
    one.
    """
    from torchvision.datasets import CIFAR100

    files = write_cifar100(tmp_path / "torchvision", CIFAR_TRAIN, CIFAR_TEST)
    for key in ("train_list", "test_list", "meta"):
        monkeypatch.setattr(CIFAR100, key, getattr(files, key))
    complete = cifar_reader.Complete(n_train=9, n_test=6, n_classes=3, n_groups=2)
    monkeypatch.setitem(cifar_reader.COMPLETE, "cifar100", complete)
    return files


def test_torchvision_files_their_archive_and_folders_give_the_same_arrays_and_hash(
    cifar: TorchvisionFiles, tmp_path: Path
) -> None:
    given = {
        "inside": cifar.folder,
        "above": cifar.folder.parent,
        "archive": cifar.archive(tmp_path / "c.tar.gz"),
        "folders": write_folders(tmp_path / "images", CIFAR_TRAIN, CIFAR_TEST),
    }
    found = {}
    for key, source in given.items():
        found[key] = prepare("cifar100", tmp_path / key, source=source)
        assert found[key].source == ("image folders" if key == "folders" else "torchvision files")
        assert (found[key].flip, found[key].crop_padding) == (True, 4)
        data, first = load("cifar100", tmp_path / key), load("cifar100", tmp_path / "inside")
        for array in ("train_x", "train_y", "test_x", "test_y"):
            np.testing.assert_array_equal(getattr(data, array), getattr(first, array))
    assert len({(m.data_hash, m.tree_hash) for m in found.values()}) == 1
    # sorted by path: fish/cod, fish/ray, trees/oak, though ray came first
    expected = {image.tobytes() for image in CIFAR_TRAIN["fish", "cod"]}
    assert {
        image.tobytes() for image in load("cifar100", tmp_path / "above").train_x[:3]
    } == expected
    assert not list(tmp_path.rglob("outside"))


def test_a_changed_or_missing_torchvision_file_is_named_and_never_unpickled(
    cifar: TorchvisionFiles, root: Path, tmp_path: Path
) -> None:
    marker = tmp_path / "unpickled"
    # A pickle that creates the marker when loaded: os.mkdir(marker).
    (cifar.folder / "test").write_bytes(b"cposix\nmkdir\n(V" + str(marker).encode() + b"\ntR.")
    for source in (cifar.folder, cifar.archive(tmp_path / "c.tar.gz")):
        with pytest.raises(DataError, match=r"the file test in .* is not the official one"):
            prepare("cifar100", root, source=source)
    (cifar.folder / "test").unlink()
    with pytest.raises(DataError, match=r"cifar-100-python/test is missing"):
        prepare("cifar100", root, source=cifar.folder)
    with pytest.raises(DataError, match=r"has no usable member cifar-100-python/test"):
        prepare("cifar100", root, source=cifar.archive(tmp_path / "d.tar.gz"))
    assert not marker.exists()
    assert prepared(root) == []


def test_a_truncated_archive_and_a_file_that_is_none_are_named(
    cifar: TorchvisionFiles, root: Path, tmp_path: Path
) -> None:
    archive = cifar.archive(tmp_path / "c.tar.gz")
    archive.write_bytes(archive.read_bytes()[:-2000])
    other = tmp_path / "c.zip"
    other.write_bytes(b"PK")
    for source in (archive, other):
        with pytest.raises(DataError, match=rf"{source} cannot be read as a .tar.gz archive"):
            prepare("cifar100", root, source=source)


def test_cifar_means_the_complete_data_set(images: Path, root: Path) -> None:
    with pytest.raises(DataError) as error:
        prepare("cifar100", root, source=images)
    assert str(error.value) == (
        "cifar100 means the complete data set (50,000 training and 10,000 test images of 100 "
        "classes in "
        "20 groups, 32×32×3, 2 deep); what was given has 9 training and 6 test images of 3 "
        "classes in "
        "2 groups, 8×8×3, 2 deep; prepare it under another name"
    )
    with pytest.raises(
        DataError, match=r"holds no cifar10; --from takes the archive cifar-10-python.tar.gz"
    ):
        prepare("cifar10", root, source=root)


def test_cifar10_from_folders_drops_their_super_classes(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cifar_reader.COMPLETE, "cifar10", cifar_reader.Complete(9, 6, 3, None))
    manifest = prepare(
        "cifar10", root, source=write_folders(tmp_path / "i", CIFAR_TRAIN, CIFAR_TEST)
    )
    assert manifest.classes == (("cod",), ("oak",), ("ray",))


def test_a_failed_download_names_why_and_the_other_ways(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", fail)
    with pytest.raises(DataError) as error:
        prepare("cifar100", root)
    message = str(error.value)
    assert message.startswith("cifar100 could not be downloaded from https://www.cs.toronto.edu/")
    assert "no route to host" in message
    assert "dh2l-study data prepare cifar100 --from PATH, where PATH is the archive" in message
    assert "cifar-100-python/" in message
    assert "train/<super-class>/<class>/" in message


def test_a_download_is_read_from_the_archive(
    cifar: TorchvisionFiles, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetch(_url: str, folder: str, filename: str, _md5: str) -> None:
        Path(folder).mkdir()
        cifar.archive(Path(folder) / filename)

    monkeypatch.setattr("torchvision.datasets.utils.download_url", fetch)
    assert prepare("cifar100", root).source == "torchvision files"
    assert [manifest.name for manifest in prepared(root)] == ["cifar100"]


def test_digits_holds_out_the_last_fifth_of_each_class_in_a_tree_of_shapes(root: Path) -> None:
    manifest = prepare("digits", root)
    data = load("digits", root)
    assert (manifest.n_train, manifest.n_test, manifest.image_shape) == (1442, 355, (8, 8, 1))
    assert (manifest.flip, manifest.crop_padding) == (False, 1)
    assert {
        path[0]: "".join(p[1] for p in manifest.classes if p[0] == path[0])
        for path in manifest.classes
    } == {
        "closed-loop": "0689",
        "open-curve": "235",
        "straight": "147",
    }
    assert (
        np.bincount(data.test_y) == (np.bincount(data.train_y) + np.bincount(data.test_y)) // 5
    ).all()
    assert set(np.unique(data.train_x)) == {round(v * 255 / 16) for v in range(17)}


def test_other_pixels_labels_or_augmentation_under_the_same_name_give_another_data_hash(
    images: Path, root: Path, tmp_path: Path
) -> None:
    first = prepare("own", root, source=images)
    hashes = [first.data_hash]
    hashes.append(prepare("own", root, source=images, flip=False).data_hash)
    hashes.append(prepare("own", root, source=images, crop_padding=3).data_hash)
    one_pixel = {path: pixels.copy() for path, pixels in TRAIN.items()}
    one_pixel["fish", "ray"][0, 0, 0, 0] ^= 1
    hashes.append(
        prepare("own", root, source=write_folders(tmp_path / "a", one_pixel, TEST)).data_hash
    )
    swapped = TEST | {("fish", "ray"): TEST["fish", "cod"], ("fish", "cod"): TEST["fish", "ray"]}
    relabelled = prepare("own", root, source=write_folders(tmp_path / "b", TRAIN, swapped))
    hashes.append(relabelled.data_hash)
    assert len(set(hashes)) == 5
    assert relabelled.mean == first.mean
    assert verify("own", root) == relabelled


def test_the_tree_and_the_name_do_not_enter_the_data_hash(
    images: Path, root: Path, tmp_path: Path
) -> None:
    first = prepare("own", root, source=images)
    assert prepare("same", root, source=images).data_hash == first.data_hash
    renamed = {"fish": "1-fish", "trees": "2-trees"}
    source = write_folders(
        tmp_path / "other",
        {(renamed[path[0]], path[1]): pixels for path, pixels in TRAIN.items()},
        {(renamed[path[0]], path[1]): pixels for path, pixels in TEST.items()},
    )
    other = prepare("own", root, source=source)
    assert other.data_hash == first.data_hash
    assert other.tree_hash != first.tree_hash
    assert read_manifest("own", root).classes[0] == ("1-fish", "cod")


def test_the_same_data_again_is_kept_and_said_so(images: Path, root: Path) -> None:
    first = prepare("own", root, source=images)
    before = (root / "own").stat().st_ino
    said: list[str] = []
    assert prepare("own", root, source=images, report=said.append) == first
    assert said[-1] == "own was prepared already from the same data; kept"
    assert (root / "own").stat().st_ino == before


def test_a_reader_keeps_the_version_that_it_opened(
    images: Path, root: Path, tmp_path: Path
) -> None:
    prepare("own", root, source=images)
    reader = load("own", root)
    before = reader.train_x.tobytes()
    prepare("own", root, source=write_folders(tmp_path / "b", random_split(5, 7), TEST))
    assert load("own", root).manifest.n_train == 15
    assert reader.train_x.tobytes() == before


@pytest.mark.parametrize("depth", [1, 3])
def test_a_tree_may_have_any_depth(depth: int, root: Path, tmp_path: Path) -> None:
    classes = tuple(tuple(f"{c}{level}" for level in range(depth)) for c in "ab")
    source = write_folders(
        tmp_path / "i", *(random_split(2, seed, classes=classes) for seed in (0, 1))
    )
    assert prepare("own", root, source=source).tree.depth == depth


def test_images_are_greyscale_only_if_all_are(root: Path, tmp_path: Path) -> None:
    train, test = (random_split(2, seed, shape=(8, 8, 1)) for seed in (0, 1))
    source = write_folders(tmp_path / "i", train, test)
    assert prepare("own", root, source=source).image_shape == (8, 8, 1)
    Image.new("RGB", (8, 8), "red").save(source / "test" / "trees" / "oak" / "colour.png")
    assert prepare("own", root, source=source).image_shape == (8, 8, 3)


def test_palettes_and_lossless_formats_give_the_same_pixels(root: Path, images: Path) -> None:
    plain = prepare("own", root, source=images)
    for file in sorted(images.rglob("*/oak/*.png")):
        with Image.open(file) as image:
            image.load()
            file.unlink()
            {
                "000": lambda f=file, i=image: i.save(f.with_suffix(".BMP")),
                "001": lambda f=file, i=image: i.save(f.with_suffix(".webp"), lossless=True),
                "002": lambda f=file, i=image: i.quantize(64).save(
                    f.with_suffix(".png"), transparency=b"\xff\xff"
                ),
            }[file.stem]()
    assert prepare("mixed", root, source=images).data_hash == plain.data_hash


def test_sizes_that_differ_are_named_and_size_makes_them_one(images: Path, root: Path) -> None:
    other = images / "test" / "fish" / "cod" / "000.png"
    Image.new("RGB", (16, 12), "red").save(other)
    with pytest.raises(DataError) as error:
        prepare("own", root, source=images)
    assert str(error.value) == (
        f"all images must have the same size, but {images}/train/fish/cod/000.png has 8×8 pixels "
        f"and {other} 16×12; --size N makes all of them N×N, and --shorter-side N keeps their "
        "proportions"
    )
    assert prepare("own", root, source=images, size=6).image_shape == (6, 6, 3)
    assert [255, 0, 0] in load("own", root).test_x[:2, 0, 0].tolist()
    with pytest.raises(DataError) as error:
        prepare("cifar10", root, source=images)
    assert "--size" not in str(error.value)


def test_images_that_would_fill_memory_are_refused_before_any_is_decoded(
    images: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        DataError,
        match=r"15 images of 900000×900000 pixels need 72,900\.0 GB of memory; expected .* by",
    ):
        prepare("own", root, source=images, size=900_000)
    free = psutil.virtual_memory()._replace(available=2 * 15 * 8 * 8 * 3 - 1)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    with pytest.raises(
        DataError,
        match=r"need 0\.0 GB .* Make them smaller by --size, or take --shorter-side, which",
    ):
        prepare("own", root, source=images)
    assert prepare("own", root, source=images, size=7).image_shape == (7, 7, 3)


def test_a_truncated_image_is_named(images: Path, root: Path) -> None:
    file = images / "train" / "trees" / "oak" / "001.png"
    file.write_bytes(file.read_bytes()[:-60])
    with pytest.raises(DataError, match=rf"{file} cannot be decoded \(.+\); replace or remove it"):
        prepare("own", root, source=images)
    file.write_bytes(b"no image")
    with pytest.raises(DataError, match=rf"{file} is not an image"):
        prepare("own", root, source=images)


@pytest.mark.parametrize(("size", "shorter_side"), [(8, None), (None, 8)])
def test_every_damaged_image_is_named_up_to_twenty(
    images: Path, root: Path, size: int | None, shorter_side: int | None
) -> None:
    oak = images / "train" / "trees" / "oak"
    for i in range(22):
        (oak / f"bad{i:02d}.png").write_bytes(b"no image")
    with pytest.raises(DataError) as error:
        prepare("own", root, source=images, size=size, shorter_side=shorter_side)
    named = [
        f"{oak}/bad{i:02d}.png is not an image, whatever its name says; replace or remove it"
        for i in range(20)
    ]
    assert str(error.value) == f"22 of 37 images cannot be used: {'; '.join(named)}; and 2 more"


def test_an_image_with_too_many_pixels_is_named(
    images: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in (60, 20):  # 64 pixels: Pillow warns above its limit and raises above twice that
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(DataError, match=r"000.png has more pixels than Pillow allows"):
            prepare("own", root, source=images)


def test_what_systems_leave_is_skipped_and_counted_and_any_other_stray_file_is_named(
    images: Path, root: Path
) -> None:
    plain = prepare("own", root, source=images)
    oak = images / "train" / "trees" / "oak"
    for name in (".DS_Store", "._000.png", "Thumbs.db", "desktop.ini", "Icon\r", "~$notes.docx"):
        (oak / name).write_text("")
    for folder in (images / "train", images / "test" / "fish", oak):
        for name in (".ipynb_checkpoints", "@eaDir", "__MACOSX", "lost+found", "$RECYCLE.BIN"):
            (folder / name).mkdir()
            (folder / name / "000.png").write_text("")
    said: list[str] = []
    found = prepare("own", root, source=images, report=said.append)
    assert (found.data_hash, found.tree_hash, found.skipped) == (
        plain.data_hash,
        plain.tree_hash,
        21,
    )
    assert "skipped 21 hidden files and folders, such as systems make by themselves" in said
    assert prepare("many", root, source=images, shorter_side=8).skipped == 21
    (root / "own" / ".DS_Store").write_text(
        ""
    )  # nor do they keep a data set from being prepared anew
    (root / "own" / "@eaDir").mkdir()
    assert prepare("own", root, source=images, crop_padding=3).crop_padding == 3
    stray = images / "train" / "fish" / "notes.txt"
    stray.write_text("")
    with pytest.raises(
        DataError, match=rf"{stray} is no image that can be read \(images end with .bmp"
    ):
        prepare("own", root, source=images)
    stray.rename(stray := stray.with_suffix(".png"))
    with pytest.raises(DataError, match=rf"{stray} lies beside or above the folders of classes"):
        prepare("own", root, source=images)


def test_classes_that_are_empty_in_one_set_only_or_at_another_depth_are_named(
    images: Path, root: Path
) -> None:
    empty = images / "test" / "fish" / "eel"
    empty.mkdir()
    with pytest.raises(DataError, match=rf"{empty} holds no image"):
        prepare("own", root, source=images)
    Image.new("RGB", (8, 8)).save(empty / "0.png")
    with pytest.raises(DataError, match=rf"{images}/train lacks the class fish/eel"):
        prepare("own", root, source=images)
    (images / "test" / "eel").mkdir()
    (empty / "0.png").rename(images / "test" / "eel" / "0.png")
    empty.rmdir()
    with pytest.raises(DataError, match=r"all images must lie at the same depth"):
        prepare("own", root, source=images)


def test_a_class_spelled_in_two_forms_of_unicode_is_one(images: Path, root: Path) -> None:
    for part, name in (("train", "Barsche\u0301"), ("test", "Barsch\xe9")):
        (images / part / "fish" / "cod").rename(images / part / "fish" / name)
        (images / part / "trees").rename(images / part / f"A\u0300-{name}")
    manifest = prepare("own", root, source=images)
    assert manifest.classes == (("fish", "Barsch\xe9"), ("fish", "ray"), ("\xc0-Barsch\xe9", "oak"))
    double = images / "train" / "fish" / "Barsch\xe9"
    double.mkdir()
    with pytest.raises(DataError) as refused:
        prepare("own", root, source=images)
    assert str(refused.value) == (
        f"{double.parent} has two folders called 'Barsch\xe9', whose names differ only in how "
        "Unicode spells them "
        "('Barsche\\u0301' and 'Barsch\\xe9'); put their images into one"
    )


def test_a_class_that_differs_in_case_or_spaces_is_named_with_the_other(
    images: Path, root: Path
) -> None:
    (images / "test" / "fish" / "cod").rename(images / "test" / "fish" / "Cod ")
    with pytest.raises(
        DataError,
        match=r"test lacks the class fish/cod, but has 'fish/Cod ' \(there it is 'fish/cod'",
    ):
        prepare("own", root, source=images)


def test_a_class_with_one_training_image_is_named_when_it_is_prepared(
    images: Path, root: Path
) -> None:
    for number in (1, 2):
        (images / "train" / "fish" / "ray" / f"00{number}.png").unlink()
    said: list[str] = []
    assert prepare("own", root, source=images, report=said.append).train_sizes == (3, 1, 3)
    assert said[1] == (
        "only 1 training image: fish/ray. A validation split needs at least 2 of each class: add "
        "images, or set "
        "protocol: paper"
    )


def test_a_source_that_is_missing_a_file_or_has_no_train_folder_is_said(
    images: Path, root: Path
) -> None:
    with pytest.raises(DataError, match="does not exist"):
        prepare("own", root, source=images / "nowhere")
    with pytest.raises(
        DataError, match="is not a folder; unpack it first: --from takes a folder with train/"
    ):
        prepare("own", root, source=images / "test" / "trees" / "oak" / "000.png")
    with pytest.raises(
        DataError, match=rf"{images}/test/train is missing .* per class\. There are fish, trees$"
    ):
        prepare("own", root, source=images / "test")


def test_a_link_to_nothing_is_named_with_its_target(images: Path, root: Path) -> None:
    link = images / "train" / "fish" / "cod" / "003.png"
    link.symlink_to("/nowhere/003.png")
    with pytest.raises(
        DataError, match=rf"{link} is a link to /nowhere/003\.png, which is not there"
    ):
        prepare("own", root, source=images)
    link.rename(images / "train" / "fish" / "gone")  # of a folder, it may be
    with pytest.raises(
        DataError, match=r"fish/gone is a link to /nowhere/003\.png, which is not there"
    ):
        prepare("own", root, source=images)


@pytest.mark.parametrize("shorter_side", [None, 8])
def test_test_images_that_are_training_images_are_said(
    images: Path, root: Path, shorter_side: int | None
) -> None:
    for name in ("000", "001"):
        found = images / "train" / "fish" / "ray" / f"{name}.png"
        (images / "test" / "fish" / "cod" / f"copy{name}.png").write_bytes(found.read_bytes())
    said: list[str] = []
    prepare("own", root, source=images, shorter_side=shorter_side, report=said.append)
    assert (
        "2 test images are in the training set too, pixel for pixel: there a test shows memory "
        "alone. Remove them from "
        "one of the two" in said
    )


def test_one_class_alone_is_said(images: Path, root: Path) -> None:
    for part in ("train", "test"):
        (images / part / "trees").rename(images / f"trees of {part}")
        (images / part / "fish" / "ray").rename(images / f"ray of {part}")
    said: list[str] = []
    prepare("own", root, source=images, report=said.append)
    assert said[1].startswith("only 1 class, fish/cod: there is nothing to tell apart.")


def test_arguments_that_cannot_be_are_refused(images: Path, root: Path) -> None:
    for arguments, message in (
        ({"name": "digits", "source": images}, "takes no --from"),
        (
            {"name": "digit"},
            r"prepare digit --from PATH \(unknown data set 'digit'; did you mean 'digits'\?\)",
        ),
        ({"name": "digits", "size": 8}, "takes no --size"),
        ({"name": "own", "source": images, "size": 0}, "at least 1"),
        (
            {"name": "own", "source": images, "size": 8, "shorter_side": 8},
            "goes with neither --shorter-side nor",
        ),
        (
            {"name": "own", "source": images, "crop": 8},
            "go together: --shorter-side 256 --crop 224",
        ),
        (
            {"name": "own", "source": images, "shorter_side": 8, "crop": 9},
            "at most the shorter side, 8, but is 9",
        ),
        ({"name": "own", "source": images, "shorter_side": 0}, "but is 1"),
        ({"name": "cifar10", "crop": 8}, "takes no --shorter-side and no --crop"),
        ({"name": "cub200", "size": 8}, "takes no --size, but --shorter-side and --crop"),
        ({"name": "digits", "crop_padding": -1}, "must not be negative"),
    ):
        with pytest.raises(UserError, match=message):
            prepare(root=root, **arguments)
    assert not root.exists()


def test_images_of_one_colour_cannot_be_normalised(root: Path, tmp_path: Path) -> None:
    black = {path: np.zeros_like(pixels) for path, pixels in TRAIN.items()}
    with pytest.raises(DataError, match="channel 0 has the same value"):
        prepare("own", root, source=write_folders(tmp_path / "i", black, TEST))


def test_a_folder_that_no_preparation_wrote_is_never_replaced(tmp_path: Path) -> None:
    images = write_folders(
        tmp_path / "own", TRAIN, TEST
    )  # the source itself, where the result would go
    with pytest.raises(DataError, match=rf"{images / 'test'} is not part of a prepared data set"):
        prepare("own", tmp_path, source=images)
    assert (images / "train" / "fish" / "cod" / "000.png").exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from dh2l.data import prepare

left = int(sys.argv[3])

def deadly(function):
    def call(*args):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args)
    return call

os.fsync, Path.rename = deadly(os.fsync), deadly(Path.rename)
prepare("own", Path(sys.argv[1]), source=Path(sys.argv[2]), crop_padding=3)
"""
N_POINTS = (
    9  # an fsync of each of 4 arrays, the manifest and the folder; 2 renames; an fsync of the root
)


@pytest.mark.parametrize("point", [1, 7, 8, 9])
def test_a_preparation_killed_at_any_point_leaves_the_old_version_or_the_new_one(
    point: int, images: Path, root: Path
) -> None:
    old = prepare("own", root, source=images)
    command = [sys.executable, "-c", KILLED, str(root), str(images), str(point)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    found = verify("own", root)
    assert (found == old) == (point < N_POINTS)
    assert [manifest.crop_padding for manifest in prepared(root)] == [found.crop_padding]
    with pytest.raises(DataError):  # a next one that fails brings what was put aside back, too
        prepare("own", root, source=images / "test")
    assert verify("own", root) == found
    assert prepare("own", root, source=images, crop_padding=2).crop_padding == 2
    assert sorted(os.listdir(root)) == [".own.lock", "own"]


def test_a_first_preparation_that_is_killed_leaves_nothing_that_is_read(
    images: Path, root: Path
) -> None:
    command = [sys.executable, "-c", KILLED, str(root), str(images), "7"]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert (root / ".own.new" / "manifest.json").exists()
    assert prepared(root) == []
    with pytest.raises(DataError, match="is not prepared"):
        load("own", root)
    prepare("own", root, source=images)
    assert sorted(os.listdir(root)) == [".own.lock", "own"]


def test_two_preparations_at_once_take_turns(images: Path, root: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from dh2l.data import prepare\n"
        "for i in range(2): prepare('own', Path(sys.argv[1]), source=Path(sys.argv[2]),"
        " crop_padding=i + int(sys.argv[3]), report=print)"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code, str(root), str(images), start])
        for start in ("0", "10")
    ]
    readable = 0
    while any(process.poll() is None for process in both):
        if readable or (root / "own").exists():
            data = load("own", root)  # a reader meanwhile never finds half of a data set
            readable += data.train_x.shape == (9, 8, 8, 3)
        sleep(0.001)
    assert [process.returncode for process in both] == [0, 0]
    assert readable
    assert verify("own", root).crop_padding in (1, 11)
    assert sorted(os.listdir(root)) == [".own.lock", "own"]


def test_a_preparation_that_waits_says_so(images: Path, root: Path) -> None:
    said: list[str] = []
    second = Thread(target=lambda: prepare("own", root, source=images, report=said.append))

    def start_second(message: str) -> None:
        if message.startswith("writing"):
            second.start()
            while not said:
                second.join(0.01)

    prepare("own", root, source=images, report=start_second)
    second.join()
    assert (
        said[0]
        == f"waiting for another preparation of own, which holds {root}/.own.lock (for 6 h at most)"
    )
    assert said[-1].endswith("kept")


def test_a_root_that_cannot_be_written_is_said(images: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=rf"{tmp_path}/file cannot be written"):
        prepare("own", tmp_path / "file", source=images)


def test_a_write_that_fails_leaves_no_half_and_says_why(
    images: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"own cannot be written \(No space left on device\)"):
        prepare("own", root, source=images)
    assert os.listdir(root) == [".own.lock"]


def test_statistics_do_not_depend_on_the_order_of_images(
    images: Path, root: Path, tmp_path: Path
) -> None:
    reverse = {path: pixels[::-1] for path, pixels in reversed(TRAIN.items())}
    first = prepare("own", root, source=images)
    second = prepare("two", root, source=write_folders(tmp_path / "r", reverse, TEST))
    assert replace_name(second.model_dump()) == replace_name(first.model_dump())


def replace_name(manifest: dict[str, object]) -> dict[str, object]:
    return manifest | {"name": ""}


def test_a_mistaken_count_of_super_classes_is_no_complete_cifar(
    cifar: TorchvisionFiles, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        cifar_reader.COMPLETE, "cifar100", replace(cifar_reader.COMPLETE["cifar100"], n_groups=3)
    )
    with pytest.raises(DataError, match=r"in 3 groups.* in 2 groups"):
        prepare("cifar100", root, source=cifar.folder)
