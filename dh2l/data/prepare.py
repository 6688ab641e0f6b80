"""Preparation of a data set: read it from a source, put it into canonical order, write it at one stroke."""

import hashlib
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dh2l.data.canonical import canonical, moments, statistics
from dh2l.data.conversions import sentences
from dh2l.data.images import ImageFiles, Images, Pixels, Report
from dh2l.data.manifest import (
    ARRAYS,
    MANIFEST,
    SIZES,
    FileRecord,
    Manifest,
    Stored,
    array_hash,
    data_hash,
)
from dh2l.data.ragged_array import Array, Pieces
from dh2l.data.ragged_decode import decode_groups
from dh2l.data.reader import verify
from dh2l.data.registry import DATA_SETS, check_crop, check_name
from dh2l.data.sources.folders import list_folders, read_folders
from dh2l.data.writer import check_replaceable, clear_up, locked, parts_folder, write
from dh2l.errors import DataError, UserError, unknown_name_message
from dh2l.tree import ClassTree
from dh2l.wording import counted


def ignore(_message: str) -> None:
    """A report that goes nowhere."""


_NAMED = 10

Ragged = tuple[int, int]
"""Of images of many sizes: what their shorter side is resized to, and the side of the squares cut out of them."""


class Read(NamedTuple):
    """A data set in canonical order, and what is known of it besides its augmentation."""

    source: str
    tree: ClassTree
    arrays: dict[str, Array]
    statistics: tuple[tuple[float, ...], tuple[float, ...]]
    stored: Stored
    image_shape: tuple[int, int, int]
    converted: dict[str, int]
    skipped: int


def prepare(
    name: str,
    root: Path,
    *,
    source: Path | None = None,
    size: int | None = None,
    shorter_side: int | None = None,
    crop: int | None = None,
    flip: bool | None = None,
    crop_padding: int | None = None,
    report: Report = ignore,
) -> Manifest:
    """Prepare a data set into `root/NAME/`, for `load`.

    Canonical order, so that the same images give the same arrays and hash whatever they came from: classes
    are sorted by their paths, and the images of a class by their pixel bytes (by height and width first, where
    they are of many sizes).

    The folder appears complete or not at all, and a reader of an earlier version keeps it. A preparation
    that is killed leaves nothing that is read; the next one of the same name clears up, and goes on from what was
    decoded where images are of many sizes. Of two at a time, one waits. Where the same data is prepared already,
    intact, it is kept.

    Args:
        name: one of `DATA_SETS`, or a name of your own for image folders: up to 40 of a-z, 0-9, _ and -.
        root: the folder of all prepared data sets.
        source: where the data set's files are (for CIFAR, torchvision's files, their archive or image folders; for
            CUB200-2011 and Stanford Cars, the official layout); None to download into `root/downloads`. For your
            own data, a folder with `train/` and `test/`, in each `<class>/<image>` or
            `<super-class>/<class>/<image>` or deeper.
        size: of your own images: resize them to size × size.
        shorter_side: of images of many sizes: resize their shorter side to this, and keep their proportions.
        crop: then, side of the squares cut out of them, at random in training and from the centre otherwise;
            default: 7/8 of the shorter side, as 224 is of 256.
        flip: mirror at random in training; default: the data set's, True for your own.
        crop_padding: pixels of padding before the random crop; default: the data set's; for your own an
            eighth of the shorter side, or 0 where they are of many sizes.
        report: called with a line on each step.

    Returns:
        The manifest of what now lies there.

    Raises:
        UserError: a name or argument that cannot be.
        DataError: the source is missing, damaged or not what the name says; or `root` cannot be written.
    """
    check_name(name)
    _check_source(name, source)
    _check_numbers(name, size, shorter_side, crop, crop_padding)
    ragged = _ragged(name, shorter_side, crop)
    if source is not None and not source.exists():
        raise DataError(
            f"{source} does not exist; --from takes a folder (or, where there is one, the archive)"
        )
    with locked(name, root, report):
        check_replaceable(root / name)
        clear_up(name, root)
        images, scratch = _read(name, root, source, size, ragged, report), None
        if isinstance(images, ImageFiles):
            scratch = images.scratch
            images = _decoded(images, ragged, parts_folder(name, root), report)
        manifest = _manifest(name, images, flip, crop_padding)
        for sentence in [*_noteworthy(manifest), *_in_both(images.arrays)]:
            report(sentence)
        try:
            kept = verify(name, root) if (root / name / MANIFEST).exists() else None
        except DataError:
            kept = None  # damaged: replaced below
        if kept and manifest == kept.model_copy(
            update={"files": manifest.files, "source": manifest.source}
        ):
            report(f"{name} was prepared already from the same data; kept")
            manifest = kept
        else:
            report(f"writing {root / name}")
            manifest = write(manifest, images.arrays, root)
        for folder in (parts_folder(name, root), scratch):
            if folder is not None and folder.exists():
                shutil.rmtree(folder)
        return manifest


def _noteworthy(manifest: Manifest) -> list[str]:
    """What a user should know of the images, a sentence each."""
    found = sentences(manifest.converted)
    if manifest.skipped:
        those = counted(manifest.skipped, "hidden file or folder", "hidden files and folders")
        found.append(f"skipped {those}, such as systems make by themselves")
    if len(manifest.classes) == 1:
        found.append(
            f"only 1 class, {'/'.join(manifest.classes[0])}: there is nothing to tell apart. "
            "Expected a folder per "
            "class in train/ and in test/"
        )
    alone = [
        "/".join(p) for p, n in zip(manifest.classes, manifest.train_sizes, strict=True) if n == 1
    ]
    if alone:
        more = f" and {len(alone) - _NAMED} more" if len(alone) > _NAMED else ""
        found.append(
            f"only 1 training image: {', '.join(alone[:_NAMED])}{more}. A validation split needs "
            "at least 2 of each "
            "class: add images, or set protocol: paper"
        )
    return found


