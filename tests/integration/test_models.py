"""Backbones: the CIFAR networks' sizes, shortcuts and initial values, torchvision's, users';
networks of them.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from sphere_oracle import UNBALANCED
from tiny_data import EH, H0, E, H, numbers, prepared, run, tiny, tiny_config
from torch import Tensor, nn
from torch.nn import functional

from dh2l.config.train_config import TrainConfig
from dh2l.data import PreparedData
from dh2l.errors import UserError
from dh2l.models.network import Network, build_network
from dh2l.models.resnet import BackboneSpec, BasicBlock, CifarResNet, Shortcut, imagenet_resnet
from dh2l.registry import model
from dh2l.registry.entries import MODELS
from dh2l.training.optimizer import make_optimizer
from dh2l.training.trainer import train
from dh2l.tree import ClassTree

CIFAR100 = ClassTree([(f"super {i % 20}", f"class {i}") for i in range(100)])
CUB200 = ClassTree([(f"super {i % 70}", f"class {i}") for i in range(200)])
CARS = ClassTree([(f"super {i % 9}", f"class {i}") for i in range(196)])
CIFAR = [name for name in MODELS if MODELS[name].build == "dh2l.models.resnet:cifar_resnet"]
IMAGENET = [name for name in MODELS if name not in CIFAR]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def request(name: str = "resnet18", seed: int = 0, in_channels: int = 3) -> BackboneSpec:
    return BackboneSpec(name, MODELS[name].depth, in_channels, (64, 64), "A", generator(seed))


def network(
    values: dict[str, object], tree: ClassTree = CIFAR100, size: int = 32, channels: int = 3
) -> Network:
    return build_network(TrainConfig.parse(values), tree, (size, size, channels))


@pytest.mark.parametrize(
    ("values", "tree", "expected"),
    [
        ({"model": "resnet20"}, CIFAR100, 275_472),
        ({"model": "resnet20", **H0}, CIFAR100, 276_752),
        ({"model": "resnet110"}, CIFAR100, 1_733_712),
        (
            {"model": "resnet20", "shortcut": "B"},
            CIFAR100,
            275_472 + 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64,
        ),
        ({"model": "resnet18"}, CUB200, 11_278_912),
        ({"model": "resnet18", **H0}, CUB200, 11_314_752),
        ({"model": "resnet50"}, CARS, 23_909_440),
    ],
)
def test_parameter_counts(values: dict[str, object], tree: ClassTree, expected: int) -> None:
    """METHOD's, of CUB200 with 70 super-classes."""
    assert sum(p.numel() for p in network(values, tree).parameters()) == expected


@pytest.mark.parametrize("name", MODELS)
def test_a_model_has_as_many_weighted_layers_as_its_name_says(name: str) -> None:
    """Torchvision's 1×1 shortcuts, three and four, do not count."""
    shortcuts = {"resnet18": 3, "resnet50": 4}.get(name, 0)
    layers = len(network({"model": name}).conv_weights()) - shortcuts + 1
    assert layers == MODELS[name].depth == int(name.removeprefix("resnet"))


@pytest.mark.parametrize("shortcut", ["A", "B"])
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 32), (3, 33)])
def test_any_image_size_gives_64_features(channels: int, size: int, shortcut: Shortcut) -> None:
    model = CifarResNet(8, channels, shortcut=shortcut, generator=generator())
    x = torch.randn(2, channels, size, size, generator=generator())
    stages = [
        model.blocks[: i + 1](functional.relu(model.bn(model.conv(x)))).shape[1:] for i in range(3)
    ]
    half, quarter = math.ceil(size / 2), math.ceil(size / 4)
    assert stages == [(16, size, size), (32, half, half), (64, quarter, quarter)]
    assert model(x).shape == (2, 64)


def test_logits_are_the_classifier_of_the_backbones_features() -> None:
    made = network(H0, size=8).eval()
    x = torch.randn(2, 3, 8, 8, generator=generator())
    features = made.backbone(x)
    assert torch.equal(made.features(x), features)
    torch.testing.assert_close(made(x), features @ made.classifier.spheres().weight.T)


