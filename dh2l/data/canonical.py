"""Canonical order and exact statistics of images.

The same images give the same bytes, whatever files they came from.
"""

import math

import numpy as np
import numpy.typing as npt

from dh2l.data.images import Labels, Pixels


def canonical(x: Pixels, y: Labels, order: list[int]) -> tuple[Pixels, Labels]:
    """Images class by class, `order[i]` becoming class i, each class's sorted by their bytes."""
    index: list[int] = []
    counts: list[int] = []
    for label in order:
        members: list[int] = np.flatnonzero(y == label).tolist()
        index += sorted(members, key=lambda i: x[i].tobytes())
        counts.append(len(members))
    labels = np.repeat(np.arange(len(order), dtype=np.int64), counts)
    return np.ascontiguousarray(x[np.array(index, dtype=np.int64)]), labels


def statistics(x: Pixels) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and population standard deviation of each channel, as values in [0, 1]."""
    histogram = np.zeros((x.shape[-1], 256), dtype=np.int64)
    for images in np.array_split(x, 64):
        for channel, counts in enumerate(histogram):
            counts += np.bincount(images[..., channel].reshape(-1), minlength=256)
    return moments(histogram)


def moments(histogram: npt.NDArray[np.int64]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Compute mean and population standard deviation in [0, 1] from histograms ``(C, 256)``.

    Sums are exact integers, so that the result, which is hashed, is the same on every machine.
    """
    mean, std = [], []
    for counts in histogram.tolist():
        n = sum(counts)
        total = sum(value * count for value, count in enumerate(counts))
        squares = sum(value * value * count for value, count in enumerate(counts))
        mean.append(total / (255 * n))
        std.append(math.sqrt(n * squares - total * total) / (255 * n))
    return tuple(mean), tuple(std)
