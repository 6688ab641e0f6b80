"""Backbones: CIFAR ResNets (He et al. 2016) and torchvision's ResNets.

A backbone is a module that maps normalised images ``(B, C, H, W)`` to features ``(B, n_features)``
and has the attribute ``n_features``.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from dh2l.errors import UserError, unknown_name_message

Shortcut = Literal["A", "B"]


@dataclass(frozen=True)
class BackboneSpec:
    """Specification of a backbone.

    Attributes:
        name: the model's, a key of `dh2l.registry.entries.MODELS`.
        depth: its number of layers, 0 if unknown.
        in_channels: channels of an image.
        image_size: height and width of an image, in pixels.
        shortcut: what replaces the identity of a CIFAR network where the shape changes (D12).
        generator: CPU generator of the initial values. Torch's own generator is seeded from it
            while a model that is not a CIFAR network is built, so that layers may draw as they
            always do.
    """

    name: str
    depth: int
    in_channels: int
    image_size: tuple[int, int]
    shortcut: Shortcut
    generator: torch.Generator


@contextmanager
def seeded(generator: torch.Generator) -> Iterator[None]:
    """Torch's own CPU generator seeded by a draw from another, and afterwards as it was before."""
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


def cifar_resnet(request: BackboneSpec) -> "CifarResNet":
    """Build a CIFAR network; its convolutions alone draw from the generator.

    Raises:
        UserError: an invalid depth or shortcut.
    """
    return CifarResNet(
        request.depth, request.in_channels, shortcut=request.shortcut, generator=request.generator
    )


def imagenet_resnet(request: BackboneSpec) -> nn.Module:
    """Torchvision's network of that name without its classifier, initialised as there.

    Its first convolution takes the images' channels; those of ImageNet are 3.
    """
    import torchvision  # takes as long again as torch

    with seeded(request.generator):
        backbone: nn.Module = torchvision.models.get_model(request.name, weights=None)
        if request.in_channels != 3:
            first = nn.Conv2d(request.in_channels, 64, 7, stride=2, padding=3, bias=False)
            nn.init.kaiming_normal_(first.weight, mode="fan_out", nonlinearity="relu")
            backbone.conv1 = first
    backbone.n_features = backbone.fc.in_features  # type: ignore[union-attr] # a linear layer
    backbone.fc = nn.Identity()
    return backbone


BUILDERS: dict[str, Callable[[BackboneSpec], nn.Module]] = {
    f"{build.__module__}:{build.__name__}": build for build in (cifar_resnet, imagenet_resnet)
}
"""Our builders by the names that `dh2l.registry.entries.MODELS` calls them, which imports no
torch."""


class BasicBlock(nn.Module):
    """Two 3×3 convolutions with a shortcut: ``relu(x' + bn(conv(relu(bn(conv(x))))))``.

    Where the shape changes, x' is x subsampled with its new channels zero, behind the old ones
    (option A, no parameters), or a 1×1 convolution with batch norm (option B).
    """

    def __init__(self, c_in: int, c_out: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.stride = stride
        self.new_channels = c_out - c_in
        self.conv1 = _Convolution(c_in, c_out, 3, stride)
        self.bn1 = nn.BatchNorm2d(c_out)
        self.conv2 = _Convolution(c_out, c_out, 3, 1)
        self.bn2 = nn.BatchNorm2d(c_out)
        self.projection: nn.Module | None = None
        if shortcut == "B" and (stride, c_in) != (1, c_out):
            self.projection = nn.Sequential(
                _Convolution(c_in, c_out, 1, stride), nn.BatchNorm2d(c_out)
            )

    def carry(self, x: Tensor) -> Tensor:
        """Apply the shortcut: x in the shape of the block's output."""
        if self.projection is not None:
            return self.projection(x)  # type: ignore[no-any-return]
        if self.stride == 1:
            return x
        return functional.pad(
            x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, c_in, h, w)`` to ``(batch, c_out, ⌈h/stride⌉, ⌈w/stride⌉)``.

        Batch norm's backward needs its input, not its output, which is therefore worked on in
        place.
        """
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        y += self.carry(x)
        return functional.relu(y, inplace=True)


class CifarResNet(nn.Module):
    """A CIFAR residual network for images ``(batch, in_channels, h, w)`` of any size (section 4.2).

    Convolutions start normal with variance 2/(k²·c_out), the fan-out form of He initialisation, as
    in the authors' code (fb.resnet.torch); batch norm starts as the identity.

    Args:
        depth: 6n + 2 with n ≥ 1.
        in_channels: channels of an image.
        shortcut: what replaces the identity where the shape changes (D12).
        generator: CPU generator of the initial convolutions.

    Raises:
        UserError: another depth or shortcut.
    """

    n_features = 64

    def __init__(
        self,
        depth: int,
        in_channels: int,
        *,
        shortcut: Shortcut = "A",
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        n, remainder = divmod(depth - 2, 6)
        if n < 1 or remainder:
            raise UserError(
                f"a CIFAR ResNet has 6n + 2 layers (8, 14, 20, …), but the depth is {depth}"
            )
        if shortcut not in get_args(Shortcut):
            raise UserError(unknown_name_message("shortcut", shortcut, get_args(Shortcut)))
        self.conv = _Convolution(in_channels, 16, 3, 1)
        self.bn = nn.BatchNorm2d(16)
        blocks = []
        c_in = 16
        for c_out in (16, 32, self.n_features):
            for _ in range(n):
                blocks.append(BasicBlock(c_in, c_out, 1 if c_in == c_out else 2, shortcut))
                c_in = c_out
        self.blocks = nn.Sequential(*blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(
                    module.weight, mode="fan_out", nonlinearity="relu", generator=generator
                )

    def forward(self, x: Tensor) -> Tensor:
        """Images → globally averaged features ``(batch, 64)``."""
        x = functional.relu(self.bn(self.conv(x)), inplace=True)
        return self.blocks(x).mean(dim=(2, 3))  # type: ignore[no-any-return]


class _Convolution(nn.Conv2d):
    """A bias-free convolution that holds its place in the middle of its window."""

    def __init__(self, c_in: int, c_out: int, size: int, stride: int) -> None:
        super().__init__(c_in, c_out, size, stride=stride, padding=size // 2, bias=False)

    def reset_parameters(self) -> None:
        """Draw nothing, because the network draws the values anew from its own generator."""
