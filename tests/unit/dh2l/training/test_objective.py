"""The loss: its terms against double loops on trained weights, and which tensors each weight
reaches.
"""

import inspect
import math
import re
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from penalty_oracle import value_oracle
from sphere_oracle import DEEP, FLAT, UNBALANCED, Oracle
from tiny_data import H0, E, H, one_thread, run, tiny, tiny_config
from torch import Tensor
from torch.nn import functional

from dh2l.config.binding import bind
from dh2l.config.train_config import TrainConfig
from dh2l.errors import UserError
from dh2l.hierarchy.classifier import HierarchicalClassifier
from dh2l.hierarchy.constraints import level_violations
from dh2l.models.network import Network, build_network
from dh2l.pairwise.energy import energy
from dh2l.pairwise.penalties import clamped_pairs, pairwise_penalty
from dh2l.registry import register as registry
from dh2l.regularisers import baselines as rivals
from dh2l.regularisers.weight_vectors import WeightVectors
from dh2l.training import checkpoint
from dh2l.training.objective import Loss, Objective
from dh2l.tree import ClassTree

Row = npt.NDArray[np.float64]

# The slow side: one pair at a time in float64.


def penalty(metric: str, u: Row, v: Row) -> float:
    """Three penalties, quicker than `value_oracle`, for the pairs of the convolutions."""
    lengths = math.sqrt(float(u @ u) * float(v @ v))
    cos = float(u @ v) / lengths if lengths else 0.0
    theta = math.acos(min(max(cos, -0.99), 0.99)) / math.pi
    if metric == "cosine":
        return cos
    if metric == "angular2":
        return (math.pi * theta) ** -2
    assert metric == "cos_hm"
    phi = (1 - float(np.where((u >= 0) == (v >= 0), 1, -1).mean())) / 2
    mean = 0 if phi + theta == 0 else 2 * phi * theta / (phi + theta)
    return (math.cos(math.pi * mean) + 1) / 2


def pair(metric: str, a: Tensor, b: Tensor) -> Tensor:
    return torch.tensor(
        penalty(metric, a.detach().numpy(), b.detach().numpy()), dtype=torch.float64
    )


def slow_energy(weights: Sequence[Tensor], metric: str, reduction: str) -> float:
    total = 0.0
    for weight in weights:
        rows = weight.detach().double().reshape(len(weight), -1).numpy()
        pairs = [penalty(metric, u, v) for u, v in combinations(rows, 2)]
        total += sum(pairs) / (len(pairs) if reduction == "mean" else 1)
    return total


@pytest.mark.parametrize("metric", ["cosine", "angular2", "cos_hm"])
def test_the_quick_pair_is_the_oracles(metric: str) -> None:
    for u, v in combinations(np.random.default_rng(0).normal(size=(6, 9)), 2):
        assert penalty(metric, u, v) == pytest.approx(value_oracle(metric, u.tolist(), v.tolist()))


ARMS: dict[str, tuple[dict[str, Any], ClassTree]] = {
    "E": (E, UNBALANCED),
    "E, two metrics, summed pairs": (
        {**E, "conv_metric": "angular2", "e_reduction": "sum", "lambda_e": 1e-4},
        FLAT,
    ),
    "E on the classifier": ({**E, "e_scope": "classifier", "metric": "angular2"}, UNBALANCED),
    "H, learned": ({**H, "metric": "angular2"}, UNBALANCED),
    "H, learned, deep": ({**H, "lambda_l": [0.1, 0.5, 0.2], "lambda_c3": 0.1}, DEEP),
    "H, parent": ({**H, "centres": "parent", "lambda_c1": 0.1, "lambda_c2": 0.2}, DEEP),
    "H, mean, unit": (
        {**H, "centres": "mean", "radius": "unit", "metric": "cosine", "lambda_c3": 0.1},
        UNBALANCED,
    ),
    "H, parent, unit": ({**H, "centres": "parent", "radius": "unit", "lambda_c2": 0.1}, UNBALANCED),
    "E+H": ({**E, **H, "metric": "cosine"}, UNBALANCED),
    "E+H, all layers": ({**E, **H, "e_scope": "all", "conv_metric": "cosine"}, DEEP),
    "E+H0": ({**E, **H0, "metric": "angular2"}, UNBALANCED),
    "H0": (H0, DEEP),
    "baseline": ({}, UNBALANCED),
}


