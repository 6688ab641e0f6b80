"""C, the constraints between the spheres of a class tree (appendix, eq. 4): C1, C2 and C3, and D11's orthogonality."""

from collections.abc import Mapping

import torch
from torch import Tensor

from dh2l.classifier import HierarchicalClassifier, Spheres
from dh2l.pairs import Measures, cosines, unordered


def violations(
    classifier: HierarchicalClassifier, spheres: Spheres, *, seen: Tensor | None = None
) -> dict[str, Tensor]:
    """Mean violation of each constraint, summed over the sphere levels l ≥ 2: `level_violations`, added up."""
    zero = spheres.weight.new_zeros(())
    by_level = level_violations(classifier, spheres, seen=seen)
    return {name: sum(levels.values(), zero) for name, levels in by_level.items()}


def level_violations(
    classifier: HierarchicalClassifier, spheres: Spheres, *, seen: Tensor | None = None, squared: bool = False
) -> dict[str, dict[int, Tensor]]:
    """Mean violation of each constraint on each sphere level l ≥ 2; scalars with gradient.

    Node k of level l − 1 carries a sphere of level l with centre c_k and radius r_k, and lies on its
    parent's sphere, of radius r_outer:

    - ``c1``, inner radius: relu(r_k − r_outer), mean over nodes with a seen class;
    - ``c2``, inner centre: relu(‖c_k‖ + r_k − r_outer), mean over nodes with a seen class;
    - ``c3``, margin: relu(r_j + r_k − ‖c_j − c_k‖), mean over pairs of siblings that both have a seen class.

    A radius is the mean length of the seen projection vectors on the sphere, where its nodes own
    surface vectors; elsewhere (under ``unit`` radius, and above level L under ``learned`` and ``mean``
    centres) it is a constant, D6 and D9. A mean over nothing is 0 with zero gradient. Where L = 1 there is no level.

    Args:
        classifier: the classifier.
        spheres: its `spheres`, from the same parameters.
        seen: the batch's seen classes, bool ``(n_classes,)``; None where all count (D8).
        squared: square each violation before the mean (D10).
    """
    nodes = classifier.index.seen_nodes(seen)
    c1: dict[int, Tensor] = {}  # torch's compiler cannot call dict[int, Tensor]
    c2: dict[int, Tensor] = {}
    c3: dict[int, Tensor] = {}

    def mean(violation: Tensor, mask: Tensor) -> Tensor:
        violation = violation.relu()
        return _masked_mean(violation**2 if squared else violation, mask)

    for level in range(2, classifier.depth + 1):
        groups = classifier.index.groups(level - 1)
        carriers, centres = nodes[level - 1], spheres.centres[level - 1]
        inner = _radii(classifier, spheres, level, nodes[level])
        outer = _radii(classifier, spheres, level - 1, carriers)[groups.parent]
        c1[level] = mean(inner - outer, carriers)
        c2[level] = mean(_norm(centres) + inner - outer, carriers)

        centre, radius = centres[groups.member], inner[groups.member]  # (n_{l−2}, m, d), (n_{l−2}, m)
        distance = _norm(centre[:, :, None] - centre[:, None, :])
        place = groups.present(carriers)
        pairs = (place[:, :, None] & place[:, None, :]).triu(diagonal=1)
        c3[level] = mean(radius[:, :, None] + radius[:, None, :] - distance, pairs)
    return {"c1": c1, "c2": c2, "c3": c3}


