"""E, the energy of the layers: pairwise penalties reduced per layer and summed over layers (section 4.1)."""

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Literal, get_args

import torch
from torch import Tensor

from dh2l.errors import UserError, unknown_name
from dh2l.metrics import clamped, find_metric, penalties
from dh2l.names import Means
from dh2l.pairs import Measures, measure, pair_index, ternary_cutoff, unordered

Reduction = Literal["mean", "sum"]


def layer_vectors(weight: Tensor) -> Tensor:
    """The weight vectors of a layer as the rows of a matrix ``(n, d)``.

    A convolution ``(c_out, c_in, kh, kw)`` has n = c_out and d = c_in·kh·kw; a linear weight stays as it is.
    The components lie in the order of memory, so that a channels-last weight is not copied; no penalty depends
    on their order.

    Raises:
        UserError: the weight has fewer than two dimensions.
    """
    if weight.dim() < 2:
        raise UserError(
            "a layer's weight has one vector per output, shape (n, d) or (c_out, c_in, kh, kw), but this one "
            f"has shape {tuple(weight.shape)}; leave biases and batch norm out"
        )
    if weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last):
        weight = weight.permute(0, 2, 3, 1)
    return weight.flatten(1)


class Energy:
    """Σ over layers of the reduced penalties of the layer's pairs (E, section 4.1), before the factor λe.

    What does not change from step to step is made once, from the shapes of the weights. A call stacks the layers
    of one shape, multiplies each stack once, and takes the penalties of all pairs of all layers together.

    Args:
        weights: of convolutions and linear layers, shaped as torch keeps them; calls take weights like these.
        metric: key of ``METRICS``.
        reduction: over the pairs of one layer, mean (MHE's own code) or sum (the print); layers are always summed.
        ternary_threshold: of ``hamming_ternary``, see ``pairwise_penalty``.
        means: likewise (D2).

    Raises:
        UserError: an unknown metric or reduction, a weight of the wrong shape, or a threshold below 0.
    """

    def __init__(
        self,
        weights: Sequence[Tensor],
        metric: str,
        *,
        reduction: Reduction = "mean",
        ternary_threshold: float = 0.0,
        means: Means = "exact",
    ) -> None:
        if reduction not in get_args(Reduction):
            raise UserError(unknown_name("reduction", reduction, get_args(Reduction)))
        self._metric, self._threshold, self._means = find_metric(metric), ternary_threshold, means
        ternary_cutoff(self._metric, torch.zeros(1, 1), ternary_threshold)  # refuse it also where there are no pairs
        alike: dict[tuple[torch.Size, torch.dtype], list[int]] = {}
        for position, weight in enumerate(weights):
            rows = layer_vectors(weight.detach())
            alike.setdefault((rows.shape, rows.dtype), []).append(position)
        self._stacks = list(alike.values())
        precision = reduce(torch.promote_types, (weight.dtype for weight in weights), torch.float32)
        device = weights[0].device if weights else None
        shares, sizes = [torch.empty(0, dtype=precision)], [torch.empty(0, dtype=precision)]
        self._index: list[Tensor] = []
        for ((n, d), _), stack in alike.items():
            n_pairs = n * (n - 1) // 2
            share = 1 / max(n_pairs, 1) if reduction == "mean" else 1.0
            shares.append(torch.full((len(stack) * n_pairs,), share, dtype=precision))
            sizes.append(torch.full((len(stack) * n_pairs,), d, dtype=precision))
            self._index.append(pair_index(n).to(device))
        self._shares, self._d = torch.cat(shares).to(device), torch.cat(sizes).to(device)

    def __call__(self, weights: Sequence[Tensor]) -> Tensor:
        """E of the weights, a scalar with gradient; 0 where no layer has a pair."""
        with torch.autocast(self._shares.device.type, enabled=False):
            if not self._stacks:
                return self._shares.sum()
            return (penalties(self._metric, self._measures(weights), self._d, self._means) * self._shares).sum()

    @torch.no_grad()
    def clamped_fraction(self, weights: Sequence[Tensor]) -> Tensor:
        """Fraction of all unordered pairs, over all layers, that the clamp of footnote 6 holds; 0 without pairs."""
        if not self._stacks:
            return self._shares.sum()
        with torch.autocast(self._shares.device.type, enabled=False):
            held = clamped(self._metric, self._measures(weights))
        return held.sum() / max(len(held), 1)

    def _measures(self, weights: Sequence[Tensor]) -> Measures:
        """The measures of all pairs of all layers, in a row."""
        found = []
        for stack, index in zip(self._stacks, self._index, strict=True):
            W = torch.stack([layer_vectors(weights[position]) for position in stack])
            W = W.to(torch.promote_types(W.dtype, torch.float32))
            matrices = measure(self._metric, W, ternary_cutoff(self._metric, W, self._threshold))
            found.append(unordered(matrices, index))
        return Measures(_in_a_row(m.cos for m in found), _in_a_row(m.h for m in found))


def energy(
    weights: Sequence[Tensor],
    metric: str,
    *,
    reduction: Reduction = "mean",
    ternary_threshold: float = 0.0,
    means: Means = "exact",
) -> Tensor:
    """E of some layers: an `Energy` for one call, with its arguments and errors.

    Returns:
        Tensor: a scalar with gradient; 0 where there are no layers.
    """
    return Energy(weights, metric, reduction=reduction, ternary_threshold=ternary_threshold, means=means)(weights)


def _in_a_row(parts: Iterable[Tensor | None]) -> Tensor | None:
    there = [part.flatten() for part in parts if part is not None]
    return torch.cat(there) if there else None
