"""E, the energy of layers: pairwise penalties, reduced per layer and summed over layers (4.1)."""

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import Literal, Self, get_args

import torch
from torch import Tensor, nn

from dh2l.errors import UserError, unknown_name_message
from dh2l.pairwise.measures import Measures, measure, pair_indices, ternary_cutoff, upper_triangle
from dh2l.pairwise.penalties import clamped, find_penalty, penalties
from dh2l.registry.entries import Means

Reduction = Literal["mean", "sum"]


def layer_vectors(weight: Tensor) -> Tensor:
    """Return the weight vectors of a layer as the rows of a matrix ``(n, d)``.

    A convolution ``(c_out, c_in, kh, kw)`` has n = c_out and d = c_in·kh·kw; a linear weight stays
    as it is. The components keep the order of memory, so that a channels-last weight is not
    copied; no penalty depends on their order.

    >>> layer_vectors(torch.ones(16, 3, 5, 5)).shape
    torch.Size([16, 75])

    Raises:
        UserError: the weight has fewer than two dimensions.
    """
    if weight.dim() < 2:
        raise UserError(
            f"a weight has shape {tuple(weight.shape)}; expected one vector per output, (n, d) or "
            "(c_out, c_in, kh, kw). Leave biases and batch norm out"
        )
    if weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last):
        weight = weight.permute(0, 2, 3, 1)
    return weight.flatten(1)


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    """Return the 2-d convolutions of a model, in the order of its modules."""
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]


class Energy:
    """Energy E (section 4.1): Σ over layers of the reduced penalties of the layer's pairs.

    The factor λe is not included. Everything that depends on the shapes of the weights alone is
    computed once, by the constructor. A call stacks the layers of one shape, multiplies each stack
    once, and computes the penalties of all pairs of all layers together.

    >>> energy = Energy([torch.eye(3)], "cosine")
    >>> energy([torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 3.0, 0.0]])])
    tensor(0.3333)

    Args:
        weights: weights of convolutions and linear layers, in torch's shapes. Calls take weights
            of the same shapes, precision and device.
        metric: key of ``METRICS``.
        reduction: over the pairs of one layer, mean (MHE's own code) or sum (as printed). Layers
            are always summed.
        ternary_threshold: of ``hamming_ternary``, see ``pairwise_penalty``.
        means: of the combined penalties (D2), see ``pairwise_penalty``.

    Raises:
        UserError: an unknown metric or reduction, one tensor instead of a list, a weight of the
            wrong shape, or a threshold below 0.
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
        given: object = weights
        if reduction not in get_args(Reduction):
            raise UserError(unknown_name_message("reduction", reduction, get_args(Reduction)))
        if isinstance(given, Tensor):
            raise UserError(
                "weights: a single tensor; expected a list with one for each layer. Pass [weight]"
            )
        self._penalty, self._threshold, self._means = find_penalty(metric), ternary_threshold, means
        # Check the threshold even if there are no pairs.
        ternary_cutoff(self._penalty, torch.zeros(1, 1), ternary_threshold)
        self._modules: list[nn.Conv2d] = []
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
            self._index.append(pair_indices(n).to(device))
        self._shares, self._d = torch.cat(shares).to(device), torch.cat(sizes).to(device)

    @classmethod
    def of(
        cls,
        model: nn.Module,
        metric: str,
        *,
        reduction: Reduction = "mean",
        ternary_threshold: float = 0.0,
        means: Means = "exact",
    ) -> Self:
        """Make the energy of the 2-d convolutions of a model, which the energy then holds.

        Calls without weights use the present weights of these convolutions. Move the model to its
        device and precision first.

        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten())
        >>> energy = Energy.of(model, "gm")
        >>> energy().backward()
        >>> model[2].weight.grad.shape
        torch.Size([8, 8, 3, 3])

        Args:
            model: any module.
            metric: as for the constructor, like the other arguments.
            reduction: over the pairs of one layer.
            ternary_threshold: of ``hamming_ternary``.
            means: of the combined penalties (D2).

        Raises:
            UserError: as the constructor, or if the model does not contain a `torch.nn.Conv2d`.
        """
        found = convolutions(model)
        if not found:
            raise UserError(
                f"model: {type(model).__name__} does not contain a torch.nn.Conv2d; expected a "
                "convolutional network. Pass the weights of its layers to Energy(weights, metric)"
            )
        made = cls(
            [module.weight for module in found],
            metric,
            reduction=reduction,
            ternary_threshold=ternary_threshold,
            means=means,
        )
        made._modules = found
        return made

    def __call__(self, weights: Sequence[Tensor] | None = None) -> Tensor:
        """Compute E, a scalar with gradient; 0 if no layer has a pair.

        Args:
            weights: the weights; default: those of the convolutions given to `Energy.of`.

        Raises:
            UserError: no weights, for an energy that was not made by `Energy.of`.
        """
        weights = self._resolve(weights)
        with torch.autocast(self._shares.device.type, enabled=False):
            if not self._stacks:
                return self._shares.sum()
            values = penalties(self._penalty, self._measures(weights), self._d, self._means)
            return (values * self._shares).sum()

    @torch.no_grad()
    def clamped_fraction(self, weights: Sequence[Tensor] | None = None) -> Tensor:
        """Compute the fraction of all unordered pairs that the clamp of footnote 6 holds.

        Args:
            weights: as for a call.

        Returns:
            A scalar; 0 if no layer has a pair.
        """
        weights = self._resolve(weights)
        if not self._stacks:
            return self._shares.sum()
        with torch.autocast(self._shares.device.type, enabled=False):
            held = clamped(self._penalty, self._measures(weights))
        return held.sum() / max(len(held), 1)

    def _resolve(self, weights: Sequence[Tensor] | None) -> Sequence[Tensor]:
        """Return the given weights, or the present weights of the held convolutions."""
        if weights is not None:
            return weights
        if not self._modules:
            raise UserError(
                "weights: none given; expected the weights of the layers, because this energy does "
                "not hold a model. Pass them, or use Energy.of(model, metric)"
            )
        return [module.weight for module in self._modules]

    def _measures(self, weights: Sequence[Tensor]) -> Measures:
        """Measure all pairs of all layers, concatenated."""
        found = []
        for stack, index in zip(self._stacks, self._index, strict=True):
            W = torch.stack([layer_vectors(weights[position]) for position in stack])
            W = W.to(torch.promote_types(W.dtype, torch.float32))
            matrices = measure(self._penalty, W, ternary_cutoff(self._penalty, W, self._threshold))
            found.append(upper_triangle(matrices, index))
        return Measures(_concatenate(m.cos for m in found), _concatenate(m.h for m in found))


def energy(
    weights: Sequence[Tensor],
    metric: str,
    *,
    reduction: Reduction = "mean",
    ternary_threshold: float = 0.0,
    means: Means = "exact",
) -> Tensor:
    """Compute E of some layers once; arguments and errors are those of `Energy`.

    >>> energy([torch.eye(4), torch.ones(2, 4)], "cosine", reduction="sum")
    tensor(1.)

    Returns:
        Tensor: a scalar with gradient; 0 if there are no layers.
    """
    return Energy(
        weights, metric, reduction=reduction, ternary_threshold=ternary_threshold, means=means
    )(weights)


def _concatenate(parts: Iterable[Tensor | None]) -> Tensor | None:
    present = [part.flatten() for part in parts if part is not None]
    return torch.cat(present) if present else None
