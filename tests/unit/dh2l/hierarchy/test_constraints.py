"""C1, C2 and C3 against plain loops, and what must hold of them."""

import math
from collections.abc import Collection

import pytest
import torch
from sphere_oracle import (
    DEEP,
    FLAT,
    MODES,
    TREES,
    UNBALANCED,
    Oracle,
    library_gradients,
    make,
    seen_mask,
)
from torch import Tensor

from dh2l.hierarchy.classifier import CentreMode, HierarchicalClassifier, RadiusMode, Spheres
from dh2l.hierarchy.constraints import (
    Multipliers,
    centre_orthogonality,
    level_violations,
    violations,
)

SEEN: dict[str, list[Collection[str] | None]] = {
    "flat": [None, "bde"],
    "unbalanced": [None, "acbd", "abe", "dfg", "e", ""],
    "deep": [None, "acdh", "aefib", "bj", "abcdefgh", "c", ""],
}


def initial_radii(classifier: HierarchicalClassifier, seed: int) -> dict[int, float]:
    """D9 from the classifier's initial values, which its seed gives again."""
    tree = classifier.tree
    again = HierarchicalClassifier(
        tree,
        classifier.n_features,
        centres=classifier.centre_mode,
        radius=classifier.radius_mode,
        generator=torch.Generator().manual_seed(seed),
    )
    oracle = Oracle(again)
    lengths = [oracle.length(oracle.w[path]).item() for path in tree.paths]
    mean = sum(lengths) / len(lengths)
    return {
        level: (1 + math.sqrt(2)) ** (tree.depth - level) * mean for level in range(1, tree.depth)
    }


@pytest.mark.parametrize("tree_name", TREES)
@pytest.mark.parametrize(("centres", "radius"), MODES)
def test_violations_and_gradients_are_those_of_the_double_loop(
    centres: CentreMode, radius: RadiusMode, tree_name: str
) -> None:
    tree = TREES[tree_name]
    violated = set()
    for seed, names in enumerate(SEEN[tree_name]):
        classifier = make(tree, centres, radius, seed=seed)
        oracle = Oracle(classifier, names)
        oracle.inner_radii = initial_radii(classifier, seed)
        expected = oracle.violations()
        found = violations(classifier, classifier.spheres(), seen=seen_mask(tree, names))
        assert found.keys() == expected.keys()
        for key in expected:
            # D9's constants are float32.
            torch.testing.assert_close(
                found[key].detach(), expected[key].detach(), rtol=1e-6, atol=2e-6
            )
            violated |= {key} if found[key] > 0.01 else set()
            gradients = library_gradients(classifier, found[key])
            for name, gradient in oracle.gradients(expected[key]).items():
                torch.testing.assert_close(gradients[name], gradient, rtol=1e-6, atol=1e-9)
    if tree.depth > 1:  # the comparison was not one of zeros
        assert violated >= ({"c1", "c2", "c3"} if radius == "free" else {"c3"})


@pytest.mark.parametrize(("centres", "radius"), MODES)
def test_without_a_hierarchy_there_is_nothing_to_violate(
    centres: CentreMode, radius: RadiusMode
) -> None:
    classifier = make(FLAT, centres, radius)
    assert [v.item() for v in violations(classifier, classifier.spheres()).values()] == [0, 0, 0]


@pytest.mark.parametrize("squared", [False, True])
def test_a_levels_violation_is_the_mean_over_its_nodes_of_each_violation_or_of_its_square(
    squared: bool,
) -> None:
    classifier = make(DEEP)
    oracle = Oracle(classifier, "acdhi")
    oracle.inner_radii = initial_radii(classifier, 0)
    found = level_violations(
        classifier, classifier.spheres(), seen=seen_mask(DEEP, "acdhi"), squared=squared
    )
    one_by_one = oracle.violations_by_level()
    assert found.keys() == {"c1", "c2", "c3"}
    for key, levels in found.items():
        assert levels.keys() == one_by_one.keys() == {2, 3}
        for level, value in levels.items():
            expected = oracle.mean([v**2 if squared else v for v in one_by_one[level][key]])
            torch.testing.assert_close(value.detach(), expected.detach(), rtol=1e-6, atol=2e-6)


def test_multipliers_follow_the_epochs_mean_violation_weighted_by_images() -> None:
    """D10: m ← m + ρ·v̄ with ρ = λ_C, from 0; the term is m·v + ½ρv², summed over levels."""
    multipliers = Multipliers({"c1": 0.5, "c3": 2.0}, range(2, 4), torch.device("cpu"))
    place = multipliers.values.data_ptr()

    def batch(c1: tuple[float, float], c3: tuple[float, float]) -> dict[str, dict[int, Tensor]]:
        return {
            k: dict(zip((2, 3), torch.tensor(v), strict=True))
            for k, v in (("c1", c1), ("c2", c1), ("c3", c3))
        }

    first, second = batch((1, 0), (3, 2)), batch((4, 0), (0, 2))
    assert [t.item() for t in multipliers.terms(first)] == [0.25, 13]
    multipliers.accumulate(first, 8)
    multipliers.accumulate(second, 4)
    assert not multipliers.values.any()
    multipliers.update(12)
    assert multipliers.values.tolist() == [[0.5 * 2, 0], [2 * 2, 2 * 2]]
    assert [t.item() for t in multipliers.terms(first)] == [1 + 0.25, 4 * 3 + 4 * 2 + 13]
    assert {name: v.item() for name, v in multipliers.metrics().items()} == {
        "multiplier_c1_2": 1, "multiplier_c1_3": 0, "multiplier_c3_2": 4, "multiplier_c3_3": 4,
    }  # fmt: skip
    multipliers.accumulate(second, 12)
    multipliers.update(12)
    assert multipliers.values.tolist() == [[3, 0], [4, 8]]
    assert multipliers.values.data_ptr() == place


