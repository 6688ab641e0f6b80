"""The plain and the hierarchical classifier: parameters, initial values, spheres, seen nodes."""

import math

import pytest
import torch
from sphere_oracle import DEEP, FLAT, MODES, TREES, UNBALANCED, Oracle, make

from dh2l.errors import UserError
from dh2l.hierarchy.classifier import (
    CentreMode,
    HierarchicalClassifier,
    PlainClassifier,
    RadiusMode,
)
from dh2l.tree import ClassTree

CIFAR100 = ClassTree([(f"super {i % 20}", f"class {i}") for i in range(100)])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def hierarchical(
    tree: ClassTree, centres: CentreMode = "learned", radius: RadiusMode = "free", d: int = 64
) -> HierarchicalClassifier:
    return HierarchicalClassifier(tree, d, centres=centres, radius=radius, generator=generator())


@pytest.mark.parametrize("tree_name", TREES)
@pytest.mark.parametrize(("centres", "radius"), MODES)
def test_spheres_are_those_of_the_loops_over_named_nodes(
    centres: CentreMode, radius: RadiusMode, tree_name: str
) -> None:
    tree = TREES[tree_name]
    classifier = make(tree, centres, radius)
    spheres, oracle = classifier.spheres(), Oracle(classifier)
    for found, expected in ((spheres.projections, oracle.w), (spheres.centres, oracle.c)):
        assert sorted(found) == sorted({len(node) for node in expected})
        for level, rows in found.items():
            torch.testing.assert_close(
                rows, torch.stack([expected[node] for node in oracle.nodes(level)])
            )
    assert spheres.weight is spheres.projections[tree.depth]
    assert sorted(spheres.centres) == list(range(1, tree.depth))


@pytest.mark.parametrize(
    ("centres", "radius", "names"),
    [
        ("learned", "free", {"surface.3": 11, "centre.1": 3, "centre.2": 6}),
        ("parent", "free", {"surface.1": 3, "surface.2": 6, "surface.3": 11}),
        ("mean", "unit", {"surface.3": 11, "logit_scale": 1}),
    ],
)
def test_parameters_are_named_by_kind_and_level(
    centres: CentreMode, radius: RadiusMode, names: dict[str, int]
) -> None:
    parameters = dict(hierarchical(DEEP, centres, radius).named_parameters())
    assert {name: len(p) if p.dim() else 1 for name, p in parameters.items()} == names


def test_only_the_logit_scale_is_spared_weight_decay() -> None:
    assert hierarchical(DEEP, radius="unit").no_decay == ("logit_scale",)
    assert hierarchical(DEEP).no_decay == PlainClassifier(4, 3, generator()).no_decay == ()


@pytest.mark.parametrize("tree", [FLAT, UNBALANCED, DEEP, CIFAR100])
@pytest.mark.parametrize("centres", ["learned", "parent", "mean"])
def test_class_projection_vectors_start_with_the_plain_classifiers_variance(
    centres: CentreMode, tree: ClassTree
) -> None:
    """Per class, over 40,000 components: a wrong factor would show in the single-child groups
    too.
    """
    d = 40_000
    v = 1 / (3 * d)
    plain = PlainClassifier(d, tree.n_classes, generator(1)).weight
    W = hierarchical(tree, centres, d=d).spheres().weight
    for rows in (plain, W):
        torch.testing.assert_close(
            rows.var(dim=1) / v, torch.ones(tree.n_classes), rtol=0.04, atol=0
        )
        assert rows.mean().abs() < 4 * math.sqrt(v / d)


@pytest.mark.parametrize(
    ("tree", "centres", "expected"),
    [
        (UNBALANCED, "learned", {"surface.2": 0.5, "centre.1": 0.5}),
        (DEEP, "learned", {"surface.3": 0.5, "centre.1": 0.5, "centre.2": 0.5}),
        (FLAT, "learned", {"surface.1": 1.0}),
        (UNBALANCED, "parent", {"surface.1": 0.8, "surface.2": 0.8}),
        (DEEP, "parent", {f"surface.{level}": 1 / 1.3125 for level in (1, 2, 3)}),
        (FLAT, "parent", {"surface.1": 1.0}),
    ],
)
def test_initial_variances_are_the_shares_of_d7(
    tree: ClassTree, centres: CentreMode, expected: dict[str, float]
) -> None:
    d = 40_000
    classifier = hierarchical(tree, centres, d=d)
    assert {
        name: p.var().item() * 3 * d for name, p in classifier.named_parameters()
    } == pytest.approx(expected, rel=0.03)


def test_mean_surface_vectors_start_larger_in_small_groups_and_only_children_at_v() -> None:
    d = 40_000
    u = hierarchical(UNBALANCED, "mean", d=d).surface["2"]
    expected = [3 / 2, 1, 3 / 2, 2, 1, 2, 3 / 2]
    assert (u.var(dim=1) * 3 * d).tolist() == pytest.approx(expected, rel=0.04)


