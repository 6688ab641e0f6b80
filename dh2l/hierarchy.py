"""R, the hierarchical regulariser (section 3.1.2, eq. 5–7): pairwise penalties between siblings."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dh2l.classifier import HierarchicalClassifier, Spheres
from dh2l.errors import UserError
from dh2l.metrics import clamped, find_metric, penalties
from dh2l.names import Means, Metric
from dh2l.pairs import Measures, measure, ternary_cutoff, unordered
from dh2l.siblings import SiblingBlock


@dataclass(frozen=True)
class HierarchicalTerms:
    """The terms of R by level of the sphere, each a scalar with gradient.

    Attributes:
        projection: R_p (eq. 6) of the levels whose nodes own surface vectors.
        centre: R_c (eq. 7) of the levels l ≥ 2; empty under ``parent`` centres, where a level's would
            repeat R_p of the level above.
        depth: L, the number of levels.
        metric: the penalty.
        counted: the measures of the pairs, and their weights: a pair that does not count has weight 0.
    """

    projection: dict[int, Tensor]
    centre: dict[int, Tensor]
    depth: int
    metric: Metric
    counted: tuple[tuple[Measures, Tensor], ...]

    def weighted(self, level_weights: Sequence[float]) -> Tensor:
        """R = Σ_l λ_l (R_p + R_c) (eq. 4, 5), a scalar; ``level_weights`` are λ_1 … λ_L.

        Raises:
            UserError: not one weight per level.
        """
        if len(level_weights) != self.depth:
            raise UserError(
                f"the class tree has {self.depth} levels, but {len(level_weights)} level weights were given"
            )
        total = next(iter(self.projection.values())).new_zeros(())
        for level, weight in enumerate(level_weights, start=1):
            for terms in (self.projection, self.centre):
                if weight and level in terms:
                    total = total + weight * terms[level]
        return total

    @property
    def clamped_fraction(self) -> Tensor:
        """Fraction of the counted pairs that footnote 6 clamps, a scalar; 0 where no pair counts."""
        if not self.counted:
            return next(iter(self.projection.values())).new_zeros(())
        held = torch.stack([(clamped(self.metric, m) & (w > 0)).sum() for m, w in self.counted]).sum()
        return held / torch.stack([(w > 0).sum() for _, w in self.counted]).sum().clamp(min=1)


def hierarchical_terms(
    classifier: HierarchicalClassifier,
    spheres: Spheres,
    metric: str,
    *,
    seen: Tensor | None,
    ternary_threshold: float = 0.0,
    means: Means = "exact",
) -> HierarchicalTerms:
    """R_p and R_c of every level (eq. 6, 7).

    R_p of level l is the mean over its spheres of the mean penalty over the pairs of projection vectors
    on the sphere; R_c of level l ≥ 2 is the mean over the nodes of level l − 2 of the mean penalty over
    the pairs of relative centres of their children's spheres. Only seen nodes count, and a sphere or
    node without pairs is left out of the mean; without any pair a term is exactly 0, with zero gradient.

    The groups of siblings are gathered side by side, in blocks of about one size, and each block is multiplied
    at once: the cost is that of the pairs of siblings, not of all pairs of a level. "The layer" of a ternary
    threshold is the level.

    Args:
        classifier: the classifier.
        spheres: its `spheres`, from the same parameters; under ``unit`` radius they are the resized ones.
        metric: key of ``dh2l.names.METRICS``, for both terms.
        seen: the batch's seen classes, bool ``(n_classes,)``; None where all count (D8).
        ternary_threshold: of ``hamming_ternary``.
        means: of the combined metrics (D2).

    Raises:
        UserError: an unknown metric.
    """
    nodes, found = classifier.index.seen_nodes(seen), find_metric(metric)
    counted = []

    def term(vectors: Tensor, level: int) -> Tensor:
        blocks = classifier.index.groups(level).blocks
        cutoff = ternary_cutoff(found, vectors, ternary_threshold)
        total = vectors.new_zeros(())
        for block, weights in zip(blocks, pair_weights(blocks, nodes[level], vectors.dtype), strict=True):
            measures = unordered(measure(found, block.gather(vectors), cutoff), block.index)
            counted.append((measures, weights))
            total = total + (penalties(found, measures, vectors.shape[-1], means) * weights).sum()
        return total

    with torch.autocast(spheres.weight.device.type, enabled=False):
        projection = {level: term(vectors, level) for level, vectors in spheres.projections.items()}
        centre: dict[int, Tensor] = {}
        if classifier.centre_mode != "parent":
            centre = {level + 1: term(vectors, level) for level, vectors in spheres.centres.items()}
    return HierarchicalTerms(projection, centre, classifier.depth, found, tuple(counted))


def pair_weights(blocks: Sequence[SiblingBlock], nodes: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Weights that make a sum over all pairs of places the mean of the groups' mean pairs.

    ``(k, P)`` for each block: 0 but for two places that both hold a node of the mask ``nodes`` ``(n,)``, and 0
    throughout where there are none.
    """
    present = [block.present_pairs(nodes) for block in blocks]
    n_pairs = [pairs.sum(dim=1, keepdim=True) for pairs in present]
    n_groups = sum(((n > 0).sum() for n in n_pairs), torch.zeros((), dtype=torch.int64, device=nodes.device))
    return [pairs.to(dtype) / (n * n_groups).clamp(min=1) for pairs, n in zip(present, n_pairs, strict=True)]