@pytest.mark.parametrize("tree_name", TREES)
@pytest.mark.parametrize(("centres", "radius"), MODES)
def test_centre_orthogonality_is_the_double_loop_over_siblings_centres(
    centres: CentreMode, radius: RadiusMode, tree_name: str
) -> None:
    tree = TREES[tree_name]
    for seed, names in enumerate(SEEN[tree_name]):
        classifier = make(tree, centres, radius, seed=seed)
        oracle = Oracle(classifier, names)
        found = centre_orthogonality(classifier, classifier.spheres(), seen=seen_mask(tree, names))
        expected = oracle.centre_orthogonality()
        torch.testing.assert_close(found.detach(), expected.detach(), check_dtype=False)
        gradients = library_gradients(classifier, found)
        for name, gradient in oracle.gradients(expected).items():
            torch.testing.assert_close(gradients[name], gradient, rtol=1e-6, atol=1e-9)


def test_orthogonal_centres_cost_nothing_and_equal_ones_the_most() -> None:
    """Every product of n equal unit centres is 1: ‖C·Cᵀ − I‖ is √(n(n − 1))."""
    classifier = make(UNBALANCED)
    with torch.no_grad():
        classifier.centre["1"].copy_(torch.eye(4, 6) * torch.tensor([[1.0], [2], [3], [4]]))
    assert centre_orthogonality(classifier, classifier.spheres()).item() == 0
    assert not any(
        g.any()
        for g in library_gradients(
            classifier, centre_orthogonality(classifier, classifier.spheres())
        ).values()
    )
    with torch.no_grad():
        classifier.centre["1"].copy_(torch.ones(4, 6))
    assert centre_orthogonality(classifier, classifier.spheres()).item() == pytest.approx(
        math.sqrt(12)
    )
    two = centre_orthogonality(classifier, classifier.spheres(), seen=seen_mask(UNBALANCED, "ab"))
    assert two.item() == pytest.approx(math.sqrt(2))
    assert (
        centre_orthogonality(
            classifier, classifier.spheres(), seen=seen_mask(UNBALANCED, "ac")
        ).item()
        == 0
    )


def test_a_centre_at_0_is_orthogonal_to_all_and_gets_no_gradient() -> None:
    classifier = make(UNBALANCED)
    with torch.no_grad():
        classifier.centre["1"][1] = 0
    found = centre_orthogonality(classifier, classifier.spheres())
    gradient = library_gradients(classifier, found)["centre.1"]
    assert gradient.isfinite().all()
    assert not gradient[1].any()
    assert gradient[[0, 2, 3]].any(dim=1).all()


def two_spheres(
    distance: float, r_inner: float, r_outer: float
) -> tuple[HierarchicalClassifier, Spheres]:
    """UNBALANCED with p's and r's centres `distance` apart, both `distance`/2 from the origin, in a
    plane.
    """
    classifier = make(UNBALANCED, d=2)
    classifier.constant_radii.fill_(r_outer)
    w = torch.zeros(7, 2, dtype=torch.float64)
    w[:, 1] = r_inner
    c = torch.zeros(4, 2, dtype=torch.float64)
    c[0, 0], c[2, 0] = distance / 2, -distance / 2
    return classifier, Spheres(w, {2: w}, {1: c}, None)


@pytest.mark.parametrize(
    ("distance", "r_inner", "r_outer", "expected"),
    [
        (4.0, 1.0, 3.0, (0, 0, 0)),  # fits; the inner spheres touch the outer one
        (4.0, 1.0, 2.5, (0, 0.5, 0)),  # each reaches 0.5 beyond the outer sphere
        (1.0, 1.0, 9.0, (0, 0, 1.0)),  # they overlap by 1
        (0.0, 1.0, 9.0, (0, 0, 2.0)),  # concentric
        (8.0, 3.0, 2.0, (1.0, 5.0, 0)),  # larger than the outer sphere
    ],
)
def test_violations_of_two_spheres_in_a_plane(
    distance: float, r_inner: float, r_outer: float, expected: tuple[float, float, float]
) -> None:
    classifier, spheres = two_spheres(distance, r_inner, r_outer)
    found = violations(classifier, spheres, seen=seen_mask(UNBALANCED, "adf"))
    assert [found[key].item() for key in ("c1", "c2", "c3")] == pytest.approx(expected)


def test_coinciding_centres_and_vanished_vectors_give_finite_gradients() -> None:
    classifier = make(UNBALANCED)
    with torch.no_grad():
        classifier.centre["1"].zero_()
        classifier.surface["2"].zero_()
        classifier.surface["2"][0] = 1.0
    total = torch.stack(list(violations(classifier, classifier.spheres()).values())).sum()
    assert total > 0
    assert all(
        gradient.isfinite().all() for gradient in library_gradients(classifier, total).values()
    )


@pytest.mark.parametrize("centres", ["learned", "parent", "mean"])
def test_an_unseen_class_has_no_part_in_a_measured_radius(centres: CentreMode) -> None:
    """Class h is z2's only one; without it neither z2's sphere nor its centre matters."""
    spheres_of = make(DEEP, centres).spheres()
    seen = seen_mask(DEEP, "abcdefgijk")
    classifier = make(DEEP, centres)
    before = violations(classifier, spheres_of, seen=seen)
    spheres_of.projections[3].data[7] *= 100
    spheres_of.centres[2].data[5] *= 100
    after = violations(classifier, spheres_of, seen=seen)
    assert {key: v.item() for key, v in before.items()} == {
        key: v.item() for key, v in after.items()
    }
