"""The class tree: which classes share which super-classes (section 3.1.1, `P(l, l-1)`)."""

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from dh2l.errors import UserError

Index = npt.NDArray[np.int64]


class ClassTree:
    """A tree whose root is level 0 and whose leaves, the classes, all lie at level L ≥ 1.

    Classes keep the order in which they are given; the inner nodes of each level are numbered in
    order of first appearance.

    Args:
        paths: one path per class, from level 1 down to the class itself, e.g.
            ``[("flowers", "rose"), ("flowers", "tulip"), ("trees", "oak")]`` (L = 2), or
            ``[("cat",), ("dog",)]`` where there is no hierarchy (L = 1).

    Raises:
        UserError: no class, an empty name, a class given twice, or paths of unequal length.
    """

    def __init__(self, paths: Sequence[Sequence[str]]) -> None:
        self.paths: tuple[tuple[str, ...], ...] = tuple(tuple(path) for path in paths)
        if not self.paths:
            raise UserError("a class tree needs at least one class, but none was given")
        first = self.paths[0]
        for path in self.paths:
            if len(path) != len(first):
                raise UserError(
                    f"all classes must lie at the same depth of the tree, but {'/'.join(first)!r} is "
                    f"{len(first)} levels deep and {'/'.join(path)!r} {len(path)}; "
                    "put intermediate nodes where levels are missing"
                )
            if not path or not all(path):
                raise UserError(f"every node of a class tree needs a name, but a path is {list(path)}")
        if len(set(self.paths)) < len(self.paths):
            double = next(path for i, path in enumerate(self.paths) if path in self.paths[:i])
            raise UserError(f"the class {'/'.join(double)!r} stands in the tree twice")

    @property
    def depth(self) -> int:
        """L, the level of the classes: 1 without hierarchy, 2 for super-class and class."""
        return len(self.paths[0])

    @property
    def n_classes(self) -> int:
        """Number of leaves."""
        return len(self.paths)

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, in order."""
        return tuple(path[-1] for path in self.paths)

    @cached_property
    def levels(self) -> tuple[tuple[tuple[str, ...], ...], ...]:
        """``levels[l]``: the nodes of level l as paths from the root; ``levels[0]`` is the root alone."""
        return tuple(tuple(dict.fromkeys(path[:level] for path in self.paths)) for level in range(self.depth + 1))

    def size(self, level: int) -> int:
        """Number of nodes of a level."""
        return len(self.levels[level])

    def parents(self, level: int) -> Index:
        """Index of each level-l node's parent among the nodes of level l − 1, shape ``(n_l,)``, l ≥ 1."""
        position = {node: i for i, node in enumerate(self.levels[level - 1])}
        return np.array([position[node[:-1]] for node in self.levels[level]], dtype=np.int64)

    def ancestors(self, level: int) -> Index:
        """Index of each class's ancestor among the nodes of level l, shape ``(n_classes,)``."""
        position = {node: i for i, node in enumerate(self.levels[level])}
        return np.array([position[path[:level]] for path in self.paths], dtype=np.int64)

    @cached_property
    def lca_height(self) -> Index:
        """Height of the lowest common ancestor of two classes, shape ``(n_classes, n_classes)``.

        0 for a class with itself, 1 for two classes of one parent, L where only the root is shared.
        """
        shared = sum((a := self.ancestors(level))[:, None] == a[None, :] for level in range(1, self.depth + 1))
        return np.asarray(self.depth - shared, dtype=np.int64)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the paths in order, as 64 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.paths, ensure_ascii=False).encode()).hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ClassTree) and self.paths == other.paths

    def __hash__(self) -> int:
        return hash(self.paths)

    def __repr__(self) -> str:
        sizes = " → ".join(str(self.size(level)) for level in range(1, self.depth + 1))
        return f"ClassTree({sizes} nodes)"
