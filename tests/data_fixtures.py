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
                Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(target / f"{i:03d}.png")
    return folder


@dataclass(frozen=True)
class TorchvisionFiles:
    """A folder of files in torchvision's format, and the MD5 table that belongs to it."""

    folder: Path
    train_list: list[list[str]]
    test_list: list[list[str]]
    meta: dict[str, str]

    def archive(self, path: Path) -> Path:
        """The same files as a .tar.gz, after a member that would leave the folder if it were extracted."""
        with tarfile.open(path, "w:gz") as tar:
            evil = tarfile.TarInfo("../../outside")
            evil.size = 4
            tar.addfile(evil, io.BytesIO(b"evil"))
            tar.add(self.folder, arcname=self.folder.name)
        return path


def write_cifar100(folder: Path, train: Split, test: Split) -> TorchvisionFiles:
    """`folder/cifar-100-python/{train,test,meta}`; classes in the mapping's order, groups as first seen."""
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
