"""Cosines between class vectors, by distance in the class tree."""

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from dh2l.tree import ClassTree
from study.analysis.learning_curves import CELL, shown_arrays
from study.records.loaded_records import LoadedRecords
from study.spec.plan import Plan
from study.state.selection import CellResult

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]
BULK = (0.05, 0.95)
"""The part of all pairs that a summary of their cosines spans."""


class Trees:
    """The class trees of a plan's trials, each made once."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._made: dict[tuple[str, str | None], ClassTree] = {}

    def of(self, identity: str) -> ClassTree:
        """Return the class tree of a trial: its data set's, or the one that the study gave."""
        config, spec = self._plan.config(identity), self._plan.cell_configs[0]
        key = (config.dataset, config.tree_file)
        if key not in self._made:
            manifest = spec.manifest_of(config.dataset)
            self._made[key] = manifest.tree if key[1] is None else spec.tree_of(key[1], manifest)
        return self._made[key]


def cosines(vectors: npt.NDArray[np.floating]) -> Floats:
    """Cosines of all pairs of rows, ``(n, d)`` → ``(n, n)``; those of a row of zeros are 0."""
    rows = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    products: Floats = np.clip(unit @ unit.T, -1.0, 1.0)
    return products


def tree_order(tree: ClassTree) -> Places:
    """Return an order of the classes, ``(n_classes,)``, in which each node's are adjacent."""
    keys = [
        np.arange(tree.n_classes),
        *(tree.ancestors(level) for level in range(tree.depth - 1, 0, -1)),
    ]
    return np.lexsort(keys).astype(np.int64)


def blocks(tree: ClassTree, level: int) -> list[tuple[int, int]]:
    """First and past-the-last place of each node of a level in `tree_order`."""
    owner = tree.ancestors(level)[tree_order(tree)]
    starts = [0, *(np.flatnonzero(np.diff(owner)) + 1).tolist(), len(owner)]
    return list(itertools.pairwise(starts))


def by_height(matrix: Floats, tree: ClassTree) -> dict[int, Floats]:
    """Group the cosines of unordered pairs of classes by height of their lowest common ancestor."""
    above = np.triu(np.ones_like(matrix, dtype=bool), k=1)
    heights = tree.lca_height
    return {
        h: values
        for h in range(1, tree.depth + 1)
        if (values := matrix[above & (heights == h)]).size
    }


def height_name(height: int, depth: int) -> str:
    """Describe what a pair of classes shares, by the height of its lowest common ancestor."""
    if depth == 1:
        return "all pairs"
    if depth == 2:
        return "within super-classes" if height == 1 else "across super-classes"
    if height == 1:
        return f"siblings (same node of level {depth - 1})"
    return "across the root" if height == depth else f"same node of level {depth - height} only"


def angle_frame(results: Sequence[CellResult], found: LoadedRecords, plan: Plan) -> pd.DataFrame:
    """Summarise the cosines between class vectors of every shown trial by level.

    Columns: `row`, `arm`, `column`, `seed`; `height` of the lowest common ancestor and `depth` of
    the tree; `pairs` of that height; `mean` of their cosines, and `low`, `high`, between which 90%
    of them lie.
    """
    rows, trees = [], Trees(plan)
    for result, record, arrays in shown_arrays(results, found):
        tree = trees.of(record.identity)
        if len(arrays.get("vectors", ())) != tree.n_classes:
            continue
        for height, values in by_height(cosines(arrays["vectors"]), tree).items():
            low, high = np.quantile(values, BULK)
            rows.append(
                (
                    *result.key,
                    record.seed,
                    height,
                    tree.depth,
                    values.size,
                    float(values.mean()),
                    low,
                    high,
                )
            )
    return pd.DataFrame(
        rows, columns=[*CELL, "seed", "height", "depth", "pairs", "mean", "low", "high"]
    )
