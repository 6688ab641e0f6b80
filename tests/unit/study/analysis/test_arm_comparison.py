"""Two arms side by side: which cells pair, what is said of them, and that nothing is tested."""

import statistics
from pathlib import Path

import pandas as pd
import pytest
from scipy import stats
from study_fixtures import CommandLine, candidate_configs, done, places_in, planned, standing_of

from dh2l.errors import UserError
from study.analysis.arm_comparison import compare_frame
from study.records.record import Record
from study.spec.plan import Plan
from study.state.results import StudyResults
from study.state.study_state import StudyState

STUDY = """\
title: Arms
config: {dataset: digits, epochs: 2}
columns: [{name: left, set: {model: resnet20}}, {name: right, set: {model: resnet56}}]
rows:
  - arm: baseline+l2
  - arm: [E, E+H]
    metric: [cosine, am]
    set: {lambda_e: 0.1}
seeds: [0, 1, 2]
search: {lambda_l: {grid: [0.5]}}
"""
ROWS = ["baseline+l2", "cosine E", "cosine E+H", "D_AM E", "D_AM E+H"]


def records_of(plan: Plan, accuracies: dict[int, list[float]]) -> list[Record]:
    return [
        done(config, accuracy)
        for cell, of_cell in accuracies.items()
        for config, accuracy in zip(candidate_configs(plan, cell)[0], of_cell, strict=False)
    ]


@pytest.fixture
def state(tmp_path: Path) -> StudyState:
    plan = planned(tmp_path, STUDY)
    numbers = {i: [90.0 + i, 91.0 + i, 92.5 + i] for i in range(10) if i != 7} | {7: [80.0]}
    return standing_of(plan, places_in(tmp_path), records_of(plan, numbers))


def test_cells_that_differ_in_arm_alone_are_pairs(state: StudyState) -> None:
    frame = compare_frame(StudyResults(state), "E", "E+H")
    assert list(zip(frame["row"], frame["column"], strict=True)) == [
        ("cosine", "left"),
        ("D_AM", "left"),
        ("cosine", "right"),
        ("D_AM", "right"),
    ]
    assert frame["difference"].tolist()[:3] == pytest.approx([2, 2, 2])


def test_an_arm_without_metric_stands_beside_each_row_of_the_other(state: StudyState) -> None:
    frame = compare_frame(StudyResults(state), "baseline+l2", "E")
    assert frame["row"].tolist() == ["cosine", "D_AM", "cosine", "D_AM"]
    turned = compare_frame(StudyResults(state), "E", "baseline+l2")
    assert turned["row"].tolist() == frame["row"].tolist()
    assert turned["difference"].tolist() == pytest.approx([-d for d in frame["difference"]])


def test_the_interval_is_scipy_s_and_stands_from_three_seeds_on(state: StudyState) -> None:
    frame = compare_frame(StudyResults(state), "baseline+l2", "E")
    ours, theirs = [92.0, 93.0, 94.5], [90.0, 91.0, 92.5]
    expected = stats.ttest_ind(ours, theirs, equal_var=False).confidence_interval()
    assert (frame["low"][0], frame["high"][0]) == pytest.approx((expected.low, expected.high))
    one = frame.iloc[3]
    assert (one["n_first"], one["n_second"]) == (3, 1)
    assert one["difference"] == pytest.approx(80 - statistics.fmean([91, 92, 93.5]))
    assert pd.isna(one["low"])
    assert pd.isna(one["high"])
    assert one["caution"] == "E: incomplete, n < 3"


def test_what_was_chosen_on_these_seeds_is_said(tmp_path: Path) -> None:
    text = STUDY.replace("{lambda_e: 0.1}", "{lambda_e: 0.1}\n    search: {lr: {grid: [0.1, 0.2]}}")
    plan = planned(tmp_path, text)
    now = standing_of(
        plan, places_in(tmp_path), [done(config, 90) for config in plan.choosing.values()]
    )
    assert set(compare_frame(StudyResults(now), "E", "E+H")["caution"]) == {
        "both: chosen on these same seeds"
    }


