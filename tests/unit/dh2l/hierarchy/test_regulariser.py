"""R_p and R_c against plain loops, and what must hold of them."""

from collections.abc import Collection
from itertools import combinations

import pytest
import torch
from gpu_fixtures import needs_gpu, no_waiting
from sphere_oracle import (
    DEEP,
    FLAT,
    MODES,
    TREES,
    UNBALANCED,
    Oracle,
    cosine,
    library_gradients,
    make,
    n_euclidean2,
    seen_mask,
)
from torch import Tensor

from dh2l.errors import UserError
from dh2l.hierarchy import tree_index as siblings
from dh2l.hierarchy.classifier import CentreMode, HierarchicalClassifier, RadiusMode
from dh2l.hierarchy.constraints import violations
from dh2l.hierarchy.regulariser import HierarchicalTerms, hierarchical_terms
from dh2l.pairwise.energy import energy
from dh2l.pairwise.penalties import pairwise_penalty
from dh2l.registry.entries import METRICS, Means
from dh2l.tree import ClassTree

PENALTIES = {"cosine": cosine, "n_euclidean2": n_euclidean2}
SEEN: dict[str, list[Collection[str] | None]] = {
    "flat": [None, "bde", "c"],
    "unbalanced": [None, "acbd", "abe", "dfg", "bc", "e"],
    "deep": [None, "acdh", "aefib", "bj", "dg", "abcdefgh", "c"],
}


def terms_of(
    classifier: HierarchicalClassifier,
    metric: str,
    seen: Tensor | None = None,
    *,
    ternary_threshold: float = 0.0,
    means: Means = "exact",
) -> HierarchicalTerms:
    return hierarchical_terms(
        classifier,
        classifier.spheres(),
        metric,
        seen=seen,
        ternary_threshold=ternary_threshold,
        means=means,
    )


@pytest.mark.parametrize("metric", PENALTIES)
@pytest.mark.parametrize("tree_name", TREES)
@pytest.mark.parametrize(("centres", "radius"), MODES)
def test_terms_and_gradients_are_those_of_the_double_loop(
    centres: CentreMode, radius: RadiusMode, tree_name: str, metric: str
) -> None:
    tree, penalty = TREES[tree_name], PENALTIES[metric]
    for seed, names in enumerate(SEEN[tree_name]):
        classifier = make(tree, centres, radius, seed=seed)
        oracle = Oracle(classifier, names)
        terms = terms_of(classifier, metric, seen_mask(tree, names))
        for found, expected in (
            (terms.projection, oracle.r_p(penalty)),
            (terms.centre, oracle.r_c(penalty)),
        ):
            assert found.keys() == expected.keys()
            for level in expected:
                torch.testing.assert_close(
                    found[level], expected[level].detach(), check_dtype=False
                )
        weights = (0.5, 0.1, 0.3)[: tree.depth]
        total = sum(
            (
                weights[level - 1] * value
                for part in (oracle.r_p(penalty), oracle.r_c(penalty))
                for level, value in part.items()
            ),
            torch.zeros(()),
        )
        weighted = terms.weighted(weights)
        torch.testing.assert_close(weighted.detach(), total.detach(), check_dtype=False)
        gradients = library_gradients(classifier, weighted)
        for name, gradient in oracle.gradients(total).items():
            torch.testing.assert_close(gradients[name], gradient, rtol=1e-6, atol=1e-10)


