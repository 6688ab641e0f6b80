"""What a pairwise penalty is a function of: the cosine of two weight vectors, and the agreement of their sign codes."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dh2l.errors import UserError
from dh2l.names import Metric

_NO_DIRECTION = 1e-8  # a row shorter than this has cos 0 with every other


class Measures(NamedTuple):
    """What the penalty of a pair is a function of; tensors of one shape, None where the metric does not use it.

    Attributes:
        cos: cosines of the vectors.
        h: agreements of their codes (D_h, eq. 8).
    """

    cos: Tensor | None
    h: Tensor | None


def measure(metric: Metric, W: Tensor, cutoff: Tensor | None) -> Measures:
    """Cosine and agreement of every pair of rows, ``(…, n, d)`` → ``(…, n, n)``; the diagonal means nothing.

    Args:
        metric: says which of the two are needed.
        W: in float32 or float64, outside autocast.
        cutoff: as `ternary_cutoff` gives it.
    """
    cos = cosines(W) if metric.continuous else None
    if metric.discrete is None:
        return Measures(cos, None)
    zero = None if cutoff is None else W.detach().abs() <= cutoff
    agreement: Tensor = _Agreement.apply(W, zero)
    return Measures(cos, agreement)


def pair_index(n: int) -> Tensor:
    """Where the unordered pairs of n rows lie in a flattened ``(n, n)`` matrix: its upper triangle, int64 ``(P,)``."""
    index: Tensor = torch.triu_indices(n, n, 1).T @ torch.tensor([n, 1])
    return index


def unordered(measures: Measures, index: Tensor) -> Measures:
    """Every pair once, ``(…, n, n)`` → ``(…, P)``; ``index`` is `pair_index` of n, on the measures' device."""
    return Measures(*(None if m is None else _Unordered.apply(m, index) for m in measures))


def ternary_cutoff(metric: Metric, W: Tensor, threshold: float) -> Tensor | None:
    """t·mean|w| of each layer, ``(…, n, d)`` → ``(…, 1, 1)``, without gradient: up to there a ternary code is 0 (D1).

    None for a metric without ternary codes.

    Raises:
        UserError: a threshold that is not finite or below 0.
    """
    if not 0 <= threshold < math.inf:
        raise UserError(f"the ternary threshold must be a finite number ≥ 0, but it is {threshold}")
    if metric.key != "hamming_ternary":
        return None
    # Divided before it is summed: the sum of a layer of huge entries would overflow.
    return threshold * (W.detach().abs() / max(W.shape[-2] * W.shape[-1], 1)).sum(dim=(-2, -1), keepdim=True)


def cosines(W: Tensor) -> Tensor:
    """cos_ij, ``(…, n, d)`` → ``(…, n, n)``; W in float32 or float64, outside autocast.

    The lengths are read off the diagonal of the products: what is done to pairs costs n², to rows n·d.
    """
    # Squares of huge entries would overflow. The cosine is scale-free, so the divisor needs no gradient.
    rows = W / W.detach().abs().amax(dim=-1, keepdim=True).clamp(min=1)
    products: Tensor = _Products.apply(rows)
    squares = products.diagonal(dim1=-2, dim2=-1)
    directionless = squares < _NO_DIRECTION**2
    inverse = squares.masked_fill(directionless, 1).rsqrt().masked_fill(directionless, 0)
    return products * inverse[..., :, None] * inverse[..., None, :]


class _Products(torch.autograd.Function):
    """x·xᵀ, whose backward multiplies once where autograd's own would twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """``(…, n, d)`` → ``(…, n, n)``."""
        ctx.save_for_backward(x)
        return x @ x.mT

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> Tensor:
        """(G + Gᵀ)·x."""
        (x,) = ctx.saved_tensors
        return (grad[0] + grad[0].mT) @ x  # type: ignore[no-any-return]


class _Agreement(torch.autograd.Function):
    """h (D_h, eq. 8) of the rows' sign codes; backward the saturated straight-through estimator (3.3).

    A code is s(x) = 1 where x ≥ 0, else −1; with the mask ``zero`` it is ternary: sign(x), but 0 where the
    mask holds. Backward, ds/dx = 1 where |x| ≤ 1, else 0. Exact: a float32 sum of up to 2^24 products of
    codes does not round.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, zero: Tensor | None) -> Tensor:
        """``(…, n, d)`` → ``(…, n, n)``."""
        sign = x.sign()
        code = sign.add_(0.5).sign_() if zero is None else sign.masked_fill_(zero, 0)
        ctx.save_for_backward(x, code)
        return code @ code.mT / x.shape[-1]

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:
        """The gradient of the codes where |x| ≤ 1, else 0."""
        x, code = ctx.saved_tensors
        of_code = (grad[0] + grad[0].mT) / x.shape[-1] @ code
        above = 1 + torch.finfo(x.dtype).eps  # the least number above 1: the operator leaves its bounds out
        return torch.ops.aten.hardtanh_backward(of_code, x, -above, above), None


class _Unordered(torch.autograd.Function):
    """The upper triangle of the last two dimensions; backward writes it where it came from, and adds nothing up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor) -> Tensor:
        """``(…, n, n)`` → ``(…, P)``."""
        ctx.save_for_backward(index)
        ctx.shape = x.shape
        return x.flatten(-2).index_select(-1, index)

    @staticmethod
    def backward(ctx: Any, *grad: Tensor) -> tuple[Tensor, None]:
        """0 but in the upper triangle."""
        (index,) = ctx.saved_tensors
        full = grad[0].new_zeros((*ctx.shape[:-2], ctx.shape[-2] * ctx.shape[-1]))
        return full.index_copy_(-1, index, grad[0]).view(ctx.shape), None
