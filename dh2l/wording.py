"""Counts and values with their nouns."""

from collections.abc import Iterable


def counted(n: float, singular: str, plural: str = "") -> str:
    """Give a count with its noun: ``1 seed``, ``2 seeds``, ``1,442 classes``, ``0.5 CPUs``.

    Args:
        n: the count.
        singular: the noun of one.
        plural: the noun of any other number; by default the singular with an s.
    """
    number = f"{n:,}" if isinstance(n, int) else f"{n:g}"
    return f"{number} {singular if n == 1 else plural or singular + 's'}"


def listed(noun: str, values: Iterable[object]) -> str:
    """Give values after their noun: ``seed 0``, ``seeds 0, 1``."""
    words = list(map(str, values))
    return f"{noun if len(words) == 1 else noun + 's'} {', '.join(words)}"