def expected_values(
    config: TrainConfig, network: Network, initial: Network, tree: ClassTree
) -> dict[str, float]:
    """Compute by plain loops what an epoch must report of a network."""
    values = {}
    W = network.classifier.spheres().weight
    for layers, on, weights, metric in (
        ("conv", config.energy_on_convolutions, [*network.conv_weights()], config.conv_penalty),
        ("classifier", config.energy_on_classifier, [W], config.metric),
    ):
        if on and metric:
            values[f"energy_{layers}"] = slow_energy(weights, metric, config.e_reduction)
    if isinstance(network.classifier, HierarchicalClassifier) and isinstance(
        initial.classifier, HierarchicalClassifier
    ):
        oracle, first = Oracle(network.classifier), Oracle(initial.classifier)
        length = sum(first.length(first.w[path]).item() for path in tree.paths) / tree.n_classes
        oracle.inner_radii = {
            level: (1 + math.sqrt(2)) ** (tree.depth - level) * length
            for level in range(1, tree.depth)
        }
        if metric := config.metric if config.regularised_hierarchy else None:
            for name, terms in (
                ("r_p", oracle.r_p(lambda a, b: pair(metric, a, b))),
                ("r_c", oracle.r_c(lambda a, b: pair(metric, a, b))),
            ):
                values |= {f"{name}_{level}": value.item() for level, value in terms.items()}
        values |= {f"violation_{name}": value.item() for name, value in oracle.violations().items()}
        values["centre_orthogonality"] = oracle.centre_orthogonality().item()
    return values


@pytest.mark.parametrize("arm", ARMS)
def test_an_epoch_reports_the_double_loops_values_on_the_weights_it_ends_with(
    arm: str, tmp_path: Path
) -> None:
    values, tree = ARMS[arm]
    config, data = tiny_config(epochs=1, **values), tiny(tree)
    _, result = run(config, data, tmp_path)
    state = checkpoint.load(tmp_path, bind(config, data.manifest).identity)
    assert state is not None
    network, initial = (
        build_network(config, tree, (8, 8, 3)),
        build_network(config, tree, (8, 8, 3)),
    )
    network.load_state_dict(state["network"])
    assert not torch.equal(network.conv_weights()[0], initial.conv_weights()[0])
    expected = expected_values(config, network, initial, tree)
    prefixes = ("energy_", "r_p_", "r_c_", "violation_", "centre_")
    found = {
        name: history[-1] for name, history in result.history.items() if name.startswith(prefixes)
    }
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, rel=2e-5, abs=1e-6)
    np.testing.assert_allclose(result.vectors, network.classifier.spheres().weight.detach().numpy())


# Which tensors a weight reaches: gradients with the term minus gradients without, on one network
# and batch.


LABELS = (0, 2, 3, 0, 2, 3, 3, 0)
"""UNBALANCED's classes a and c of group p, and d of group r; b, e, f and g are not seen."""


def network_of(values: dict[str, Any], tree: ClassTree = UNBALANCED) -> Network:
    return build_network(tiny_config(**values), tree, (8, 8, 3))


def loss_of(
    network: Network,
    values: dict[str, Any],
    tree: ClassTree = UNBALANCED,
    labels: tuple[int, ...] = LABELS,
) -> Loss:
    images = torch.randn(len(labels), 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with one_thread():
        return Objective(tiny_config(**values), network, tree)(images, torch.tensor(labels))


def gradients(
    network: Network, values: dict[str, Any], tree: ClassTree = UNBALANCED
) -> dict[str, Tensor]:
    network.zero_grad()
    with one_thread():
        loss_of(network, values, tree).total.backward()  # type: ignore[no-untyped-call]
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in network.named_parameters()
    }


def touched(network: Network, values: dict[str, Any]) -> dict[str, set[int]]:
    """Names of the parameters whose gradient the regularisers change at all, with the rows that
    they change.
    """
    parameterisation = ("classifier", "centres", "radius")
    bare = gradients(network, {name: values[name] for name in parameterisation if name in values})
    rows = {}
    for name, gradient in gradients(network, values).items():
        same = (
            (gradient == bare[name]).reshape(len(gradient) if gradient.dim() else 1, -1).all(dim=1)
        )
        rows[name] = set((~same).nonzero()[:, 0].tolist())
    return {name: changed for name, changed in rows.items() if changed}


