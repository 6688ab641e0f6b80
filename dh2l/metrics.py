"""Pairwise penalties between the weight vectors of a layer: what the regularisers minimise (section 3.2).

Of two rows w_i, w_j of a weight of shape ``(n, d)``, with s the sign code of each entry:

    cos = ⟨w_i, w_j⟩ / (‖w_i‖‖w_j‖)      θ = arccos(clamp(cos)) / π                      continuous
    h   = ⟨s(w_i), s(w_j)⟩ / d           φ = (1 − h)/2  or  φ' = arccos(clamp(h)) / π    discrete

The clamp is to [−0.99, 0.99] (footnote 6) and passes no gradient outside. Values and gradients are finite
for every finite weight.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dh2l.errors import UserError, unknown_name
from dh2l.names import METRICS, Mean, Metric

__all__ = ["METRICS", "clamped_pairs", "find_metric", "pairwise_penalty"]

_BOUND = 0.99  # of the clamp, footnote 6
_NO_DIRECTION = 1e-8  # a row shorter than this has cos 0 with every other


def find_metric(name: str) -> Metric:
    """The metric of that key.

    Raises:
        UserError: there is none; the message lists the nearest keys.
    """
    if name not in METRICS:
        raise UserError(unknown_name("metric", name, METRICS))
    return METRICS[name]


def pairwise_penalty(name: str, weight: Tensor, *, ternary_threshold: float = 0.0) -> Tensor:
    """Penalty of every pair of rows (eq. 8–11; "N-euclidean2", "angular2" and "cosine" of section 4.1).

    Symmetric; the diagonal is exactly 0 with zero gradient. Computed in the weight's precision, in float32
    where that is lower, whatever autocast says.

    Args:
        name: key of ``METRICS``.
        weight: ``(…, n, d)``, the rows of one layer or of several layers of one shape.
        ternary_threshold: t ≥ 0 of ``hamming_ternary``: entries with |w| ≤ t·mean|w| of their layer are
            coded 0. The other metrics do not use it.

    Returns:
        Tensor: ``(…, n, n)``.

    Raises:
        UserError: an unknown name, a weight without rows of d ≥ 1 entries, or a threshold below 0.
    """
    _check_threshold(ternary_threshold)
    metric, W = find_metric(name), _rows(weight)
    with torch.autocast(W.device.type, enabled=False):
        match name:
            case "n_euclidean2":
                penalty = 1 / (2 - 2 * _clamp(_cosines(W)))
            case "angular2":
                penalty = _clamp(_cosines(W)).arccos() ** -2
            case "cosine":
                penalty = _cosines(W)
            case "hamming_binary":
                penalty = (1 + _agreements(_binary_code(W))) / 2
            case "hamming_ternary":
                penalty = (1 + _agreements(_ternary_code(W, ternary_threshold))) / 2
            case _:
                penalty = _combined(metric, _cosines(W), _agreements(_binary_code(W)), W.shape[-1])
        return _without_diagonal(penalty)


def clamped_pairs(name: str, weight: Tensor, *, ternary_threshold: float = 0.0) -> Tensor:
    """Which pairs the clamp of footnote 6 holds, so that their gradient is missing in part or in whole.

    True where cos lies outside [−0.99, 0.99], or h in a primed metric; False on the diagonal and throughout
    for ``cosine``, ``hamming_binary`` and ``hamming_ternary``, which clamp nothing.

    Args:
        name: key of ``METRICS``.
        weight: ``(…, n, d)``.
        ternary_threshold: as in ``pairwise_penalty``, so that both take the same arguments; no metric that
            uses it clamps.

    Returns:
        Tensor: boolean, ``(…, n, n)``, without gradient.

    Raises:
        UserError: as ``pairwise_penalty``.
    """
    _check_threshold(ternary_threshold)
    metric, W = find_metric(name), _rows(weight).detach()
    clamped = W.new_zeros((*W.shape[:-1], W.shape[-2]), dtype=torch.bool)
    with torch.autocast(W.device.type, enabled=False):
        if metric.clamps_cosine:
            clamped = clamped | (_cosines(W).abs() > _BOUND)
        if metric.clamps_agreement:
            clamped = clamped | (_agreements(_binary_code(W)).abs() > _BOUND)
    return clamped


# Of a ≥ 0 and b > 0: b comes from θ, which the clamp keeps off 0 and 1, so that no denominator is 0.
_MEANS: dict[Mean | None, Callable[[Tensor, Tensor], Tensor]] = {
    "am": lambda a, b: (a + b) / 2,
    "gm": lambda a, b: (a * b).sqrt(),
    "hm": lambda a, b: 2 * a * b / (a + b),
}


def _combined(metric: Metric, cos: Tensor, h: Tensor, d: int) -> Tensor:
    """The eighteen penalties of eq. 9–11, in [0, 1]: a mean M of the discrete and the continuous angle."""
    mean_of = _MEANS[metric.mean]
    theta = _clamp(cos).arccos() / math.pi
    phi = (1 - h) / 2 if metric.discrete == "linear" else _clamp(h).arccos() / math.pi
    if metric.cosine == "inside":
        if metric.mean == "gm":
            # √((cos πφ + 1)/2 · (cos πθ + 1)/2) = cos(πφ/2)·cos(πθ/2), without a root; written as a sine
            # because float32's cos(π/2) is below 0.
            return (math.pi / 2 * (1 - phi)).sin() * (math.pi / 2 * (1 - theta)).sin()
        return mean_of(_raised_cosine(phi), _raised_cosine(theta))
    if metric.mean == "gm" and metric.discrete == "linear":
        # The root's slope is infinite at φ = 0. φ is a multiple of 1/(2d), so the floor changes only
        # pairs of equal codes; it passes the gradient, so that they still repel.
        phi = phi + (phi.clamp(min=1 / (4 * d)) - phi).detach()
    mean = mean_of(phi, theta)
    return 1 - mean if metric.cosine == "none" else _raised_cosine(mean)


def _raised_cosine(angle: Tensor) -> Tensor:
    """(cos πx + 1)/2: 1 at angle 0, 0 at angle 1."""
    return ((math.pi * angle).cos() + 1) / 2


def _clamp(cos: Tensor) -> Tensor:
    return cos.clamp(-_BOUND, _BOUND)


def _cosines(W: Tensor) -> Tensor:
    """cos_ij, ``(…, n, d)`` → ``(…, n, n)``, with 0 on the diagonal."""
    # Squares of huge entries would overflow. The cosine is scale-free, so the divisor needs no gradient.
    rows = W / W.detach().abs().amax(dim=-1, keepdim=True).clamp(min=1)
    norm = torch.linalg.vector_norm(rows, dim=-1, keepdim=True)
    directionless = norm < _NO_DIRECTION
    unit = (rows / norm.masked_fill(directionless, 1)).masked_fill(directionless, 0)
    return _without_diagonal(unit @ unit.mT)


def _agreements(code: Tensor) -> Tensor:
    """h_ij (D_h, eq. 8) of codes in {−1, 0, 1}, ``(…, n, d)`` → ``(…, n, n)``, with 0 on the diagonal.

    Exact: a float32 sum of up to 2^24 such products does not round.
    """
    return _without_diagonal(code @ code.mT / code.shape[-1])


def _binary_code(W: Tensor) -> Tensor:
    """s(x) = 1 where x ≥ 0, else −1."""
    code: Tensor = _Sign.apply(W, None)
    return code


def _ternary_code(W: Tensor, threshold: float) -> Tensor:
    """s(x) = sign(x), but 0 where |x| ≤ t·mean|w| of the layer."""
    size = W.detach().abs()
    # Divided before it is summed: the sum of a layer of huge entries would overflow.
    mean = (size / max(W.shape[-2] * W.shape[-1], 1)).sum(dim=(-2, -1), keepdim=True)
    code: Tensor = _Sign.apply(W, size <= threshold * mean)
    return code


class _Sign(torch.autograd.Function):
    """The sign codes; backward the saturated straight-through estimator, ds/dx = 1 where |x| ≤ 1 (3.3)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, zero: Tensor | None) -> Tensor:
        """Binary codes of ``x``, or, with the mask ``zero`` of its shape, ternary ones."""
        ctx.save_for_backward(x.abs() <= 1)
        if zero is None:
            return torch.where(x >= 0, 1.0, -1.0).to(x.dtype)
        return x.sign().masked_fill(zero, 0)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:
        """The gradient where |x| ≤ 1, else 0."""
        (passes,) = ctx.saved_tensors
        return grad[0] * passes, None


def _without_diagonal(pairs: Tensor) -> Tensor:
    """0 on the diagonal, with zero gradient.

    Before any root or division as well as after: a slope that is infinite there would make NaN of a
    gradient masked afterwards.
    """
    return pairs.masked_fill(torch.eye(pairs.shape[-1], dtype=torch.bool, device=pairs.device), 0)


def _rows(weight: Tensor) -> Tensor:
    if weight.dim() < 2 or weight.shape[-1] == 0:
        raise UserError(
            "pairs are taken between the rows of a weight of shape (…, n, d) with d ≥ 1, but this one has "
            f"shape {tuple(weight.shape)}; flatten each weight vector into one row"
        )
    return weight.to(torch.promote_types(weight.dtype, torch.float32))


def _check_threshold(threshold: float) -> None:
    if not 0 <= threshold < math.inf:
        raise UserError(f"the ternary threshold must be a finite number ≥ 0, but it is {threshold}")
