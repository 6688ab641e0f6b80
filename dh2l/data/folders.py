"""Reader of image folders: `train|test/<super-class>/<class>/<image>`, to any depth."""

import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from dh2l.data.decode import N_THREADS, SUFFIXES, converted, each, opened, pixels_limited, refuse
from dh2l.data.sources import ImageFiles, Images, Labels, Pixels, Report
from dh2l.errors import DataError

ClassPath = tuple[str, ...]
Files = dict[ClassPath, list[Path]]
Head = tuple[str, tuple[int, int]]

_GREY = frozenset({"1", "L"})


def read_folders(source: Path, *, size: int | None, resizable: bool, report: Report) -> Images:
    """Images in folders: `source/train/<class>/*`, `source/train/<super-class>/<class>/*` or deeper.

    Images are greyscale (one channel) if all of them are, RGB otherwise; transparency is dropped, and an
    EXIF orientation is not applied. Hidden files are ignored. All pixels must fit into memory.

    Args:
        source: the folder with `train/` and `test/`.
        size: resize all images to size × size (bilinear, antialiased); None: they must be of one size.
        resizable: whether an error may suggest a size.
        report: called with a line on progress.

    Raises:
        DataError: a folder or file that is not as described; the message names it.
    """
    paths, groups = _groups(source)
    files = [file for group in groups for file in group]
    report(f"reading {len(files):,} images of {len(paths)} classes in {source}")
    with pixels_limited(), ThreadPoolExecutor(max_workers=N_THREADS) as pool:
        found_heads = list(pool.map(_heads, groups))
        refuse([sentence for _, damaged in found_heads for sentence in damaged], len(files))
        heads = [head for found, _ in found_heads for head in found]
        mode = "L" if all(mode in _GREY for mode, _ in heads) else "RGB"
        width, height = heads[0][1]
        if size is not None:
            width = height = size
        else:
            for file, (_, (other_width, other_height)) in zip(files, heads, strict=True):
                if (other_width, other_height) != (width, height):
                    raise DataError(
                        f"all images must have the same size, but {files[0]} has {width}×{height} pixels "
                        f"and {file} {other_width}×{other_height}"
                        + (
                            "; --size N makes all of them N×N, and --shorter-side N keeps their proportions"
                            if resizable
                            else ""
                        )
                    )
        x = _room((len(files), height, width, 1 if mode == "L" else 3))
        ends = np.cumsum([len(group) for group in groups])
        parts = np.split(x, ends[:-1])
        damaged = pool.map(lambda group, part: _decode(group, mode, size is not None, part), groups, parts)
        refuse([sentence for found in damaged for sentence in found], len(files))
    n_train = int(ends[len(paths) - 1])
    return Images(
        source="image folders",
        paths=paths,
        train_x=x[:n_train],
        train_y=_labels(groups[: len(paths)]),
        test_x=x[n_train:],
        test_y=_labels(groups[len(paths) :]),
    )


def list_folders(source: Path) -> ImageFiles:
    """The images in folders, laid out as `read_folders` takes them, not opened yet: they may be of any size.

    Raises:
        DataError: a folder or file that is not as described; the message names it.
    """
    paths, groups = _groups(source)
    return ImageFiles("image folders", paths, groups[: len(paths)], groups[len(paths) :])


def _groups(source: Path) -> tuple[tuple[ClassPath, ...], tuple[tuple[Path, ...], ...]]:
    """The classes in order, and the files of each: of the training images, then of the test images."""
    train, test = _classes(source / "train"), _classes(source / "test")
    for missing_in, has, lacks in (("test", train, test), ("train", test, train)):
        if missing := sorted(set(has) - set(lacks)):
            raise DataError(
                f"{source / missing_in} lacks the class {'/'.join(missing[0])}; "
                "training and test images must be of the same classes"
            )
    paths = tuple(sorted(train))
    return paths, tuple(tuple(files[path]) for files in (train, test) for path in paths)


def _room(shape: tuple[int, ...]) -> Pixels:
    """An array for all images."""
    try:
        return np.empty(shape, dtype=np.uint8)
    except (MemoryError, ValueError) as error:
        raise DataError(
            f"{shape[0]:,} images of {shape[2]}×{shape[1]} pixels need {math.prod(shape) / 1e9:,.0f} GB of memory, "
            "which is not there; make them smaller by --size"
        ) from error


def _labels(groups: Sequence[Sequence[Path]]) -> Labels:
    return np.repeat(np.arange(len(groups), dtype=np.int64), [len(group) for group in groups])


def _classes(split: Path) -> Files:
    """Image files of each class under `train/` or `test/`."""
    found: Files = {}
    pending: list[tuple[Path, ClassPath]] = [(split, ())]
    while pending:
        folder, path = pending.pop()
        try:
            with os.scandir(folder) as scan:
                entries = sorted((e for e in scan if not e.name.startswith(".")), key=lambda e: e.name)
        except OSError as error:
            raise DataError(
                f"{folder} is missing or cannot be read ({error.strerror}); expected a folder with "
                "train/ and test/, in each a folder per super-class and in that a folder of images per class"
            ) from error
        folders = [entry for entry in entries if entry.is_dir()]
        files = [Path(entry) for entry in entries if not entry.is_dir()]
        for file in files:
            if file.suffix.lower() not in SUFFIXES:
                raise DataError(f"{file} is no image (images end with {', '.join(sorted(SUFFIXES))}); remove it")
        if files and (folders or not path):
            raise DataError(
                f"{files[0]} lies beside or above the folders of classes; "
                "every image must lie in the folder of its class, all at the same depth"
            )
        if not files and not folders:
            raise DataError(f"{folder} holds no image; add some, or remove the folder from train/ and test/")
        for entry in folders:
            if not _is_utf8(entry.name):
                raise DataError(f"the folder name {entry.name!r} in {folder} is not valid UTF-8; rename it")
            pending.append((Path(entry), (*path, entry.name)))
        if files:
            found[path] = files
            other = next(iter(found))
            if len(other) != len(path):
                raise DataError(
                    f"all images must lie at the same depth, but {found[other][0]} is {len(other)} folders "
                    f"deep in {split} and {files[0]} {len(path)}"
                )
    return found


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _heads(files: Sequence[Path]) -> tuple[list[Head], list[str]]:
    """Mode and size (width, height) of each image, without decoding it; and what is wrong with those without."""
    heads: list[Head] = []

    def head(_: int, file: Path) -> None:
        with opened(file) as image:
            heads.append((image.mode, image.size))

    damaged = each(files, head)
    return heads, damaged


def _decode(files: Sequence[Path], mode: str, resize: bool, out: Pixels) -> list[str]:
    """Decode images into out, ``(n, H, W, C)``; returns what is wrong with those that cannot be."""
    from PIL import Image

    height, width = out.shape[1:3]

    def decode(i: int, file: Path) -> None:
        with opened(file) as image:
            plain = converted(image, mode)
            if resize and plain.size != (width, height):
                plain = plain.resize((width, height), Image.Resampling.BILINEAR)
            out[i] = np.asarray(plain).reshape(out.shape[1:])

    return each(files, decode)
