"""Stratified split of the training set into training and validation."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dh2l.errors import DataError, UserError
from dh2l.wording import counted

Index = npt.NDArray[np.int64]


def held_out(n: int, fraction: float) -> int:
    """Return how many of a class's n images go to validation: at least 1 and at most n − 1."""
    return min(max(round(fraction * n), 1), n - 1)


def too_small(name: str, n: int) -> str:
    """Describe a class that cannot be split."""
    found = f"class {name} has {counted(n, 'training image')}"
    return f"{found}, but a validation split needs at least 2 of each class"


def stratified_split(
    labels: npt.NDArray[np.integer], fraction: float, seed: int, names: Sequence[str] = ()
) -> tuple[Index, Index]:
    """Split positions into training and validation, the same share of every class.

    A class of n images gives round(fraction · n) of them to validation, or as near to that as
    `held_out` allows. Which ones depends on the seed, the class and n alone, so it is the same on
    every machine: each class has its own PCG64 stream, whose raw output NumPy promises not to
    change.

    Args:
        labels: class indices 0 … C − 1, shape ``(N,)``.
        fraction: share of validation, between 0 and 1, both excluded.
        seed: a non-negative integer.
        names: of the classes, for messages; default: their numbers.

    Returns:
        Two ascending arrays of positions, ``(train_index, validation_index)``; together
            ``range(N)``.

    Raises:
        UserError: the fraction or the seed is out of range.
        DataError: the labels are not class indices, or a class has fewer than 2 images.
    """
    if not 0 < fraction < 1:
        raise UserError(
            f"the validation fraction must lie between 0 and 1, both excluded, but is {fraction}"
        )
    if seed < 0:
        raise UserError(f"the seed of the validation split must not be negative, but is {seed}")
    labels = np.asarray(labels)
    if labels.ndim != 1 or labels.size == 0 or labels.dtype.kind not in "iu" or labels.min() < 0:
        raise DataError(
            "labels must be a non-empty vector of class indices 0, 1, …, but have shape "
            f"{labels.shape} and type {labels.dtype}"
            + (
                ", with a negative one"
                if labels.size and labels.dtype.kind == "i" and labels.min() < 0
                else ""
            )
        )
    in_validation = np.zeros(labels.size, dtype=np.bool_)
    for label, count in enumerate(np.bincount(labels)):
        n = int(count)
        if n < 2:
            raise DataError(too_small(names[label] if label < len(names) else str(label), n))
        stream = np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(label,)))
        drawn = np.argsort(stream.random_raw(n), kind="stable")[: held_out(n, fraction)]
        in_validation[np.flatnonzero(labels == label)[drawn]] = True
    return np.flatnonzero(~in_validation).astype(np.int64), np.flatnonzero(in_validation).astype(
        np.int64
    )