NAMED = """\
title: Named rows
config: {dataset: digits, epochs: 2}
columns: [{name: digits}]
rows:
  - {arm: baseline+l2, name: plain}
  - {arm: baseline+l2, name: plain bf16, set: {precision: bf16}}
  - {arm: E, metric: cosine, name: "E, cosine", set: {lambda_e: 0.1}}
  - {arm: E+H, metric: cosine, name: "E+H, cosine", set: {lambda_e: 1, lambda_l: 0.1}}
  - {arm: E+H, metric: cosine, name: slower, set: {lambda_e: 0.1, lambda_l: 0.1, lr: 0.01, momentum: 0.8}}
seeds: [0]
"""


@pytest.mark.parametrize(
    ("arms", "row", "caution"),
    [
        (("baseline+l2", "E"), "plain / E, cosine", "both: incomplete, n < 3"),
        (("E", "E+H"), "E, cosine / E+H, cosine", "both: incomplete, n < 3; lambda_e differs too"),
    ],
)
def test_rows_with_names_are_paired_by_metric_with_the_most_similar(
    tmp_path: Path, arms: tuple[str, str], row: str, caution: str
) -> None:
    (pair,) = compare_frame(
        StudyResults(standing_of(planned(tmp_path, NAMED), places_in(tmp_path), [])), *arms
    ).to_dict("records")
    assert (pair["row"], pair["caution"]) == (row, caution)


def test_a_choice_and_its_confirmation_do_not_keep_an_arm_from_any_row(tmp_path: Path) -> None:
    text = STUDY.replace("metric: [cosine, am]", "metric: cosine") + "confirm: {seeds: [7]}\n"
    text = text.replace(
        "seeds: [0", "  - {arm: E, metric: am, search: {lambda_e: {grid: [0.1, 1]}}}\nseeds: [0", 1
    )
    frame = compare_frame(
        StudyResults(standing_of(planned(tmp_path, text), places_in(tmp_path), [])),
        "baseline+l2",
        "E",
    )
    assert frame["row"].tolist() == ["cosine", "D_AM", "cosine", "D_AM"]
    assert set(frame["caution"]) == {"both: incomplete, n < 3"}


def test_a_choice_in_one_arm_and_the_best_epoch_on_test_are_said(tmp_path: Path) -> None:
    text = STUDY.replace(
        "arm: baseline+l2", "arm: baseline+l2\n    search: {lr: {grid: [0.1, 0.2]}}"
    )
    plan = planned(tmp_path, text + "accuracy: oracle\n")
    now = standing_of(
        plan, places_in(tmp_path), [done(config, 90) for config in plan.choosing.values()]
    )
    assert set(compare_frame(StudyResults(now), "baseline+l2", "E")["caution"]) == {
        "both: epoch chosen on the test set; baseline+l2: chosen on these same seeds"
    }
    assert set(compare_frame(StudyResults(now), "E", "E+H")["caution"]) == {
        "both: epoch chosen on the test set"
    }


@pytest.mark.parametrize(
    ("first", "second", "sentence"),
    [
        ("E", "E+H0", "unknown arm of this study 'E+H0'; did you mean 'E+H'?"),
        ("E", "E", "E is compared with itself; name two arms of baseline+l2, E, E+H"),
    ],
)
def test_an_arm_that_the_study_lacks_is_a_sentence(
    state: StudyState, first: str, second: str, sentence: str
) -> None:
    with pytest.raises(UserError) as raised:
        compare_frame(StudyResults(state), first, second)
    assert sentence in str(raised.value)


def test_without_any_row_to_pair_it_says_so(tmp_path: Path) -> None:
    text = STUDY.replace(
        "arm: [E, E+H]\n    metric: [cosine, am]", "arm: E\n    metric: [cosine, am]"
    )
    text = text.replace("seeds:", "  - {arm: E+H, metric: gm, set: {lambda_e: 0.1}}\nseeds:")
    now = standing_of(planned(tmp_path, text), places_in(tmp_path), [])
    with pytest.raises(
        UserError, match=r"no column has both E and E\+H in rows that could be set side by side"
    ):
        compare_frame(StudyResults(now), "E", "E+H")


def test_the_command_explores_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shell = CommandLine(monkeypatch, capsys, places_in(tmp_path))
    code, text, error = shell("compare", "quickstart", "E", "E+H")
    assert (code, error) == (0, "")
    assert text.startswith(
        "quickstart: E+H less E. Accuracies in percent, differences in points.\n"
    )
    assert "This explores: no test is made" in text
    assert "incomplete" in text
