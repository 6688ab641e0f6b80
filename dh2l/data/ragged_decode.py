"""Decoding of images of many sizes, by all cores.

Images are decoded once, in parts. A killed preparation leaves its parts to the next one.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cmp_to_key
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dh2l.data.conversions import RULES, plain
from dh2l.data.decode import each, opened, pixels_limited, refuse
from dh2l.data.images import Pixels, Report
from dh2l.data.sources.archives import REPORT_SECONDS
from dh2l.errors import DataError
from dh2l.io import npz
from dh2l.system.cores import usable_cores

PART = 200
"""Most images of a part: what is decoded anew after a kill, at most, by each thread."""
LONGEST = 16
"""Most that an image's longer side may be times its shorter one."""

Histogram = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Decoded:
    """Images of one class, in canonical order: by height, width and bytes.

    Attributes:
        images: ``(H, W, 3)`` each, mapped into memory.
        histogram: of each channel's values over all of them, ``(3, 256)``.
        converted: how many of them lost something, by the rule in `dh2l.data.conversions.RULES`.
    """

    images: tuple[Pixels, ...]
    histogram: Histogram
    converted: Counter[str]


def decode_groups(
    groups: Sequence[Sequence[Path]],
    shorter_side: int,
    folder: Path,
    report: Report,
    *,
    upright: bool = True,
) -> tuple[Decoded, ...]:
    """Decode each class's files as RGB, their shorter side resized (bilinear, antialiased).

    The decoded images are in `folder`, in parts named by their files' names, sizes and times and by
    everything else that they depend on; existing parts are used as they are. Memory holds an image
    a thread.

    Args:
        groups: the files of each class.
        shorter_side: in pixels; proportions are kept.
        folder: of the parts, which the caller removes in the end.
        report: called with a line every few seconds.
        upright: whether images are turned as their EXIF data say.

    Raises:
        DataError: images that are damaged or missing, all of them named up to a number; or a full
            disk.
    """
    folder.mkdir(exist_ok=True)
    parts = [
        [
            _Part.of(group[start : start + PART], shorter_side, folder, upright)
            for start in range(0, len(group), PART)
        ]
        for group in groups
    ]
    every = [part for group in parts for part in group]
    missing = [part for part in every if not part.whole()]
    total = sum(len(part.files) for part in every)
    if n_before := total - sum(len(part.files) for part in missing):
        report(f"{n_before:,} of {total:,} images were decoded by an earlier preparation")
    try:
        _decode_parts(missing, shorter_side, total, report)
    except OSError as error:
        raise DataError(
            f"{folder} cannot be written ({error.strerror}); make room and prepare again, which "
            "goes on from what is decoded, or remove that folder"
        ) from error
    return tuple(_joined(group) for group in parts)


@dataclass(frozen=True)
class _Part:
    """Some files of a class, and where their pixels and then the summary of them are written."""

    files: tuple[Path, ...]
    pixels: Path
    summary: Path
    upright: bool

    @classmethod
    def of(cls, files: Sequence[Path], shorter_side: int, folder: Path, upright: bool) -> "_Part":
        from PIL import __version__ as pillow

        content = [
            2,
            pillow,
            shorter_side,
            upright,
            [(str(file.absolute()), *_stamp(file)) for file in files],
        ]
        key = hashlib.sha256(json.dumps(content).encode(errors="surrogatepass")).hexdigest()[:32]
        return cls(tuple(files), folder / f"{key}.pixels", folder / f"{key}.npz", upright)

    def whole(self) -> bool:
        """Return True if the part was written to its end."""
        try:
            sizes, _, _ = self.read_summary()
            return len(sizes) == len(self.files) and self.pixels.stat().st_size == 3 * int(
                sizes.prod(axis=1).sum()
            )
        except npz.UNREADABLE:
            return False

    def read_summary(self) -> tuple[npt.NDArray[np.int64], Histogram, Counter[str]]:
        """Return height and width of each image, a histogram, and counts of conversions."""
        summary = npz.read(self.summary)
        converted = Counter(
            dict(zip(RULES, summary["converted"].astype(np.int64).tolist(), strict=True))
        )
        return summary["sizes"].astype(np.int64), summary["histogram"].astype(np.int64), +converted

    def images(self) -> list[Pixels]:
        """Map the images into memory."""
        sizes, _, _ = self.read_summary()
        mapped = np.memmap(self.pixels, dtype=np.uint8, mode="r")
        ends = 3 * sizes.prod(axis=1).cumsum()
        return [
            part.reshape(height, width, 3)
            for part, (height, width) in zip(
                np.split(mapped, ends[:-1]), sizes.tolist(), strict=True
            )
        ]


