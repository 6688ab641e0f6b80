"""E, the energy of the layers."""

import pytest
import torch
from torch import Tensor, nn

from dh2l.errors import UserError
from dh2l.pairwise.energy import Energy, Reduction, convolutions, energy, layer_vectors
from dh2l.pairwise.penalties import METRICS, pairwise_penalty


class Branches(nn.Module):
    """A network whose convolutions lie in a list and in branches, beside other layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.a = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 1)
        self.stem = nn.Sequential(self.first, nn.BatchNorm2d(6), nn.ReLU())
        self.b = nn.Conv2d(6, 4, 1, groups=2)
        self.line = nn.Conv1d(4, 4, 3)
        self.head = nn.Linear(4, 2)


def backward(value: Tensor) -> None:
    value.backward()  # type: ignore[no-untyped-call]


REDUCTIONS = pytest.mark.parametrize("reduction", ["mean", "sum"])


def layers(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Convolutions of one shape and of others, one that shares (n, d) with a linear weight, a
    single row.
    """
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 2, 3, 3), (6, 3, 1, 1), (4, 2, 3, 3), (5, 7), (6, 3), (1, 2, 3, 3), (4, 18)]
    return [torch.randn(*shape, generator=generator, dtype=dtype) * 0.5 for shape in shapes]


def clamped_fraction(weights: list[Tensor], metric: str) -> float:
    return Energy(weights, metric).clamped_fraction(weights).item()


@pytest.mark.parametrize("metric", METRICS)
@REDUCTIONS
def test_energy_is_the_double_loop_over_the_pairs_of_each_layer(
    metric: str, reduction: Reduction
) -> None:
    expected = 0.0
    for weight in layers():
        vectors = weight.reshape(len(weight), -1)
        penalty = pairwise_penalty(metric, vectors, ternary_threshold=0.5)
        pairs = [penalty[i, j].item() for i in range(len(vectors)) for j in range(i)]
        expected += sum(pairs) / (max(len(pairs), 1) if reduction == "mean" else 1)
    total = energy(layers(), metric, reduction=reduction, ternary_threshold=0.5)
    assert total.shape == ()
    assert total.item() == pytest.approx(expected, rel=1e-12)


@REDUCTIONS
def test_layers_of_one_shape_add_up_as_if_computed_apart(reduction: Reduction) -> None:
    together = energy(layers(), "cos_hm", reduction=reduction)
    apart = sum(energy([weight], "cos_hm", reduction=reduction).item() for weight in layers())
    assert together.item() == pytest.approx(apart, rel=1e-12)


def test_layers_of_one_shape_may_differ_in_precision() -> None:
    single, double = layers(torch.float32)[0], layers()[2]
    apart = energy([single], "am").item() + energy([double], "am").item()
    assert energy([single, double], "am").item() == pytest.approx(apart)


@pytest.mark.parametrize("metric", METRICS)
@REDUCTIONS
def test_a_layer_of_one_row_or_none_adds_nothing(metric: str, reduction: Reduction) -> None:
    assert (
        energy([torch.ones(1, 3), torch.ones(0, 3, 1, 1)], metric, reduction=reduction).item() == 0
    )


def test_no_layers_have_no_energy_and_no_clamped_pairs() -> None:
    assert energy([], "am").item() == 0
    assert clamped_fraction([], "am") == 0
    assert clamped_fraction([torch.ones(1, 3)], "am") == 0


@pytest.mark.parametrize("metric", METRICS)
def test_every_layer_with_a_pair_gets_a_gradient_of_its_own_shape(metric: str) -> None:
    weights = [weight.requires_grad_() for weight in layers()]
    for weight, slope in zip(
        weights, torch.autograd.grad(energy(weights, metric), weights), strict=True
    ):
        assert slope.shape == weight.shape
        assert bool(slope.any()) == (len(weight) > 1)


def test_a_convolution_has_one_vector_per_output_channel() -> None:
    weight = torch.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2)
    assert layer_vectors(weight).tolist() == [list(range(12)), list(range(12, 24))]
    assert layer_vectors(torch.ones(4, 5)).shape == (4, 5)
    assert layer_vectors(torch.ones(0, 3, 2, 2)).shape == (0, 12)


def test_the_order_in_memory_of_a_convolution_changes_nothing() -> None:
    """A channels-last weight is read as it lies: its vectors are the same up to the order of their
    components.
    """
    weight = layers()[0]
    last = weight.to(memory_format=torch.channels_last)
    rows = layer_vectors(last)
    assert rows.data_ptr() == last.data_ptr()
    torch.testing.assert_close(
        rows.sort().values, layer_vectors(weight).sort().values, rtol=0, atol=0
    )
    for metric in METRICS:
        assert energy([last], metric).item() == pytest.approx(
            energy([weight], metric).item(), rel=1e-12
        )


