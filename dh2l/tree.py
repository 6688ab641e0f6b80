"""Class tree: the super-classes of classes (section 3.1.1, `P(l, l-1)`)."""

import hashlib
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from dh2l.errors import UserError
from dh2l.wording import counted

Index = npt.NDArray[np.int64]


def normalise_name(name: str) -> str:
    r"""Return the composed form (NFC) of a name.

    Operating systems differ in the form that they return for letters with accents.

    >>> normalise_name("e\u0301") == "\u00e9"
    True
    """
    return unicodedata.normalize("NFC", name)


class ClassTree:
    """Tree whose root is level 0 and whose leaves, the classes, all lie at level L ≥ 1.

    Classes keep the order in which they are given. The inner nodes of each level are numbered in
    order of first appearance.

    >>> tree = ClassTree([("flowers", "rose"), ("flowers", "tulip"), ("trees", "oak")])
    >>> tree
    ClassTree(2 → 3 nodes)
    >>> tree.depth, tree.classes
    (2, ('rose', 'tulip', 'oak'))

    Args:
        paths: one path per class, from level 1 down to the class itself, e.g.
            ``[("flowers", "rose"), ("flowers", "tulip"), ("trees", "oak")]`` (L = 2), or
            ``[("cat",), ("dog",)]`` without hierarchy (L = 1).

    Raises:
        UserError: no class, a string in place of a path or of the list, an empty name, a class
            given twice, or paths of unequal length.
    """

    def __init__(self, paths: Sequence[Sequence[str]]) -> None:
        _check_types(paths)
        self.paths: tuple[tuple[str, ...], ...] = tuple(tuple(path) for path in paths)
        _check_paths(self.paths)

    @property
    def depth(self) -> int:
        """L, the level of the classes: 1 without hierarchy, 2 with super-classes."""
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
        """Nodes of each level as paths from the root; ``levels[0]`` is the root alone."""
        return tuple(
            tuple(dict.fromkeys(path[:level] for path in self.paths))
            for level in range(self.depth + 1)
        )

    def size(self, level: int) -> int:
        """Return the number of nodes of a level.

        >>> ClassTree([("pets", "cat"), ("pets", "dog"), ("cars", "van")]).size(1)
        2
        """
        return len(self.levels[level])

    def parents(self, level: int) -> Index:
        """Return the index of the parent of each node of level l ≥ 1, ``(n_l,)``.

        >>> ClassTree([("pets", "cat"), ("cars", "van"), ("pets", "dog")]).parents(2)
        array([0, 1, 0])
        """
        position = {node: i for i, node in enumerate(self.levels[level - 1])}
        return np.array([position[node[:-1]] for node in self.levels[level]], dtype=np.int64)

    def ancestors(self, level: int) -> Index:
        """Return the index of each class's ancestor at level l, ``(n_classes,)``."""
        position = {node: i for i, node in enumerate(self.levels[level])}
        return np.array([position[path[:level]] for path in self.paths], dtype=np.int64)

    @cached_property
    def lca_height(self) -> Index:
        """Height of the lowest common ancestor of two classes, ``(n_classes, n_classes)``.

        It is 0 for a class with itself, 1 for two classes of one parent, and L for classes that
        share the root alone.

        >>> ClassTree([("pets", "cat"), ("pets", "dog"), ("cars", "van")]).lca_height
        array([[0, 1, 2],
               [1, 0, 2],
               [2, 2, 0]])
        """
        height = np.full((self.n_classes, self.n_classes), self.depth, dtype=np.int64)
        for level in range(1, self.depth + 1):
            ancestors = self.ancestors(level)
            height -= ancestors[:, None] == ancestors[None, :]
        return height

    def shuffled(self, seed: int) -> "ClassTree":
        """Return the tree with its classes permuted over its leaves; their order does not change.

        The permutation sorts the classes by a hash of seed and index, so that it does not depend on
        the random generator of a library. A class whose name is not unique is named by its path.

        Args:
            seed: number of the permutation.

        Raises:
            UserError: the permuted tree groups the classes as this one does.
        """
        tree = ClassTree(self._shuffled_paths(seed))
        if np.array_equal(tree.lca_height, self.lca_height):
            raise UserError(
                f"the tree shuffled with tree_seed {seed} groups the classes as the data set's own "
                "tree does; expected other groups. Use another tree_seed, or a data set with "
                "super-classes"
            )
        return tree

    def shuffle_seed(self, tree: "ClassTree", seeds: Iterable[int]) -> int | None:
        """Return the first of some seeds by which shuffling gives another tree, or None."""
        if Counter(path[:-1] for path in tree.paths) != Counter(path[:-1] for path in self.paths):
            return None
        return next((seed for seed in seeds if self._shuffled_paths(seed) == tree.paths), None)

    def _shuffled_paths(self, seed: int) -> tuple[tuple[str, ...], ...]:
        """Return the paths of the classes after the permutation with a seed."""
        order = sorted(
            range(self.n_classes), key=lambda i: hashlib.sha256(f"{seed} {i}".encode()).digest()
        )
        n_of = Counter(self.classes)
        names = [path[-1] if n_of[path[-1]] == 1 else "/".join(path) for path in self.paths]
        return tuple(
            (*self.paths[leaf][:-1], name) for leaf, name in zip(order, names, strict=True)
        )

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


def _check_types(paths: Sequence[Sequence[str]]) -> None:
    """Refuse a string in place of a list or of a path: it is a sequence of strings."""
    if isinstance(paths, str):
        raise UserError(
            f"a class tree: {paths!r} is one name; expected a list of paths. Pass [({paths!r},)]"
        )
    for path in paths:
        if isinstance(path, str):
            raise UserError(
                f"a class tree: the path {path!r} is one name; expected the names from level 1 "
                f"down to the class. Pass ({path!r},) for a class without super-class"
            )


def _check_paths(paths: tuple[tuple[str, ...], ...]) -> None:
    """Refuse paths that are not those of a tree whose leaves all lie at one level."""
    if not paths:
        raise UserError("a class tree: no class; expected at least one. Pass a path for each class")
    first = paths[0]
    for path in paths:
        if len(path) != len(first):
            raise UserError(
                f"a class tree: {'/'.join(first)!r} is {counted(len(first), 'level')} deep and "
                f"{'/'.join(path)!r} {len(path)}; expected all classes at the same depth. Add the "
                "missing intermediate nodes"
            )
        if not path or not all(path):
            raise UserError(
                f"a class tree: the path {list(path)} lacks a name; expected a name for every "
                "node. Add it"
            )
    if len(set(paths)) < len(paths):
        double = next(path for i, path in enumerate(paths) if path in paths[:i])
        raise UserError(
            f"a class tree: the class {'/'.join(double)!r} is given twice; expected every class "
            "once. Remove one"
        )
