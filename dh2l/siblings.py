"""A class tree as index tensors: which nodes are siblings, and which of them a batch has seen."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from dh2l.pairs import pair_index
from dh2l.tree import ClassTree

SMALL_BLOCK = 1 << 16
"""Pairs of places up to which all groups of a level share one block, however unequal they are."""


class SiblingGroups(nn.Module):
    """The nodes of one level l ≥ 1 grouped by parent, as static index tensors that move with the module.

    A row stands for a parent; m is the size of the largest group, and smaller groups are padded.

    Attributes:
        member: node of level l in each place, ``(n_{l−1}, m)``; 0 where padded.
        filled: whether a place holds a node, bool, ``(n_{l−1}, m)``.
        parent: the group of each node, ``(n_l,)``.
    """

    member: Tensor
    filled: Tensor
    parent: Tensor

    def __init__(self, tree: ClassTree, level: int) -> None:
        super().__init__()
        parents = tree.parents(level).tolist()
        groups: list[list[int]] = [[] for _ in range(tree.size(level - 1))]
        for node, parent in enumerate(parents):
            groups[parent].append(node)
        member, filled = _padded(groups)
        self.register_buffer("member", member, persistent=False)
        self.register_buffer("filled", filled, persistent=False)
        self.register_buffer("parent", torch.tensor(parents), persistent=False)
        self._blocks = nn.ModuleList(SiblingBlock(part, len(parents)) for part in _blocks(groups))

    @property
    def blocks(self) -> list["SiblingBlock"]:
        """The groups that have pairs, in as few blocks as pay."""
        return [cast("SiblingBlock", block) for block in self._blocks]

    def present(self, nodes: Tensor) -> Tensor:
        """Places held by a node of the mask ``nodes`` ``(n_l,)``: bool ``(n_{l−1}, m)``."""
        return nodes[self.member] & self.filled


class SiblingBlock(nn.Module):
    """Groups of about one size, side by side: what R multiplies at once. k groups of m places each.

    Attributes:
        member: node of the level in each place, ``(k, m)``; 0 where padded.
        filled: whether a place holds a node, bool, ``(k, m)``.
        index: `dh2l.pairs.pair_index` of m, ``(P,)``.
    """

    member: Tensor
    filled: Tensor
    index: Tensor
    _row: Tensor
    _column: Tensor
    _place: Tensor
    _here: Tensor

    def __init__(self, groups: Sequence[Sequence[int]], n_nodes: int) -> None:
        super().__init__()
        member, filled = _padded(groups)
        place = torch.zeros(n_nodes, dtype=torch.int64)
        place[member[filled]] = filled.flatten().nonzero().flatten()
        here = torch.zeros(n_nodes, 1, dtype=torch.bool)
        here[member[filled]] = True
        index = pair_index(member.shape[1])
        values = {"member": member, "filled": filled, "index": index, "_place": place, "_here": here}
        values |= {"_row": index // member.shape[1], "_column": index % member.shape[1]}
        for name, value in values.items():
            self.register_buffer(name, value, persistent=False)

    def gather(self, vectors: Tensor) -> Tensor:
        """Vectors of the level's nodes ``(n, d)`` → ``(k, m, d)``; what stands in a padded place means nothing.

        The gradient of a padded place must be 0.
        """
        gathered: Tensor = _Gather.apply(vectors, self.member, self._place, self._here)
        return gathered

    def present(self, nodes: Tensor) -> Tensor:
        """Places held by a node of the mask ``nodes`` ``(n,)``: bool ``(k, m)``."""
        return nodes[self.member] & self.filled

    def present_pairs(self, nodes: Tensor) -> Tensor:
        """Pairs of places that both hold a node of the mask: bool ``(k, P)``, ordered as `index`."""
        present = self.present(nodes)
        return present.index_select(1, self._row) & present.index_select(1, self._column)


class _Gather(torch.autograd.Function):
    """Rows to places. Every row has one place at most, so that backward gathers too: no scattered sums."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, member: Tensor, place: Tensor, here: Tensor) -> Tensor:
        """``(n, d)`` → ``(k, m, d)``."""
        ctx.save_for_backward(place, here)
        return rows[member]

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None, None, None]:
        """Each row takes the gradient of its place."""
        place, here = ctx.saved_tensors
        return grad[0].flatten(0, 1)[place] * here, None, None, None


def _padded(groups: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Groups as the rows of a matrix: members, 0 where there is none, and whether there is one."""
    width = max(map(len, groups))
    member = [[*group, *[0] * (width - len(group))] for group in groups]
    filled = [[True] * len(group) + [False] * (width - len(group)) for group in groups]
    return torch.tensor(member), torch.tensor(filled)


def _blocks(groups: Sequence[Sequence[int]]) -> list[list[Sequence[int]]]:
    """Groups that have pairs: all together where few places are padded in vain, else by size within a factor of 2."""
    paired = [group for group in groups if len(group) > 1]
    if len(paired) * max(map(len, paired), default=0) ** 2 <= SMALL_BLOCK:
        return [paired] if paired else []
    by_size: dict[int, list[Sequence[int]]] = {}
    for group in paired:
        by_size.setdefault((len(group) - 1).bit_length(), []).append(group)
    return [by_size[size] for size in sorted(by_size)]


def seen_classes(labels: Tensor, n_classes: int) -> Tensor:
    """Which classes occur among ``labels`` ``(batch,)``: bool ``(n_classes,)`` (D8).

    Compared with every class rather than scattered: deterministic on every device, and an empty
    batch has seen nothing.
    """
    return (labels[:, None] == torch.arange(n_classes, device=labels.device)).any(dim=0)


class TreeIndex(nn.Module):
    """A class tree as index tensors on the classifier's device."""

    def __init__(self, tree: ClassTree) -> None:
        super().__init__()
        self.depth = tree.depth
        self.n_classes = tree.n_classes
        self._groups = nn.ModuleList(SiblingGroups(tree, level) for level in range(1, tree.depth + 1))

    def groups(self, level: int) -> SiblingGroups:
        """The nodes of level l ≥ 1, grouped by parent: one group per sphere of level l."""
        return cast("SiblingGroups", self._groups[level - 1])

    def seen_classes(self, labels: Tensor) -> Tensor:
        """Which classes occur among ``labels`` ``(batch,)``: bool ``(n_classes,)`` (D8)."""
        return seen_classes(labels, self.n_classes)

    def seen_nodes(self, class_seen: Tensor | None) -> dict[int, Tensor]:
        """Level l of 0..L → which of its nodes have a seen class below them: bool ``(n_l,)`` (D8).

        ``class_seen`` is ``(n_classes,)``; None means that every class counts (`batch_structure: all`).
        """
        parent = self.groups(self.depth).parent
        seen = {self.depth: torch.ones_like(parent, dtype=torch.bool) if class_seen is None else class_seen}
        for level in range(self.depth, 0, -1):
            seen[level - 1] = self.groups(level).present(seen[level]).any(dim=1)
        return seen