def test_one_energy_serves_every_step() -> None:
    first, second = layers(), [weight + 1 for weight in layers()]
    made_once = Energy(first, "gm")
    for weights in (first, second, first):
        assert made_once(weights).item() == energy(weights, "gm").item()
    assert made_once(first).item() != made_once(second).item()


def test_the_clamped_fraction_counts_the_pairs_of_all_layers() -> None:
    same = torch.tensor([[1.0, 2, 3], [2, 4, 6], [3, -1, 0.1]])  # 3 pairs: one parallel
    conv = torch.tensor([[1.0, 2, 3], [-1, -2, -3]]).reshape(2, 3, 1, 1)  # 1 pair: opposite
    free = torch.eye(4)[:, :3] + torch.tensor(
        [0.0, 0, -1]
    )  # 6 pairs: rows 0, 1 and 3 at acute angles
    alone = torch.ones(1, 3)
    assert clamped_fraction([same, conv, free, alone], "angular2") == pytest.approx(2 / 10)
    assert clamped_fraction([same, same], "angular2") == pytest.approx(1 / 3)
    assert clamped_fraction([same, conv], "cosine") == 0
    assert not Energy([same], "angular2").clamped_fraction([same.requires_grad_()]).requires_grad


def test_mistakes_are_told_in_a_sentence() -> None:
    with pytest.raises(UserError, match=r"unknown metric 'cos_hmm'; did you mean 'cos_hm'"):
        energy([], "cos_hmm")
    with pytest.raises(UserError, match=r"unknown reduction 'avg'"):
        energy([], "am", reduction="avg")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"ternary_threshold is -1; expected a finite number ≥ 0"):
        energy([], "am", ternary_threshold=-1)
    with pytest.raises(
        UserError, match=r"has shape \(16,\); expected .* Leave biases and batch norm out"
    ):
        energy([torch.ones(16)], "am")
    with pytest.raises(UserError, match=r"a single tensor; expected a list .* Pass \[weight\]"):
        energy(torch.ones(16, 3), "am")  # type: ignore[arg-type]


@REDUCTIONS
@pytest.mark.parametrize("metric", ["gm", "hamming_ternary", "n_euclidean2"])
def test_the_energy_of_a_model_is_that_of_its_convolutions(
    metric: str, reduction: Reduction
) -> None:
    model = Branches()
    weights = [model.first.weight, model.a.weight, model.b.weight]
    options = {"reduction": reduction, "ternary_threshold": 0.7}
    held = Energy.of(model, metric, **options)  # type: ignore[arg-type]
    assert all(m.weight is w for m, w in zip(convolutions(model), weights, strict=True))
    assert torch.equal(held(), energy(weights, metric, **options))  # type: ignore[arg-type]
    assert torch.equal(held.clamped_fraction(), held.clamped_fraction(weights))


def test_the_energy_of_a_model_follows_its_weights() -> None:
    model = Branches()
    held = Energy.of(model, "gm")
    before = held().item()
    backward(held())
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    assert [p.grad is not None for p in (model.first.weight, model.head.weight)] == [True, False]
    optimizer.step()
    after = held()
    assert after.item() < before
    assert torch.equal(after, energy([m.weight for m in convolutions(model)], "gm"))
    model.load_state_dict(Branches().state_dict())
    assert torch.equal(held(), energy([m.weight for m in convolutions(model)], "gm"))


def test_the_energy_of_a_model_sees_parametrised_weights() -> None:
    model = Branches()
    nn.utils.parametrizations.weight_norm(model.a)
    held = Energy.of(model, "gm")
    backward(held())
    gradients = {name: p.grad for name, p in model.a.named_parameters()}
    assert gradients["parametrizations.weight.original1"] is not None


def test_the_energy_of_a_trial_s_network_is_that_of_its_backbone() -> None:
    from dh2l.hierarchy.classifier import PlainClassifier
    from dh2l.models.network import Network
    from dh2l.models.resnet import CifarResNet

    backbone = CifarResNet(8, 3, generator=torch.Generator().manual_seed(0))
    network = Network(backbone, PlainClassifier(64, 10))
    assert torch.equal(Energy.of(network, "am")(), energy([*network.conv_weights()], "am"))


def test_a_model_without_convolutions_or_a_call_without_weights_is_refused() -> None:
    with pytest.raises(UserError, match=r"model: Linear does not contain a torch.nn.Conv2d"):
        Energy.of(nn.Linear(2, 3), "am")
    with pytest.raises(UserError, match=r"weights: none given; .* use Energy.of\(model, metric\)"):
        Energy([torch.ones(2, 3)], "am")()
