"""Index tensors of a class tree: groups of siblings, seen nodes."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from dh2l.pairwise.measures import pair_indices
from dh2l.tree import ClassTree

SMALL_BLOCK = 1 << 16
"""Largest number of padded pairs for which all groups of a level share one block."""


class SiblingGroups(nn.Module):
    """Nodes of one level l ≥ 1 by parent, as static index tensors that move with the module.

    A row stands for a parent; m is the size of the largest group, and smaller groups are padded.

    Attributes:
        member: node of level l in each slot, ``(n_{l−1}, m)``; 0 where padded.
        filled: True where a slot holds a node, bool, ``(n_{l−1}, m)``.
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
        member, filled = _pad(groups)
        self.register_buffer("member", member, persistent=False)
        self.register_buffer("filled", filled, persistent=False)
        self.register_buffer("parent", torch.tensor(parents), persistent=False)
        self._blocks = nn.ModuleList(
            SiblingBlock(part, len(parents)) for part in _split_by_size(groups)
        )

    @property
    def blocks(self) -> list["SiblingBlock"]:
        """The groups that have pairs, in few blocks with little padding."""
        return [cast("SiblingBlock", block) for block in self._blocks]

    def present(self, nodes: Tensor) -> Tensor:
        """Return the slots that hold a node of the mask ``nodes`` ``(n_l,)``: ``(n_{l−1}, m)``."""
        return nodes[self.member] & self.filled


class SiblingBlock(nn.Module):
    """Groups of similar size that R multiplies at once: k groups of m slots each.

    Attributes:
        member: node of the level in each slot, ``(k, m)``; 0 where padded.
        filled: True where a slot holds a node, bool, ``(k, m)``.
        index: `dh2l.pairwise.measures.pair_indices` of m, ``(P,)``.
    """

    member: Tensor
    filled: Tensor
    index: Tensor
    _row: Tensor
    _column: Tensor
    _slot: Tensor
    _in_block: Tensor

    def __init__(self, groups: Sequence[Sequence[int]], n_nodes: int) -> None:
        super().__init__()
        member, filled = _pad(groups)
        slot = torch.zeros(n_nodes, dtype=torch.int64)
        slot[member[filled]] = filled.flatten().nonzero().flatten()
        in_block = torch.zeros(n_nodes, 1, dtype=torch.bool)
        in_block[member[filled]] = True
        index = pair_indices(member.shape[1])
        buffers = {
            "member": member,
            "filled": filled,
            "index": index,
            "_slot": slot,
            "_in_block": in_block,
            "_row": index // member.shape[1],
            "_column": index % member.shape[1],
        }
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)

    def gather(self, vectors: Tensor) -> Tensor:
        """Gather the vectors of the level's nodes, ``(n, d)`` → ``(k, m, d)``.

        Padded slots hold arbitrary values. Their gradient must be 0.
        """
        gathered: Tensor = _Gather.apply(vectors, self.member, self._slot, self._in_block)
        return gathered

    def present(self, nodes: Tensor) -> Tensor:
        """Return the slots that hold a node of the mask ``nodes`` ``(n,)``: bool ``(k, m)``."""
        return nodes[self.member] & self.filled

    def present_pairs(self, nodes: Tensor) -> Tensor:
        """Return the pairs of slots that both hold a node of the mask: ``(k, P)``, as `index`."""
        present = self.present(nodes)
        return present.index_select(1, self._row) & present.index_select(1, self._column)


class _Gather(torch.autograd.Function):
    """Rows gathered into slots. A row has at most one slot, so backward gathers as well."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, member: Tensor, slot: Tensor, in_block: Tensor) -> Tensor:
        """Gather ``(n, d)`` → ``(k, m, d)``."""
        ctx.save_for_backward(slot, in_block)
        return rows[member]

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None, None, None]:
        """Return to each row the gradient of its slot."""
        slot, in_block = ctx.saved_tensors
        return grad[0].flatten(0, 1)[slot] * in_block, None, None, None


def _pad(groups: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Stack groups as the rows of a matrix, padded with 0, with the mask of their members."""
    width = max(map(len, groups))
    member = torch.zeros(len(groups), width, dtype=torch.int64)
    filled = torch.zeros(len(groups), width, dtype=torch.bool)
    for row, group in enumerate(groups):
        member[row, : len(group)] = torch.tensor(group, dtype=torch.int64)
        filled[row, : len(group)] = True
    return member, filled


def _split_by_size(groups: Sequence[Sequence[int]]) -> list[list[Sequence[int]]]:
    """Split the groups that have pairs by size, within a factor of 2.

    Keep them together if the padding is small.
    """
    paired = [group for group in groups if len(group) > 1]
    if len(paired) * max(map(len, paired), default=0) ** 2 <= SMALL_BLOCK:
        return [paired] if paired else []
    by_size: dict[int, list[Sequence[int]]] = {}
    for group in paired:
        by_size.setdefault((len(group) - 1).bit_length(), []).append(group)
    return [by_size[size] for size in sorted(by_size)]


def seen_classes(labels: Tensor, n_classes: int) -> Tensor:
    """Return which classes occur among ``labels`` ``(batch,)``: bool ``(n_classes,)`` (D8).

    The labels are compared with every class rather than scattered. This is deterministic on every
    device, and an empty batch has seen nothing.

    >>> seen_classes(torch.tensor([2, 0, 2]), n_classes=4)
    tensor([ True, False,  True, False])
    """
    return (labels[:, None] == torch.arange(n_classes, device=labels.device)).any(dim=0)


class TreeIndex(nn.Module):
    """Class tree as index tensors on the classifier's device.

    >>> index = TreeIndex(ClassTree([("pets", "cat"), ("pets", "dog"), ("cars", "van")]))
    >>> index.groups(2).parent
    tensor([0, 0, 1])
    >>> index.seen_nodes(torch.tensor([False, True, False]))[1]
    tensor([ True, False])
    """

    def __init__(self, tree: ClassTree) -> None:
        super().__init__()
        self.depth = tree.depth
        self.n_classes = tree.n_classes
        self._groups = nn.ModuleList(
            SiblingGroups(tree, level) for level in range(1, tree.depth + 1)
        )

    def groups(self, level: int) -> SiblingGroups:
        """Return the nodes of level l ≥ 1, grouped by parent: one group per sphere of level l."""
        return cast("SiblingGroups", self._groups[level - 1])

    def seen_classes(self, labels: Tensor) -> Tensor:
        """Return which classes occur among ``labels`` ``(batch,)``: bool ``(n_classes,)`` (D8)."""
        return seen_classes(labels, self.n_classes)

    def seen_nodes(self, class_seen: Tensor | None) -> dict[int, Tensor]:
        """Map each level l of 0..L to its nodes with a seen class below them: ``(n_l,)`` (D8).

        Args:
            class_seen: bool, ``(n_classes,)``; None if every class counts (`batch_structure: all`).
        """
        if class_seen is None:
            parent = self.groups(self.depth).parent
            class_seen = torch.ones_like(parent, dtype=torch.bool)
        seen = {self.depth: class_seen}
        for level in range(self.depth, 0, -1):
            seen[level - 1] = self.groups(level).present(seen[level]).any(dim=1)
        return seen
