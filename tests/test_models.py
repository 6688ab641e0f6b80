"""The CIFAR residual networks: sizes, shortcuts, initial values, memory format."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from dh2l.classifier import Classifier, HierarchicalClassifier, PlainClassifier
from dh2l.errors import UserError
from dh2l.models import BasicBlock, ResNet, Shortcut, build_model
from dh2l.names import MODELS
from dh2l.tree import ClassTree

CIFAR100 = ClassTree([(f"super {i % 20}", f"class {i}") for i in range(100)])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plain(n_classes: int = 100) -> PlainClassifier:
    return PlainClassifier(64, n_classes, generator(7))


def learned() -> HierarchicalClassifier:
    return HierarchicalClassifier(CIFAR100, 64, centres="learned", generator=generator(7))


@pytest.mark.parametrize(
    ("name", "classifier", "shortcut", "expected"),
    [
        ("resnet20", plain(), "A", 275_472),
        ("resnet20", learned(), "A", 276_752),
        ("resnet110", plain(), "A", 1_733_712),
        ("resnet20", plain(), "B", 275_472 + 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64),
    ],
)
def test_parameter_counts(name: str, classifier: Classifier, shortcut: Shortcut, expected: int) -> None:
    model = build_model(name, in_channels=3, classifier=classifier, shortcut=shortcut, generator=generator())
    assert sum(p.numel() for p in model.parameters()) == expected


@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_as_many_weighted_layers_as_its_name_says(name: str) -> None:
    model = build_model(name, in_channels=3, classifier=plain(), generator=generator())
    assert len(model.conv_weights()) + 1 == MODELS[name].depth == int(name.removeprefix("resnet"))


@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 32), (3, 33)])
def test_any_image_size_gives_64_features(channels: int, size: int, shortcut: Shortcut) -> None:
    model = ResNet(8, channels, plain(10), shortcut=shortcut, generator=generator())
    x = torch.randn(2, channels, size, size, generator=generator())
    stages = [model.blocks[: i + 1](functional.relu(model.bn(model.conv(x)))).shape[1:] for i in range(3)]
    half, quarter = math.ceil(size / 2), math.ceil(size / 4)
    assert stages == [(16, size, size), (32, half, half), (64, quarter, quarter)]
    features = model.features(x)
    assert features.shape == (2, 64)
    torch.testing.assert_close(model(x), model.classifier(features))


def test_shortcut_a_subsamples_and_appends_zero_channels() -> None:
    x = torch.arange(2 * 3 * 5 * 4, dtype=torch.float32).reshape(2, 3, 5, 4)
    expected = torch.zeros(2, 6, 3, 2)
    for b in range(2):
        for c in range(3):
            for i in range(3):
                for j in range(2):
                    expected[b, c, i, j] = x[b, c, 2 * i, 2 * j]
    assert torch.equal(BasicBlock(3, 6, 2, "A").carried(x), expected)
    same = BasicBlock(3, 3, 1, "B")
    assert same.projection is None
    assert same.carried(x) is x


def test_shortcut_b_is_a_strided_1x1_convolution_with_batch_norm() -> None:
    block = ResNet(8, 3, plain(10), shortcut="B", generator=generator()).blocks[1]
    assert isinstance(block, BasicBlock)
    assert isinstance(block.projection, nn.Sequential)
    block.eval()
    x = torch.randn(2, 16, 6, 6, generator=generator())
    convolution = block.projection[0]
    assert isinstance(convolution, nn.Conv2d)
    weight = convolution.weight[:, :, 0, 0]
    expected = torch.einsum("oc,bchw->bohw", weight, x[:, :, ::2, ::2]) / math.sqrt(1 + 1e-5)
    torch.testing.assert_close(block.carried(x), expected)


def test_a_block_adds_its_input_before_the_last_relu() -> None:
    """With the second batch norm's factor 0, a block of equal shape passes a non-negative input on."""
    block = ResNet(8, 3, plain(10), generator=generator()).blocks[0]
    assert isinstance(block, BasicBlock)
    nn.init.zeros_(block.bn2.weight)
    x = torch.rand(2, 16, 4, 4, generator=generator())
    assert torch.equal(block(x), x)
    assert torch.equal(block(-x), torch.zeros_like(x))


def test_convolutions_start_with_variance_2_over_the_fan_out() -> None:
    model = build_model("resnet20", in_channels=3, classifier=plain(), generator=generator())
    for weight in model.conv_weights():
        variance = weight.var().item() * weight.shape[0] * weight[0, 0].numel() / 2
        assert variance == pytest.approx(1, abs=6 * math.sqrt(2 / weight.numel()))


def test_every_arm_starts_from_the_same_backbone() -> None:
    def backbone(classifier: Classifier, seed: int = 0) -> dict[str, Tensor]:
        model = build_model("resnet20", in_channels=3, classifier=classifier, generator=generator(seed))
        return {k: v for k, v in model.state_dict().items() if not k.startswith("classifier.")}

    first, second, other = backbone(plain()), backbone(learned()), backbone(plain(), 1)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert not torch.equal(first["conv.weight"], other["conv.weight"])


def test_building_a_model_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    build_model("resnet20", in_channels=3, classifier=learned(), shortcut="B", generator=generator())
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_channels_last_gives_the_same_logits_and_stays_channels_last(shortcut: Shortcut) -> None:
    model = ResNet(14, 3, plain(10), shortcut=shortcut, generator=generator()).eval()
    x = torch.randn(4, 3, 16, 16, generator=generator())
    expected = model(x)
    model.to(memory_format=torch.channels_last)
    formats = []
    for module in model.modules():
        if isinstance(module, BasicBlock):
            module.register_forward_hook(
                lambda _m, _x, y: formats.append(y.is_contiguous(memory_format=torch.channels_last))
            )
    torch.testing.assert_close(model(x.to(memory_format=torch.channels_last)), expected, rtol=1e-4, atol=1e-5)
    assert formats == [True] * 6


def test_conv_weights_are_the_models_own_in_a_fixed_order() -> None:
    model = ResNet(8, 3, plain(10), shortcut="B", generator=generator())
    shapes = [tuple(weight.shape) for weight in model.conv_weights()]
    assert shapes == [
        (16, 3, 3, 3),
        (16, 16, 3, 3), (16, 16, 3, 3),
        (32, 16, 3, 3), (32, 32, 3, 3), (32, 16, 1, 1),
        (64, 32, 3, 3), (64, 64, 3, 3), (64, 32, 1, 1),
    ]  # fmt: skip
    own = {id(p) for p in model.parameters()}
    assert all(id(weight) in own for weight in model.conv_weights())


@pytest.mark.parametrize("depth", [2, 9, 18, -4])
def test_a_depth_that_is_not_6n_plus_2_is_refused(depth: int) -> None:
    with pytest.raises(UserError, match=rf"6n \+ 2 layers .* but the depth is {depth}"):
        ResNet(depth, 3, plain(), generator=generator())


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"unknown model 'resnet21'; did you mean .*'resnet20'"):
        build_model("resnet21", in_channels=3, classifier=plain(), generator=generator())
    with pytest.raises(UserError, match="unknown shortcut 'C'; known: A, B"):
        ResNet(8, 3, plain(), shortcut="C", generator=generator())  # type: ignore[arg-type]
