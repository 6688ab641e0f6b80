"""Statistics of a table: intervals, Welch's test, Holm's correction, bootstrap.

NumPy and `scipy.special` alone: importing `scipy.stats` takes longer than rendering a table.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

LEAST_SEEDS = 3
"""Fewest seeds for an interval or a test: two give a spread with one degree of freedom, which says
next to nothing."""
LEVEL = 0.95
"""Confidence of every interval."""
RESAMPLES = 10_000
"""Test sets that a bootstrap draws."""

Bools = npt.NDArray[np.bool_]
Samples = Sequence[float]


@dataclass(frozen=True)
class Comparison:
    """Welch's comparison of two arms over their seeds.

    Attributes:
        difference: mean of the first less mean of the second.
        p: two-sided p-value; None where neither arm has any spread and the means differ.
        df: degrees of freedom (Welch-Satterthwaite); None where neither arm has any spread.
        low, high: 95% interval of the difference, of this comparison alone; None where `df` is.
    """

    difference: float
    p: float | None
    df: float | None
    low: float | None
    high: float | None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Both bounds, or None."""
        return None if self.low is None or self.high is None else (self.low, self.high)


def t_interval(values: Samples, level: float = LEVEL) -> tuple[float, float] | None:
    """Compute Student's t interval of the mean.

    Returns:
        Its bounds; None below three values, and where all are equal, because no spread is seen.
    """
    if len(values) < LEAST_SEEDS:
        return None
    mean, variance = _moments(values)
    if not variance:
        return None
    half = float(special.stdtrit(len(values) - 1, (1 + level) / 2)) * math.sqrt(
        variance / len(values)
    )
    return mean - half, mean + half


def within(
    interval: tuple[float, float] | None, least: float, most: float
) -> tuple[float, float] | None:
    """Cut an interval at the least and the most that its quantity can be."""
    return None if interval is None else (max(interval[0], least), min(interval[1], most))


def welch(a: Samples, b: Samples) -> Comparison | None:
    """Compare two arms over their seeds by Welch's t test (Welch 1947).

    It does not assume equal variances. Seeds do not pair the arms: trials of one seed see the same
    batches and start from the same backbone, but train by another loss or classifier, and nothing
    shows that two trials of a seed still share their noise at the end. A paired test would halve
    the degrees of freedom on that hope; if they do share it, this test errs less often than it
    states.

    Where all of `a` are equal and all of `b` too, there is no spread to measure a difference by:
    equal means give p = 1, different ones no p.

    Returns:
        The comparison; None unless both have at least three values.
    """
    if min(len(a), len(b)) < LEAST_SEEDS:
        return None
    (mean_a, variance_a), (mean_b, variance_b) = _moments(a), _moments(b)
    difference = mean_a - mean_b
    error_a, error_b = variance_a / len(a), variance_b / len(b)
    squared = error_a + error_b
    if not squared:
        return Comparison(difference, None if difference else 1.0, None, None, None)
    # By shares of the squared error: its own square would underflow for the smallest spreads.
    df = 1 / ((error_a / squared) ** 2 / (len(a) - 1) + (error_b / squared) ** 2 / (len(b) - 1))
    error = math.sqrt(squared)
    half = float(special.stdtrit(df, (1 + LEVEL) / 2)) * error
    p = 2 * float(special.stdtr(df, -abs(difference) / error))
    return Comparison(difference, p, df, difference - half, difference + half)


def _moments(values: Samples) -> tuple[float, float]:
    """Return mean and sample variance, exactly 0 for equal values, and 0 for one value."""
    if min(values) == max(values):
        return float(values[0]), 0.0
    mean = math.fsum(values) / len(values)
    return mean, math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust p-values by Holm's step-down method (Holm 1979), valid under any dependence.

    Args:
        p_values: a family's p-values; None where there is no test, which does not count.

    Returns:
        Adjusted p-values in the same order: those at most α are rejected at a familywise error rate
        of α.
    """
    ranked = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, i) in enumerate(ranked):
        largest = max(largest, min(1.0, (len(ranked) - rank) * p))
        adjusted[i] = largest
    return adjusted


def confirmatory(
    pairs: Sequence[tuple[Samples, Samples] | None],
) -> tuple[list[Comparison | None], list[float | None]]:
    """Test every cell of a table against its reference by Welch, then adjust by Holm.

    Args:
        pairs: for every cell its accuracies and its reference's; None for a cell that gets no test.

    Returns:
        The comparisons and the adjusted p-values, cell by cell.
    """
    comparisons = [None if pair is None else welch(*pair) for pair in pairs]
    return comparisons, holm([None if c is None else c.p for c in comparisons])


def paired_bootstrap(
    right_a: Bools, right_b: Bools, *, seed: int, resamples: int = RESAMPLES
) -> tuple[float, float] | None:
    """Compute a 95% percentile interval of a difference in accuracy over similar test sets.

    Images are drawn with replacement, the same for both arms; the networks stay as they are. Only
    how many images show which difference matters, so that a resample is one multinomial draw over
    the distinct differences: the same distribution as drawing images, without drawing them.

    Args:
        right_a: whether a network is right on an image, ``(networks, images)``.
        right_b: the same of the other arm, on the same images in the same order.
        seed: of the draws.
        resamples: number of test sets drawn.

    Returns:
        Bounds of the mean of `a` less that of `b`, in points; None without networks or images.
    """
    (n_a, n_images), n_b = right_a.shape, len(right_b)
    if not n_a * n_b * n_images:
        return None
    # In units of 1 / (n_a n_b), which keeps equal differences equal.
    differences = (
        right_a.sum(axis=0, dtype=np.int64) * n_b - right_b.sum(axis=0, dtype=np.int64) * n_a
    )
    distinct, counts = np.unique(differences, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(n_images, counts / n_images, size=resamples)
    points = drawn @ distinct * (100 / (n_a * n_b * n_images))
    low, high = np.quantile(points, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def seed_of(*names: str) -> int:
    """Return a seed that depends on some names alone, so that a table's draws are repeatable."""
    return int.from_bytes(hashlib.sha256("\0".join(names).encode()).digest()[:8])
