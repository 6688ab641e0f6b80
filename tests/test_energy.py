"""E, the energy of the layers."""

import pytest
import torch
from torch import Tensor

from dh2l.energy import Energy, Reduction, energy, layer_vectors
from dh2l.errors import UserError
from dh2l.metrics import METRICS, pairwise_penalty

REDUCTIONS = pytest.mark.parametrize("reduction", ["mean", "sum"])


def layers(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Convolutions of one shape and of others, one that shares (n, d) with a linear weight, a single row."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 2, 3, 3), (6, 3, 1, 1), (4, 2, 3, 3), (5, 7), (6, 3), (1, 2, 3, 3), (4, 18)]
    return [torch.randn(*shape, generator=generator, dtype=dtype) * 0.5 for shape in shapes]


def clamped_fraction(weights: list[Tensor], metric: str) -> float:
    return Energy(weights, metric).clamped_fraction(weights).item()


@pytest.mark.parametrize("metric", METRICS)
@REDUCTIONS
def test_energy_is_the_double_loop_over_the_pairs_of_each_layer(metric: str, reduction: Reduction) -> None:
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
    assert energy([torch.ones(1, 3), torch.ones(0, 3, 1, 1)], metric, reduction=reduction).item() == 0


def test_no_layers_have_no_energy_and_no_clamped_pairs() -> None:
    assert energy([], "am").item() == 0
    assert clamped_fraction([], "am") == 0
    assert clamped_fraction([torch.ones(1, 3)], "am") == 0


@pytest.mark.parametrize("metric", METRICS)
def test_every_layer_with_a_pair_gets_a_gradient_of_its_own_shape(metric: str) -> None:
    weights = [weight.requires_grad_() for weight in layers()]
    for weight, slope in zip(weights, torch.autograd.grad(energy(weights, metric), weights), strict=True):
        assert slope.shape == weight.shape
        assert bool(slope.any()) == (len(weight) > 1)


def test_a_convolution_has_one_vector_per_output_channel() -> None:
    weight = torch.arange(2 * 3 * 2 * 2).reshape(2, 3, 2, 2)
    assert layer_vectors(weight).tolist() == [list(range(12)), list(range(12, 24))]
    assert layer_vectors(torch.ones(4, 5)).shape == (4, 5)
    assert layer_vectors(torch.ones(0, 3, 2, 2)).shape == (0, 12)


def test_the_order_in_memory_of_a_convolution_changes_nothing() -> None:
    """A channels-last weight is read as it lies: its vectors are the same up to the order of their components."""
    weight = layers()[0]
    last = weight.to(memory_format=torch.channels_last)
    rows = layer_vectors(last)
    assert rows.data_ptr() == last.data_ptr()
    torch.testing.assert_close(rows.sort().values, layer_vectors(weight).sort().values, rtol=0, atol=0)
    for metric in METRICS:
        assert energy([last], metric).item() == pytest.approx(energy([weight], metric).item(), rel=1e-12)


def test_one_energy_serves_every_step() -> None:
    first, second = layers(), [weight + 1 for weight in layers()]
    made_once = Energy(first, "gm")
    for weights in (first, second, first):
        assert made_once(weights).item() == energy(weights, "gm").item()
    assert made_once(first).item() != made_once(second).item()


def test_the_clamped_fraction_counts_the_pairs_of_all_layers() -> None:
    same = torch.tensor([[1.0, 2, 3], [2, 4, 6], [3, -1, 0.1]])  # 3 pairs: one parallel
    conv = torch.tensor([[1.0, 2, 3], [-1, -2, -3]]).reshape(2, 3, 1, 1)  # 1 pair: opposite
    free = torch.eye(4)[:, :3] + torch.tensor([0.0, 0, -1])  # 6 pairs: rows 0, 1 and 3 at acute angles
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
    with pytest.raises(UserError, match=r"the ternary threshold must be a finite number ≥ 0"):
        energy([], "am", ternary_threshold=-1)
    with pytest.raises(UserError, match=r"has shape \(16,\); leave biases and batch norm out"):
        energy([torch.ones(16)], "am")
