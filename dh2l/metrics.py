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

from dh2l.errors import UserError, of_users, unknown_name
from dh2l.names import METRICS, Mean, Means, Metric
from dh2l.pairs import Measures, cosines, measure, ternary_cutoff

__all__ = ["METRICS", "clamped", "clamped_pairs", "find_metric", "largest_cosines", "pairwise_penalty", "penalties"]

_BOUND = 0.99  # of the clamp, footnote 6


def find_metric(name: str) -> Metric:
    """The metric of that key.

    Raises:
        UserError: there is none; the message lists the nearest keys.
    """
    if name not in METRICS:
        raise UserError(unknown_name("metric", name, METRICS))
    return METRICS[name]


def pairwise_penalty(name: str, weight: Tensor, *, ternary_threshold: float = 0.0, means: Means = "exact") -> Tensor:
    """Penalty of every pair of rows (eq. 8–11; "N-euclidean2", "angular2" and "cosine" of section 4.1).

    Symmetric; the diagonal is exactly 0 with zero gradient. Computed in the weight's precision, in float32
    where that is lower, whatever autocast says.

    Args:
        name: key of ``METRICS``.
        weight: ``(…, n, d)``, the rows of one layer or of several layers of one shape.
        ternary_threshold: t ≥ 0 of ``hamming_ternary``: entries with |w| ≤ t·mean|w| of their layer are
            coded 0. The other metrics do not use it.
        means: geometric and harmonic mean as they are, or as the first submission prints them (D2).

    Returns:
        Tensor: ``(…, n, n)``.

    Raises:
        UserError: an unknown name, a weight without rows of d ≥ 1 entries, or a threshold below 0.
    """
    metric, W = find_metric(name), _rows(weight)
    with torch.autocast(W.device.type, enabled=False):
        measures = measure(metric, W, ternary_cutoff(metric, W, ternary_threshold))
        return _without_diagonal(penalties(metric, measures, W.shape[-1], means))


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


def largest_cosines(weight: Tensor) -> Tensor:
    """Each row's largest cosine to another row, clamped (footnote 6): ``(…, n, d)`` → ``(…, n)``, n ≥ 1.

    −0.99 for an only row. Finite, value and gradient; rows equally near share the gradient.

    Raises:
        UserError: a weight without rows of d ≥ 1 entries.
    """
    W = _rows(weight)
    with torch.autocast(W.device.type, enabled=False):
        cos = _clamp(cosines(W))
        itself = torch.eye(cos.shape[-1], dtype=torch.bool, device=cos.device)
        return cos.masked_fill(itself, -_BOUND).amax(dim=-1)


def penalties(metric: Metric, measures: Measures, d: Tensor | int, means: Means = "exact") -> Tensor:
    """The penalty of each pair, from its measures alone; of their shape.

    Every slope is finite, for rows of zeros too, so that a pair is left out by multiplying with 0.

    Args:
        metric: the penalty.
        measures: of pairs from any layers, in any shape.
        d: entries of a row, a number or one for each pair.
        means: see `pairwise_penalty`.

    Raises:
        UserError: a registered penalty that raises, or gives anything but a tensor of that shape.
    """
    cos, h = measures
    if metric.function is not None:
        return _registered(metric, metric.function, measures)
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
            return _combined(metric, cos, h, d, printed=means == "printed")
    raise ValueError(f"{metric.key} was given measures of another metric")


def clamped(metric: Metric, measures: Measures) -> Tensor:
    """Which pairs the clamp of footnote 6 holds: bool, of the measures' shape."""
    held = torch.zeros_like(next(m for m in measures if m is not None), dtype=torch.bool)
    for values, clamps in zip(measures, (metric.clamps_cosine, metric.clamps_agreement), strict=True):
        if clamps and values is not None:
            held = held | (values.detach().abs() > _BOUND)
    return held


def _registered(metric: Metric, function: Callable[..., object], measures: Measures) -> Tensor:
    """A registered penalty of the measures that it uses."""
    given = {"cos": measures.cos, "h": measures.h}
    if metric.clamp and given["cos"] is not None:
        given["cos"] = _clamp(given["cos"])
    used = [values for name in metric.uses if (values := given[name]) is not None]
    found = of_users(f"the penalty {metric.key}", function, *used)
    if not isinstance(found, Tensor) or found.shape != used[0].shape:
        came = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
        raise UserError(
            f"the penalty {metric.key} was given pairs in shape {tuple(used[0].shape)} and gave {came}; give a tensor "
            "of the same shape"
        )
    return found


# Of a ≥ 0 and b > 0: b comes from θ, which the clamp keeps off 0 and 1, so that no denominator is 0.
_MEANS: dict[Mean | None, Callable[[Tensor, Tensor], Tensor]] = {
    "am": lambda a, b: (a + b) / 2,
    "gm": lambda a, b: (a * b).sqrt(),
    "hm": lambda a, b: 2 * a * b / (a + b),
}
_PRINTED_MEANS: dict[Mean | None, Callable[[Tensor, Tensor], Tensor]] = {  # of eq. 9 and 10 (D2)
    **_MEANS,
    "gm": lambda a, b: a * b,
    "hm": lambda a, b: 4 * a * b / (a + b),
}


def _combined(metric: Metric, cos: Tensor, h: Tensor, d: Tensor | int, *, printed: bool) -> Tensor:
    """The eighteen penalties of eq. 9–11: a mean M of the discrete and the continuous angle; in [0, 1] if exact."""
    mean_of = (_PRINTED_MEANS if printed and metric.cosine != "inside" else _MEANS)[metric.mean]
    theta = _clamp(cos).arccos() / math.pi
    phi = (1 - h) / 2 if metric.discrete == "linear" else _clamp(h).arccos() / math.pi
    if metric.cosine == "inside":
        if metric.mean == "gm":
            # √((cos πφ + 1)/2 · (cos πθ + 1)/2) = cos(πφ/2)·cos(πθ/2), without a root; written as a sine
            # because float32's cos(π/2) is below 0.
            root = (math.pi / 2 * (1 - phi)).sin() * (math.pi / 2 * (1 - theta)).sin()
            return root**2 if printed else root
        return mean_of(_raised_cosine(phi), _raised_cosine(theta))
    if metric.mean == "gm" and metric.discrete == "linear" and not printed:
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
