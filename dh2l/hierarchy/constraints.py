"""Constraints C1 to C3 between spheres (eq. 4), and orthogonal centres (D11)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from dh2l.hierarchy.classifier import HierarchicalClassifier, Spheres
from dh2l.pairwise.measures import Measures, cosines, upper_triangle


def violations(
    classifier: HierarchicalClassifier, spheres: Spheres, *, seen: Tensor | None = None
) -> dict[str, Tensor]:
    """Compute the mean violation of each constraint, summed over the sphere levels l ≥ 2.

    >>> from dh2l.tree import ClassTree
    >>> tree = ClassTree([("pets", "cat"), ("pets", "dog"), ("cars", "van"), ("cars", "bus")])
    >>> classifier = HierarchicalClassifier(tree, 8)
    >>> sorted(violations(classifier, classifier.spheres()))
    ['c1', 'c2', 'c3']

    Args:
        classifier: the classifier.
        spheres: its `spheres`, from the same parameters.
        seen: the batch's seen classes, bool ``(n_classes,)``; None includes all (D8).
    """
    zero = spheres.weight.new_zeros(())
    by_level = level_violations(classifier, spheres, seen=seen)
    return {name: sum(levels.values(), zero) for name, levels in by_level.items()}


def level_violations(
    classifier: HierarchicalClassifier,
    spheres: Spheres,
    *,
    seen: Tensor | None = None,
    squared: bool = False,
) -> dict[str, dict[int, Tensor]]:
    """Compute the mean violation of each constraint on each sphere level l ≥ 2.

    Node k of level l − 1 carries a sphere of level l with centre c_k and radius r_k, and lies on
    its parent's sphere, of radius r_outer:

    - ``c1``, inner radius: relu(r_k − r_outer), mean over nodes with a seen class;
    - ``c2``, inner centre: relu(‖c_k‖ + r_k − r_outer), mean over nodes with a seen class;
    - ``c3``, margin: relu(r_j + r_k − ‖c_j − c_k‖), mean over pairs of siblings that both have a
      seen class.

    A radius is the mean length of the seen projection vectors on the sphere, where its nodes own
    surface vectors. Elsewhere (under ``unit`` radius, and above level L under ``learned`` and
    ``mean`` centres) it is a constant, D6 and D9. A mean over nothing is 0 with zero gradient. A
    tree with L = 1 has no such level.

    Args:
        classifier: the classifier.
        spheres: its `spheres`, from the same parameters.
        seen: the batch's seen classes, bool ``(n_classes,)``; None includes all (D8).
        squared: square each violation before the mean (D10).

    Returns:
        By constraint and level, scalars with gradient.
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

        centre = centres[groups.member]  # (n_{l−2}, m, d)
        radius = inner[groups.member]  # (n_{l−2}, m)
        distance = _norm(centre[:, :, None] - centre[:, None, :])
        present = groups.present(carriers)
        pairs = (present[:, :, None] & present[:, None, :]).triu(diagonal=1)
        c3[level] = mean(radius[:, :, None] + radius[:, None, :] - distance, pairs)
    return {"c1": c1, "c2": c2, "c3": c3}


def centre_orthogonality(
    classifier: HierarchicalClassifier, spheres: Spheres, *, seen: Tensor | None = None
) -> Tensor:
    """Compute ‖C·Cᵀ − I‖ (Frobenius) of siblings' unit relative centres (D11).

    For each level of centres it is the mean over the parents with at least two seen children; the
    levels are summed. A centre at 0 has no direction: its products with others are 0, with zero
    gradient.

    Args:
        classifier: the classifier.
        spheres: its `spheres`, from the same parameters.
        seen: the batch's seen classes, bool ``(n_classes,)``; None includes all (D8).

    Returns:
        A scalar with gradient.
    """
    nodes = classifier.index.seen_nodes(seen)
    total = spheres.weight.new_zeros(())
    for level, centres in spheres.centres.items():
        norms, parents = centres.new_zeros(()), centres.new_zeros(())
        for block in classifier.index.groups(level).blocks:
            cos = upper_triangle(Measures(cosines(block.gather(centres)), None), block.index).cos
            assert cos is not None  # noqa: S101 it was given
            present = block.present_pairs(nodes[level])
            # The diagonal of C·Cᵀ equals that of I, and every pair has two entries.
            norms = norms + (2**0.5 * _norm(cos * present)).sum()
            parents = parents + present.any(dim=1).sum()
        total = total + norms / parents.clamp(min=1)
    return total


class Multipliers:
    """Multipliers m of the augmented Lagrangian m·v + ½ρv² (D10), per constraint and level, from 0.

    Args:
        weights: the weight λ_C of each constraint, which is ρ.
        levels: the sphere levels l ≥ 2.
        device: of the multipliers. They are updated in place, so that a captured CUDA graph sees
            them change.

    Attributes:
        values: m, ``(constraints, levels)``.
    """

    def __init__(self, weights: Mapping[str, float], levels: range, device: torch.device) -> None:
        self._names, self._levels = tuple(weights), levels
        self._rho = torch.tensor(list(weights.values()), device=device)[:, None]
        self.values = torch.zeros(len(weights), len(levels), device=device)
        self._sums = torch.zeros_like(self.values)

    def terms(self, violated: Mapping[str, Mapping[int, Tensor]]) -> list[Tensor]:
        """Compute m·v + ½ρv² of each constraint from its mean violations, summed over levels."""
        v = self._table(violated)
        return list((self.values * v + self._rho / 2 * v**2).sum(dim=1))

    @torch.no_grad()
    def accumulate(self, violated: Mapping[str, Mapping[int, Tensor]], images: int) -> None:
        """Add the violations of a batch to those of the epoch."""
        self._sums += self._table(violated) * images

    def update(self, images: int) -> None:
        """Set m ← m + ρ·(the epoch's mean v) at the end of an epoch of so many images."""
        self.values += self._rho * self._sums / images
        self._sums.zero_()

    def metrics(self) -> dict[str, Tensor]:
        """Return the multipliers by metric name, ``multiplier_<constraint>_<level>``."""
        return {
            f"multiplier_{name}_{level}": self.values[i, j]
            for i, name in enumerate(self._names)
            for j, level in enumerate(self._levels)
        }

    def _table(self, violated: Mapping[str, Mapping[int, Tensor]]) -> Tensor:
        if not self._levels:
            return torch.zeros_like(self.values)
        return torch.stack(
            [torch.stack([violated[name][level] for level in self._levels]) for name in self._names]
        )


def _radii(
    classifier: HierarchicalClassifier, spheres: Spheres, level: int, nodes: Tensor
) -> Tensor:
    """Return the radii of the spheres of a level, ``(n_{l−1},)``.

    ``nodes`` ``(n_l,)`` masks the seen nodes. A measured radius without a seen node is 0; the
    caller leaves its sphere out.
    """
    groups = classifier.index.groups(level)
    constant = classifier.constant_radius(level)
    if constant is not None:
        return constant.expand(groups.member.shape[0])
    present = groups.present(nodes)
    lengths = _norm(spheres.projections[level])[groups.member]
    return (lengths * present).sum(dim=1) / present.sum(dim=1).clamp(min=1)


def _norm(vectors: Tensor) -> Tensor:
    """Compute the Euclidean length over the last dimension; torch's gradient at 0 is 0."""
    length: Tensor = torch.linalg.vector_norm(vectors, dim=-1)
    return length


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Average the finite ``values`` where ``mask`` is True; 0 if it never is."""
    return (values * mask).sum() / mask.sum().clamp(min=1)
