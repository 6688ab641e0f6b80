"""`torch.compile` where it works, the plain function where it does not."""

from collections.abc import Callable

import torch
from torch import Tensor

from dh2l.errors import first_line


class CompiledFunction:
    """A function of one tensor, compiled per shape; plain where its forward cannot be compiled.

    Args:
        plain: the function; what it closes over may change in value, not in shape.

    Attributes:
        problem: the reason why it is not compiled; empty if there is none.
    """

    def __init__(self, plain: Callable[[Tensor], Tensor]) -> None:
        from torch._dynamo.exc import (
            TorchDynamoException,
        )  # with the compiler it takes a second to import

        torch.compiler.reset()  # code of earlier trials would count against this one's shapes
        self._refused = TorchDynamoException
        self._plain, self._compiled = plain, torch.compile(plain, dynamic=False)
        self.problem = ""

    def __call__(self, x: Tensor) -> Tensor:
        """Return the function's value, within rounding of the plain one's."""
        if not self.problem:
            try:
                return self._compiled(x)
            except self._refused as error:
                self.problem = first_line(error)
        return self._plain(x)