def test_an_only_childs_mean_centre_is_zero_and_others_sum_to_zero() -> None:
    spheres = make(UNBALANCED, "mean").spheres()
    assert not spheres.centres[1][[1, 3]].any()
    torch.testing.assert_close(
        spheres.weight[[0, 2, 6]].sum(0), torch.zeros(6, dtype=torch.float64)
    )


@pytest.mark.parametrize("centres", ["learned", "parent", "mean"])
def test_without_a_hierarchy_the_classifier_is_the_plain_one(centres: CentreMode) -> None:
    W = hierarchical(FLAT, centres).spheres().weight
    assert torch.equal(W, PlainClassifier(64, 5, generator()).weight)


@pytest.mark.parametrize("centres", ["learned", "parent", "mean"])
def test_unit_spheres_have_constant_lengths_and_a_scale_that_starts_as_the_plain_one(
    centres: CentreMode,
) -> None:
    classifier = hierarchical(DEEP, centres, "unit", d=2000)
    spheres = classifier.spheres()
    for level, rows in spheres.projections.items():
        torch.testing.assert_close(
            rows.norm(dim=1), torch.full((DEEP.size(level),), 0.4 ** (level - 3))
        )
    assert [classifier.constant_radius(level) for level in (1, 2, 3)] == pytest.approx(
        [6.25, 2.5, 1.0]
    )
    free = hierarchical(DEEP, centres, "free", d=2000).spheres().weight
    assert classifier.logit_scale is spheres.scale
    assert spheres.scale is not None
    assert spheres.scale.item() == pytest.approx(free.norm(dim=1).mean().item())
    assert spheres.scale.item() == pytest.approx(math.sqrt(1 / 3), rel=0.02)
    x = torch.randn(3, 2000, generator=generator())
    torch.testing.assert_close(classifier(x), spheres.scale * (x @ spheres.weight.T))


@pytest.mark.parametrize("centres", ["learned", "mean"])
def test_outer_radii_are_kept_with_the_parameters(centres: CentreMode) -> None:
    """They come from initial values that a loaded classifier no longer has (D9)."""
    first = hierarchical(DEEP, centres)
    length = first.spheres().weight.norm(dim=1).mean().item()
    factor = 1 + math.sqrt(2)
    radii = [first.constant_radius(level) for level in (1, 2)]
    assert radii == pytest.approx([factor**2 * length, factor * length])
    assert first.constant_radius(3) is None
    second = HierarchicalClassifier(DEEP, 64, centres=centres, generator=generator(5))
    assert second.constant_radius(1) != first.constant_radius(1)
    second.load_state_dict(first.state_dict())
    assert second.constant_radius(1) == first.constant_radius(1)
    assert not [name for name in first.state_dict() if name.startswith("index")]


def test_parent_centres_measure_every_radius() -> None:
    assert [hierarchical(DEEP, "parent").constant_radius(level) for level in (1, 2, 3)] == [
        None
    ] * 3


def test_a_vanished_vector_of_unit_radius_has_a_finite_gradient() -> None:
    classifier = hierarchical(UNBALANCED, "parent", "unit")
    with torch.no_grad():
        for parameter in classifier.surface.values():
            parameter.zero_()
    classifier(torch.ones(2, 64)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in classifier.parameters())


def test_logits_are_features_times_rows_without_bias() -> None:
    x = torch.randn(3, 64, generator=generator())
    for classifier in (PlainClassifier(64, 5, generator()), hierarchical(UNBALANCED)):
        torch.testing.assert_close(classifier(x), x @ classifier.spheres().weight.T)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"centres": "learnt"}, "unknown mode of centres 'learnt'; did you mean 'learned'"),
        ({"radius": "units"}, "unknown mode of radius 'units'; did you mean 'unit'"),
        ({"radius_ratio": 0.0}, "radius_ratio is 0.0; expected a positive number"),
        ({"outer_radius_factor": math.inf}, "outer_radius_factor is inf"),
    ],
)
def test_impossible_settings_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        HierarchicalClassifier(FLAT, 4, **{"centres": "mean", "generator": generator(), **values})  # type: ignore[arg-type]


@pytest.mark.parametrize("centres", ["learned", "parent", "mean"])
def test_without_a_generator_torch_s_own_draws(centres: CentreMode) -> None:
    torch.manual_seed(3)
    first = HierarchicalClassifier(DEEP, 8, centres=centres)
    torch.manual_seed(3)
    second = HierarchicalClassifier(DEEP, 8, centres=centres)
    third = HierarchicalClassifier(DEEP, 8, centres=centres)
    given = HierarchicalClassifier(DEEP, 8, centres=centres, generator=generator(3))
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])
        assert torch.equal(value, given.state_dict()[name])
    assert not torch.equal(first.surface["3"], third.surface["3"])


def test_a_generator_leaves_torch_s_own_alone() -> None:
    before = torch.get_rng_state()
    HierarchicalClassifier(DEEP, 8, generator=generator())
    PlainClassifier(8, 3, generator())
    assert torch.equal(torch.get_rng_state(), before)