@pytest.mark.parametrize("centres", ["learned", "parent", "mean"])
def test_groups_computed_in_blocks_by_size_are_those_computed_together(
    centres: CentreMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many very unequal groups are multiplied by size; value and gradient are the same."""
    sizes = [1, 2, 3, 9, 17, 33, 2]
    tree = ClassTree(
        [(f"s{i}", f"c{j}") for j in range(33) for i, size in enumerate(sizes) if j < size]
    )
    seen = torch.rand(tree.n_classes, generator=torch.Generator().manual_seed(0)) < 0.6
    found = []
    for small in (siblings.SMALL_BLOCK, 0):
        monkeypatch.setattr(siblings, "SMALL_BLOCK", small)
        classifier = make(tree, centres)
        assert (len(classifier.index.groups(2).blocks) > 1) == (small == 0)
        terms = terms_of(classifier, "cos_hm", seen)
        found.append(
            (terms.weighted((1, 1)), library_gradients(classifier, terms.weighted((1, 1))))
        )
        assert terms.clamped_fraction.isfinite()
    (one, one_gradients), (several, several_gradients) = found
    torch.testing.assert_close(several, one)
    torch.testing.assert_close(several_gradients, one_gradients)


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_is_the_mean_over_spheres_of_its_mean_pair(metric: str) -> None:
    """Each sphere's vectors are cut out and given to the penalty alone."""
    classifier = make(DEEP, "learned").float()
    W = classifier.spheres().weight
    means = []
    for parent in range(DEEP.size(2)):
        rows = [i for i, p in enumerate(DEEP.parents(3)) if p == parent]
        if len(rows) > 1:
            means.append(energy([W[rows]], metric))
    terms = terms_of(classifier, metric)
    torch.testing.assert_close(terms.projection[3], torch.stack(means).mean())
    gradients = library_gradients(classifier, terms.weighted((1, 1, 1)))
    assert all(gradient.isfinite().all() for gradient in gradients.values())


def test_on_two_levels_r_c_is_equation_7() -> None:
    """2 / (C(C − 1)) times the sum over the unordered pairs of the centres."""
    classifier = make(UNBALANCED)
    c = classifier.centre["1"].detach()
    expected = 2 / (4 * 3) * sum(cosine(c[i], c[j]) for i, j in combinations(range(4), 2))
    assert terms_of(classifier, "cosine").centre[2].item() == pytest.approx(float(expected))


def test_a_sphere_with_one_seen_child_still_counts_in_r_c() -> None:
    """Classes a and b alone are seen, in groups p and q: no pair of classes, but one pair of
    centres.
    """
    classifier = make(UNBALANCED)
    terms = terms_of(classifier, "cosine", seen_mask(UNBALANCED, "ab"))
    assert terms.projection[2].item() == 0
    c = classifier.centre["1"].detach()
    assert terms.centre[2].item() == pytest.approx(cosine(c[0], c[1]).item())


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("centres", ["learned", "parent", "mean"])
def test_without_any_pair_every_term_is_exactly_zero_with_zero_gradient(
    centres: CentreMode, metric: str
) -> None:
    classifier = make(UNBALANCED, centres)
    terms = terms_of(classifier, metric, seen_mask(UNBALANCED, "e"))
    assert [v.item() for v in (*terms.projection.values(), *terms.centre.values())] == [0, 0]
    assert terms.clamped_fraction.item() == 0
    for gradient in library_gradients(classifier, terms.weighted((1, 1))).values():
        assert not gradient.any()


@pytest.mark.parametrize("metric", METRICS)
def test_on_one_level_r_is_the_energy_of_the_classifier(metric: str) -> None:
    """Value and gradient: the invariant that ties H to E (METHOD.md, section 4)."""
    classifier = make(FLAT).float()
    r = terms_of(classifier, metric).weighted([0.1])
    e = 0.1 * energy([classifier.spheres().weight], metric)
    torch.testing.assert_close(r, e)
    found, expected = library_gradients(classifier, r), library_gradients(classifier, e)
    torch.testing.assert_close(found["surface.1"], expected["surface.1"])
    assert found["surface.1"].any()


def test_unseen_classes_get_no_gradient_from_r_p_of_learned_centres() -> None:
    classifier = make(UNBALANCED)
    seen = seen_mask(UNBALANCED, "acdf")
    assert seen is not None
    r_p = terms_of(classifier, "cosine", seen).projection[2]
    gradient = library_gradients(classifier, r_p)["surface.2"]
    assert not gradient[~seen].any()
    assert (gradient[seen] != 0).any(dim=1).all()


def test_a_mean_centre_takes_the_whole_group_also_the_unseen() -> None:
    """Class g is not seen, but the centre of its group moves with it, and so do a's and c's
    vectors.
    """
    classifier = make(UNBALANCED, "mean")
    r_p = terms_of(classifier, "cosine", seen_mask(UNBALANCED, "ac")).projection[2]
    assert library_gradients(classifier, r_p)["surface.2"][6].any()


def test_the_layer_of_a_ternary_threshold_is_the_level() -> None:
    """As in E: the mean |w| is that of the whole level, whatever the groups' sizes and whoever is
    seen.
    """
    classifier = make(UNBALANCED, "learned")
    W = classifier.spheres().weight
    pairs = pairwise_penalty("hamming_ternary", W, ternary_threshold=0.7)
    terms = terms_of(
        classifier, "hamming_ternary", seen_mask(UNBALANCED, "acd"), ternary_threshold=0.7
    )
    torch.testing.assert_close(terms.projection[2], pairs[0, 2])
    assert (
        pairs[0, 2] != pairwise_penalty("hamming_ternary", W[[0, 2]], ternary_threshold=0.7)[0, 1]
    )


def test_the_clamped_fraction_counts_the_pairs_that_r_counts() -> None:
    """Two classes of p coincide: 1 of its 3 pairs; with r's one pair and six pairs of centres, 1 of
    10.
    """
    classifier = make(UNBALANCED)
    with torch.no_grad():
        classifier.surface["2"][2] = classifier.surface["2"][0]
        classifier.surface["2"][3] = classifier.surface["2"][0]  # of another group: does not count
    assert terms_of(classifier, "angular2").clamped_fraction.item() == pytest.approx(0.1)
    assert terms_of(classifier, "cosine").clamped_fraction.item() == 0


def test_level_weights_of_another_number_than_the_levels_are_refused() -> None:
    with pytest.raises(
        UserError, match=r"level_weights has 1 value; expected 2, one for each level"
    ):
        terms_of(make(UNBALANCED), "cosine").weighted([0.1])


def test_an_unknown_metric_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(UserError, match="did you mean 'cosine'"):
        terms_of(make(UNBALANCED), "cosin")


def everything(classifier: HierarchicalClassifier, labels: Tensor, metric: str) -> Tensor:
    """All regularisers of a batch, as the loss takes them."""
    spheres, seen = classifier.spheres(), classifier.seen_classes(labels)
    total = hierarchical_terms(classifier, spheres, metric, seen=seen).weighted([0.1, 0.5, 0.3])
    for violation in violations(classifier, spheres, seen=seen).values():
        total = total + violation
    return total


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize(("centres", "radius"), MODES)
def test_nothing_waits_for_the_gpu(centres: CentreMode, radius: RadiusMode) -> None:
    classifier = make(DEEP, centres, radius).to("cuda")
    labels = torch.tensor([0, 4, 2, 8], device="cuda")

    def step() -> Tensor:
        classifier.zero_grad()
        total = everything(classifier, labels, "gm")
        total.backward()  # type: ignore[no-untyped-call]
        return total.detach()

    step()
    with no_waiting():
        total = step()
    torch.testing.assert_close(
        total.cpu(), everything(classifier.cpu(), labels.cpu(), "gm").detach()
    )
