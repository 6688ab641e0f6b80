"""Measures of a pair of weight vectors: their cosine, and the agreement of their sign codes."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dh2l.errors import UserError
from dh2l.registry.entries import Penalty

_MIN_LENGTH = 1e-8  # a row shorter than this has cos 0 with every other row


class Measures(NamedTuple):
    """Arguments of a pairwise penalty: tensors of one shape, None where the penalty ignores one.

    Attributes:
        cos: cosines of the vectors.
        h: agreements of their codes (D_h, eq. 8).
    """

    cos: Tensor | None
    h: Tensor | None


def measure(penalty: Penalty, W: Tensor, cutoff: Tensor | None) -> Measures:
    """Measure every pair of rows, ``(…, n, d)`` → ``(…, n, n)``; ignore the diagonal.

    Args:
        penalty: determines which measures are computed.
        W: in float32 or float64, outside autocast.
        cutoff: the result of `ternary_cutoff`.
    """
    cos = cosines(W) if penalty.continuous else None
    if penalty.discrete is None:
        return Measures(cos, None)
    zero = None if cutoff is None else W.detach().abs() <= cutoff
    agreement: Tensor = _Agreement.apply(W, zero)
    return Measures(cos, agreement)


def pair_indices(n: int) -> Tensor:
    """Return the indices of the pairs i < j of n rows in a flattened ``(n, n)`` matrix, ``(P,)``.

    >>> pair_indices(3)
    tensor([1, 2, 5])
    """
    index: Tensor = torch.triu_indices(n, n, 1).T @ torch.tensor([n, 1])
    return index


def upper_triangle(measures: Measures, index: Tensor) -> Measures:
    """Take every unordered pair once, ``(…, n, n)`` → ``(…, P)``.

    Args:
        measures: of all ordered pairs.
        index: `pair_indices` of n, on the device of the measures.
    """
    return Measures(*(None if m is None else _UpperTriangle.apply(m, index) for m in measures))


def ternary_cutoff(penalty: Penalty, W: Tensor, threshold: float) -> Tensor | None:
    """Compute t·mean|w| of each layer, ``(…, n, d)`` → ``(…, 1, 1)``, without gradient (D1).

    Entries up to the cutoff have the ternary code 0.

    Returns:
        The cutoff; None for a penalty without ternary codes.

    Raises:
        UserError: the threshold is negative or not finite.
    """
    if not 0 <= threshold < math.inf:
        raise UserError(f"ternary_threshold is {threshold}; expected a finite number ≥ 0")
    if penalty.key != "hamming_ternary":
        return None
    # Divide before the sum, because the sum of a layer of huge entries would overflow.
    return threshold * (W.detach().abs() / max(W.shape[-2] * W.shape[-1], 1)).sum(
        dim=(-2, -1), keepdim=True
    )


def cosines(W: Tensor) -> Tensor:
    """Compute cos_ij, ``(…, n, d)`` → ``(…, n, n)``; W in float32 or float64, outside autocast.

    The squared lengths are the diagonal of the products, because normalising pairs costs n² and
    normalising rows n·d.

    >>> cosines(torch.tensor([[3.0, 0.0], [0.0, 1.0], [-2.0, 0.0]]))
    tensor([[ 1.,  0., -1.],
            [ 0.,  1.,  0.],
            [-1.,  0.,  1.]])
    """
    # Scale the rows, because squares of huge entries would overflow. The cosine does not depend on
    # the scale, so the divisor needs no gradient.
    rows = W / W.detach().abs().amax(dim=-1, keepdim=True).clamp(min=1)
    products: Tensor = _Products.apply(rows)
    squares = products.diagonal(dim1=-2, dim2=-1)
    without_direction = squares < _MIN_LENGTH**2
    inverse = squares.masked_fill(without_direction, 1).rsqrt().masked_fill(without_direction, 0)
    return products * inverse[..., :, None] * inverse[..., None, :]


class _Products(torch.autograd.Function):
    """Products x·xᵀ whose backward multiplies once; autograd's own would multiply twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Multiply ``(…, n, d)`` → ``(…, n, n)``."""
        ctx.save_for_backward(x)
        return x @ x.mT

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Tensor:
        """Return (G + Gᵀ)·x."""
        (x,) = ctx.saved_tensors
        return (grad[0] + grad[0].mT) @ x  # type: ignore[no-any-return]


class _Agreement(torch.autograd.Function):
    """Agreement h (D_h, eq. 8) of the rows' sign codes, with a straight-through gradient (3.3).

    A code is s(x) = 1 where x ≥ 0, else −1. With the mask ``zero`` it is ternary: sign(x), and 0
    where the mask is True. Backward, ds/dx = 1 where |x| ≤ 1, else 0 (the saturated estimator).
    The result is exact: a float32 sum of up to 2^24 products of codes does not round.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, zero: Tensor | None) -> Tensor:
        """Compare the codes, ``(…, n, d)`` → ``(…, n, n)``."""
        sign = x.sign()
        code = sign.add_(0.5).sign_() if zero is None else sign.masked_fill_(zero, 0)
        ctx.save_for_backward(x, code)
        return code @ code.mT / x.shape[-1]

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the codes where |x| ≤ 1, else 0."""
        x, code = ctx.saved_tensors
        of_code = (grad[0] + grad[0].mT) / x.shape[-1] @ code
        # The operator excludes its bounds, so pass the least number above 1.
        above = 1 + torch.finfo(x.dtype).eps
        return torch.ops.aten.hardtanh_backward(of_code, x, -above, above), None


class _UpperTriangle(torch.autograd.Function):
    """Upper triangle of the last two dimensions; backward copies and adds nothing up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor) -> Tensor:
        """Select ``(…, n, n)`` → ``(…, P)``."""
        ctx.save_for_backward(index)
        ctx.shape = x.shape
        return x.flatten(-2).index_select(-1, index)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:
        """Return the gradient in the upper triangle, 0 elsewhere."""
        (index,) = ctx.saved_tensors
        full = grad[0].new_zeros((*ctx.shape[:-2], ctx.shape[-2] * ctx.shape[-1]))
        return full.index_copy_(-1, index, grad[0]).view(ctx.shape), None
