"""The manifest of a prepared data set, and the hashes in it."""

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator

from dh2l.data.sources import Labels, Pixels
from dh2l.tree import ClassTree

MANIFEST = "manifest.json"
VERSION = 1
ARRAYS = ("train_x", "train_y", "test_x", "test_y")
FILES = tuple(f"{array}.npy" for array in ARRAYS)


class FileRecord(BaseModel):
    """Size and SHA-256 (64 hexadecimal digits) of a file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What a prepared data set is, without its pixels.

    Attributes:
        version: of this format.
        name: the data set's name, that of its folder.
        source: what it was read from, in words, never a path.
        classes: one path per class, from level 1 down to the class, in the order of the labels.
        image_shape: height, width, channels.
        n_train: number of training images.
        n_test: number of test images.
        mean: per channel over all pixels of the training set, as values in [0, 1].
        std: likewise, the population's (divided by N, not N − 1).
        flip: whether training mirrors images at random.
        crop_padding: pixels of zero padding around an image before training crops it at random; 0: no crop.
        files: size and hash of each array's file.
        data_hash: SHA-256 over everything numeric: arrays, statistics, augmentation. Name, source and
            tree do not enter.
        tree_hash: `ClassTree.hash` of the classes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: int = VERSION
    name: str
    source: str
    classes: tuple[tuple[str, ...], ...]
    image_shape: tuple[int, int, int]
    n_train: int
    n_test: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool
    crop_padding: int
    files: dict[str, FileRecord]
    data_hash: str
    tree_hash: str

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        if sorted(self.files) != sorted(FILES):
            raise ValueError(f"files must be {', '.join(FILES)}")
        if not len(self.mean) == len(self.std) == self.image_shape[2]:
            raise ValueError("mean and std must have one number per channel")
        if self.tree.hash != self.tree_hash:
            raise ValueError("tree_hash is not that of the classes")
        return self

    @cached_property
    def tree(self) -> ClassTree:
        """The classes as a tree."""
        return ClassTree(self.classes)


def array_hash(array: Pixels | Labels) -> str:
    """SHA-256 of an array's type, shape and values; unlike its file's, the same with every NumPy."""
    digest = hashlib.sha256(f"{array.dtype.name} {array.shape} ".encode())
    digest.update(np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).data)
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def data_hash(
    arrays: Mapping[str, str], mean: tuple[float, ...], std: tuple[float, ...], flip: bool, crop_padding: int
) -> str:
    """SHA-256 over everything numeric of a data set; `arrays` maps each array's name to its `array_hash`."""
    content = {"arrays": arrays, "mean": mean, "std": std, "flip": flip, "crop_padding": crop_padding}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
