"""R, the hierarchical regulariser (section 3.1.2, eq. 5–7): pairwise penalties between siblings."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dh2l.classifier import HierarchicalClassifier, SiblingGroups, Spheres
from dh2l.errors import UserError
from dh2l.metrics import clamped_pairs, pairwise_penalty


@dataclass(frozen=True)
class HierarchicalTerms:
    """The terms of R by level of the sphere, each a scalar with gradient.

    Attributes:
        projection: R_p (eq. 6) of the levels whose nodes own surface vectors.
        centre: R_c (eq. 7) of the levels l ≥ 2; empty under ``parent`` centres, where a level's would
            repeat R_p of the level above.
        depth: L, the number of levels.
        metric: the penalty.
        counted: per term, its vectors ``(n, d)`` and which pairs of them count, bool ``(n, n)``.
    """

    projection: dict[int, Tensor]
    centre: dict[int, Tensor]
    depth: int
    metric: str
    counted: tuple[tuple[Tensor, Tensor], ...]

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
        clamped = [(clamped_pairs(self.metric, vectors) & pairs).sum() for vectors, pairs in self.counted]
        n_pairs = torch.stack([pairs.sum() for _, pairs in self.counted]).sum()
        return torch.stack(clamped).sum() / n_pairs.clamp(min=1)


def hierarchical_terms(
    classifier: HierarchicalClassifier,
    spheres: Spheres,
    metric: str,
    *,
    seen: Tensor | None,
    ternary_threshold: float = 0.0,
) -> HierarchicalTerms:
    """R_p and R_c of every level (eq. 6, 7).

    R_p of level l is the mean over its spheres of the mean penalty over the pairs of projection vectors
    on the sphere; R_c of level l ≥ 2 is the mean over the nodes of level l − 2 of the mean penalty over
    the pairs of relative centres of their children's spheres. Only seen nodes count, and a sphere or
    node without pairs is left out of the mean; without any pair a term is exactly 0, with zero gradient.

    The penalty is computed between all vectors of a level, and pairs of siblings are weighted: "the layer"
    of a ternary threshold is then the level, and the gradient needs no scattered sums.

    Args:
        classifier: the classifier.
        spheres: its `spheres`, from the same parameters; under ``unit`` radius they are the resized ones.
        metric: key of ``dh2l.names.METRICS``, for both terms.
        seen: the batch's seen classes, bool ``(n_classes,)``; None where all count (D8).
        ternary_threshold: of ``hamming_ternary``.

    Raises:
        UserError: an unknown metric.
    """
    nodes = classifier.index.seen_nodes(seen)
    counted = []

    def term(vectors: Tensor, level: int) -> Tensor:
        penalty = pairwise_penalty(metric, vectors, ternary_threshold=ternary_threshold)
        weights = pair_weights(classifier.index.groups(level), nodes[level], penalty.dtype)
        counted.append((vectors.detach(), weights > 0))
        return (penalty * weights).sum()

    projection = {level: term(vectors, level) for level, vectors in spheres.projections.items()}
    centre: dict[int, Tensor] = {}
    if classifier.centre_mode != "parent":
        centre = {level + 1: term(vectors, level) for level, vectors in spheres.centres.items()}
    return HierarchicalTerms(projection, centre, classifier.depth, metric, tuple(counted))


def pair_weights(groups: SiblingGroups, nodes: Tensor, dtype: torch.dtype) -> Tensor:
    """Weights that make a sum over the pairs of a level's n nodes the mean of the groups' mean pairs.

    ``(n, n)``, above the diagonal; 0 but for two siblings that are both in the mask ``nodes``
    ``(n,)``, and 0 throughout where there are none.
    """
    size = groups.present(nodes).sum(dim=1)
    n_pairs = size * (size - 1) // 2
    share = (n_pairs > 0).to(dtype) / (n_pairs * (n_pairs > 0).sum()).clamp(min=1)
    siblings = groups.parent[:, None] == groups.parent[None, :]
    pairs = (siblings & nodes[:, None] & nodes[None, :]).triu(diagonal=1)
    return pairs * share[groups.parent, None]