def test_shortcut_a_subsamples_and_appends_zero_channels() -> None:
    x = torch.arange(2 * 3 * 5 * 4, dtype=torch.float32).reshape(2, 3, 5, 4)
    expected = torch.zeros(2, 6, 3, 2)
    for b in range(2):
        for c in range(3):
            for i in range(3):
                for j in range(2):
                    expected[b, c, i, j] = x[b, c, 2 * i, 2 * j]
    assert torch.equal(BasicBlock(3, 6, 2, "A").carry(x), expected)
    same = BasicBlock(3, 3, 1, "B")
    assert same.projection is None
    assert same.carry(x) is x


def test_shortcut_b_is_a_strided_1x1_convolution_with_batch_norm() -> None:
    block = CifarResNet(8, 3, shortcut="B", generator=generator()).blocks[1]
    assert isinstance(block, BasicBlock)
    assert isinstance(block.projection, nn.Sequential)
    block.eval()
    x = torch.randn(2, 16, 6, 6, generator=generator())
    convolution = block.projection[0]
    assert isinstance(convolution, nn.Conv2d)
    weight = convolution.weight[:, :, 0, 0]
    expected = torch.einsum("oc,bchw->bohw", weight, x[:, :, ::2, ::2]) / math.sqrt(1 + 1e-5)
    torch.testing.assert_close(block.carry(x), expected)


def test_a_block_adds_its_input_before_the_last_relu() -> None:
    """With the second batch norm's factor 0, a block of equal shape passes a non-negative input
    on.
    """
    block = CifarResNet(8, 3, generator=generator()).blocks[0]
    assert isinstance(block, BasicBlock)
    nn.init.zeros_(block.bn2.weight)
    x = torch.rand(2, 16, 4, 4, generator=generator())
    assert torch.equal(block(x), x)
    assert torch.equal(block(-x), torch.zeros_like(x))


def test_convolutions_start_with_variance_2_over_the_fan_out() -> None:
    for weight in network({}).conv_weights():
        variance = weight.var().item() * weight.shape[0] * weight[0, 0].numel() / 2
        assert variance == pytest.approx(1, abs=6 * math.sqrt(2 / weight.numel()))


@pytest.mark.parametrize("name", ["resnet20", "resnet18"])
def test_every_arm_starts_from_the_same_backbone(name: str) -> None:
    def backbone(values: dict[str, object], seed: int = 0) -> dict[str, Tensor]:
        return network({"model": name, "seed": seed, **values}).backbone.state_dict()

    first, second, other = backbone({}), backbone(H), backbone({}, 1)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[k], second[k]) for k in first)
    convolutions = [k for k in first if first[k].dim() == 4]
    assert len(convolutions) >= 19
    assert not any(torch.equal(first[k], other[k]) for k in convolutions)


@pytest.mark.parametrize("name", ["resnet20", "resnet18"])
def test_building_a_network_leaves_the_global_generator_alone_and_does_not_depend_on_it(
    name: str,
) -> None:
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.random.get_rng_state()
        found.append(network({"model": name, "shortcut": "B", **H0}).state_dict())
        assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(found[0][k], found[1][k]) for k in found[0])


@pytest.mark.parametrize("shortcut", ["A", "B"])
def test_channels_last_gives_the_same_logits_and_stays_channels_last(shortcut: Shortcut) -> None:
    model = CifarResNet(14, 3, shortcut=shortcut, generator=generator()).eval()
    x = torch.randn(4, 3, 16, 16, generator=generator())
    expected = model(x)
    model.to(memory_format=torch.channels_last)
    formats = []
    for module in model.modules():
        if isinstance(module, BasicBlock):
            module.register_forward_hook(
                lambda _m, _x, y: formats.append(y.is_contiguous(memory_format=torch.channels_last))
            )
    torch.testing.assert_close(
        model(x.to(memory_format=torch.channels_last)), expected, rtol=1e-4, atol=1e-5
    )
    assert formats == [True] * 6