CONVOLUTIONS = {name for name, p in network_of({}).named_parameters() if p.dim() == 4}
LEARNED = {"classifier.surface.2", "classifier.centre.1"}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (E, CONVOLUTIONS | {"classifier.weight"}),
        ({**E, "e_scope": "conv"}, CONVOLUTIONS),
        ({**E, "e_scope": "classifier"}, {"classifier.weight"}),
        ({**E, **H0}, CONVOLUTIONS),
        ({**E, **H0, "e_scope": "all"}, CONVOLUTIONS | LEARNED),
        ({**E, **H0, "e_scope": "classifier"}, LEARNED),
        ({**E, **H}, CONVOLUTIONS | LEARNED),
        (H, LEARNED),
        ({**H, "radius": "unit"}, LEARNED),
        ({**H, "centres": "parent"}, {"classifier.surface.1", "classifier.surface.2"}),
        ({**H, "centres": "mean"}, {"classifier.surface.2"}),
        ({**H0, "lambda_l": [0.5, 0.0], "metric": "cos_hm"}, set()),
        ({**H0, "lambda_o": 0.5}, {"classifier.centre.1"}),
        ({"lambda_mma": 0.5}, CONVOLUTIONS | {"classifier.weight"}),
        ({"lambda_mma": 0.5, "mma_scope": "conv"}, CONVOLUTIONS),
        ({**H0, "lambda_orthogonality": 0.5, "orthogonality_scope": "classifier"}, LEARNED),
        ({"metric": "cos_hm"}, set()),
    ],
)
def test_a_regulariser_reaches_its_layers_and_no_others(
    values: dict[str, Any], expected: set[str]
) -> None:
    assert touched(network_of(values), values).keys() == expected


@pytest.mark.parametrize("key", ["lambda_c1", "lambda_c2", "lambda_c3"])
@pytest.mark.parametrize("violated", [True, False])
def test_a_constraint_reaches_surfaces_and_centres_where_it_is_violated(
    key: str, violated: bool
) -> None:
    values = {**H0, key: 0.5}
    network = network_of(values)
    classifier = network.classifier
    assert isinstance(classifier, HierarchicalClassifier)
    with torch.no_grad():
        if violated:  # large spheres around near centres
            classifier.surface["2"].mul_(10)
        else:  # small ones
            centre = classifier.centre["1"][torch.tensor(UNBALANCED.parents(2))]
            classifier.surface["2"].mul_(0.01).add_(centre)
    loss = loss_of(network, values)
    assert (loss.terms[1].item() > 0) == violated
    assert touched(network, values).keys() == (LEARNED if violated else set())


@pytest.mark.parametrize(
    ("values", "key"),
    [
        (E, "lambda_e"),
        (H, "lambda_l"),
        ({**H0, "lambda_c3": 0.5}, "lambda_c3"),
        ({**H0, "lambda_o": 0.5}, "lambda_o"),
        ({"lambda_mma": 0.5}, "lambda_mma"),
        ({"lambda_orthogonality": 0.5}, "lambda_orthogonality"),
    ],
)
def test_a_regularisers_gradient_is_proportional_to_its_weight(
    values: dict[str, Any], key: str
) -> None:
    network = network_of(values)
    none, one, two = (gradients(network, {**values, key: weight}) for weight in (0.0, 10.0, 20.0))
    for name in touched(network, values):
        torch.testing.assert_close(
            two[name] - none[name], 2 * (one[name] - none[name]), rtol=1e-3, atol=1e-4
        )
        assert (one[name] - none[name]).abs().max() > 1e-3


def test_seen_regularises_seen_classes_alone() -> None:
    """Classes a and c are a pair of p's sphere; d is alone on r's, whose centre still pairs with
    p's (D8).
    """
    values = {**H, "batch_structure": "seen"}
    assert touched(network_of(values), values) == {
        "classifier.surface.2": {0, 2},
        "classifier.centre.1": {0, 2},
    }


def test_all_regularises_every_class_that_has_a_sibling() -> None:
    values = {**H, "batch_structure": "all"}
    assert touched(network_of(values), values) == {
        "classifier.surface.2": {0, 2, 3, 5, 6},
        "classifier.centre.1": {0, 1, 2, 3},
    }


def test_a_batch_of_one_class_regularises_nothing() -> None:
    terms = loss_of(network_of(H), H, labels=(4, 4, 4)).terms
    assert terms[1].item() == 0


