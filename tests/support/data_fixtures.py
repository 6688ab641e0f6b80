"""Makers of small real data sets on disk, in the layouts that `dh2l.data` reads."""

import hashlib
import io
import pickle
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]
Split = Mapping[tuple[str, ...], Pixels]

CLASSES = (("fish", "ray"), ("fish", "cod"), ("trees", "oak"))


def random_split(
    per_class: int,
    seed: int,
    shape: tuple[int, ...] = (8, 8, 3),
    classes: tuple[tuple[str, ...], ...] = CLASSES,
) -> dict[tuple[str, ...], Pixels]:
    """Random images of each class, ``(per_class, H, W, C)``."""
    rng = np.random.default_rng(seed)
    return {path: rng.integers(0, 256, (per_class, *shape), dtype=np.uint8) for path in classes}


def write_folders(folder: Path, train: Split, test: Split) -> Path:
    """`folder/train|test/<class path>/NNN.png`; images of one channel become greyscale files."""
    for name, split in (("train", train), ("test", test)):
        for path, images in split.items():
            target = folder.joinpath(name, *path)
            target.mkdir(parents=True)
            for i, image in enumerate(images):
                Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(
                    target / f"{i:03d}.png"
                )
    return folder


def _lines(name: str) -> list[str]:
    return (Path(__file__).parent / name).read_text(encoding="utf-8").splitlines()


def cub_classes() -> list[str]:
    """The 200 official class names, numbered by last word: `001.Black_footed_Albatross`."""
    names = []
    for line in _lines("cub200_classes.txt"):
        last, heads = line.split(":")
        names += [last if head == "-" else f"{head}_{last}" for head in heads.split()]
    return [f"{i:03d}.{name}" for i, name in enumerate(names, start=1)]


def cars_classes() -> list[str]:
    """The 196 official class names in order."""
    return _lines("cars_classes.txt")


def save_image(
    file: Path, number: int, height: int | None = None, width: int | None = None
) -> None:
    """A small photograph-like file, the same for the same number, whose shorter side is at least
    12.
    """
    random = np.random.default_rng(number)
    height, width = height or int(random.integers(12, 20)), width or int(random.integers(12, 20))
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(file)


def write_cub(folder: Path) -> Path:
    """`folder/CUB_200_2011` in the official layout, one training and one test image a class."""
    base = folder / "CUB_200_2011"
    base.mkdir(parents=True)
    classes = cub_classes()
    files = [
        f"{name}/{name[4:]}_{i:04d}_{label}.jpg"
        for label, name in enumerate(classes)
        for i in (1, 2)
    ]
    for number, file in enumerate(files):
        save_image(base / "images" / file, number)
    columns: dict[str, list[object]] = {
        "classes.txt": [*classes],
        "images.txt": [*files],
        "image_class_labels.txt": [1 + i // 2 for i in range(len(files))],
        "train_test_split.txt": [1 - i % 2 for i in range(len(files))],
    }
    for name, column in columns.items():
        text = "".join(f"{i} {value}\n" for i, value in enumerate(column, start=1))
        (base / name).write_text(text, encoding="utf-8")
    return base


def write_cars(
    folder: Path, classes: list[str], labels: str = "cars_test_annos_withlabels.mat"
) -> Path:
    """The official layout of Stanford Cars in a folder, one training and one test image a class."""
    from scipy.io import savemat

    devkit = folder / "devkit"
    devkit.mkdir(parents=True)
    savemat(devkit / "cars_meta.mat", {"class_names": np.array(classes, dtype=object)})
    kind = [("bbox_x1", "O"), ("class", "O"), ("fname", "O")]
    for part, file, first in (
        ("train", devkit / "cars_train_annos.mat", 0),
        ("test", folder / labels, len(classes)),
    ):
        rows = [(5, label, f"{label:05d}.jpg") for label in range(1, len(classes) + 1)]
        savemat(file, {"annotations": np.array(rows, dtype=kind)})
        for _, label, name in rows:
            save_image(folder / f"cars_{part}" / name, first + label)
    return folder


def write_cars_folders(folder: Path, classes: list[str]) -> Path:
    """The same images with labels as folders, under the names that the copies in circulation
    have.
    """
    for part, first in (("train", 0), ("test", len(classes))):
        for label, name in enumerate(classes, start=1):
            save_image(folder / part / name.replace("/", "-") / f"{label:05d}.jpg", first + label)
    return folder


@dataclass(frozen=True)
class TorchvisionFiles:
    """A folder of files in torchvision's format, and the MD5 table that belongs to it."""

    folder: Path
    train_list: list[list[str]]
    test_list: list[list[str]]
    meta: dict[str, str]

    def archive(self, path: Path) -> Path:
        """The same files as a .tar.gz, after a member that would leave the folder if it were
        extracted.
        """
        with tarfile.open(path, "w:gz") as tar:
            evil = tarfile.TarInfo("../../outside")
            evil.size = 4
            tar.addfile(evil, io.BytesIO(b"evil"))
            tar.add(self.folder, arcname=self.folder.name)
        return path


def write_cifar100(folder: Path, train: Split, test: Split) -> TorchvisionFiles:
    """`folder/cifar-100-python/{train,test,meta}`; classes in the mapping's order, groups as first
    seen.
    """
    base = folder / "cifar-100-python"
    base.mkdir(parents=True)
    paths = list(train)
    groups = list(dict.fromkeys(path[0] for path in paths))
    contents: dict[str, dict[str, Any]] = {
        "meta": {"fine_label_names": [path[1] for path in paths], "coarse_label_names": groups}
    }
    for name, split in (("train", train), ("test", test)):
        # Images of different classes alternate, as they do in the official files.
        rows = [
            (paths.index(path), image.transpose(2, 0, 1).reshape(-1))
            for images in zip(*split.values(), strict=True)
            for path, image in zip(split, images, strict=True)
        ]
        contents[name] = {
            "data": np.stack([pixels for _, pixels in rows]),
            "fine_labels": [label for label, _ in rows],
            "coarse_labels": [groups.index(paths[label][0]) for label, _ in rows],
        }
    sums = {}
    for name, content in contents.items():
        raw = pickle.dumps(content, protocol=2)
        (base / name).write_bytes(raw)
        sums[name] = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    return TorchvisionFiles(
        folder=base,
        train_list=[["train", sums["train"]]],
        test_list=[["test", sums["test"]]],
        meta={"filename": "meta", "key": "fine_label_names", "md5": sums["meta"]},
    )
