"""Reader of image folders: `train|test/<super-class>/<class>/<image>`, to any depth."""

import math
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

from dh2l.data.conversions import Mode, plain, upright_size
from dh2l.data.decode import SUFFIXES, each, opened, pixels_limited, refuse
from dh2l.data.ignored_files import is_litter
from dh2l.data.images import ImageFiles, Images, Labels, Pixels, Report
from dh2l.errors import DataError
from dh2l.system.cores import usable_cores
from dh2l.tree import normalise_name
from dh2l.wording import counted

_NAMED = 10

ClassPath = tuple[str, ...]
Files = dict[ClassPath, list[Path]]
Head = tuple[str, tuple[int, int]]

_GREY = frozenset({"1", "L", "I"})  # and 16 bits of grey, "I;16" and the like


class _Found(NamedTuple):
    """The image files of each class, and how much of the system's own was passed over."""

    files: Files
    skipped: int


class _Groups(NamedTuple):
    """Classes in order, with the files of each: training images, then test images."""

    paths: tuple[ClassPath, ...]
    groups: tuple[tuple[Path, ...], ...]
    skipped: int


def read_folders(source: Path, *, size: int | None, resizable: bool, report: Report) -> Images:
    """Read images in folders `source/train/[<super-class>/…]<class>/*`.

    Images are greyscale (one channel) if all of them are, RGB otherwise;
    `dh2l.data.conversions.RULES` defines how others are converted. Hidden and system files are
    skipped. All pixels must fit into memory.

    Args:
        source: the folder with `train/` and `test/`.
        size: resize all images to size × size (bilinear, antialiased); None: they must be of one
            size.
        resizable: whether an error may suggest a size.
        report: called with a line on progress.

    Raises:
        DataError: a folder or file that is not as described; the message names it.
    """
    paths, groups, skipped = _groups(source)
    files = [file for group in groups for file in group]
    report(
        f"reading {counted(len(files), 'image')} of {counted(len(paths), 'class', 'classes')} in "
        f"{source}"
    )
    with pixels_limited(), ThreadPoolExecutor(max_workers=usable_cores()) as pool:
        found_heads = list(pool.map(_heads, groups))
        refuse([sentence for _, damaged in found_heads for sentence in damaged], len(files))
        heads = [head for found, _ in found_heads for head in found]
        mode: Mode = "L" if all(mode.partition(";")[0] in _GREY for mode, _ in heads) else "RGB"
        width, height = heads[0][1]
        if size is not None:
            width = height = size
        else:
            for file, (_, (other_width, other_height)) in zip(files, heads, strict=True):
                if (other_width, other_height) != (width, height):
                    raise DataError(
                        f"all images must have the same size, but {files[0]} has {width}×{height} "
                        f"pixels and {file} {other_width}×{other_height}"
                        + (
                            "; --size N makes all of them N×N, and --shorter-side N keeps their "
                            "proportions"
                            if resizable
                            else ""
                        )
                    )
        x = _room((len(files), height, width, 1 if mode == "L" else 3), resizable)
        ends = np.cumsum([len(group) for group in groups])
        parts = np.split(x, ends[:-1])
        decoded = list(
            pool.map(
                lambda group, part: _decode(group, mode, size is not None, part), groups, parts
            )
        )
        refuse([sentence for damaged, _ in decoded for sentence in damaged], len(files))
        converted = sum((counts for _, counts in decoded), Counter[str]())
    n_train = int(ends[len(paths) - 1])
    return Images(
        source="image folders",
        paths=paths,
        train_x=x[:n_train],
        train_y=_labels(groups[: len(paths)]),
        test_x=x[n_train:],
        test_y=_labels(groups[len(paths) :]),
        converted=dict(converted),
        skipped=skipped,
    )


def list_folders(source: Path) -> ImageFiles:
    """List images in folders, laid out as for `read_folders`, without opening them.

    They may be of any size.

    Raises:
        DataError: a folder or file that is not as described; the message names it.
    """
    paths, groups, skipped = _groups(source)
    return ImageFiles(
        "image folders", paths, groups[: len(paths)], groups[len(paths) :], skipped=skipped
    )


def _groups(source: Path) -> _Groups:
    train, test = _classes(source / "train"), _classes(source / "test")
    for missing_in, has, lacks in (("test", train, test), ("train", test, train)):
        if missing := sorted(set(has.files) - set(lacks.files)):
            raise DataError(
                f"{source / missing_in} lacks the class "
                f"{'/'.join(missing[0])}{_alike(missing[0], lacks.files)}; training and test "
                "images must be of the same classes"
            )
    paths = tuple(sorted(train.files))
    groups = tuple(tuple(part.files[path]) for part in (train, test) for path in paths)
    return _Groups(paths, groups, train.skipped + test.skipped)


def _alike(path: ClassPath, others: Files) -> str:
    """Describe the class that is spelled almost like one; "" if there is none."""
    names = {"/".join(other): "/".join(other).casefold().split() for other in others}
    near = [name for name, words in names.items() if words == "/".join(path).casefold().split()]
    return f", but has {near[0]!r} (there it is {'/'.join(path)!r})" if near else ""


