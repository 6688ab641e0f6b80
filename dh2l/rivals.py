"""Regularisers that the paper does not compare with: registered as a user's own would be.

MHE's other energies (Liu et al. 2018: s = 0, 1, 2; Euclidean and angular; half-space), MMA (Wang et al. 2020) and
orthogonality. The Riesz energies with s = 2 that the paper has are `n_euclidean2` and `angular2`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from dh2l.registry import penalty, regulariser

if TYPE_CHECKING:
    from torch import Tensor

    from dh2l.objective import Vectors

DISTANCES: dict[str, tuple[str, Callable[["Tensor"], "Tensor"]]] = {
    "n_euclidean": ("N-euclidean", lambda cos: (2 - 2 * cos).sqrt()),
    "angular": ("angular", lambda cos: cos.arccos()),
}
"""Distances D of two unit vectors, of their clamped cosine: MHE's Euclidean one, and the angle (radians)."""
ENERGIES: dict[int, Callable[["Tensor"], "Tensor"]] = {
    0: lambda distance: -distance.log(),
    1: lambda distance: 1 / distance,
    2: lambda distance: distance**-2,
}
"""Riesz energies of a distance by their power s."""


def _riesz(distance: Callable[["Tensor"], "Tensor"], s: int, *, half_space: bool) -> Callable[["Tensor"], "Tensor"]:
    """MHE's energy of a pair.

    In half-space form every row is joined by its negative and pairs (w, −w) are left out: the four pairs that two
    rows then make have only two distinct cosines, cos and −cos, and the mean of their energies is the pair's.
    """

    def energy(cos: "Tensor") -> "Tensor":
        if half_space:
            return (ENERGIES[s](distance(cos)) + ENERGIES[s](distance(-cos))) / 2
        return ENERGIES[s](distance(cos))

    return energy


for _name, (_label, _distance) in DISTANCES.items():
    for _s in ENERGIES:
        if _s < 2:
            penalty(f"{_name}{_s}", label=f"{_label}{_s}")(_riesz(_distance, _s, half_space=False))
        penalty(f"half_{_name}{_s}", label=f"half {_label}{_s}")(_riesz(_distance, _s, half_space=True))


@regulariser("mma")
def maximal_minimal_angle(vectors: "Vectors", *, scope: str = "all") -> "Tensor":
    """MMA (Wang et al. 2020): minus the mean over a layer's rows of the smallest angle (radians) to another row.

    Summed over the layers of `scope`; a layer of one row counts 0. The cosine is clamped (footnote 6).
    """
    from dh2l.metrics import largest_cosines

    total = vectors.zero
    for layer in vectors.of(scope):
        if len(layer) > 1:
            total = total - largest_cosines(layer).arccos().mean()
    return total


@regulariser("orthogonality")
def orthogonality(vectors: "Vectors", *, scope: str = "all") -> "Tensor":
    """‖W·Wᵀ − I‖, the Frobenius norm, summed over the layers of `scope`; the rows as they are, not normalised."""
    import torch

    total = vectors.zero
    for layer in vectors.of(scope):
        unit = torch.eye(len(layer), dtype=layer.dtype, device=layer.device)
        total = total + torch.linalg.vector_norm(layer @ layer.mT - unit)
    return total
