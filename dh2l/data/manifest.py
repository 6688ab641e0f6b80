"""The manifest of a prepared data set, and the hashes in it."""

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator

from dh2l.data.ragged_array import Array, RaggedArray
from dh2l.errors import UserError
from dh2l.io.files import open_regular
from dh2l.tree import ClassTree, normalise_name
from dh2l.wording import counted

MANIFEST = "manifest.json"
LARGEST = 50_000_000
"""Bytes of a manifest; one of a thousand classes has some ten thousands."""
VERSION = 1
ARRAYS = ("train_x", "train_y", "test_x", "test_y")
FILES = tuple(f"{array}.npy" for array in ARRAYS)
SIZES = ("train_size", "test_size")
"""Height and width of each image; arrays of a ragged data set alone."""

Stored = Literal["fixed", "ragged"]


class FileRecord(BaseModel):
    """Size and SHA-256 (64 hexadecimal digits) of a file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    bytes: int
    sha256: str


class Manifest(BaseModel):
    """Description of a prepared data set, without its pixels.

    Attributes:
        version: of this format.
        name: the data set's name, that of its folder.
        source: what it was read from, in words, never a path.
        classes: one path per class, from level 1 down to the class, in the order of the labels.
        image_shape: height, width and channels of what a network is given.
        stored: `fixed`: all images have that height and width; `ragged`: their sizes differ, none
            is smaller, and a network is given a part cut out of each.
        n_train: number of training images.
        n_test: number of test images.
        train_sizes: number of training images of each class; empty in manifests of an earlier
            version.
        converted: number of images that lost something, by the rule in
            `dh2l.data.conversions.RULES`.
        skipped: number of system files and folders that were ignored.
        mean: per channel over all pixels of the training set, as values in [0, 1].
        std: the population's standard deviation (divided by N, not N − 1), like `mean`.
        flip: whether training mirrors images at random.
        crop_padding: pixels of zero padding around an image before training crops it at random.
        files: size and hash of each array's file.
        data_hash: SHA-256 over everything numeric: arrays, statistics, augmentation, the size of
            crops. Name, source and tree do not enter, nor do counts of what was converted or
            skipped.
        tree_hash: `ClassTree.hash` of the classes.
    """

    # NaN is unequal to itself, and so would be a manifest that has one.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    version: int = VERSION
    name: str
    source: str
    classes: tuple[tuple[str, ...], ...]
    image_shape: tuple[int, int, int]
    stored: Stored = "fixed"
    n_train: int
    n_test: int
    train_sizes: tuple[int, ...] = ()
    converted: dict[str, int] = {}
    skipped: int = 0
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool
    crop_padding: int
    files: dict[str, FileRecord]
    data_hash: str
    tree_hash: str

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        files = [f"{array}.npy" for array in self.arrays]
        if sorted(self.files) != sorted(files):
            raise ValueError(f"files must be {', '.join(files)}")
        if not len(self.mean) == len(self.std) == self.image_shape[2]:
            raise ValueError("mean and std must have one number per channel")
        if self.tree.hash != self.tree_hash:
            raise ValueError("tree_hash is not that of the classes")
        if self.train_sizes and (sum(self.train_sizes), len(self.train_sizes)) != (
            self.n_train,
            len(self.classes),
        ):
            raise ValueError("train_sizes must be one number per class, n_train together")
        return self

    @property
    def arrays(self) -> tuple[str, ...]:
        """Names of the arrays."""
        return arrays_of(self.stored)

    @property
    def crop(self) -> tuple[int, int] | None:
        """Height and width of crops from images of many sizes; None if they have one size."""
        return self.image_shape[:2] if self.stored == "ragged" else None

    @cached_property
    def tree(self) -> ClassTree:
        """The classes as a tree."""
        return ClassTree(self.classes)

    def with_tree(self, tree: ClassTree) -> Self:
        """Return the same data under another class tree, e.g. one that `read_tree` read.

        Raises:
            UserError: the tree's classes are not the data set's in its own order.
        """
        for path, own in zip(tree.paths, self.classes, strict=False):
            if normalise_name(path[-1]) not in (
                normalise_name(own[-1]),
                normalise_name("/".join(own)),
            ):
                raise UserError(
                    f"the class {path[-1]!r} of the tree stands where {self.name} has {own[-1]!r}; "
                    "a tree must keep the order of the data set's classes"
                )
        if tree.n_classes != len(self.classes):
            raise UserError(
                f"the tree has {counted(tree.n_classes, 'class', 'classes')}, but {self.name} "
                f"{len(self.classes)}"
            )
        return self.model_validate(
            {**self.model_dump(), "classes": tree.paths, "tree_hash": tree.hash}
        )


def arrays_of(stored: Stored) -> tuple[str, ...]:
    """Names of the arrays of a data set, in the order in which they are written."""
    return ARRAYS if stored == "fixed" else (*ARRAYS, *SIZES)


def array_hash(array: Array) -> str:
    """Return the SHA-256 of an array's type, shape and values, the same with every NumPy."""
    digest = hashlib.sha256(f"{array.dtype.name} {array.shape} ".encode())
    for piece in array.pieces if isinstance(array, RaggedArray) else (array,):
        digest.update(
            np.ascontiguousarray(piece).astype(piece.dtype.newbyteorder("<"), copy=False).data
        )
    return digest.hexdigest()


def file_hash(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        OSError: it is not a regular file, or cannot be read.
    """
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type] # it is a file and so has `readinto`


def data_hash(
    arrays: Mapping[str, str],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    flip: bool,
    crop_padding: int,
    crop: tuple[int, int] | None = None,
) -> str:
    """Return the SHA-256 over everything numeric of a data set.

    Args:
        arrays: the `array_hash` of each array, by name.
        mean: of each channel.
        std: of each channel.
        flip: whether training mirrors images.
        crop_padding: in pixels.
        crop: height and width of crops; None where images have one size.
    """
    content: dict[str, Any] = {
        "arrays": arrays,
        "mean": mean,
        "std": std,
        "flip": flip,
        "crop_padding": crop_padding,
    }
    if crop is not None:
        content["crop"] = crop
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
