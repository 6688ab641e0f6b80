"""Points of a cell's search: its grid, its draws, and the budget of a searcher."""

import itertools
import json
import math
import random
from collections.abc import Iterator
from functools import partial

from study.spec.cell import CellConfigs
from study.spec.settings import Axis, Value

MAX_COMBINATIONS = 100_000
"""Combinations of a cell's axes that are counted to limit the budget of a searcher."""


def every_point(cell: CellConfigs) -> Iterator[dict[str, Value]]:
    """Return every point of a cell's search: `samples` draws on each point of the crossed grid.

    A draw depends on the search seed, the axis and its number only, so that all rows and columns
    try the same values.
    """
    study, axes = cell.file.study, cell.axes
    grids = {key: axis.grid for key, axis in axes.items() if axis.grid is not None}
    n_draws = study.samples if len(grids) < len(axes) else 1
    for point in itertools.product(*grids.values()):
        fixed = dict(zip(grids, point, strict=True))
        for draw in range(n_draws):
            yield cell.resolve_point(partial(_pick_draw, fixed, study.search_seed, draw))


def _pick_draw(fixed: dict[str, Value], search_seed: int, draw: int, key: str, axis: Axis) -> Value:
    if key in fixed:
        return fixed[key]
    return _draw(axis, f"{search_seed}:{key}:{draw}")


def any_point(cell: CellConfigs) -> dict[str, Value]:
    """Return an arbitrary point of a cell's search."""
    return cell.resolve_point(_pick_any)


def _pick_any(key: str, axis: Axis) -> Value:
    return axis.values[0] if axis.values else _draw(axis, key)


def every_combination(cell: CellConfigs) -> Iterator[dict[str, Value]]:
    """Return the points of every combination of the axes; of a range, only its middle."""
    axes = cell.axes
    values = [[sum(a.bounds) / 2] if a.values is None else a.values for a in axes.values()]
    for combination in itertools.product(*values):
        point = dict(zip(axes, combination, strict=True))
        yield cell.resolve_point(partial(_pick_from, point))


def _pick_from(point: dict[str, Value], key: str, _: Axis) -> Value:
    return point[key]


def search_budget(cell: CellConfigs) -> int:
    """Return the number of candidates that a searcher suggests, at most the number of points."""
    study = cell.file.study
    assert study.searcher is not None  # noqa: S101 the caller has checked it
    if any(axis.values is None for axis in cell.axes.values()):
        return study.searcher.trials
    combinations = itertools.islice(every_combination(cell), MAX_COMBINATIONS)
    points = {json.dumps(point) for point in combinations}
    return min(study.searcher.trials, len(points))


def _draw(axis: Axis, seed: str) -> Value:
    """Draw a value of an axis."""
    generator = random.Random(seed)  # noqa: S311 not for security
    if axis.values is not None:
        return generator.choice(axis.values)
    if axis.uniform is not None:
        return rounded(generator.uniform(*axis.uniform))
    assert axis.loguniform is not None  # noqa: S101 an axis is exactly one of four kinds
    low, high = axis.loguniform
    return rounded(math.exp(generator.uniform(math.log(low), math.log(high))))


def rounded(value: float) -> float:
    """Round to six significant digits.

    Another machine's exp and log may differ in the last digits, and must not make another trial of
    the same draw.
    """
    return float(f"{value:.6g}")