def _stamp(file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
    except (OSError, ValueError):  # opening it will say why
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _decode_parts(parts: Sequence[_Part], shorter_side: int, total: int, report: Report) -> None:
    before = total - sum(len(part.files) for part in parts)
    done = [0] * len(parts)  # each thread writes to its part's own place
    pending: set[Future[list[str]]] = set()
    futures: list[Future[list[str]]] = []
    with pixels_limited(), ThreadPoolExecutor(max_workers=usable_cores()) as pool:
        try:
            futures = [
                pool.submit(_decode, part, shorter_side, done, i) for i, part in enumerate(parts)
            ]
            pending = set(futures)
            while pending:
                finished, pending = wait(
                    pending, timeout=REPORT_SECONDS, return_when=FIRST_EXCEPTION
                )
                for future in finished:
                    future.result()
                report(f"decoded {before + sum(done):,} of {total:,} images")
        finally:
            for future in pending:
                future.cancel()
    refuse([sentence for future in futures for sentence in future.result()], total)


def _decode(part: _Part, shorter_side: int, done: list[int], place: int) -> list[str]:
    """Decode one part into its files, unless images are damaged: what is wrong with them."""
    sizes = np.zeros((len(part.files), 2), dtype=np.int64)
    histogram = np.zeros((3, 256), dtype=np.int64)
    seen = Counter[str]()
    unfinished = part.pixels.with_suffix(".unfinished")
    with unfinished.open("wb") as stream:

        def decode(i: int, file: Path) -> None:
            nonlocal histogram
            pixels, counts = _scaled(file, shorter_side, part.upright, seen)
            stream.write(pixels.data)
            sizes[i], histogram = pixels.shape[:2], histogram + counts
            done[place] = i + 1

        damaged = each(part.files, decode)
    if damaged:
        unfinished.unlink()
        return damaged
    unfinished.replace(part.pixels)
    with unfinished.open("wb") as stream:
        np.savez(
            stream,
            sizes=sizes,
            histogram=histogram,
            converted=np.array([seen[name] for name in RULES]),
        )
    os.replace(unfinished, part.summary)
    return []


def _scaled(
    file: Path, shorter_side: int, upright: bool, seen: Counter[str]
) -> tuple[Pixels, Histogram]:
    """Return an image as RGB with its shorter side resized, and its histogram."""
    from PIL import Image

    with opened(file) as image:
        width, height = image.size
        short, long = min(width, height), max(width, height)
        if long > LONGEST * short:
            raise DataError(
                f"{file} has {width}×{height} pixels, but an image's longer side may be {LONGEST} "
                "times its shorter one at most; cut or remove it"
            )
        made = plain(image, "RGB", upright, seen)
        width, height = made.size
        if short != shorter_side:
            longer = shorter_side * long // short
            made = made.resize(
                (shorter_side, longer) if width <= height else (longer, shorter_side),
                Image.Resampling.BILINEAR,
            )
        return np.asarray(made), np.array(made.histogram(), dtype=np.int64).reshape(3, 256)


def _joined(parts: Sequence[_Part]) -> Decoded:
    images = sorted((image for part in parts for image in part.images()), key=cmp_to_key(_compare))
    summaries = [part.read_summary() for part in parts]
    histogram = np.sum([histogram for _, histogram, _ in summaries], axis=0)
    return Decoded(
        tuple(images), histogram, sum((converted for _, _, converted in summaries), Counter[str]())
    )


def _compare(a: Pixels, b: Pixels) -> int:
    """Order by height, width and bytes; of most images the first row is read alone."""
    first, second = (*a.shape, a[0].tobytes()), (*b.shape, b[0].tobytes())
    if first == second:
        first, second = (a.tobytes(),), (b.tobytes(),)
    return (first > second) - (first < second)
