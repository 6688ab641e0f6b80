import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dh2l.data import stratified_split
from dh2l.errors import DataError, UserError

counts_and_order = st.tuples(
    st.lists(st.integers(2, 30), min_size=1, max_size=6), st.integers(0, 2**32)
)
fractions = st.floats(0.001, 0.999)


def shuffled_labels(counts: list[int], seed: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    labels = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    return np.random.default_rng(seed).permutation(labels)


@given(counts_and_order, fractions, st.integers(0, 10**6))
def test_a_split_parts_all_positions_in_ascending_order_and_holds_out_the_rounded_share_of_each_class(
    drawn: tuple[list[int], int], fraction: float, seed: int
) -> None:
    counts, order = drawn
    labels = shuffled_labels(counts, order)
    train, validation = stratified_split(labels, fraction, seed)
    assert train.dtype == validation.dtype == np.int64
    assert (np.diff(train) > 0).all()
    assert (np.diff(validation) > 0).all()
    assert sorted([*train, *validation]) == list(range(len(labels)))
    for label, n in enumerate(counts):
        assert (labels[validation] == label).sum() == min(max(round(fraction * n), 1), n - 1)


@given(st.integers(2, 40), st.integers(2, 40), fractions, st.integers(0, 10**6))
def test_what_is_held_out_of_a_class_does_not_depend_on_the_other_classes(
    n: int, other: int, fraction: float, seed: int
) -> None:
    alone = stratified_split(np.zeros(n, dtype=np.int64), fraction, seed)[1]
    beside = stratified_split(np.repeat([0, 1], [n, other]), fraction, seed)[1]
    np.testing.assert_array_equal(alone, beside[beside < n])


def test_the_split_of_a_seed_never_changes_and_another_seed_gives_another() -> None:
    labels = np.repeat([0, 1], 10)
    assert stratified_split(labels, 0.3, 0)[1].tolist() == [3, 6, 8, 11, 13, 18]
    assert stratified_split(labels, 0.3, 1)[1].tolist() != [3, 6, 8, 11, 13, 18]


def test_a_class_too_small_to_split_is_named() -> None:
    with pytest.raises(DataError, match="class 2 has 1 training image,"):
        stratified_split(np.array([0, 0, 1, 1, 2]), 0.5, 0)
    with pytest.raises(DataError, match="class fish/ray has 1 training image,"):
        stratified_split(np.array([0, 0, 1]), 0.5, 0, ["fish/cod", "fish/ray"])
    with pytest.raises(DataError, match="class 1 has 0 training images"):
        stratified_split(np.array([0, 0, 2, 2]), 0.5, 0)


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, float("nan")])
def test_a_fraction_outside_0_to_1_is_refused(fraction: float) -> None:
    with pytest.raises(UserError, match="fraction must lie between 0 and 1"):
        stratified_split(np.array([0, 0]), fraction, 0)


def test_a_negative_seed_and_labels_that_are_no_class_indices_are_refused() -> None:
    with pytest.raises(UserError, match="seed"):
        stratified_split(np.array([0, 0]), 0.5, -1)
    for labels in (np.array([], dtype=np.int64), np.array([[0, 0]]), np.array([-1, 0, 0])):
        with pytest.raises(DataError, match="labels must be"):
            stratified_split(labels, 0.5, 0)