EVERYTHING: dict[str, Any] = {
    **E,
    **H,
    "e_scope": "all",
    "lambda_l": [0.3, 0.7],
    "centres": "parent",
    "batch_structure": "all",
    "lambda_c1": 0.2,
    "lambda_c2": 0.4,
    "lambda_c3": 0.6,
    "lambda_o": 0.8,
    "lambda_mma": 0.3,
    "lambda_orthogonality": 0.01,
    "orthogonality_scope": "conv",
}


def test_the_loss_is_the_sum_of_its_weighted_terms() -> None:
    network = network_of(EVERYTHING)
    with torch.no_grad():
        network.classifier.get_parameter("surface.2").mul_(10)
    objective, loss = (
        Objective(tiny_config(**EVERYTHING), network, UNBALANCED),
        loss_of(network, EVERYTHING),
    )
    assert objective.terms == (
        "cross-entropy", "energy", "hierarchy", "constraint c1", "constraint c2", "constraint c3",
        "orthogonal centres", "mma", "orthogonality",
    )  # fmt: skip
    v = {name: value.item() for name, value in objective.values().items()}
    expected = [
        functional.cross_entropy(loss.logits, torch.tensor(LABELS)).item(),
        0.5 * (v["energy_conv"] + v["energy_classifier"]),
        0.3 * v["r_p_1"] + 0.7 * v["r_p_2"],
        0.2 * v["violation_c1"],
        0.4 * v["violation_c2"],
        0.6 * v["violation_c3"],
        0.8 * v["centre_orthogonality"],
        0.3 * v["regulariser_mma"],
        0.01 * v["regulariser_orthogonality"],
    ]
    assert all(
        value > 0 for name, value in zip(objective.terms, expected, strict=True) if name != "mma"
    )
    assert loss.terms.tolist() == pytest.approx(expected, rel=1e-5)
    assert loss.total.item() == pytest.approx(sum(expected), rel=1e-5)
    assert not loss.terms.requires_grad
    assert not loss.logits.requires_grad


@pytest.mark.parametrize("values", [{}, E, H, H0, {**E, **H}, {**H0, "lambda_c2": 0.1}])
def test_terms_are_named_one_by_one(values: dict[str, Any]) -> None:
    network = network_of(values)
    objective = Objective(tiny_config(**values), network, UNBALANCED)
    assert len(objective.terms) == len(loss_of(network, values).terms)
    assert objective.terms[0] == "cross-entropy"


@pytest.mark.parametrize("metric", ["cos_hm", "angular2", "gm"])
def test_without_a_hierarchy_h_is_e_on_the_classifier(metric: str) -> None:
    """L = 1, free radius, the whole tree: the same value and gradient (METHOD, section 4)."""
    h = {**H, "metric": metric, "batch_structure": "all"}
    e = {"lambda_e": H["lambda_l"], "metric": metric, "e_scope": "classifier"}
    one, other = network_of(h, FLAT), network_of(e, FLAT)
    labels = (0, 1, 2, 3, 4)
    torch.testing.assert_close(
        loss_of(one, h, FLAT, labels).terms,
        loss_of(other, e, FLAT, labels).terms,
        rtol=1e-6,
        atol=1e-7,
    )
    ours, theirs = gradients(one, h, FLAT), gradients(other, e, FLAT)
    theirs["classifier.surface.1"] = theirs.pop("classifier.weight")
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-7)


def test_under_bf16_the_regularisers_stay_in_fp32() -> None:
    network = network_of(EVERYTHING)
    full, half = loss_of(network, EVERYTHING), loss_of(network, {**EVERYTHING, "precision": "bf16"})
    assert torch.equal(full.terms[1:], half.terms[1:])
    assert full.terms[0] != half.terms[0]
    torch.testing.assert_close(full.terms[0], half.terms[0], rtol=0.1, atol=0)


def test_values_carry_no_gradient_and_leave_the_network_alone() -> None:
    network = network_of(EVERYTHING)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    values = Objective(tiny_config(**EVERYTHING), network, UNBALANCED).values()
    assert not any(value.requires_grad for value in values.values())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert Objective(tiny_config(), network_of({}), UNBALANCED).values() == {}