def _in_both(arrays: dict[str, Array]) -> list[str]:
    """A sentence on the test images that are training images too, if there are any."""
    known = {_fingerprint(image) for image in _each(arrays["train_x"])}
    n = sum(_fingerprint(image) in known for image in _each(arrays["test_x"]))
    if not n:
        return []
    return [
        f"{counted(n, 'test image is', 'test images are')} in the training set too, pixel for "
        "pixel: there a test "
        "shows memory alone. Remove them from one of the two"
    ]


def _each(images: Array) -> Iterable[Pixels]:
    return images.pieces if isinstance(images, Pieces) else images.view(np.uint8)


def _fingerprint(image: Pixels) -> bytes:
    """A hash of an image's size and pixels."""
    digest = hashlib.blake2b(f"{image.shape}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image).data)
    return digest.digest()


def _check_source(name: str, source: Path | None) -> None:
    own = DATA_SETS.get(name)
    if own and own.comes_with and source is not None:
        raise UserError(
            f"{name} comes with {own.comes_with} and takes no --from; give your own data another "
            "name"
        )
    if not own and source is None:
        raise UserError(
            f"{name!r} can be a data set of your own, but then needs its images: "
            f"dh2l-study data prepare {name} --from PATH "
            f"({unknown_name_message('data set', name, DATA_SETS)})"
        )
    if own and not own.downloads and source is None:
        raise DataError(
            f"{name} cannot be downloaded{': ' if own.where else ''}{own.where}; "
            f"then type: dh2l-study data prepare {name} --from PATH"
        )


def _check_numbers(
    name: str,
    size: int | None,
    shorter_side: int | None,
    crop: int | None,
    crop_padding: int | None,
) -> None:
    own, sizes_differ = DATA_SETS.get(name), (shorter_side, crop) != (None, None)
    if own and own.shorter_side is None and (size is not None or sizes_differ):
        takes = "--size" if size is not None else "--shorter-side and no --crop"
        raise UserError(
            f"{name} has images of one size and takes no {takes}; give your own data another name"
        )
    if own and size is not None:
        raise UserError(
            f"{name} has images of many sizes and takes no --size, but --shorter-side and --crop"
        )
    if size is not None and sizes_differ:
        raise UserError(
            "--size makes all images of one size, so it goes with neither --shorter-side nor --crop"
        )
    if size is not None and size < 1:
        raise UserError(f"the size of images must be at least 1 pixel, but is {size}")
    if crop_padding is not None and crop_padding < 0:
        raise UserError(f"the crop padding must not be negative, but is {crop_padding}")


def _ragged(name: str, shorter_side: int | None, crop: int | None) -> Ragged | None:
    """Shorter side and crop, with what was not asked for as the data set has it; None for images of one size."""
    own = DATA_SETS.get(name)
    if own and shorter_side is None:
        shorter_side, crop = own.shorter_side, own.crop if crop is None else crop
    if shorter_side is not None and crop is None:
        crop = max(1, shorter_side * 7 // 8)
    check_crop(shorter_side, crop)
    return None if shorter_side is None or crop is None else (shorter_side, crop)


def _read(
    name: str,
    root: Path,
    source: Path | None,
    size: int | None,
    ragged: Ragged | None,
    report: Report,
) -> Read | ImageFiles:
    own = DATA_SETS.get(name)
    if own is not None:
        images = own.read(source, root / "downloads", report)
        return images if isinstance(images, ImageFiles) else _in_order(images)
    if source is None or not source.is_dir():
        packed = "unpack it first: " if source is not None and source.is_file() else ""
        raise DataError(
            f"{source} is not a folder; {packed}--from takes a folder with train/ and test/ in it"
        )
    if ragged:
        return list_folders(source)
    return _in_order(read_folders(source, size=size, resizable=True, report=report))


def _in_order(images: Images) -> Read:
    """Images of one size."""
    order = sorted(range(len(images.paths)), key=images.paths.__getitem__)
    train_x, train_y = canonical(images.train_x, images.train_y, order)
    test_x, test_y = canonical(images.test_x, images.test_y, order)
    height, width, channels = train_x.shape[1:]
    return Read(
        source=images.source,
        tree=ClassTree([images.paths[label] for label in order]),
        arrays=dict(zip(ARRAYS, (train_x, train_y, test_x, test_y), strict=True)),
        statistics=statistics(train_x),
        stored="fixed",
        image_shape=(height, width, channels),
        converted=images.converted,
        skipped=images.skipped,
    )


def _decoded(images: ImageFiles, ragged: Ragged | None, folder: Path, report: Report) -> Read:
    """Images of many sizes, decoded into a folder."""
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
        pieces = Pieces(tuple(image for group in found for image in group.images))
        arrays[f"{part}_x"], arrays[f"{part}_size"] = pieces, pieces.sizes
        arrays[f"{part}_y"] = np.repeat(
            np.arange(n, dtype=np.int64), [len(group.images) for group in found]
        )
    return Read(
        source=images.source,
        tree=ClassTree([images.paths[label] for label in order]),
        arrays={key: arrays[key] for key in (*ARRAYS, *SIZES)},
        statistics=moments(np.sum([group.histogram for group in decoded[:n]], axis=0)),
        stored="ragged",
        image_shape=(crop, crop, 3),
        converted=dict(sum((group.converted for group in decoded), Counter[str]())),
        skipped=images.skipped,
    )


def _manifest(name: str, read: Read, flip: bool | None, crop_padding: int | None) -> Manifest:
    """The manifest, whose files are filled in when they are written."""
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
