"""C, the constraints between the spheres of a class tree (appendix, eq. 4): C1, C2 and C3 as hinges (D10)."""

import torch
from torch import Tensor

from dh2l.classifier import HierarchicalClassifier, Spheres


def violations(
    classifier: HierarchicalClassifier, spheres: Spheres, *, seen: Tensor | None = None
) -> dict[str, Tensor]:
    """Mean violation of each constraint, summed over the sphere levels l ≥ 2; scalars with gradient.

    Node k of level l − 1 carries a sphere of level l with centre c_k and radius r_k, and lies on its
    parent's sphere, of radius r_outer:

    - ``c1``, inner radius: relu(r_k − r_outer), mean over nodes with a seen class;
    - ``c2``, inner centre: relu(‖c_k‖ + r_k − r_outer), mean over nodes with a seen class;
    - ``c3``, margin: relu(r_j + r_k − ‖c_j − c_k‖), mean over pairs of siblings that both have a seen class.

    A radius is the mean length of the seen projection vectors on the sphere, where its nodes own
    surface vectors; elsewhere (under ``unit`` radius, and above level L under ``learned`` and ``mean``
    centres) it is a constant, D6 and D9. A mean over nothing is 0 with zero gradient, so that all
    three are 0 where L = 1.

    Args:
        classifier: the classifier.
        spheres: its `spheres`, from the same parameters.
        seen: the batch's seen classes, bool ``(n_classes,)``; None where all count (D8).
    """
    nodes = classifier.index.seen_nodes(seen)
    zero = spheres.weight.new_zeros(())
    c1, c2, c3 = zero, zero, zero
    for level in range(2, classifier.depth + 1):
        groups = classifier.index.groups(level - 1)
        carriers, centres = nodes[level - 1], spheres.centres[level - 1]
        inner = _radii(classifier, spheres, level, nodes[level])
        outer = _radii(classifier, spheres, level - 1, carriers)[groups.parent]
        c1 = c1 + _masked_mean((inner - outer).relu(), carriers)
        c2 = c2 + _masked_mean((_norm(centres) + inner - outer).relu(), carriers)

        centre, radius = centres[groups.member], inner[groups.member]  # (n_{l−2}, m, d), (n_{l−2}, m)
        distance = _norm(centre[:, :, None] - centre[:, None, :])
        place = groups.present(carriers)
        pairs = (place[:, :, None] & place[:, None, :]).triu(diagonal=1)
        c3 = c3 + _masked_mean((radius[:, :, None] + radius[:, None, :] - distance).relu(), pairs)
    return {"c1": c1, "c2": c2, "c3": c3}


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