def test_the_clamped_fraction_is_the_mean_over_layers_and_hierarchy() -> None:
    values = {**E, "metric": "angular2", **H, "e_scope": "all", "lambda_l": 0.5}
    network = network_of(values)
    classifier = network.classifier
    assert isinstance(classifier, HierarchicalClassifier)
    objective = Objective(tiny_config(**values, batch_structure="all"), network, UNBALANCED)
    assert objective.values()["clamped_fraction"].item() == 0
    with (
        torch.no_grad()
    ):  # c lies where a does: 1 of 21 pairs of classes, 1 of 3 + 1 + 6 pairs of R
        classifier.surface["2"][2] = classifier.surface["2"][0]
    assert objective.values()["clamped_fraction"].item() == pytest.approx((0 + 1 / 21 + 1 / 10) / 3)


# The forms of D10.


def constrained(form: str, **multipliers: float) -> tuple[Loss, Objective]:
    """The loss of a hierarchy with violations under C1 and C3, and what computed it."""
    values = {
        **H0,
        "lambda_c1": 0.5,
        "lambda_c3": 2.0,
        "constraint_form": form,
        "batch_structure": "all",
    }
    network = network_of(values)
    with torch.no_grad():
        network.classifier.get_parameter("surface.2").mul_(10)
    objective = Objective(tiny_config(**values), network, UNBALANCED)
    if objective.multipliers is not None:
        objective.multipliers.values.copy_(torch.tensor([[multipliers["c1"]], [multipliers["c3"]]]))
    with one_thread():
        return objective(torch.zeros(2, 3, 8, 8), torch.tensor([0, 1])), objective


def test_the_constraints_come_as_hinge_square_or_augmented_lagrangian() -> None:
    """λ·(mean of v), λ·(mean of v²), and m·v + ½ρv² of the level's mean v with ρ = λ."""
    hinge, objective = constrained("hinge")
    classifier = objective.network.classifier
    assert isinstance(classifier, HierarchicalClassifier)
    v = [objective.values()[f"violation_{name}"].item() for name in ("c1", "c3")]
    squares = level_violations(classifier, classifier.spheres(), squared=True)
    assert hinge.terms[1:].tolist() == pytest.approx([0.5 * v[0], 2.0 * v[1]])
    expected = [0.5 * squares["c1"][2].item(), 2.0 * squares["c3"][2].item()]
    assert constrained("squared")[0].terms[1:].tolist() == pytest.approx(expected)
    assert expected[0] > 0.5 * v[0] ** 2  # a mean of squares, not the square of a mean
    augmented, objective = constrained("augmented", c1=3.0, c3=0.0)
    assert augmented.terms[1:].tolist() == pytest.approx(
        [3 * v[0] + 0.25 * v[0] ** 2, 1.0 * v[1] ** 2]
    )
    assert objective.values()["multiplier_c1_2"].item() == 3


# Registered regularisers.


def test_declared_built_in_regularisers_have_the_arguments_of_their_functions() -> None:
    built_in = {
        k.function: k.defaults
        for k in registry.REGULARISERS.values()
        if isinstance(k.function, str)
    }
    assert built_in.keys() == rivals.FUNCTIONS.keys()
    for reference, function in rivals.FUNCTIONS.items():
        parameters = list(inspect.signature(function).parameters.values())[1:]
        assert built_in[reference] == {p.name: p.default for p in parameters}


def rows_of(network: Network, scope: str) -> list[Row]:
    """The layers of a scope as matrices of rows in float64."""
    layers = [weight.detach().double().flatten(1).numpy() for weight in network.conv_weights()]
    classifier = network.classifier.spheres().weight.detach().double().numpy()
    return {"all": [*layers, classifier], "conv": layers, "classifier": [classifier]}[scope]


@pytest.mark.parametrize("scope", ["all", "conv", "classifier"])
def test_mma_is_minus_the_mean_smallest_angle_of_each_layer(scope: str) -> None:
    values = {"lambda_mma": 1.0, "mma_scope": scope}
    network = network_of(values)
    expected = 0.0
    for W in rows_of(network, scope):
        unit = W / np.linalg.norm(W, axis=1, keepdims=True)
        angles = np.arccos(np.clip(unit @ unit.T, -0.99, 0.99))
        np.fill_diagonal(angles, np.inf)
        expected -= angles.min(axis=1).mean()
    assert loss_of(network, values).terms[1].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("scope", ["all", "conv", "classifier"])
def test_orthogonality_is_the_frobenius_norm_of_gram_less_identity(scope: str) -> None:
    values = {"lambda_orthogonality": 1.0, "orthogonality_scope": scope}
    network = network_of(values)
    expected = sum(np.linalg.norm(W @ W.T - np.eye(len(W))) for W in rows_of(network, scope))
    assert loss_of(network, values).terms[1].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.usefixtures("forgotten")
