"""The hierarchy's quantities as plain loops over named tree nodes, written from METHOD.md, sections
4 and 5.

It shares no code with the library: a node is its path of names, and everything is looked up by
path.
"""

from collections.abc import Callable, Collection
from itertools import combinations

import torch
from torch import Tensor

from dh2l.hierarchy.classifier import CentreMode, HierarchicalClassifier, RadiusMode
from dh2l.tree import ClassTree

Node = tuple[str, ...]

FLAT = ClassTree([(name,) for name in "abcde"])
UNBALANCED = ClassTree(  # groups of 3, 1, 2 and 1, their classes not next to each other
    [("p", "a"), ("q", "b"), ("p", "c"), ("r", "d"), ("s", "e"), ("r", "f"), ("p", "g")]
)
DEEP = ClassTree(  # level 1: 3, 1 and 2 children; level 2: 3, 2, 1, 2, 2 and 1
    [
        ("x", "x1", "a"), ("y", "y1", "b"), ("x", "x2", "c"), ("z", "z1", "d"), ("x", "x1", "e"),
        ("x", "x3", "f"), ("z", "z1", "g"), ("z", "z2", "h"), ("x", "x3", "i"), ("x", "x1", "j"),
        ("y", "y1", "k"),
    ]
)  # fmt: skip
TREES = {"flat": FLAT, "unbalanced": UNBALANCED, "deep": DEEP}
MODES: list[tuple[CentreMode, RadiusMode]] = [
    (centres, radius)
    for centres in ("learned", "parent", "mean")
    for radius in ("free", "unit")
]  # fmt: skip


def make(
    tree: ClassTree,
    centres: CentreMode = "learned",
    radius: RadiusMode = "free",
    *,
    seed: int = 0,
    d: int = 6,
) -> HierarchicalClassifier:
    """A float64 classifier with parameters moved off their initial values, each row by its own
    factor.
    """
    generator = torch.Generator().manual_seed(seed)
    classifier = HierarchicalClassifier(
        tree, d, centres=centres, radius=radius, generator=generator
    ).double()
    with torch.no_grad():
        for table in (classifier.surface, classifier.centre):
            for parameter in table.values():
                parameter += 0.2 * torch.randn(
                    parameter.shape, generator=generator, dtype=torch.float64
                )
                parameter *= (
                    torch.rand(len(parameter), 1, generator=generator, dtype=torch.float64) * 5
                    + 0.2
                )
    return classifier


