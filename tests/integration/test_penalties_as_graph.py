"""Penalties and their gradients, compiled to one graph."""

import pytest
import torch
from torch import Tensor

from dh2l.pairwise.penalties import pairwise_penalty


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gradient(name: str, W: Tensor) -> Tensor:
    """Compute the gradient of the sum of all penalties."""
    leaf = W.detach().clone().requires_grad_()
    return torch.autograd.grad(pairwise_penalty(name, leaf).sum(), leaf)[0]


@pytest.mark.parametrize("name", ["angular2", "hamming_ternary", "gm", "gm_cos", "cos_hm_arccos"])
def test_the_penalty_and_its_gradient_compile_to_one_graph_that_waits_for_no_value(
    name: str,
) -> None:
    torch.compiler.reset()  # compiled code for one key must not count against the next
    compiled = torch.compile(pairwise_penalty, backend="eager", fullgraph=True)
    W = normal(3, 4).requires_grad_()
    penalty = compiled(name, W)
    assert torch.equal(penalty, pairwise_penalty(name, W))
    assert torch.equal(torch.autograd.grad(penalty.sum(), W)[0], gradient(name, W))