def test_a_users_regulariser_is_given_the_vectors_the_batchs_classes_and_its_fields() -> None:
    given: list[WeightVectors] = []

    @registry.regulariser("spread")
    def spread(vectors: WeightVectors, *, power: float = 2.0, scope: str = "all") -> Tensor:
        given.append(vectors)
        return power * sum((w.norm() for w in vectors.of(scope)), vectors.zero)

    values = {**H0, "lambda_spread": 0.5, "spread_power": 3.0, "precision": "bf16"}
    network = network_of(values)
    loss = loss_of(network, values)
    expected = sum(np.linalg.norm(W) for W in rows_of(network, "all"))
    assert loss.terms[1].item() == pytest.approx(0.5 * 3 * expected, rel=1e-5)
    (vectors,) = given
    assert vectors.seen.tolist() == [True, False, True, True, False, False, False]
    assert [w.dtype for w in vectors.layers] == [torch.float32] * (len(vectors.convolutions) + 1)
    assert [tuple(w.shape) for w in vectors.convolutions[:2]] == [(16, 27), (16, 144)]
    assert vectors.spheres.centres.keys() == {1}
    objective = Objective(tiny_config(**values), network, UNBALANCED)
    assert objective.values()["regulariser_spread"].item() == pytest.approx(3 * expected, rel=1e-5)
    assert given[-1].seen.all()
    with pytest.raises(UserError, match=r"unknown scope 'convs'; did you mean 'conv'"):
        loss_of(network, values | {"spread_scope": "convs"})


@pytest.mark.usefixtures("forgotten")
@pytest.mark.parametrize(
    ("gives", "sentence"),
    [
        (
            lambda v: v.classifier[0],
            "the regulariser odd gave a tensor of shape (64,) and torch.float32, but must",
        ),
        (lambda _: 1.0, "the regulariser odd gave 1.0, but must give a scalar tensor of floats"),
        (
            lambda v: v.classifier.argmax(),
            "the regulariser odd gave a tensor of shape () and torch.int64, but must",
        ),
        (
            lambda v: v.nothing,
            "the regulariser odd raised AttributeError: 'WeightVectors' object has no attribute "
            "'nothing'",
        ),
    ],
)
def test_a_regulariser_that_raises_or_gives_no_scalar_is_named(
    gives: Callable[[WeightVectors], Any], sentence: str
) -> None:
    registry.regulariser("odd")(gives)
    with pytest.raises(UserError, match=re.escape(sentence)):
        loss_of(network_of({}), {"lambda_odd": 1.0})


@pytest.mark.usefixtures("forgotten")
def test_a_users_penalty_is_a_metric_of_e_and_h() -> None:
    """The cosine comes clamped unless it is asked for bare; the agreement of codes as it is."""
    registry.penalty("arc")(lambda cos: -cos.arccos())
    registry.penalty("mixed", uses=("h", "cos"), clamp=False)(lambda h, cos: h * 2 + cos)
    W = torch.tensor([[1.0, 0.0], [1.0, 0.01], [-1.0, -1.0]])
    assert pairwise_penalty("arc", W)[0, 1].item() == pytest.approx(-math.acos(0.99))
    assert clamped_pairs("arc", W).any()
    assert pairwise_penalty("mixed", W)[0, 2].item() == pytest.approx(2 * -1 - math.sqrt(0.5))
    assert not clamped_pairs("mixed", W).any()
    values = {**E, **H, "metric": "mixed", "e_scope": "all"}
    network = network_of(values)
    terms = loss_of(network, values).terms
    layers = [*network.conv_weights(), network.classifier.spheres().weight]
    assert terms[1].item() == pytest.approx(0.5 * energy(layers, "mixed").item())
    assert terms[2].abs().item() > 0


@pytest.mark.usefixtures("forgotten")
def test_a_penalty_that_raises_or_gives_another_shape_is_named() -> None:
    registry.penalty("summed")(lambda cos: cos.sum())
    registry.penalty("broken")(lambda cos: cos.nothing)
    with pytest.raises(
        UserError,
        match=r"the penalty summed: it returned a tensor of shape \(\); expected .* \(2, 2\)",
    ):
        pairwise_penalty("summed", torch.eye(2))
    with pytest.raises(UserError, match=r"the penalty broken raised AttributeError"):
        pairwise_penalty("broken", torch.eye(2))
