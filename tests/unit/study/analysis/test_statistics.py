"""Intervals, tests and corrections against SciPy, hand-made numbers and direct simulation."""

import math
import statistics as plain
from random import Random

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks.evidence import EFFECTS, Setting, TestSet, World, band, coverage, simulate
from study.analysis.statistics import (
    Bools,
    confirmatory,
    holm,
    paired_bootstrap,
    seed_of,
    t_interval,
    welch,
    within,
)

ARMS = {
    "three seeds each": ([91.0, 92.5, 90.25], [88.0, 89.5, 90.0]),
    "unequal numbers": ([68.03, 67.2, 68.9, 68.4, 67.75], [66.1, 67.9, 65.2]),
    "unequal spreads": ([50.0, 50.01, 50.02, 49.99], [40.0, 60.0, 47.0, 55.0]),
    "one arm without spread": ([90.0, 90.0, 90.0], [91.0, 90.5, 92.0]),
    "equal means": ([1.0, 2.0, 3.0], [3.0, 1.0, 2.0]),
    "far apart": ([99.0, 99.1, 99.2], [10.0, 10.2, 10.1]),
}

seeds = st.lists(st.integers(0, 10_000).map(lambda right: right / 100), min_size=3, max_size=8)
"""Accuracies in percent of networks on 10,000 images."""


# Over seeds.


@pytest.mark.filterwarnings(
    "ignore:Precision loss occurred:RuntimeWarning"
)  # SciPy's, of the arm without spread
@pytest.mark.parametrize(("a", "b"), ARMS.values(), ids=ARMS)
def test_welch_s_test_is_scipy_s(a: list[float], b: list[float]) -> None:
    ours, theirs = welch(a, b), stats.ttest_ind(a, b, equal_var=False)
    assert ours is not None
    assert ours.difference == pytest.approx(plain.fmean(a) - plain.fmean(b))
    assert ours.p == pytest.approx(theirs.pvalue, rel=1e-9)
    assert ours.df == pytest.approx(theirs.df, rel=1e-9)
    interval = theirs.confidence_interval(0.95)
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high), rel=1e-9)


@pytest.mark.parametrize("values", [[91.0, 92.5, 90.25], [68.03, 67.2, 68.9, 68.4, 67.75]])
@pytest.mark.parametrize("level", [0.95, 0.5])
def test_the_t_interval_is_scipy_s(values: list[float], level: float) -> None:
    scale = plain.stdev(values) / math.sqrt(len(values))
    theirs = stats.t.interval(level, df=len(values) - 1, loc=plain.fmean(values), scale=scale)
    assert t_interval(values, level) == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("values", [[], [90.0], [1.0, 2.0], [0.1] * 3])
def test_below_three_seeds_or_without_spread_the_mean_has_no_interval(values: list[float]) -> None:
    assert t_interval(values) is None


def test_an_interval_is_cut_at_what_its_quantity_can_be() -> None:
    assert within((-2.5, 40.0), 0, 100) == (0, 40)
    assert within((95.0, 105.99), 0, 100) == (95, 100)
    assert within(None, 0, 100) is None


@pytest.mark.parametrize(("n", "m"), [(2, 9), (9, 2), (0, 3), (1, 1)])
def test_below_three_seeds_there_is_no_test(n: int, m: int) -> None:
    assert welch([float(i) for i in range(n)], [float(i) for i in range(m)]) is None


def test_two_arms_without_spread_and_with_equal_means_have_p_1_and_no_interval() -> None:
    found = welch([0.1] * 3, [0.1] * 4)
    assert found is not None
    assert (found.difference, found.p, found.df, found.low, found.high) == (0, 1, None, None, None)


def test_two_arms_without_spread_and_with_different_means_have_no_p() -> None:
    """That two arms repeat themselves exactly says nothing of how a third seed would differ."""
    found = welch([91.0] * 3, [90.0] * 3)
    assert found is not None
    assert (found.difference, found.p, found.df, found.low, found.high) == (
        1,
        None,
        None,
        None,
        None,
    )


