"""Built-in regularisers of all weight vectors: MMA and orthogonality.

The paper does not compare with them.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from dh2l.pairwise.penalties import largest_cosines
from dh2l.regularisers.weight_vectors import WeightVectors


def maximal_minimal_angle(vectors: WeightVectors, *, scope: str = "all") -> Tensor:
    """Compute MMA (Wang et al. 2020).

    It is minus the mean over a layer's rows of the smallest angle (radians) to another row, summed
    over the layers of `scope`. A layer of one row counts 0. The cosine is clamped (footnote 6).
    """
    total = vectors.zero
    for layer in vectors.of(scope):
        if len(layer) > 1:
            total = total - largest_cosines(layer).arccos().mean()
    return total


def orthogonality(vectors: WeightVectors, *, scope: str = "all") -> Tensor:
    """Compute ‖W·Wᵀ − I‖ (Frobenius) of the rows as they are, summed over the layers of `scope`."""
    total = vectors.zero
    for layer in vectors.of(scope):
        unit = torch.eye(len(layer), dtype=layer.dtype, device=layer.device)
        total = total + torch.linalg.vector_norm(layer @ layer.mT - unit)
    return total


FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    f"{function.__module__}:{function.__name__}": function
    for function in (maximal_minimal_angle, orthogonality)
}
"""Functions of the built-in regularisers, by the names in `dh2l.registry.register.REGULARISERS`."""
