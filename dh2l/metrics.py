"""Pairwise penalties between the weight vectors of a layer: what the regularisers minimise (section 3.2).

Of two rows w_i, w_j of a weight of shape ``(n, d)``, with s the sign code of each entry:

    cos = ⟨w_i, w_j⟩ / (‖w_i‖‖w_j‖)      θ = arccos(clamp(cos)) / π                      continuous
    h   = ⟨s(w_i), s(w_j)⟩ / d           φ = (1 − h)/2  or  φ' = arccos(clamp(h)) / π    discrete

The clamp is to [−0.99, 0.99] (footnote 6) and passes no gradient outside. Values and gradients are finite
for every finite weight.

A penalty is computed in two steps: `dh2l.pairs.measure` multiplies matrices, rows by rows, and `penalties` is a
function of single pairs, whatever layer they come from. So the pairs of many layers go through the second at once.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dh2l.errors import UserError, unknown_name
from dh2l.names import METRICS, Mean, Metric
from dh2l.pairs import Measures, measure, ternary_cutoff

__all__ = ["METRICS", "clamped", "clamped_pairs", "find_metric", "pairwise_penalty", "penalties"]

_BOUND = 0.99  # of the clamp, footnote 6


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
    metric, W = find_metric(name), _rows(weight)
    with torch.autocast(W.device.type, enabled=False):
        measures = measure(metric, W, ternary_cutoff(metric, W, ternary_threshold))
        return _without_diagonal(penalties(metric, measures, W.shape[-1]))


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
    metric, W = find_metric(name), _rows(weight).detach()
    with torch.autocast(W.device.type, enabled=False):
        return _without_diagonal(clamped(metric, measure(metric, W, ternary_cutoff(metric, W, ternary_threshold))))


def penalties(metric: Metric, measures: Measures, d: Tensor | int) -> Tensor:
    """The penalty of each pair, from its measures alone; of their shape.

    Every slope is finite, for rows of zeros too, so that a pair is left out by multiplying with 0.

    Args:
        metric: the penalty.
        measures: of pairs from any layers, in any shape.
        d: entries of a row, a number or one for each pair.
    """
    cos, h = measures
    match metric:
        case Metric(key="cosine") if cos is not None:
            return cos
        case Metric(key="n_euclidean2") if cos is not None:
            return 1 / (2 - 2 * _clamp(cos))
        case Metric(key="angular2") if cos is not None:
            return _clamp(cos).arccos() ** -2
        case Metric(mean=None) if h is not None:
            return (1 + h) / 2
        case _ if cos is not None and h is not None:
            return _combined(metric, cos, h, d)
    raise ValueError(f"{metric.key} was given measures of another metric")


def clamped(metric: Metric, measures: Measures) -> Tensor:
    """Which pairs the clamp of footnote 6 holds: bool, of the measures' shape."""
    held = torch.zeros_like(next(m for m in measures if m is not None), dtype=torch.bool)
    for values, clamps in zip(measures, (metric.clamps_cosine, metric.clamps_agreement), strict=True):
        if clamps and values is not None:
            held = held | (values.detach().abs() > _BOUND)
    return held


# Of a ≥ 0 and b > 0: b comes from θ, which the clamp keeps off 0 and 1, so that no denominator is 0.
_MEANS: dict[Mean | None, Callable[[Tensor, Tensor], Tensor]] = {
    "am": lambda a, b: (a + b) / 2,
    "gm": lambda a, b: (a * b).sqrt(),
    "hm": lambda a, b: 2 * a * b / (a + b),
}


def _combined(metric: Metric, cos: Tensor, h: Tensor, d: Tensor | int) -> Tensor:
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
        phi = phi + (phi.clamp(min=0.25 / d) - phi).detach()
    mean = mean_of(phi, theta)
    return 1 - mean if metric.cosine == "none" else _raised_cosine(mean)


def _raised_cosine(angle: Tensor) -> Tensor:
    """(cos πx + 1)/2: 1 at angle 0, 0 at angle 1."""
    return ((math.pi * angle).cos() + 1) / 2


def _clamp(cos: Tensor) -> Tensor:
    return cos.clamp(-_BOUND, _BOUND)


def _without_diagonal(pairs: Tensor) -> Tensor:
    """0 on the diagonal, with zero gradient."""
    return pairs.masked_fill(torch.eye(pairs.shape[-1], dtype=torch.bool, device=pairs.device), 0)


def _rows(weight: Tensor) -> Tensor:
    if weight.dim() < 2 or weight.shape[-1] == 0:
        raise UserError(
            "pairs are taken between the rows of a weight of shape (…, n, d) with d ≥ 1, but this one has "
            f"shape {tuple(weight.shape)}; flatten each weight vector into one row"
        )
    return weight.to(torch.promote_types(weight.dtype, torch.float32))
