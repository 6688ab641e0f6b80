"""E, the energy of the layers: pairwise penalties reduced per layer and summed over layers (section 4.1)."""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from dh2l.errors import UserError, unknown_name
from dh2l.metrics import clamped_pairs, find_metric, pairwise_penalty

Reduction = Literal["mean", "sum"]


def layer_vectors(weight: Tensor) -> Tensor:
    """The weight vectors of a layer as the rows of a matrix ``(n, d)``.

    A convolution ``(c_out, c_in, kh, kw)`` has n = c_out and d = c_in·kh·kw; a linear weight stays as it is.

    Raises:
        UserError: the weight has fewer than two dimensions.
    """
    if weight.dim() < 2:
        raise UserError(
            "a layer's weight has one vector per output, shape (n, d) or (c_out, c_in, kh, kw), but this one "
            f"has shape {tuple(weight.shape)}; leave biases and batch norm out"
        )
    return weight.flatten(1)


def reduce_pairs(penalty: Tensor, reduction: Reduction) -> Tensor:
    """Mean or sum over the unordered pairs, ``(…, n, n)`` → ``(…)``; 0 where n < 2.

    The print has the sum, MHE's own code the mean.

    Args:
        penalty: symmetric, with 0 on the diagonal.
        reduction: ``"mean"`` or ``"sum"``.

    Raises:
        UserError: an unknown reduction.
    """
    if reduction not in get_args(Reduction):
        raise UserError(unknown_name("reduction", reduction, get_args(Reduction)))
    total = penalty.sum(dim=(-2, -1)) / 2  # the matrix holds every pair twice
    return total / max(_n_pairs(penalty.shape[-1]), 1) if reduction == "mean" else total


def energy(
    weights: Sequence[Tensor],
    metric: str,
    *,
    reduction: Reduction = "mean",
    ternary_threshold: float = 0.0,
) -> Tensor:
    """Σ over layers of the reduced penalties of the layer's pairs (E, section 4.1), before the factor λe.

    Layers of one shape are computed together.

    Args:
        weights: of convolutions and linear layers, shaped as torch keeps them.
        metric: key of ``METRICS``.
        reduction: over the pairs of one layer; layers are always summed.
        ternary_threshold: of ``hamming_ternary``, see ``pairwise_penalty``.

    Returns:
        Tensor: a scalar; 0 where there are no layers.

    Raises:
        UserError: an unknown metric or reduction, or a weight of the wrong shape.
    """
    find_metric(metric)  # also where there are no layers

    def layer_energies(W: Tensor) -> Tensor:
        return reduce_pairs(pairwise_penalty(metric, W, ternary_threshold=ternary_threshold), reduction)

    return _sum_over_layers(weights, layer_energies)


def clamped_fraction(weights: Sequence[Tensor], metric: str, *, ternary_threshold: float = 0.0) -> Tensor:
    """Fraction of all unordered pairs, over all layers, that ``clamped_pairs`` marks.

    Arguments and errors are those of ``energy``.

    Returns:
        Tensor: a scalar in [0, 1] without gradient; 0 where there are no pairs.
    """
    find_metric(metric)

    def layer_counts(W: Tensor) -> Tensor:
        return reduce_pairs(clamped_pairs(metric, W, ternary_threshold=ternary_threshold), "sum")

    return _sum_over_layers(weights, layer_counts) / max(sum(_n_pairs(len(weight)) for weight in weights), 1)


def _sum_over_layers(weights: Sequence[Tensor], per_layer: Callable[[Tensor], Tensor]) -> Tensor:
    """Σ of ``per_layer``, a map ``(k, n, d)`` → ``(k,)``, called once for all layers of one shape."""
    alike: dict[tuple[torch.Size, torch.dtype], list[Tensor]] = {}
    for weight in weights:
        rows = layer_vectors(weight)
        alike.setdefault((rows.shape, rows.dtype), []).append(rows)
    return sum((per_layer(torch.stack(layers)).sum() for layers in alike.values()), torch.zeros(()))


def _n_pairs(n: int) -> int:
    return n * (n - 1) // 2