def test_conv_weights_are_the_models_own_in_a_fixed_order() -> None:
    made = Network(CifarResNet(8, 3, shortcut="B", generator=generator()), network({}).classifier)
    shapes = [tuple(weight.shape) for weight in made.conv_weights()]
    assert shapes == [
        (16, 3, 3, 3),
        (16, 16, 3, 3), (16, 16, 3, 3),
        (32, 16, 3, 3), (32, 32, 3, 3), (32, 16, 1, 1),
        (64, 32, 3, 3), (64, 64, 3, 3), (64, 32, 1, 1),
    ]  # fmt: skip
    own = {id(p) for p in made.parameters()}
    assert all(id(weight) in own for weight in made.conv_weights())


@pytest.mark.parametrize("depth", [2, 9, 18, -4])
def test_a_depth_that_is_not_6n_plus_2_is_refused(depth: int) -> None:
    with pytest.raises(UserError, match=rf"6n \+ 2 layers .* but the depth is {depth}"):
        CifarResNet(depth, 3, generator=generator())


def test_an_unknown_shortcut_is_refused() -> None:
    with pytest.raises(UserError, match="unknown shortcut 'C'; known: A, B"):
        CifarResNet(8, 3, shortcut="C", generator=generator())  # type: ignore[arg-type]


# Torchvision's.


@pytest.mark.parametrize(("name", "n_features"), [("resnet18", 512), ("resnet50", 2048)])
def test_torchvisions_networks_are_its_own_without_the_classifier(
    name: str, n_features: int
) -> None:
    import torchvision

    backbone = imagenet_resnet(request(name)).eval()
    own = torchvision.models.get_model(name, weights=None).eval()
    state = backbone.state_dict()
    assert [k for k in own.state_dict() if k not in state] == ["fc.weight", "fc.bias"]
    own.load_state_dict(state, strict=False)
    x = torch.randn(2, 3, 64, 64, generator=generator())
    features = backbone(x)
    assert features.shape == (2, n_features)
    assert backbone.n_features == n_features
    torch.testing.assert_close(own(x), own.fc(features))


@pytest.mark.parametrize("in_channels", [1, 3])
def test_torchvisions_convolutions_start_with_variance_2_over_the_fan_out(in_channels: int) -> None:
    convolutions = [
        m
        for m in imagenet_resnet(request(in_channels=in_channels)).modules()
        if type(m) is nn.Conv2d
    ]
    assert convolutions[0].weight.shape == (64, in_channels, 7, 7)
    for convolution in convolutions:
        weight = convolution.weight
        variance = weight.var().item() * weight.shape[0] * weight[0, 0].numel() / 2
        assert variance == pytest.approx(1, abs=6 * math.sqrt(2 / weight.numel()))


# Users'.


class Pooled(nn.Module):
    """A convolution and the mean over the image."""

    def __init__(
        self, in_channels: int, n_features: object = 8, width: int = 8, pool: bool = True
    ) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(in_channels, width, 3)
        self.norm, self.pool = nn.BatchNorm1d(width), pool
        if n_features is not None:
            self.n_features = n_features

    def forward(self, x: Tensor) -> Tensor:
        y = self.convolution(x)
        return self.norm(y.mean(dim=(2, 3))) if self.pool else y  # type: ignore[no-any-return]


Register = Callable[[Callable[[BackboneSpec], object]], object]


@pytest.fixture
def registered() -> Iterator[Register]:
    """Registers a builder under the name `mine`, for one test."""
    yield model("mine")
    MODELS.pop("mine", None)


