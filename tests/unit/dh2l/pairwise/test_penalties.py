"""The pairwise penalties, against a slow reading of the table of the method, and at their edges."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from penalty_oracle import RIESZ, value_oracle
from torch import Tensor

from dh2l.errors import UserError
from dh2l.pairwise.penalties import METRICS, clamped_pairs, largest_cosines, pairwise_penalty
from dh2l.registry.entries import PAPER_METRICS, Means

EVERY_KEY = pytest.mark.parametrize("name", METRICS)
HALF_SPACE = tuple(name for name in RIESZ if name.startswith("half_"))
CONTINUOUS = (*RIESZ, "cosine")
HAMMING = ("hamming_binary", "hamming_ternary")
COMBINED = tuple(name for name in PAPER_METRICS if name not in CONTINUOUS + HAMMING)
PRINTED = tuple(name for name in COMBINED if METRICS[name].depends_on_means)
PRIMED = tuple(name for name in METRICS if name.endswith("_arccos"))


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def hadamard(n: int) -> Tensor:
    rows = torch.ones(1, 1, dtype=torch.float64)
    while len(rows) < n:
        rows = torch.cat([torch.cat([rows, rows], 1), torch.cat([rows, -rows], 1)])
    return rows


def mean_cosine(W: Tensor) -> float:
    return pairwise_penalty("cosine", W).sum().item() / (len(W) * (len(W) - 1))


def mean_size_of_cosine(W: Tensor) -> float:
    return pairwise_penalty("cosine", W).abs().sum().item() / (len(W) * (len(W) - 1))


def gradient(name: str, W: Tensor) -> Tensor:
    """Compute the gradient of the sum of all penalties."""
    leaf = W.detach().clone().requires_grad_()
    return torch.autograd.grad(pairwise_penalty(name, leaf).sum(), leaf)[0]


# The oracle on values: one pair at a time, plain floats.


# The oracle on gradients: one pair at a time, torch scalars, each slope that autograd must not take
# spelled out as value + (slope carrier − its own value).


def straight_through(value: Tensor, carrier: Tensor) -> Tensor:
    return value.detach() + carrier - carrier.detach()


def clamped_scalar(x: Tensor) -> Tensor:
    return x if -0.99 <= x.item() <= 0.99 else torch.full_like(x, math.copysign(0.99, x.item()))


def sign_scalar(x: Tensor, ternary: bool) -> Tensor:
    value = (
        float((x > 0).item()) - float((x < 0).item()) if ternary else 1.0 if x.item() >= 0 else -1.0
    )
    return straight_through(
        torch.full_like(x, value), x if abs(x.item()) <= 1 else torch.zeros_like(x)
    )


def pair_oracle(name: str, u: Tensor, v: Tensor) -> Tensor:
    d, pi = len(u), math.pi
    cos = sum((u * v).unbind(), u.new_zeros(())) / ((u * u).sum().sqrt() * (v * v).sum().sqrt())
    theta = torch.acos(clamped_scalar(cos)) / pi
    ternary = name == "hamming_ternary"
    h = u.new_zeros(())
    for x, y in zip(u, v, strict=True):
        h = h + sign_scalar(x, ternary) * sign_scalar(y, ternary) / d
    phi = torch.acos(clamped_scalar(h)) / pi if name.endswith("_arccos") else (1 - h) / 2
    floored = straight_through(torch.maximum(phi, torch.full_like(phi, 1 / (4 * d))), phi)
    a, b = (torch.cos(pi * phi) + 1) / 2, (torch.cos(pi * theta) + 1) / 2
    if name in RIESZ:
        energies = []
        for side in (1, -1) if name in HALF_SPACE else (1,):
            near = clamped_scalar(side * cos)
            distance = torch.acos(near) if "angular" in name else (2 - 2 * near).sqrt()
            energies.append(-distance.log() if name.endswith("0") else distance ** -int(name[-1]))
        return torch.stack(energies).mean()
    table: dict[str, Callable[[], Tensor]] = {
        "cosine": lambda: cos,
        "hamming_binary": lambda: 1 - phi,
        "hamming_ternary": lambda: 1 - phi,
        "am": lambda: 1 - (phi + theta) / 2,
        "gm": lambda: 1 - torch.sqrt(floored * theta),
        "gm_arccos": lambda: 1 - torch.sqrt(phi * theta),
        "hm": lambda: 1 - 2 * phi * theta / (phi + theta),
        "cos_am": lambda: (torch.cos(pi * (phi + theta) / 2) + 1) / 2,
        "cos_gm": lambda: (torch.cos(pi * torch.sqrt(floored * theta)) + 1) / 2,
        "cos_gm_arccos": lambda: (torch.cos(pi * torch.sqrt(phi * theta)) + 1) / 2,
        "cos_hm": lambda: (torch.cos(pi * 2 * phi * theta / (phi + theta)) + 1) / 2,
        "am_cos": lambda: (a + b) / 2,
        "gm_cos": lambda: torch.cos(pi * phi / 2) * torch.cos(pi * theta / 2),
        "hm_cos": lambda: 2 * a * b / (a + b),
    }
    return (table.get(name) or table[name.removesuffix("_arccos")])()


def gradient_oracle(name: str, W: Tensor) -> Tensor:
    leaf = W.clone().requires_grad_()
    total = leaf.new_zeros(())
    for i, u in enumerate(leaf):
        for v in leaf[:i]:
            total = total + 2 * pair_oracle(name, u, v)
    return torch.autograd.grad(total, leaf)[0]


def plain_rows() -> Tensor:
    return normal(5, 9)


def rows_at_the_edges() -> Tensor:
    """Near-duplicate and near-opposite rows, zeros, entries above 1: every clamp and the floor."""
    W = normal(6, 8, seed=1) * 0.8
    W[2, 0] = 0
    W[4, :3] = torch.tensor([0.0, 3.0, -0.0])
    W[1] = W[0] + 0.01 * W[2]
    W[3] = -1.5 * W[2] + 0.01 * W[4]
    W[5] = -W[0].sign() * (W[4].abs() + 0.1)
    cos = pairwise_penalty("cosine", W)
    h = (2 * pairwise_penalty("hamming_binary", W) - 1).fill_diagonal_(0)
    assert cos.min() < -0.99
    assert cos.max() > 0.99
    assert h.min() == -1
    assert h.max() == 1
    return W


def two_rows() -> Tensor:
    return normal(2, 3, seed=2)


ORACLE_ROWS = pytest.mark.parametrize("rows", [plain_rows, rows_at_the_edges, two_rows])


@EVERY_KEY
@ORACLE_ROWS
def test_values_are_the_double_loop_over_the_table(name: str, rows: Callable[[], Tensor]) -> None:
    W = rows()
    listed = W.tolist()
    expected = [[0 if u is v else value_oracle(name, u, v) for v in listed] for u in listed]
    torch.testing.assert_close(
        pairwise_penalty(name, W),
        torch.tensor(expected, dtype=torch.float64),
        rtol=1e-11,
        atol=1e-12,
    )


@EVERY_KEY
@ORACLE_ROWS
def test_gradients_are_the_double_loop_with_its_own_straight_through_signs(
    name: str, rows: Callable[[], Tensor]
) -> None:
    W = rows()
    torch.testing.assert_close(gradient(name, W), gradient_oracle(name, W), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", COMBINED)
@ORACLE_ROWS
def test_printed_means_are_the_double_loop_too(name: str, rows: Callable[[], Tensor]) -> None:
    """D2: GM as a·b and HM as 4ab/(a + b) in eq. 9 and 10, `gm_cos` squared; the others as they
    are.
    """
    W = rows()
    listed = W.tolist()
    expected = [
        [0 if u is v else value_oracle(name, u, v, printed=True) for v in listed] for u in listed
    ]
    found = pairwise_penalty(name, W, means="printed")
    torch.testing.assert_close(
        found, torch.tensor(expected, dtype=torch.float64), rtol=1e-11, atol=1e-12
    )
    assert torch.equal(found, pairwise_penalty(name, W)) == (name not in PRINTED)


@pytest.mark.parametrize("name", ["gm_cos", "gm_cos_arccos"])
def test_printed_gm_cos_is_the_square_of_the_exact_one(name: str) -> None:
    W = rows_at_the_edges()
    torch.testing.assert_close(
        pairwise_penalty(name, W, means="printed"), pairwise_penalty(name, W) ** 2
    )


@pytest.mark.parametrize("name", ["cos_hm", "cos_hm_arccos"])
def test_printed_cos_hm_attracts_beyond_orthogonality(name: str) -> None:
    """Opposite rows cost least in the exact form, orthogonal ones in the printed form.

    There opposite rows attract each other.
    """
    W = torch.tensor([[1.0, 1, 1, 1], [1, 1, -1, -1], [-1, -1, -1, -1]], dtype=torch.float64)
    orthogonal, opposite = pairwise_penalty(name, W, means="printed")[0, 1:]
    assert orthogonal.item() == pytest.approx(0)
    assert opposite.item() > 0.8
    obtuse = torch.tensor([[0.5, 0.4, 0.3, 0.3], [-0.5, -0.4, -0.3, 0.2]], dtype=torch.float64)
    signs: dict[Means, int] = {"exact": -1, "printed": 1}
    for means, sign in signs.items():
        leaf = obtuse.clone().requires_grad_()
        penalty = pairwise_penalty(name, leaf, means=means).sum()
        downhill = -torch.autograd.grad(penalty, leaf)[0]
        assert sign * (mean_cosine(obtuse + 1e-4 * downhill) - mean_cosine(obtuse)) > 0


@pytest.mark.parametrize("name", CONTINUOUS)
def test_continuous_gradients_are_the_finite_differences(name: str) -> None:
    W = (
        normal(4, 6) * 2
    ).requires_grad_()  # some rows are divided by their largest entry, some not
    assert not clamped_pairs(name, W).any()
    assert torch.autograd.gradcheck(lambda w: pairwise_penalty(name, w), (W,))


@pytest.mark.parametrize("name", COMBINED)
def test_combined_gradients_are_the_finite_differences_where_no_sign_passes_any(name: str) -> None:
    W = normal(4, 12, seed=4)
    W = (
        W + 1.5 * W.sign()
    ).requires_grad_()  # all |w| > 1.5: the codes are constant, and pass no gradient
    assert not clamped_pairs(name, W).any()
    assert torch.autograd.gradcheck(lambda w: pairwise_penalty(name, w), (W,))


@pytest.mark.parametrize("name", HAMMING)
def test_signs_pass_the_gradient_only_where_the_entry_is_at_most_1(name: str) -> None:
    W = torch.tensor([[0.5, -1.0, 1.5, -2.0], [0.2, 0.3, 0.4, 0.5]], dtype=torch.float64)
    # Both orders of the pair count; the slope of (1 + h)/2 in one code is the other's code over 2d.
    assert gradient(name, W).tolist() == [[0.25, 0.25, 0, 0], [0.25, -0.25, 0.25, -0.25]]


DEGENERATE: dict[str, list[list[float]]] = {
    "identical": [[0.3, -0.2, 0.7]] * 4,
    "opposite": [[0.3, -0.2, 0.7], [-0.3, 0.2, -0.7]] * 2,
    "sign-equal": [[0.3, -0.2, 0.7], [0.9, -0.1, 0.1], [0.1, -4.0, 0.1]],
    "all zero": [[0.0] * 3] * 4,
    "tiny": [[1e-30, -2e-30, 3e-30], [2e-30, 1e-30, 1e-30]],
    "at the least length": [[1e-8, 0, 0], [2e-8, 1e-8, 0], [0.9e-8, 1e-9, 0]],
    "huge": [[1e30, -2e30, 3e30], [3e38, 3e38, 3e38], [-1e38, 1e38, 0]],
    "one row": [[0.3, -0.2, 0.7]],
    "one zero row": [[0.0] * 3],
    "one column": [[0.5], [-0.5], [0.0], [3.0]],
    "mixed": [
        [0.0, 0.0, 0.0],
        [1e-30, 0.0, 0.0],
        [1e30, -1e30, 0.0],
        [0.3, -0.2, 0.7],
        [0.3, -0.2, 0.7],
    ],
}


@EVERY_KEY
@pytest.mark.parametrize("case", DEGENERATE)
def test_values_and_gradients_are_finite_on_degenerate_rows(name: str, case: str) -> None:
    for dtype in (torch.float32, torch.float64):
        W = torch.tensor(DEGENERATE[case], dtype=dtype)
        penalty = pairwise_penalty(name, W, ternary_threshold=0.7)
        assert penalty.dtype == dtype
        assert penalty.isfinite().all()
        assert gradient(name, W).isfinite().all()


@pytest.mark.parametrize("name", PRINTED)
@pytest.mark.parametrize("case", DEGENERATE)
def test_printed_means_are_finite_on_degenerate_rows_too(name: str, case: str) -> None:
    for dtype in (torch.float32, torch.float64):
        W = torch.tensor(DEGENERATE[case], dtype=dtype, requires_grad=True)
        penalty = pairwise_penalty(name, W, means="printed")
        assert penalty.isfinite().all()
        assert torch.autograd.grad(penalty.sum(), W)[0].isfinite().all()


@EVERY_KEY
@pytest.mark.parametrize("batch", [(), (2,)])
def test_no_rows_have_no_pairs_and_one_row_has_none_either(
    name: str, batch: tuple[int, ...]
) -> None:
    assert pairwise_penalty(name, torch.zeros(*batch, 0, 3)).shape == (*batch, 0, 0)
    assert gradient(name, torch.zeros(*batch, 0, 3)).shape == (*batch, 0, 3)
    assert clamped_pairs(name, torch.zeros(*batch, 0, 3)).shape == (*batch, 0, 0)
    assert not pairwise_penalty(name, normal(*batch, 1, 3)).any()
    assert not gradient(name, normal(*batch, 1, 3)).any()


@EVERY_KEY
def test_the_diagonal_is_exactly_zero_and_passes_no_gradient(name: str) -> None:
    for listed in DEGENERATE.values():
        W = torch.tensor(listed, requires_grad=True)
        diagonal = pairwise_penalty(name, W).diagonal()
        assert diagonal.tolist() == [0] * len(W)
        assert not torch.autograd.grad(diagonal.sum(), W)[0].any()


@pytest.mark.parametrize("name", COMBINED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_eighteen_lie_between_0_and_1(name: str, dtype: torch.dtype) -> None:
    rows = [normal(30, 8, dtype=dtype), normal(30, 2, dtype=dtype)]
    rows += [torch.tensor(listed, dtype=dtype) for listed in DEGENERATE.values()]
    for W in rows:
        penalty = pairwise_penalty(name, W)
        assert penalty.min() >= 0
        assert penalty.max() <= 1


@pytest.mark.parametrize("name", COMBINED)
def test_the_eighteen_fall_as_rows_turn_from_equal_over_orthogonal_to_opposite(name: str) -> None:
    W = torch.tensor([[1.0, 1, 1, 1], [1, 1, -1, -1], [-1, -1, -1, -1]], dtype=torch.float64)
    equal = pairwise_penalty(name, W[[0, 0]])[0, 1]
    orthogonal, opposite = pairwise_penalty(name, W)[0, 1:]
    assert equal > 0.85
    assert orthogonal == pytest.approx(0.5)
    assert opposite < 0.05


def both_signs(W: Tensor) -> tuple[Tensor, Tensor]:
    """Rows joined by their negatives, and which unordered pairs of those are not (w, −w)."""
    n = len(W)
    pairs = torch.ones(2 * n, 2 * n, dtype=torch.bool).triu(diagonal=1)
    pairs[torch.arange(n), torch.arange(n) + n] = False
    return torch.cat([W, -W]), pairs


@pytest.mark.parametrize("name", HALF_SPACE)
@pytest.mark.parametrize("rows", [plain_rows, rows_at_the_edges])
def test_half_space_is_the_plain_energy_of_rows_joined_by_their_negatives(
    name: str, rows: Callable[[], Tensor]
) -> None:
    """The mean over pairs is the same, and the sum a quarter: each pair of rows makes four."""
    W = rows()
    joined, pairs = both_signs(W)
    literal = pairwise_penalty(name.removeprefix("half_"), joined)[pairs]
    ours = pairwise_penalty(name, W)[torch.ones_like(W @ W.mT, dtype=torch.bool).triu(diagonal=1)]
    assert len(literal) == 4 * len(ours)
    torch.testing.assert_close(ours.mean(), literal.mean())
    torch.testing.assert_close(ours.sum(), literal.sum() / 4)


@pytest.mark.parametrize("name", HALF_SPACE)
def test_half_space_takes_opposite_rows_for_equal_ones(name: str) -> None:
    W = normal(2, 6)
    torch.testing.assert_close(
        pairwise_penalty(name, W * torch.tensor([[1], [-1]])), pairwise_penalty(name, W)
    )
    downhill = -gradient(name, W)
    assert abs(mean_cosine(W + 1e-3 * downhill)) < abs(mean_cosine(W))


@EVERY_KEY
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("spread", [None, 0.25], ids=["random", "near-duplicate"])
def test_a_small_step_down_the_gradient_lowers_the_mean_cosine(
    name: str, seed: int, spread: float | None
) -> None:
    """In half-space, where opposite rows count as equal, that of near-duplicates, and of random
    rows its mean size.
    """
    W = normal(16, 32, seed=seed) * 0.5
    if spread is not None:
        W = normal(1, 32, seed=100 + seed) * 0.5 + spread * W
        assert 0.8 < mean_cosine(W) < 0.99
    downhill = -gradient(name, W)
    mean = mean_size_of_cosine if name in HALF_SPACE and spread is None else mean_cosine
    assert mean(W + 1e-3 * W.norm() / downhill.norm() * downhill) < mean(W)


@EVERY_KEY
def test_identical_rows_get_identical_gradients_so_that_no_key_separates_them(name: str) -> None:
    slopes = gradient(name, normal(4, 8)[[0, 1, 0, 2, 3]] * 0.5)
    torch.testing.assert_close(slopes[0], slopes[2], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", RIESZ)
def test_beyond_the_clamp_the_riesz_keys_have_no_gradient(name: str) -> None:
    W = normal(1, 32) + 0.01 * normal(4, 32, seed=1)
    assert clamped_pairs(name, W).sum() == 12
    assert not gradient(name, W).any()


@pytest.mark.parametrize("name", ["gm", "cos_gm"])
def test_rows_of_equal_signs_still_repel_through_the_floor_beyond_the_clamp(name: str) -> None:
    row = normal(1, 8) * 0.2
    W = torch.cat([row, row * 1.1])
    slopes = gradient(name, W)
    assert (slopes * W.sign() > 0).all()


@EVERY_KEY
def test_two_antipodal_clusters_cost_more_than_orthogonal_rows_under_the_riesz_keys_alone(
    name: str,
) -> None:
    """At eight rows. From 44 rows on also under ``hm``, and from about 100 under ``gm``: see
    below.
    """
    orthogonal = pairwise_penalty(name, hadamard(8) / 2).sum()
    row = normal(1, 8) / 2
    clusters = pairwise_penalty(name, torch.cat([row, -row]).repeat(4, 1)).sum()
    assert (clusters > orthogonal) == (name in RIESZ)


@pytest.mark.parametrize(("name", "n"), [("hm", 64), ("gm", 128)])
def test_with_many_rows_the_clusters_lose_under_hm_and_gm_too(name: str, n: int) -> None:
    orthogonal = pairwise_penalty(name, hadamard(n) / 2).sum()
    row = normal(1, n) / 2
    assert pairwise_penalty(name, torch.cat([row, -row]).repeat(n // 2, 1)).sum() > orthogonal


@settings(deadline=None, max_examples=150)
@given(
    name=st.sampled_from(PAPER_METRICS),
    factors=st.lists(st.floats(1e-3, 1e3), min_size=4, max_size=4),
    seed=st.integers(0, 99),
)
def test_the_length_of_a_row_changes_no_value(name: str, factors: list[float], seed: int) -> None:
    W = normal(4, 6, seed=seed)
    scaled = W * torch.tensor(factors, dtype=torch.float64)[:, None]
    torch.testing.assert_close(
        pairwise_penalty(name, scaled), pairwise_penalty(name, W), rtol=1e-9, atol=1e-9
    )


@settings(deadline=None, max_examples=150)
@given(
    name=st.sampled_from(PAPER_METRICS), order=st.permutations(range(6)), seed=st.integers(0, 99)
)
def test_penalties_are_symmetric_and_follow_a_permutation_of_the_rows(
    name: str, order: list[int], seed: int
) -> None:
    W = normal(6, 5, seed=seed)
    penalty = pairwise_penalty(name, W)
    torch.testing.assert_close(penalty, penalty.mT, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(
        pairwise_penalty(name, W[order]), penalty[order][:, order], rtol=1e-10, atol=1e-11
    )


@EVERY_KEY
def test_layers_computed_together_are_the_layers_one_by_one(name: str) -> None:
    W = normal(2, 3, 5, 7)
    W[1] *= 3
    together = pairwise_penalty(name, W, ternary_threshold=0.7)
    marks = clamped_pairs(name, W)
    for i, j in [(0, 0), (0, 2), (1, 1)]:
        alone = pairwise_penalty(name, W[i, j], ternary_threshold=0.7)
        torch.testing.assert_close(together[i, j], alone, rtol=1e-12, atol=1e-13)
        assert torch.equal(marks[i, j], clamped_pairs(name, W[i, j]))


def test_binary_codes_count_zero_as_positive_and_ternary_codes_count_it_out() -> None:
    W = torch.tensor([[0.0, 0.5], [0.5, 0.5]])
    assert pairwise_penalty("hamming_binary", W)[0, 1] == 1
    assert pairwise_penalty("hamming_ternary", W)[0, 1] == 0.75
    assert pairwise_penalty("hamming_ternary", -W)[0, 1] == 0.75


def test_a_ternary_threshold_codes_small_entries_as_zero_per_layer() -> None:
    W = torch.tensor([[[0.1, 1.0], [1.0, 1.9]], [[0.1, 0.1], [0.1, 0.1]]])  # mean |w| is 1 and 0.1
    assert pairwise_penalty("hamming_ternary", W)[:, 0, 1].tolist() == [1, 1]
    assert pairwise_penalty("hamming_ternary", W, ternary_threshold=0.5)[:, 0, 1].tolist() == [
        0.75,
        1,
    ]
    assert pairwise_penalty("hamming_ternary", W, ternary_threshold=1.5)[:, 0, 1].tolist() == [
        0.5,
        0.5,
    ]
    assert pairwise_penalty("hamming_binary", W, ternary_threshold=1.5)[:, 0, 1].tolist() == [1, 1]


@EVERY_KEY
def test_clamped_pairs_are_those_whose_cos_or_primed_h_is_out_of_bounds(name: str) -> None:
    # Rows 0 and 1 have cos 0.995 and one unequal sign, rows 1 and 3 equal signs and cos 0.18.
    W = torch.tensor([[8, 8, 1, 1], [8, 8, 1, -0.1], [8, -8, 1, -1], [0.5, 0.5, 8, -0.1]])
    pairs = {(i, j) for i, j in clamped_pairs(name, W).nonzero().tolist() if i < j}
    by_cos = {(0, 1)} if name not in ("cosine", *HAMMING) else set()
    by_h = {(1, 3)} if name in PRIMED else set()
    assert pairs == by_cos | by_h


@EVERY_KEY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_promoted_and_autocast_is_kept_out(name: str, dtype: torch.dtype) -> None:
    W = normal(5, 7, dtype=torch.float32).to(dtype)
    expected = pairwise_penalty(name, W.float())
    assert torch.equal(pairwise_penalty(name, W), expected)
    assert gradient(name, W).dtype == dtype
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(pairwise_penalty(name, W.float()), expected)
        assert torch.equal(clamped_pairs(name, W.float()), clamped_pairs(name, W))


@pytest.mark.parametrize("function", [pairwise_penalty, clamped_pairs])
def test_mistakes_are_told_in_a_sentence(function: Callable[..., Tensor]) -> None:
    with pytest.raises(UserError, match=r"unknown metric 'cosin'; did you mean 'cosine'"):
        function("cosin", torch.ones(2, 2))
    with pytest.raises(
        UserError, match=r"weight has shape \(3,\); expected \(…, n, d\) with d ≥ 1"
    ):
        function("cosine", torch.ones(3))
    with pytest.raises(UserError, match=r"has shape \(3, 0\)"):
        function("cosine", torch.ones(3, 0))
    with pytest.raises(UserError, match=r"ternary_threshold is -1; expected a finite number ≥ 0"):
        function("hamming_ternary", torch.ones(3, 2), ternary_threshold=-1)


def test_the_twenty_three_keys_have_their_printed_labels() -> None:
    labels = {
        "n_euclidean2": "N-euclidean2",
        "hamming_ternary": "D_h^ter",
        "am": "D_AM",
        "cos_hm": "D_cos(HM)",
        "gm_cos": "D_GMcos",
        "hm_cos_arccos": "D'_HMcos",
        "cos_am_arccos": "D'_cos(AM)",
    }
    assert {key: METRICS[key].display_label for key in labels} == labels
    assert len(PAPER_METRICS) == 23
    assert len(METRICS) == len({metric.display_label for metric in METRICS.values()}) == 23 + 10
    assert all(metric.key == key for key, metric in METRICS.items())


def test_the_largest_cosine_is_that_to_the_nearest_other_row() -> None:
    W = torch.tensor([[1.0, 0], [0.6, 0.8], [-1, 0], [2, 0.001]])
    assert largest_cosines(W).tolist() == pytest.approx([0.99, 0.6004, -0.6, 0.99], abs=1e-3)
    assert largest_cosines(W[:1]).tolist() == pytest.approx([-0.99])


@pytest.mark.parametrize("case", DEGENERATE)
def test_largest_cosines_are_finite_on_degenerate_rows(case: str) -> None:
    W = torch.tensor(DEGENERATE[case], requires_grad=True)
    found = largest_cosines(W)
    assert found.isfinite().all()
    assert torch.autograd.grad(found.arccos().sum(), W)[0].isfinite().all()
