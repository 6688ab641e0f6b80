"""Data sets in canonical order, and their manifests."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dh2l.data.canonical import canonical, moments, statistics
from dh2l.data.images import ImageFiles, Images, Report
from dh2l.data.manifest import ARRAYS, SIZES, FileRecord, Manifest, Stored, array_hash, data_hash
from dh2l.data.ragged_array import Array, RaggedArray
from dh2l.data.ragged_decode import decode_groups
from dh2l.data.registry import DATA_SETS
from dh2l.errors import DataError
from dh2l.tree import ClassTree

Ragged = tuple[int, int]
"""Of images of many sizes: what their shorter side is resized to, and the side of the squares cut
out of them."""


class CanonicalData(NamedTuple):
    """A data set in canonical order, with its statistics."""

    source: str
    tree: ClassTree
    arrays: dict[str, Array]
    statistics: tuple[tuple[float, ...], tuple[float, ...]]
    stored: Stored
    image_shape: tuple[int, int, int]
    converted: dict[str, int]
    skipped: int


def sort_images(images: Images) -> CanonicalData:
    """Sort images of one size into canonical order."""
    order = sorted(range(len(images.paths)), key=images.paths.__getitem__)
    train_x, train_y = canonical(images.train_x, images.train_y, order)
    test_x, test_y = canonical(images.test_x, images.test_y, order)
    height, width, channels = train_x.shape[1:]
    return CanonicalData(
        source=images.source,
        tree=ClassTree([images.paths[label] for label in order]),
        arrays=dict(zip(ARRAYS, (train_x, train_y, test_x, test_y), strict=True)),
        statistics=statistics(train_x),
        stored="fixed",
        image_shape=(height, width, channels),
        converted=images.converted,
        skipped=images.skipped,
    )


def decode_files(
    images: ImageFiles, ragged: Ragged | None, folder: Path, report: Report
) -> CanonicalData:
    """Decode images of many sizes into a folder, in canonical order."""
    if ragged is None:
        raise DataError(
            "a reader that returns ImageFiles must be registered with a shorter_side and a crop"
        )
    order = sorted(range(len(images.paths)), key=images.paths.__getitem__)
    n = len(order)
    groups = [part[label] for part in (images.train, images.test) for label in order]
    shorter_side, crop = ragged
    decoded = decode_groups(groups, shorter_side, folder, report, upright=images.upright)
    arrays: dict[str, Array] = {}
    for part, found in (("train", decoded[:n]), ("test", decoded[n:])):
        pieces = RaggedArray(tuple(image for group in found for image in group.images))
        arrays[f"{part}_x"], arrays[f"{part}_size"] = pieces, pieces.sizes
        arrays[f"{part}_y"] = np.repeat(
            np.arange(n, dtype=np.int64), [len(group.images) for group in found]
        )
    return CanonicalData(
        source=images.source,
        tree=ClassTree([images.paths[label] for label in order]),
        arrays={key: arrays[key] for key in (*ARRAYS, *SIZES)},
        statistics=moments(np.sum([group.histogram for group in decoded[:n]], axis=0)),
        stored="ragged",
        image_shape=(crop, crop, 3),
        converted=dict(sum((group.converted for group in decoded), Counter[str]())),
        skipped=images.skipped,
    )


def make_manifest(
    name: str, read: CanonicalData, flip: bool | None, crop_padding: int | None
) -> Manifest:
    """Return the manifest; its files are filled in when they are written."""
    mean, std = read.statistics
    if min(std) == 0:
        raise DataError(
            f"channel {std.index(0.0)} has the same value in all pixels of all training images, "
            "so they cannot be normalised"
        )
    own = DATA_SETS.get(name)
    if flip is None:
        flip = own.flip if own else True
    if crop_padding is None:
        by_size = min(read.image_shape[:2]) // 8 if read.stored == "fixed" else 0
        crop_padding = own.crop_padding if own else by_size
    hashes = {key: array_hash(array) for key, array in read.arrays.items()}
    crop = read.image_shape[:2] if read.stored == "ragged" else None
    return Manifest(
        name=name,
        source=read.source,
        classes=read.tree.paths,
        image_shape=read.image_shape,
        stored=read.stored,
        n_train=len(read.arrays["train_y"]),
        n_test=len(read.arrays["test_y"]),
        train_sizes=tuple(
            np.bincount(np.asarray(read.arrays["train_y"]), minlength=read.tree.n_classes).tolist()
        ),
        converted={rule: n for rule, n in read.converted.items() if n},
        skipped=read.skipped,
        mean=mean,
        std=std,
        flip=flip,
        crop_padding=crop_padding,
        files={f"{key}.npy": FileRecord(bytes=0, sha256="") for key in read.arrays},
        data_hash=data_hash(hashes, mean, std, flip, crop_padding, crop),
        tree_hash=read.tree.hash,
    )