def centre_orthogonality(classifier: HierarchicalClassifier, spheres: Spheres, *, seen: Tensor | None = None) -> Tensor:
    """‖C·Cᵀ − I‖ (Frobenius) of siblings' unit relative centres (D11), a scalar with gradient.

    Of each level of centres the mean over the parents with at least two seen children, summed over levels. A centre
    at 0 has no direction: its products with others are 0, with zero gradient.

    Args:
        classifier: the classifier.
        spheres: its `spheres`, from the same parameters.
        seen: the batch's seen classes, bool ``(n_classes,)``; None where all count (D8).
    """
    nodes = classifier.index.seen_nodes(seen)
    total = spheres.weight.new_zeros(())
    for level, centres in spheres.centres.items():
        norms, parents = centres.new_zeros(()), centres.new_zeros(())
        for block in classifier.index.groups(level).blocks:
            cos = unordered(Measures(cosines(block.gather(centres)), None), block.index).cos
            assert cos is not None  # noqa: S101 it was given
            counted = block.present_pairs(nodes[level])
            # The diagonal of C·Cᵀ is that of I, and every pair stands in it twice.
            norms = norms + (2**0.5 * _norm(cos * counted)).sum()
            parents = parents + counted.any(dim=1).sum()
        total = total + norms / parents.clamp(min=1)
    return total


class Multipliers:
    """The multipliers m of the augmented Lagrangian m·v + ½ρv² (D10), one for each constraint and level, from 0.

    Args:
        weights: of each constraint its weight λ_C, which is ρ.
        levels: the sphere levels l ≥ 2.
        device: where they lie; they stay in place, so that a recorded step sees them change.

    Attributes:
        values: m, ``(constraints, levels)``.
    """

    def __init__(self, weights: Mapping[str, float], levels: range, device: torch.device) -> None:
        self._names, self._levels = tuple(weights), levels
        self._rho = torch.tensor(list(weights.values()), device=device)[:, None]
        self.values = torch.zeros(len(weights), len(levels), device=device)
        self._sums = torch.zeros_like(self.values)

    def terms(self, violated: Mapping[str, Mapping[int, Tensor]]) -> list[Tensor]:
        """Each constraint's m·v + ½ρv², summed over levels, of the levels' mean violations."""
        v = self._table(violated)
        return list((self.values * v + self._rho / 2 * v**2).sum(dim=1))

    @torch.no_grad()
    def note(self, violated: Mapping[str, Mapping[int, Tensor]], images: int) -> None:
        """Add a batch's violations to the epoch's."""
        self._sums += self._table(violated) * images

    def update(self, images: int) -> None:
        """At the end of an epoch of so many images: m ← m + ρ·(the epoch's mean v)."""
        self.values += self._rho * self._sums / images
        self._sums.zero_()

    def shown(self) -> dict[str, Tensor]:
        """Each by the name of its metric, ``multiplier_<constraint>_<level>``."""
        return {
            f"multiplier_{name}_{level}": self.values[i, j]
            for i, name in enumerate(self._names)
            for j, level in enumerate(self._levels)
        }

    def _table(self, violated: Mapping[str, Mapping[int, Tensor]]) -> Tensor:
        if not self._levels:
            return torch.zeros_like(self.values)
        return torch.stack([torch.stack([violated[name][level] for level in self._levels]) for name in self._names])


def _radii(classifier: HierarchicalClassifier, spheres: Spheres, level: int, nodes: Tensor) -> Tensor:
    """Radii of the spheres of a level, ``(n_{l−1},)``; ``nodes`` ``(n_l,)`` masks its seen nodes.

    A measured radius without a seen node is 0; the caller leaves its sphere out.
    """
    groups = classifier.index.groups(level)
    constant = classifier.constant_radius(level)
    if constant is not None:
        return constant.expand(groups.member.shape[0])
    present = groups.present(nodes)
    lengths = _norm(spheres.projections[level])[groups.member]
    return (lengths * present).sum(dim=1) / present.sum(dim=1).clamp(min=1)


def _norm(vectors: Tensor) -> Tensor:
    """Euclidean length over the last dimension; torch defines its gradient at 0 as 0."""
    length: Tensor = torch.linalg.vector_norm(vectors, dim=-1)
    return length


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the finite ``values`` where ``mask`` holds; 0 where it holds nowhere."""
    return (values * mask).sum() / mask.sum().clamp(min=1)
