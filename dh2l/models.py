"""The CIFAR residual networks of He et al. (2016), section 4.2.

Depth 6n + 2, in three stages of 16, 32 and 64 channels.
"""

from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from dh2l.classifier import Classifier
from dh2l.errors import UserError, unknown_name
from dh2l.names import MODELS

Shortcut = Literal["A", "B"]
N_FEATURES = 64
"""Number of features that every network here gives its classifier."""


class BasicBlock(nn.Module):
    """Two 3×3 convolutions around which the input is carried: ``relu(x' + bn(conv(relu(bn(conv(x))))))``.

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
            self.projection = nn.Sequential(_Convolution(c_in, c_out, 1, stride), nn.BatchNorm2d(c_out))

    def carried(self, x: Tensor) -> Tensor:
        """The shortcut: x in the shape of the block's output."""
        if self.projection is not None:
            return self.projection(x)  # type: ignore[no-any-return]
        if self.stride == 1:
            return x
        return functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, c_in, h, w)`` → ``(batch, c_out, ⌈h/stride⌉, ⌈w/stride⌉)``.

        Batch norm's backward needs its input, not its output, which is therefore worked on in place.
        """
        y = functional.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        y += self.carried(x)
        return functional.relu(y, inplace=True)


class ResNet(nn.Module):
    """A CIFAR residual network for images ``(batch, in_channels, h, w)`` of any size.

    Convolutions start normal with variance 2/(k²·c_out), the fan-out form of He initialisation, as in
    the authors' code (fb.resnet.torch); batch norm starts as the identity. The generator serves the
    convolutions alone: networks with equal generators are equal up to the classifier.

    Args:
        depth: 6n + 2 with n ≥ 1.
        in_channels: channels of an image.
        classifier: maps `N_FEATURES` features to logits.
        shortcut: what replaces the identity where the shape changes (D12).
        generator: CPU generator of the initial convolutions.

    Raises:
        UserError: another depth or shortcut.
    """

    def __init__(
        self,
        depth: int,
        in_channels: int,
        classifier: Classifier,
        *,
        shortcut: Shortcut = "A",
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        n, remainder = divmod(depth - 2, 6)
        if n < 1 or remainder:
            raise UserError(f"a CIFAR ResNet has 6n + 2 layers (8, 14, 20, …), but the depth is {depth}")
        if shortcut not in get_args(Shortcut):
            raise UserError(unknown_name("shortcut", shortcut, get_args(Shortcut)))
        self.conv = _Convolution(in_channels, 16, 3, 1)
        self.bn = nn.BatchNorm2d(16)
        blocks = []
        c_in = 16
        for c_out in (16, 32, N_FEATURES):
            for _ in range(n):
                blocks.append(BasicBlock(c_in, c_out, 1 if c_in == c_out else 2, shortcut))
                c_in = c_out
        self.blocks = nn.Sequential(*blocks)
        self.classifier = classifier
        for weight in self.conv_weights():
            nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu", generator=generator)

    def features(self, x: Tensor) -> Tensor:
        """Images → globally averaged features ``(batch, 64)``."""
        x = functional.relu(self.bn(self.conv(x)), inplace=True)
        return self.blocks(x).mean(dim=(2, 3))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """Images → logits ``(batch, n_classes)``."""
        return self.classifier(self.features(x))  # type: ignore[no-any-return]

    def conv_weights(self) -> list[nn.Parameter]:
        """Weights ``(c_out, c_in, k, k)`` of the convolutions in a fixed order, option B's 1×1 among them."""
        convolutions = (module for module in self.modules() if isinstance(module, nn.Conv2d))
        return [cast("nn.Parameter", convolution.weight) for convolution in convolutions]


def build_model(
    name: str,
    *,
    in_channels: int,
    classifier: Classifier,
    shortcut: Shortcut = "A",
    generator: torch.Generator,
) -> ResNet:
    """The network of a name in `dh2l.names.MODELS`; the other arguments are `ResNet`'s.

    Raises:
        UserError: unknown name or shortcut.
    """
    if name not in MODELS:
        raise UserError(unknown_name("model", name, MODELS))
    return ResNet(MODELS[name].depth, in_channels, classifier, shortcut=shortcut, generator=generator)


class _Convolution(nn.Conv2d):
    """A bias-free convolution that holds its place in the middle of its window."""

    def __init__(self, c_in: int, c_out: int, size: int, stride: int) -> None:
        super().__init__(c_in, c_out, size, stride=stride, padding=size // 2, bias=False)

    def reset_parameters(self) -> None:
        """Draw nothing: that would use up the global generator for values that the network draws anew."""