@given(seeds, seeds, st.integers(-50, 50), st.integers(1, 9), st.randoms(use_true_random=False))
def test_p_depends_on_neither_unit_nor_origin_nor_the_order_of_seeds(
    a: list[float], b: list[float], shift: int, scale: int, random: Random
) -> None:
    assume(len({*a}) > 1)
    moved = [[scale * value + shift for value in random.sample(arm, len(arm))] for arm in (a, b)]
    before, after = welch(a, b), welch(*moved)
    assert before is not None
    assert after is not None
    assert after.p == pytest.approx(before.p, rel=1e-6, abs=1e-12)
    assert after.df == pytest.approx(before.df, rel=1e-6)
    assert after.difference == pytest.approx(scale * before.difference, abs=1e-9)
    assert after.low == pytest.approx(scale * (before.low or 0), abs=1e-6)


@given(seeds, seeds)
def test_swapped_arms_change_the_sign_alone(a: list[float], b: list[float]) -> None:
    one, other = welch(a, b), welch(b, a)
    assert one is not None
    assert other is not None
    assert (one.p, one.difference) == (other.p, -other.difference)
    if one.low is not None and other.high is not None:
        assert one.low == pytest.approx(-other.high)


@given(seeds, seeds)
def test_p_is_below_5_percent_exactly_where_the_interval_leaves_out_zero(
    a: list[float], b: list[float]
) -> None:
    found = welch(a, b)
    assert found is not None
    assume(found.p is not None and found.low is not None and abs(found.p - 0.05) > 1e-9)
    assert found.p is not None
    assert found.low is not None
    assert found.high is not None
    assert (found.p < 0.05) == (not found.low <= 0 <= found.high)


# Over the cells of a table.


def test_holm_multiplies_the_smallest_p_by_the_number_of_tests_the_next_by_one_less_and_never_falls() -> (
    None
):
    """0.01·4, 0.02·3, 0.04·2; the largest, 0.045·1, is held up at 0.08."""
    assert holm([0.045, 0.01, 0.04, 0.02]) == pytest.approx([0.08, 0.04, 0.08, 0.06])


def test_holm_does_not_count_cells_without_a_test() -> None:
    assert holm([None, 0.01, None, 0.04]) == [None, 0.02, None, 0.04]
    assert holm([None]) == [None]
    assert holm([]) == []


def test_an_adjusted_p_is_at_most_1() -> None:
    assert holm([0.5, 0.9, 0.7]) == [1, 1, 1]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.randoms(use_true_random=False))
def test_holm_keeps_the_order_of_the_cells_and_lies_between_p_and_bonferroni(
    p: list[float], random: Random
) -> None:
    adjusted = [value for value in holm(p) if value is not None]
    assert all(a <= b <= min(1, len(p) * a) for a, b in zip(p, adjusted, strict=True))
    order = random.sample(range(len(p)), len(p))
    assert holm([p[i] for i in order]) == [adjusted[i] for i in order]
    assert [adjusted[i] for i in np.argsort(p)] == sorted(adjusted)


def test_the_tests_of_a_table_are_welch_s_adjusted_together() -> None:
    a, b = ARMS["three seeds each"]
    c, d = ARMS["unequal numbers"]
    comparisons, adjusted = confirmatory([(a, b), None, (c, d), (a[:2], b)])
    assert comparisons == [welch(a, b), None, welch(c, d), None]
    p, q = (stats.ttest_ind(*pair, equal_var=False).pvalue for pair in ((a, b), (c, d)))
    assert p < q < 2 * p
    assert adjusted == pytest.approx([2 * p, None, 2 * p, None])


# Over test images.


def right(networks: int, images: int, chance: float, seed: int) -> Bools:
    found: Bools = np.random.default_rng(seed).random((networks, images)) < chance
    return found


def test_a_bootstrap_over_distinct_differences_is_the_one_over_images() -> None:
    """Against images that are drawn one by one, to the error of 20,000 draws."""
    a, b = right(3, 400, 0.7, 0), right(2, 400, 0.6, 1)
    per_image = 100 * (a.mean(axis=0) - b.mean(axis=0))
    drawn = np.random.default_rng(2).integers(0, 400, (20_000, 400))
    direct = np.quantile(per_image[drawn].mean(axis=1), [0.025, 0.975])
    ours = paired_bootstrap(a, b, seed=3, resamples=20_000)
    assert ours == pytest.approx(direct, abs=0.2)
    assert direct[1] - direct[0] > 5


