"""Preparation of data sets: read, sort canonically, write atomically."""

import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from dh2l.data.canonical_data import CanonicalData, Ragged, decode_files, make_manifest, sort_images
from dh2l.data.conversions import sentences
from dh2l.data.images import ImageFiles, Pixels, Report
from dh2l.data.manifest import (
    MANIFEST,
    Manifest,
)
from dh2l.data.ragged_array import Array, RaggedArray
from dh2l.data.reader import verify
from dh2l.data.registry import DATA_SETS, check_crop, check_name
from dh2l.data.sources.folders import list_folders, read_folders
from dh2l.data.writer import check_replaceable, locked, parts_folder, recover_interrupted, write
from dh2l.errors import DataError, UserError, unknown_name_message
from dh2l.wording import counted


def ignore(_message: str) -> None:
    """Ignore a report."""


_NAMED = 10


def prepare(  # noqa: PLR0913 one keyword per option of the command
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

    Canonical order makes the same images give the same arrays and hash whatever they came from:
    classes are sorted by their paths, and the images of a class by their pixel bytes (by height and
    width first, where their sizes differ).

    The folder appears complete or not at all, and a reader of an earlier version keeps it. A
    preparation that is killed leaves nothing that is read; the next one of the same name clears up,
    and goes on from what was decoded where images are of many sizes. If two run at a time, one
    waits. Where the same data is prepared already, intact, it is kept.

    Args:
        name: one of `DATA_SETS`, or a name of your own for image folders: up to 40 of a-z, 0-9, _
            and -.
        root: the folder of all prepared data sets.
        source: where the data set's files are (for CIFAR, torchvision's files, their archive or
            image folders; for CUB200-2011 and Stanford Cars, the official layout); None to download
            into `root/downloads`. For your own data, a folder with `train/` and `test/`, in each
            `<class>/<image>` or `<super-class>/<class>/<image>` or deeper.
        size: of your own images: resize them to size × size.
        shorter_side: of images of many sizes: resize their shorter side to this, and keep their
            proportions.
        crop: then, side of the squares cut out of them, at random in training and from the centre
            otherwise; default: 7/8 of the shorter side, as 224 is of 256.
        flip: mirror at random in training; default: the data set's, True for your own.
        crop_padding: pixels of padding before the random crop; default: the data set's; for your
            own an eighth of the shorter side, or 0 where they are of many sizes.
        report: called with a line on each step.

    Returns:
        The manifest of the prepared data set.

    Raises:
        UserError: an invalid name or argument.
        DataError: the source is missing, damaged or not what the name says; or `root` cannot be
            written.
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
        recover_interrupted(name, root)
        images, scratch = _read(name, root, source, size, ragged, report), None
        if isinstance(images, ImageFiles):
            scratch = images.scratch
            images = decode_files(images, ragged, parts_folder(name, root), report)
        manifest = make_manifest(name, images, flip, crop_padding)
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
    """Describe what a user should know about the images, a sentence each."""
    found = sentences(manifest.converted)
    if manifest.skipped:
        those = counted(manifest.skipped, "hidden file or folder", "hidden files and folders")
        found.append(f"skipped {those}, such as systems make by themselves")
    if len(manifest.classes) == 1:
        found.append(
            f"only 1 class, {'/'.join(manifest.classes[0])}: there is nothing to tell apart. "
            "Expected a folder per class in train/ and in test/"
        )
    alone = [
        "/".join(p) for p, n in zip(manifest.classes, manifest.train_sizes, strict=True) if n == 1
    ]
    if alone:
        more = f" and {len(alone) - _NAMED} more" if len(alone) > _NAMED else ""
        found.append(
            f"only 1 training image: {', '.join(alone[:_NAMED])}{more}. A validation split needs "
            "at least 2 of each class: add images, or set protocol: paper"
        )
    return found


def _in_both(arrays: dict[str, Array]) -> list[str]:
    """Describe test images that are training images too, if there are any."""
    known = {_fingerprint(image) for image in _each(arrays["train_x"])}
    n = sum(_fingerprint(image) in known for image in _each(arrays["test_x"]))
    if not n:
        return []
    return [
        f"{counted(n, 'test image is', 'test images are')} in the training set too, pixel for "
        "pixel: there a test shows memory alone. Remove them from one of the two"
    ]


def _each(images: Array) -> Iterable[Pixels]:
    return images.pieces if isinstance(images, RaggedArray) else images.view(np.uint8)


def _fingerprint(image: Pixels) -> bytes:
    """Return a hash of an image's size and pixels."""
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
            f"{name!r} can be a data set of your own, but then needs its images: dh2l-study data "
            f"prepare {name} --from PATH ({unknown_name_message('data set', name, DATA_SETS)})"
        )
    if own and not own.downloads and source is None:
        raise DataError(
            f"{name} cannot be downloaded{': ' if own.where else ''}{own.where}; then type: "
            f"dh2l-study data prepare {name} --from PATH"
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
    """Return shorter side and crop, by default the data set's; None for images of one size."""
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
) -> CanonicalData | ImageFiles:
    own = DATA_SETS.get(name)
    if own is not None:
        images = own.read(source, root / "downloads", report)
        return images if isinstance(images, ImageFiles) else sort_images(images)
    if source is None or not source.is_dir():
        packed = "unpack it first: " if source is not None and source.is_file() else ""
        raise DataError(
            f"{source} is not a folder; {packed}--from takes a folder with train/ and test/ in it"
        )
    if ragged:
        return list_folders(source)
    return sort_images(read_folders(source, size=size, resizable=True, report=report))
