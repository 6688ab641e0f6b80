"""Reader of image folders: `train|test/<super-class>/<class>/<image>`, to any depth."""

import os
import struct
import warnings
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dh2l.data.sources import Images, Labels, Pixels, Report
from dh2l.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

ClassPath = tuple[str, ...]
Files = dict[ClassPath, list[Path]]

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".tif", ".tiff"})
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM", "TIFF")
_GREY = frozenset({"1", "L"})
_DEEPER = ("I", "F")  # 16 and 32 bits a pixel, "I;16" and the like: Pillow would clip them to 8 bits


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
    from PIL import Image

    train, test = _classes(source / "train"), _classes(source / "test")
    for missing_in, has, lacks in (("test", train, test), ("train", test, train)):
        if missing := sorted(set(has) - set(lacks)):
            raise DataError(
                f"{source / missing_in} lacks the class {'/'.join(missing[0])}; "
                "training and test images must be of the same classes"
            )
    # The classes' order is fixed here, before any thread runs.
    paths = tuple(sorted(train))
    groups = [files[path] for files in (train, test) for path in paths]
    report(f"reading {sum(map(len, groups)):,} images of {len(paths)} classes in {source}")
    with warnings.catch_warnings(), ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
        # Pillow only warns between its limit on pixels and twice that; here the limit holds.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        heads = [head for found in pool.map(_heads, groups) for head in found]
        files = [file for group in groups for file in group]
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
                        + ("; --size N makes all of them N×N" if resizable else "")
                    )
        x: Pixels = np.empty((len(files), height, width, 1 if mode == "L" else 3), dtype=np.uint8)
        ends = np.cumsum([len(group) for group in groups])
        parts = np.split(x, ends[:-1])
        for _ in pool.map(lambda group, part: _decode(group, mode, size is not None, part), groups, parts):
            pass
    n_train = int(ends[len(paths) - 1])
    return Images(
        source="image folders",
        paths=paths,
        train_x=x[:n_train],
        train_y=_labels(groups[: len(paths)]),
        test_x=x[n_train:],
        test_y=_labels(groups[len(paths) :]),
    )


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


@contextmanager
def _opened(path: Path) -> "Iterator[Image.Image]":
    """The image, with whatever Pillow raises while it is in use turned into a DataError."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path, formats=_FORMATS) as image:
            yield image
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(f"{path} is not an image, whatever its name says; replace or remove it") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(
            f"{path} has more pixels than Pillow allows, as a file made to exhaust memory would "
            f"({error}); make it smaller or remove it"
        ) from error
    # What Pillow's decoders raise on damaged files; SyntaxError is what they call a broken file format.
    except (
        OSError,
        SyntaxError,
        ValueError,
        TypeError,
        LookupError,
        EOFError,
        OverflowError,
        struct.error,
        zlib.error,
    ) as error:
        raise DataError(f"{path} cannot be decoded ({error}); replace or remove it") from error


def _heads(files: Sequence[Path]) -> list[tuple[str, tuple[int, int]]]:
    """Mode and size (width, height) of each image, without decoding it."""
    heads = []
    for file in files:
        with _opened(file) as image:
            if image.mode.startswith(_DEEPER):
                raise DataError(
                    f"{file} has more than 8 bits per value (Pillow's mode {image.mode}), which would be cut "
                    "off; convert the images to 8 bits"
                )
            heads.append((image.mode, image.size))
    return heads


def _decode(files: Sequence[Path], mode: str, resize: bool, out: Pixels) -> None:
    """Decode images into out, ``(n, H, W, C)``."""
    from PIL import Image

    height, width = out.shape[1:3]
    for file, pixels in zip(files, out, strict=True):
        with _opened(file) as image:
            # Pillow warns of a palette with transparency that is converted to RGB in one step.
            opaque = image.convert("RGBA") if image.mode == "P" and "transparency" in image.info else image
            converted = opaque.convert(mode)
            if resize and converted.size != (width, height):
                converted = converted.resize((width, height), Image.Resampling.BILINEAR)
            pixels[...] = np.asarray(converted).reshape(pixels.shape)