def test_a_bootstrap_pairs_the_images() -> None:
    """Two networks that differ on one image in 200 have a far narrower interval than their
    accuracies.
    """
    a = right(1, 200, 0.5, 0)
    b = a.copy()
    b[0, 0] = not b[0, 0]
    interval = paired_bootstrap(a, b, seed=0)
    assert interval is not None
    assert interval[1] - interval[0] == pytest.approx(1.5)
    assert paired_bootstrap(a, a, seed=0) == (0, 0)


@given(st.randoms(use_true_random=False))
@settings(max_examples=20)
def test_a_bootstrap_depends_on_neither_the_order_of_images_nor_of_networks(random: Random) -> None:
    a, b = right(3, 50, 0.7, 0), right(2, 50, 0.6, 1)
    images, networks = random.sample(range(50), 50), random.sample(range(3), 3)
    moved = paired_bootstrap(a[networks][:, images], b[::-1, images], seed=4, resamples=500)
    assert moved == paired_bootstrap(a, b, seed=4, resamples=500)


@pytest.mark.parametrize("shapes", [((0, 5), (1, 5)), ((1, 5), (0, 5)), ((1, 0), (1, 0))])
def test_without_networks_or_images_there_is_no_bootstrap(
    shapes: tuple[tuple[int, int], tuple[int, int]],
) -> None:
    a, b = (np.zeros(shape, dtype=bool) for shape in shapes)
    assert paired_bootstrap(a, b, seed=0) is None


def test_a_seed_is_that_of_its_names_on_every_machine() -> None:
    assert seed_of("E", "digits") == 20959457268035210
    assert seed_of("Ed", "igits") != seed_of("E", "digits")


# Whole tables, simulated.


def test_of_1000_tables_without_effects_no_more_than_one_in_twenty_rejects_a_cell_within_the_binomial_band() -> (
    None
):
    settings = [Setting(cells=8, n=n) for n in (3, 5, 10)]
    counts = simulate(World(), settings, tables=1000, seed=0)
    assert band(1000) == (37, 64)
    for setting in settings:
        assert counts[setting].false <= 64
        assert (
            counts[setting].uncorrected > 120
        )  # the tables do tempt: without Holm they would be believed


def test_larger_effects_and_more_seeds_are_found_more_often() -> None:
    settings = [Setting(cells=8, n=n, effect=effect) for n in (3, 10) for effect in EFFECTS]
    counts = simulate(World(seed_sd=0.6), settings, tables=200, seed=0)
    found = [counts[setting].found for setting in settings]
    assert found[:3] == sorted(found[:3])
    assert found[3:] == sorted(found[3:])
    assert found[5] == 200
    assert found[2] < 100


def test_a_simulated_network_is_as_accurate_as_one_drawn_image_by_image() -> None:
    random = np.random.default_rng(0)
    difficulties = random.normal(1, 2, 500)
    shifts = np.full(4000, 0.3)
    chances = 1 / (1 + np.exp(-(difficulties + 0.3)))
    direct = 100 * (random.random((4000, 500)) < chances).mean(axis=1)
    ours = TestSet(difficulties).accuracies(shifts, random)
    assert ours.mean() == pytest.approx(direct.mean(), abs=0.15)
    assert ours.std() == pytest.approx(direct.std(), rel=0.05)
    assert 5 * ours == pytest.approx(np.rint(5 * ours))  # whole images


@pytest.mark.parametrize("seed_sd", [0.3, 0.6])
def test_a_simulated_arm_has_the_stated_spread_over_seeds_and_effect(seed_sd: float) -> None:
    world, random = World(seed_sd=seed_sd), np.random.default_rng(0)
    images = TestSet(world.centre + world.spread * random.standard_normal(world.images))
    plain = images.accuracies(world.shift_sd * random.standard_normal(20_000), random)
    better = images.accuracies(
        world.shift_of(1) + world.shift_sd * random.standard_normal(20_000), random
    )
    assert plain.std() == pytest.approx(seed_sd, rel=0.05)
    assert better.mean() - plain.mean() == pytest.approx(1, rel=0.05)


def test_a_bootstrap_interval_holds_the_difference_over_all_images_in_about_95_test_sets_of_100() -> (
    None
):
    low, high = stats.binom.interval(0.99, 300, 0.95)
    assert (
        low
        <= coverage(World(seed_sd=1, taste=1, images=2000), networks=2, sets=300, seed=0)
        <= high
    )