def _room(shape: tuple[int, ...], resizable: bool) -> Pixels:
    """Allocate an array for all images, of which there will be a second one in order.

    A system promises memory that it does not have, and ends whoever fills it, so free memory is
    checked first.
    """
    needed, free = 2 * math.prod(shape), psutil.virtual_memory().available
    try:
        if needed > free:
            raise MemoryError
        return np.empty(shape, dtype=np.uint8)
    except (MemoryError, ValueError) as error:
        remedy = "End what takes the rest"
        if resizable:
            remedy = "Make them smaller by --size, or take --shorter-side, which keeps them on disk"
        raise DataError(
            f"{shape[0]:,} images of {shape[2]}×{shape[1]} pixels need {needed / 1e9:,.1f} GB of "
            f"memory; expected {free / 1e9:,.1f} GB at most, which are free. {remedy}"
        ) from error


def _labels(groups: Sequence[Sequence[Path]]) -> Labels:
    return np.repeat(np.arange(len(groups), dtype=np.int64), [len(group) for group in groups])


def _classes(split: Path) -> _Found:
    """Image files of each class under `train/` or `test/`."""
    found: Files = {}
    skipped = 0
    pending: list[tuple[Path, ClassPath]] = [(split, ())]
    while pending:
        folder, path = pending.pop()
        try:
            with os.scandir(folder) as scan:
                every = sorted(scan, key=lambda e: e.name)
        except OSError as error:
            raise DataError(
                f"{folder} is missing or cannot be read ({error.strerror}); expected a folder with "
                "train/ and test/, in each a folder per super-class and in that a folder of "
                "images per class"
                f"{_present(split.parent)}"
            ) from error
        entries = [entry for entry in every if not is_litter(entry.name)]
        skipped += len(every) - len(entries)
        folders = [entry for entry in entries if entry.is_dir()]
        files = [_image(entry) for entry in entries if not entry.is_dir()]
        if files and (folders or not path):
            beside = f" (such as {folders[0].name}/)" if folders else ""
            raise DataError(
                f"{files[0]} lies beside or above the folders of classes{beside}; every image must "
                "lie in the folder of its class, all at the same depth"
            )
        if not files and not folders:
            raise DataError(
                f"{folder} holds no image; add some, or remove the folder from train/ and test/"
            )
        pending += [(below, (*path, name)) for name, below in _named(folder, folders).items()]
        if files:
            found[path] = files
            other = next(iter(found))
            if len(other) != len(path):
                raise DataError(
                    f"all images must lie at the same depth, but {found[other][0]} is {len(other)} "
                    f"folders deep in {split} and {files[0]} {len(path)}"
                )
    return _Found(found, skipped)


def _present(source: Path) -> str:
    """Describe the folders that exist instead; "" if there are none."""
    try:
        names = sorted(
            entry.name for entry in source.iterdir() if entry.is_dir() and not is_litter(entry.name)
        )
    except OSError:
        return ""
    return f". There are {', '.join(names[:_NAMED])}" if names else ""


def _image(entry: "os.DirEntry[str]") -> Path:
    """Return the path of what should be an image."""
    file = Path(entry)
    if entry.is_symlink() and not file.exists():
        raise DataError(
            f"{file} is a link to {os.readlink(file)}, which is not there; replace or remove it"
        )
    if file.suffix.lower() not in SUFFIXES:
        kinds = ", ".join(sorted(SUFFIXES))
        raise DataError(
            f"{file} is no image that can be read (images end with {kinds}); convert or remove it"
        )
    return file


def _named(folder: Path, entries: Sequence["os.DirEntry[str]"]) -> dict[str, Path]:
    """Return the folders in a folder by name, each in the spelling that look-alikes share."""
    named: dict[str, Path] = {}
    for entry in entries:
        if not _is_utf8(entry.name):
            raise DataError(
                f"the folder name {entry.name!r} in {folder} is not valid UTF-8; rename it"
            )
        name = normalise_name(entry.name)
        if name in named:
            raise DataError(
                f"{folder} has two folders called {name!r}, whose names differ only in how Unicode "
                f"spells them ({named[name].name!a} and {entry.name!a}); put their images into one"
            )
        named[name] = Path(entry)
    return named


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _heads(files: Sequence[Path]) -> tuple[list[Head], list[str]]:
    """Read mode and size (width, height) of each image without decoding, and list the faults."""
    heads: list[Head] = []

    def head(_: int, file: Path) -> None:
        with opened(file) as image:
            heads.append((image.mode, upright_size(image, upright=True)))

    damaged = each(files, head)
    return heads, damaged


def _decode(
    files: Sequence[Path], mode: Mode, resize: bool, out: Pixels
) -> tuple[list[str], Counter[str]]:
    """Decode images into out, ``(n, H, W, C)``; return the faults, and counts of conversions."""
    from PIL import Image

    height, width = out.shape[1:3]
    seen = Counter[str]()

    def decode(i: int, file: Path) -> None:
        with opened(file) as image:
            made = plain(image, mode, True, seen)
            if resize and made.size != (width, height):
                made = made.resize((width, height), Image.Resampling.BILINEAR)
            out[i] = np.asarray(made).reshape(out.shape[1:])

    return each(files, decode), seen
