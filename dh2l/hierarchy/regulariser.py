"""R, the hierarchical regulariser (3.1.2, eq. 5–7): pairwise penalties between siblings."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dh2l.errors import UserError
from dh2l.hierarchy.classifier import HierarchicalClassifier, Spheres
from dh2l.hierarchy.tree_index import SiblingBlock, SiblingGroups
from dh2l.pairwise.measures import Measures, measure, ternary_cutoff, upper_triangle
from dh2l.pairwise.penalties import clamped, find_penalty, penalties
from dh2l.registry.entries import Means, Penalty
from dh2l.wording import counted

WeightedPairs = tuple[Measures, Tensor]
"""Measures of pairs, and the weights of the pairs; the weight of an excluded pair is 0."""


@dataclass(frozen=True)
class HierarchicalTerms:
    """Terms of R by level of the sphere, each a scalar with gradient.

    Attributes:
        projection: R_p (eq. 6) of the levels whose nodes own surface vectors.
        centre: R_c (eq. 7) of the levels l ≥ 2; empty under ``parent`` centres, where the term of a
            level would repeat R_p of the level above.
        depth: L, the number of levels.
        penalty: the pairwise penalty.
        pairs: the measures of the pairs, and their weights.
    """

    projection: dict[int, Tensor]
    centre: dict[int, Tensor]
    depth: int
    penalty: Penalty
    pairs: tuple[WeightedPairs, ...]

    def weighted(self, level_weights: Sequence[float]) -> Tensor:
        """Compute R = Σ_l λ_l (R_p + R_c) (eq. 4, 5), a scalar.

        Args:
            level_weights: λ_1 … λ_L.

        Raises:
            UserError: the number of weights is not the number of levels.
        """
        if len(level_weights) != self.depth:
            raise UserError(
                f"level_weights has {counted(len(level_weights), 'value')}; expected "
                f"{self.depth}, one for each level of the class tree"
            )
        total = next(iter(self.projection.values())).new_zeros(())
        for level, weight in enumerate(level_weights, start=1):
            for terms in (self.projection, self.centre):
                if weight and level in terms:
                    total = total + weight * terms[level]
        return total

    @property
    def clamped_fraction(self) -> Tensor:
        """Fraction of the included pairs that footnote 6 clamps, a scalar; 0 without pairs."""
        if not self.pairs:
            return next(iter(self.projection.values())).new_zeros(())
        held = [(clamped(self.penalty, m) & (w > 0)).sum() for m, w in self.pairs]
        included = [(w > 0).sum() for _, w in self.pairs]
        return torch.stack(held).sum() / torch.stack(included).sum().clamp(min=1)


def hierarchical_terms(
    classifier: HierarchicalClassifier,
    spheres: Spheres,
    metric: str,
    *,
    seen: Tensor | None,
    ternary_threshold: float = 0.0,
    means: Means = "exact",
) -> HierarchicalTerms:
    """Compute R_p and R_c of every level (eq. 6, 7).

    R_p of level l is the mean over its spheres of the mean penalty over the pairs of projection
    vectors on the sphere. R_c of level l ≥ 2 is the mean over the nodes of level l − 2 of the mean
    penalty over the pairs of relative centres of their children's spheres. Only seen nodes are
    included, and a sphere or node without pairs is left out of the mean. Without any pair a term is
    exactly 0, with zero gradient.

    Groups of siblings are gathered in blocks of similar size, and each block is multiplied at once.
    The cost is that of the pairs of siblings, not of all pairs of a level. "The layer" of a ternary
    threshold is the level.

    >>> from dh2l.tree import ClassTree
    >>> tree = ClassTree([("pets", "cat"), ("pets", "dog"), ("cars", "van"), ("cars", "bus")])
    >>> classifier = HierarchicalClassifier(tree, 8, centres="mean")
    >>> terms = hierarchical_terms(classifier, classifier.spheres(), "cosine", seen=None)
    >>> sorted(terms.projection), sorted(terms.centre)
    ([2], [2])
    >>> terms.weighted([0.0, 0.1]).shape
    torch.Size([])

    Args:
        classifier: the classifier.
        spheres: its `spheres`, from the same parameters; resized under ``unit`` radius.
        metric: key of ``dh2l.registry.entries.METRICS``, for both terms.
        seen: the batch's seen classes, bool ``(n_classes,)``; None includes all (D8).
        ternary_threshold: of ``hamming_ternary``.
        means: of the combined penalties (D2).

    Raises:
        UserError: an unknown metric.
    """
    nodes, penalty = classifier.index.seen_nodes(seen), find_penalty(metric)
    pairs: list[WeightedPairs] = []

    def term(vectors: Tensor, level: int) -> Tensor:
        value, measured = sibling_term(
            classifier.index.groups(level),
            vectors,
            nodes[level],
            penalty,
            ternary_threshold=ternary_threshold,
            means=means,
        )
        pairs.extend(measured)
        return value

    with torch.autocast(spheres.weight.device.type, enabled=False):
        projection = {level: term(vectors, level) for level, vectors in spheres.projections.items()}
        centre: dict[int, Tensor] = {}
        if classifier.centre_mode != "parent":
            centre = {level + 1: term(vectors, level) for level, vectors in spheres.centres.items()}
    return HierarchicalTerms(projection, centre, classifier.depth, penalty, tuple(pairs))


def sibling_term(
    groups: SiblingGroups,
    vectors: Tensor,
    nodes: Tensor,
    penalty: Penalty,
    *,
    ternary_threshold: float = 0.0,
    means: Means = "exact",
) -> tuple[Tensor, list[WeightedPairs]]:
    """Compute the mean over the parents of a level of the mean penalty of their children's pairs.

    Args:
        groups: the nodes of the level, by parent.
        vectors: one vector per node of the level, ``(n_l, d)``.
        nodes: mask of the included nodes of the level, bool ``(n_l,)``.
        penalty: the pairwise penalty.
        ternary_threshold: of ``hamming_ternary``.
        means: of the combined penalties (D2).

    Returns:
        The term, a scalar with gradient, and the measures of the pairs with their weights.
    """
    cutoff = ternary_cutoff(penalty, vectors, ternary_threshold)
    total, pairs = vectors.new_zeros(()), []
    weights_of_blocks = pair_weights(groups.blocks, nodes, vectors.dtype)
    for block, weights in zip(groups.blocks, weights_of_blocks, strict=True):
        measures = upper_triangle(measure(penalty, block.gather(vectors), cutoff), block.index)
        pairs.append((measures, weights))
        total = total + (penalties(penalty, measures, vectors.shape[-1], means) * weights).sum()
    return total, pairs


def pair_weights(blocks: Sequence[SiblingBlock], nodes: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Return weights that turn a sum over all pairs of slots into the mean of the groups' means.

    Args:
        blocks: the groups of a level.
        nodes: mask of the included nodes, bool ``(n,)``.
        dtype: of the weights.

    Returns:
        ``(k, P)`` for each block: 0 for a pair with a slot that does not hold an included node.
    """
    present = [block.present_pairs(nodes) for block in blocks]
    n_pairs = [pairs.sum(dim=1, keepdim=True) for pairs in present]
    n_groups = torch.zeros((), dtype=torch.int64, device=nodes.device)
    for n in n_pairs:
        n_groups = n_groups + (n > 0).sum()
    return [
        pairs.to(dtype) / (n * n_groups).clamp(min=1)
        for pairs, n in zip(present, n_pairs, strict=True)
    ]