def test_a_users_backbone_is_built_of_the_request_from_the_trials_seed_alone(
    registered: Register,
) -> None:
    requests = []

    def build(asked: BackboneSpec) -> nn.Module:
        requests.append(asked)
        return Pooled(asked.in_channels)

    registered(build)
    made: list[Network] = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(made))
        made.append(network({"model": "mine", "seed": seed, **H0}, size=9, channels=2))
    asked = requests[0]
    assert (asked.name, asked.depth, asked.in_channels, asked.image_size) == ("mine", 0, 2, (9, 9))
    first, again, other = (built.backbone.state_dict() for built in made)
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["convolution.weight"], other["convolution.weight"])
    assert first["norm.num_batches_tracked"] == 0  # looking at it did not train it
    assert made[0].training
    assert all(module.training for module in made[0].modules())
    assert made[0].conv_weights()[0] is made[0].get_parameter("backbone.convolution.weight")
    assert made[0].classifier.spheres().weight.shape == (100, 8)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda _: "resnet", "the model mine gives a str, but must give a torch.nn.Module"),
        (
            lambda asked: Pooled(asked.in_channels, n_features=None),
            "the backbone of the model mine needs the attribute n_features, a whole number ≥ 1: "
            "how many features it "
            "gives",
        ),
        (
            lambda asked: Pooled(asked.in_channels, n_features=8.0),
            "the backbone of the model mine needs the attribute n_features, a whole number ≥ 1: "
            "how many features it "
            "gives; it is 8.0",
        ),
        (
            lambda asked: Pooled(asked.in_channels, width=9),
            "the backbone of the model mine makes (2, 9) of images (2, 3, 32, 32), but its "
            "n_features is 8, so it must "
            "make (2, 8); pool over height and width, or correct n_features",
        ),
        (
            lambda asked: Pooled(asked.in_channels, pool=False),
            "the backbone of the model mine makes (2, 8, 30, 30) of images (2, 3, 32, 32), but "
            "its n_features is 8, so "
            "it must make (2, 8); pool over height and width, or correct n_features",
        ),
    ],
    ids=["no module", "no n_features", "a fraction", "other n_features", "not pooled"],
)
def test_what_is_no_backbone_is_refused(
    build: Callable[[BackboneSpec], object], sentence: str, registered: Register
) -> None:
    registered(build)
    with pytest.raises(UserError) as refused:
        network({"model": "mine"})
    assert str(refused.value) == sentence


def test_weight_decay_spares_a_users_batch_norm(registered: Register) -> None:
    registered(lambda asked: Pooled(asked.in_channels))
    config = TrainConfig.parse({"model": "mine"})
    made = build_network(config, CIFAR100, (8, 8, 3))
    names = {parameter: name for name, parameter in made.named_parameters()}
    decays = {
        names[p]: g["weight_decay"]
        for g in make_optimizer(config, made).param_groups
        for p in g["params"]
    }
    assert decays == {
        "backbone.convolution.weight": 0.0005,
        "backbone.convolution.bias": 0.0005,
        "classifier.weight": 0.0005,
        "backbone.norm.weight": 0.0,
        "backbone.norm.bias": 0.0,
    }


# Training.


def images(size: int) -> PreparedData:
    """Noisy images of `tiny`'s classes, three of each for training and one for the test."""
    rng = np.random.default_rng(0)
    arrays = {}
    for part, per_class in (("train", 3), ("test", 1)):
        arrays[f"{part}_y"] = np.repeat(np.arange(7, dtype=np.int64), per_class)
        arrays[f"{part}_x"] = rng.integers(0, 256, (7 * per_class, size, size, 3), dtype=np.uint8)
    return prepared(UNBALANCED, arrays)


@pytest.mark.parametrize("values", [{**E, "metric": "cosine"}, H], ids=["E", "H"])
def test_resnet18_trains_and_resumes_bit_for_bit(values: dict[str, object], tmp_path: Path) -> None:
    data = images(64)
    config = tiny_config(model="resnet18", protocol="paper", batch_size=12, lr=0.005, **values)
    epochs, straight = run(config, data)
    assert straight.vectors.shape == (7, 512)
    assert straight.history["train_loss"][1] < straight.history["train_loss"][0]  # type: ignore[operator]
    half = tmp_path / "half"
    training = train(config, data, device="cpu", threads=1, checkpoints=half, checkpoint_seconds=0)
    next(training)
    training.close()
    rest, resumed = run(config, data, half)
    assert [len(epochs), len(rest)] == [2, 1]
    assert numbers(resumed) == numbers(straight)


def test_a_users_backbone_trains_under_e_and_h(registered: Register) -> None:
    registered(lambda asked: Pooled(asked.in_channels))
    _, first = run(tiny_config(model="mine", **EH))
    assert first.vectors.shape == (7, 8)
    assert first.history["energy_conv"][0] != first.history["energy_conv"][1]
    assert numbers(run(tiny_config(model="mine", **EH), tiny())[1]) == numbers(first)
