"""Pairwise penalties between the weight vectors of a layer (3.2).

For two rows w_i, w_j of a weight of shape ``(n, d)``, with s the sign code of each entry:

    cos = ⟨w_i, w_j⟩ / (‖w_i‖‖w_j‖)      θ = arccos(clamp(cos)) / π                      continuous
    h   = ⟨s(w_i), s(w_j)⟩ / d           φ = (1 − h)/2  or  φ' = arccos(clamp(h)) / π    discrete

The clamp is to [−0.99, 0.99] (footnote 6) and passes no gradient outside. Values and gradients are
finite for every finite weight.

A penalty is computed in two steps. `dh2l.pairwise.measures.measure` multiplies matrices, rows by
rows. `penalties` is a function of single pairs of any layers, so that it is called once for the
pairs of many layers.

In configs a penalty is named by the key `metric`, the paper's word; elsewhere a metric is a number
such as accuracy.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dh2l.errors import UserError, call_user_code, unknown_name_message
from dh2l.pairwise.measures import Measures, cosines, measure, ternary_cutoff
from dh2l.registry.entries import METRICS, Distance, Mean, Means, Penalty, RieszEnergy

__all__ = [
    "METRICS",
    "clamped",
    "clamped_pairs",
    "find_penalty",
    "largest_cosines",
    "pairwise_penalty",
    "penalties",
]

_BOUND = 0.99  # of the clamp, footnote 6


def find_penalty(name: str) -> Penalty:
    """Return the penalty with a key.

    >>> find_penalty("cos_hm_arccos").display_label
    "D'_cos(HM)"

    Raises:
        UserError: the key is unknown; the message lists the nearest keys.
    """
    if name not in METRICS:
        raise UserError(unknown_name_message("metric", name, METRICS))
    return METRICS[name]


def pairwise_penalty(
    name: str, weight: Tensor, *, ternary_threshold: float = 0.0, means: Means = "exact"
) -> Tensor:
    """Compute the penalty of every pair of rows (eq. 8–11, and the baselines of section 4.1).

    The result is symmetric; its diagonal is exactly 0 with zero gradient. It is computed in the
    weight's precision, but at least in float32, also under autocast.

    >>> weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    >>> pairwise_penalty("cosine", weight)
    tensor([[ 0.,  0., -1.],
            [ 0.,  0.,  0.],
            [-1.,  0.,  0.]])
    >>> pairwise_penalty("n_euclidean2", weight)[0, 1]
    tensor(0.5000)

    Args:
        name: key of ``METRICS``.
        weight: ``(…, n, d)``, the rows of one layer or of several layers of one shape.
        ternary_threshold: t ≥ 0 of ``hamming_ternary``: the code of an entry is 0 if
            |w| ≤ t·mean|w| of its layer. The other penalties ignore it.
        means: geometric and harmonic mean, exact or as printed in the first submission (D2).

    Returns:
        Tensor: ``(…, n, n)``.

    Raises:
        UserError: an unknown name, a weight without rows of d ≥ 1 entries, or a threshold below 0.
    """
    penalty, W = find_penalty(name), _rows(weight)
    with torch.autocast(W.device.type, enabled=False):
        measures = measure(penalty, W, ternary_cutoff(penalty, W, ternary_threshold))
        return _without_diagonal(penalties(penalty, measures, W.shape[-1], means))


def clamped_pairs(name: str, weight: Tensor, *, ternary_threshold: float = 0.0) -> Tensor:
    """Return the pairs that the clamp of footnote 6 holds, which lack some or all gradient.

    An entry is True if cos lies outside [−0.99, 0.99], or h in a primed penalty. The diagonal is
    False, and so is everything for ``cosine``, ``hamming_binary`` and ``hamming_ternary``, which
    do not clamp.

    >>> clamped_pairs("angular2", torch.tensor([[1.0, 0.0], [9.0, 0.1], [0.0, 1.0]]))
    tensor([[False,  True, False],
            [ True, False, False],
            [False, False, False]])

    Args:
        name: key of ``METRICS``.
        weight: ``(…, n, d)``.
        ternary_threshold: accepted so that `pairwise_penalty` takes the same arguments.

    Returns:
        Tensor: boolean, ``(…, n, n)``, without gradient.

    Raises:
        UserError: as ``pairwise_penalty``.
    """
    penalty, W = find_penalty(name), _rows(weight).detach()
    with torch.autocast(W.device.type, enabled=False):
        measures = measure(penalty, W, ternary_cutoff(penalty, W, ternary_threshold))
        return _without_diagonal(clamped(penalty, measures))


def largest_cosines(weight: Tensor) -> Tensor:
    """Compute each row's largest cosine to another row, clamped (footnote 6).

    Values and gradients are finite. Rows at equal distance share the gradient.

    >>> largest_cosines(torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.0, -3.0]]))
    tensor([0., 0., 0.])

    Args:
        weight: ``(…, n, d)``, n ≥ 1.

    Returns:
        Tensor: ``(…, n)``; −0.99 for the only row of a layer.

    Raises:
        UserError: a weight without rows of d ≥ 1 entries.
    """
    W = _rows(weight)
    with torch.autocast(W.device.type, enabled=False):
        cos = _clamp(cosines(W))
        diagonal = torch.eye(cos.shape[-1], dtype=torch.bool, device=cos.device)
        return cos.masked_fill(diagonal, -_BOUND).amax(dim=-1)


def penalties(
    penalty: Penalty, measures: Measures, d: Tensor | int, means: Means = "exact"
) -> Tensor:
    """Compute the penalty of each pair from its measures, in their shape.

    Every slope is finite, also for rows of zeros, so that a factor of 0 leaves a pair out.

    Args:
        penalty: the penalty.
        measures: of pairs from any layers, in any shape.
        d: entries of a row, a number or one for each pair.
        means: see `pairwise_penalty`.

    Raises:
        UserError: a registered penalty raises, or does not return a tensor of that shape.
    """
    cos, h = measures
    if penalty.function is not None:
        return _registered(penalty, penalty.function, measures)
    match penalty:
        case Penalty(key="cosine") if cos is not None:
            return cos
        case Penalty(key="n_euclidean2") if cos is not None:
            return 1 / (2 - 2 * _clamp(cos))
        case Penalty(key="angular2") if cos is not None:
            return _clamp(cos).arccos() ** -2
        case Penalty(energy=RieszEnergy() as energy) if cos is not None:
            return _riesz(energy, _clamp(cos))
        case Penalty(mean=None) if h is not None:
            return (1 + h) / 2
        case _ if cos is not None and h is not None:
            return _combined(penalty, cos, h, d, printed=means == "printed")
    raise ValueError(f"the measures do not fit the penalty {penalty.key}")


def clamped(penalty: Penalty, measures: Measures) -> Tensor:
    """Return the pairs that the clamp of footnote 6 holds: bool, in the shape of the measures."""
    held = torch.zeros_like(next(m for m in measures if m is not None), dtype=torch.bool)
    clamps = (penalty.clamps_cosine, penalty.clamps_agreement)
    for values, is_clamped in zip(measures, clamps, strict=True):
        if is_clamped and values is not None:
            held = held | (values.detach().abs() > _BOUND)
    return held


def _registered(penalty: Penalty, function: Callable[..., object], measures: Measures) -> Tensor:
    """Call a registered penalty with the measures that it uses."""
    cos = measures.cos
    if penalty.clamp and cos is not None:
        cos = _clamp(cos)
    by_name = {"cos": cos, "h": measures.h}
    candidates = [by_name[name] for name in penalty.uses]
    used = [values for values in candidates if values is not None]
    result = call_user_code(f"the penalty {penalty.key}", function, *used)
    shape = tuple(used[0].shape)
    if isinstance(result, Tensor) and result.shape == shape:
        return result
    came = type(result).__name__
    if isinstance(result, Tensor):
        came = f"a tensor of shape {tuple(result.shape)}"
    raise UserError(
        f"the penalty {penalty.key}: it returned {came}; expected a tensor of shape {shape}. "
        "Return one value for each pair"
    )


_DISTANCES: dict[Distance, Callable[[Tensor], Tensor]] = {
    "euclidean": lambda cos: (2 - 2 * cos).sqrt(),
    "angular": lambda cos: cos.arccos(),
}
_RIESZ: dict[int, Callable[[Tensor], Tensor]] = {
    0: lambda distance: -distance.log(),
    1: lambda distance: 1 / distance,
    2: lambda distance: distance**-2,
}


def _riesz(energy: RieszEnergy, cos: Tensor) -> Tensor:
    """Compute an energy of MHE from the clamped cosine of each pair."""
    distance, energy_of = _DISTANCES[energy.distance], _RIESZ[energy.power]
    if energy.half_space:
        return (energy_of(distance(cos)) + energy_of(distance(-cos))) / 2
    return energy_of(distance(cos))


# Means of a ≥ 0 and b > 0. The clamp keeps θ, and so b, off 0 and 1: no denominator is 0.
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


def _combined(
    penalty: Penalty, cos: Tensor, h: Tensor, d: Tensor | int, *, printed: bool
) -> Tensor:
    """Compute one of the eighteen penalties of eq. 9–11, in [0, 1] with exact means.

    Each is a mean M of the discrete and the continuous angle.
    """
    as_printed = printed and penalty.cosine != "inside"
    mean_of = (_PRINTED_MEANS if as_printed else _MEANS)[penalty.mean]
    theta = _clamp(cos).arccos() / math.pi
    phi = (1 - h) / 2 if penalty.discrete == "linear" else _clamp(h).arccos() / math.pi
    if penalty.cosine == "inside":
        if penalty.mean == "gm":
            # √((cos πφ + 1)/2 · (cos πθ + 1)/2) = cos(πφ/2)·cos(πθ/2) needs no root. It is written
            # with sines, because float32's cos(π/2) is below 0.
            root = (math.pi / 2 * (1 - phi)).sin() * (math.pi / 2 * (1 - theta)).sin()
            return root**2 if printed else root
        return mean_of(_raised_cosine(phi), _raised_cosine(theta))
    if penalty.mean == "gm" and penalty.discrete == "linear" and not printed:
        # The root's slope is infinite at φ = 0. φ is a multiple of 1/(2d), so the floor changes
        # pairs of equal codes only. It passes the gradient, so that they still repel.
        phi = phi + (phi.clamp(min=0.25 / d) - phi).detach()
    mean = mean_of(phi, theta)
    return 1 - mean if penalty.cosine == "none" else _raised_cosine(mean)


def _raised_cosine(angle: Tensor) -> Tensor:
    """Compute (cos πx + 1)/2: 1 at angle 0, 0 at angle 1."""
    return ((math.pi * angle).cos() + 1) / 2


def _clamp(cos: Tensor) -> Tensor:
    return cos.clamp(-_BOUND, _BOUND)


def _without_diagonal(pairs: Tensor) -> Tensor:
    """Set the diagonal to 0, with zero gradient."""
    return pairs.masked_fill(torch.eye(pairs.shape[-1], dtype=torch.bool, device=pairs.device), 0)


def _rows(weight: Tensor) -> Tensor:
    if weight.dim() < 2 or weight.shape[-1] == 0:
        raise UserError(
            f"weight has shape {tuple(weight.shape)}; expected (…, n, d) with d ≥ 1. "
            "Flatten each weight vector into one row"
        )
    return weight.to(torch.promote_types(weight.dtype, torch.float32))