class Oracle:
    """Projection vectors, centres, R_p, R_c and constraints of a classifier's parameters, by
    node.
    """

    def __init__(
        self,
        classifier: HierarchicalClassifier,
        seen: Collection[str] | None = None,
        *,
        epsilon: float = 0.5,
    ) -> None:
        self.paths = classifier.tree.paths
        self.L = len(self.paths[0])
        self.unit = classifier.radius_mode == "unit"
        self.mode = classifier.centre_mode
        self.seen_names = {path[-1] for path in self.paths} if seen is None else set(seen)
        self.inner_radii: dict[
            int, float
        ] = {}  # constant radii of D9, set by the test that knows them
        self.u = self._leaves(classifier, "surface")
        self.free_c = self._leaves(classifier, "centre")
        free: dict[Node, Tensor] = {}
        self.w: dict[Node, Tensor] = {}
        self.c: dict[Node, Tensor] = {}
        for level in range(self.L - 1, 0, -1):
            for node in self.nodes(level):
                if self.mode == "learned":
                    self.c[node] = self.free_c[node]
                elif self.mode == "mean":
                    below = self.u if level == self.L - 1 else self.c
                    vectors = [below[child] for child in self.children(node)]
                    self.c[node] = torch.stack(vectors).sum(0) / len(vectors)
                    if level == self.L - 1 and len(vectors) == 1:
                        self.c[node] = torch.zeros_like(vectors[0])
        for level in range(1, self.L + 1):
            for node in self.nodes(level):
                if node not in self.u:
                    continue
                free[node] = self.u[node]
                if level > 1:
                    parent = node[:-1]
                    centre = epsilon * free[parent] if self.mode == "parent" else self.c[parent]
                    free[node] = free[node] - centre
                self.w[node] = free[node]
                if self.unit:
                    self.w[node] = free[node] / self.length(free[node]) * 0.4 ** (level - self.L)
                if self.mode == "parent" and level < self.L:
                    self.c[node] = epsilon * self.w[node]

    def _leaves(self, classifier: HierarchicalClassifier, table: str) -> dict[Node, Tensor]:
        """The rows of the parameters as leaves of their own, by node."""
        leaves = {}
        for level, parameter in getattr(classifier, table).items():
            for node, row in zip(self.nodes(int(level)), parameter.detach(), strict=True):
                leaves[node] = row.clone().double().requires_grad_()
        return leaves

    def nodes(self, level: int) -> list[Node]:
        found: list[Node] = []
        for path in self.paths:
            if path[:level] not in found:
                found.append(path[:level])
        return found

    def children(self, node: Node) -> list[Node]:
        return [child for child in self.nodes(len(node) + 1) if child[:-1] == node]

    def seen(self, node: Node) -> bool:
        return any(path[: len(node)] == node and path[-1] in self.seen_names for path in self.paths)

    @staticmethod
    def length(vector: Tensor) -> Tensor:
        return (vector * vector).sum().sqrt()

    @staticmethod
    def mean(values: list[Tensor]) -> Tensor:
        return sum(values, torch.zeros((), dtype=torch.float64)) / max(len(values), 1)

    def _mean_of_groups(
        self, level: int, vectors: dict[Node, Tensor], d: Callable[[Tensor, Tensor], Tensor]
    ) -> Tensor:
        """Mean over the nodes of level − 1 of the mean pair of their seen children."""
        groups = []
        for parent in self.nodes(level - 1):
            pairs = list(
                combinations([child for child in self.children(parent) if self.seen(child)], 2)
            )
            if pairs:
                groups.append(self.mean([d(vectors[i], vectors[j]) for i, j in pairs]))
        return self.mean(groups)

    def r_p(self, d: Callable[[Tensor, Tensor], Tensor]) -> dict[int, Tensor]:
        levels = range(1, self.L + 1) if self.mode == "parent" else [self.L]
        return {level: self._mean_of_groups(level, self.w, d) for level in levels}

    def r_c(self, d: Callable[[Tensor, Tensor], Tensor]) -> dict[int, Tensor]:
        levels = range(2, self.L + 1) if self.mode != "parent" else range(0)
        return {level: self._mean_of_groups(level - 1, self.c, d) for level in levels}

    def radius(self, node: Node) -> Tensor:
        """Radius of the node's sphere, which holds its children."""
        level = len(node) + 1
        if self.unit:
            return torch.tensor(0.4 ** (level - self.L), dtype=torch.float64)
        if self.mode != "parent" and level < self.L:
            return torch.tensor(self.inner_radii[level], dtype=torch.float64)
        return self.mean(
            [self.length(self.w[child]) for child in self.children(node) if self.seen(child)]
        )

    def violations(self) -> dict[str, Tensor]:
        total = {key: torch.zeros((), dtype=torch.float64) for key in ("c1", "c2", "c3")}
        for found in self.violations_by_level().values():
            total = {key: total[key] + self.mean(found[key]) for key in total}
        return total

    def violations_by_level(self) -> dict[int, dict[str, list[Tensor]]]:
        """Return for each level each constraint's violations, one by one."""
        levels = {}
        for level in range(2, self.L + 1):
            found: dict[str, list[Tensor]] = {"c1": [], "c2": [], "c3": []}
            carriers = [node for node in self.nodes(level - 1) if self.seen(node)]
            for k in carriers:
                r_outer = self.radius(k[:-1])
                found["c1"].append(torch.relu(self.radius(k) - r_outer))
                found["c2"].append(torch.relu(self.length(self.c[k]) + self.radius(k) - r_outer))
            for j, k in combinations(carriers, 2):
                if j[:-1] == k[:-1]:
                    distance = self.length(self.c[j] - self.c[k])
                    found["c3"].append(torch.relu(self.radius(j) + self.radius(k) - distance))
            levels[level] = found
        return levels

    def centre_orthogonality(self) -> Tensor:
        """‖C·Cᵀ − I‖ of every parent with two seen children, C's rows one by one; D11."""
        total = torch.zeros((), dtype=torch.float64)
        for level in range(1, self.L):
            norms = []
            for parent in self.nodes(level - 1):
                centres = [self.c[k] for k in self.children(parent) if self.seen(k)]
                units = [
                    c / self.length(c) if c.any() else c for c in centres
                ]  # at 0 it has no direction
                if len(units) > 1:
                    squares = [(a * b).sum() ** 2 for a in units for b in units if a is not b]
                    square = sum(squares, torch.zeros((), dtype=torch.float64))
                    norms.append(square.sqrt() if square > 0 else square.detach())
            total = total + self.mean(norms)
        return total

    def gradients(self, value: Tensor) -> dict[str, Tensor]:
        """Gradient of a value by parameter name, in the library's shapes; 0 where it does not
        depend.
        """
        result = {}
        for table, leaves in (("surface", self.u), ("centre", self.free_c)):
            for level in sorted({len(node) for node in leaves}):
                rows = [leaves[node] for node in self.nodes(level)]
                if not value.requires_grad:
                    found: list[Tensor | None] = [None] * len(rows)
                else:
                    found = list(
                        torch.autograd.grad(value, rows, retain_graph=True, allow_unused=True)
                    )
                stacked = [
                    torch.zeros_like(row) if g is None else g
                    for row, g in zip(rows, found, strict=True)
                ]
                result[f"{table}.{level}"] = torch.stack(stacked)
        return result


def seen_mask(tree: ClassTree, names: Collection[str] | None) -> Tensor | None:
    """The names of the seen classes as the library takes them."""
    return None if names is None else torch.tensor([name in names for name in tree.classes])


def library_gradients(classifier: HierarchicalClassifier, value: Tensor) -> dict[str, Tensor]:
    """Gradient of a value by parameter name, 0 where nothing depends on it; without the logit
    scale.
    """
    named = {name: p for name, p in classifier.named_parameters() if name != "logit_scale"}
    if not value.requires_grad:
        return {name: torch.zeros_like(p) for name, p in named.items()}
    found = torch.autograd.grad(value, list(named.values()), retain_graph=True, allow_unused=True)
    return {
        name: torch.zeros_like(p) if g is None else g
        for (name, p), g in zip(named.items(), found, strict=True)
    }


def cosine(a: Tensor, b: Tensor) -> Tensor:
    """The ``cosine`` penalty of one pair; 0 with the zero vector, which has no direction."""
    if not a.any() or not b.any():
        return torch.zeros((), dtype=torch.float64)
    return (a * b).sum() / (Oracle.length(a) * Oracle.length(b))


def n_euclidean2(a: Tensor, b: Tensor) -> Tensor:
    """The ``n_euclidean2`` penalty of one pair."""
    return 1 / (2 - 2 * cosine(a, b).clamp(-0.99, 0.99))
