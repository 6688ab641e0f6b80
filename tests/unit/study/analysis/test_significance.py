"""Tests of cells against references, reasons against them, and image intervals."""

import math
import statistics
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from study_fixtures import (
    candidate_configs,
    clean_environment,
    done,
    places_in,
    planned,
    unfinished,
)
from tiny_data import run, tiny, tiny_config

from dh2l.config.binding import bind
from dh2l.config.train_config import TrainConfig
from dh2l.errors import UserError
from study.analysis.significance import evidence_frame
from study.analysis.statistics import holm, paired_bootstrap, seed_of
from study.records.arrays import arrays_path, read_arrays
from study.records.build import arrays_of, finished_record
from study.records.paths import Places
from study.records.record import Record
from study.records.store import RecordStore
from study.reporting.tables import render
from study.spec.plan import Plan
from study.state.load import read_state
from study.state.results import StudyResults
from study.state.study_state import StudyState

FOUR = """\
title: Four rows
config: {dataset: digits, epochs: 2, metric: cosine}
columns: [{name: digits}]
rows:
  - arm: baseline
  - arm: baseline+l2
  - {arm: E, set: {lambda_e: 0.1}}
  - {arm: H, set: {lambda_l: 0.1}}
seeds: [0, 1, 2]
"""
"""E and H have l2: the baseline without it is nothing's reference."""

TABLE_1 = """\
title: As the paper's Table 1
config: {dataset: digits, epochs: 2}
columns:
  - {name: without l2, set: {weight_decay: 0.0}}
  - {name: with l2, set: {weight_decay: 0.0005}}
rows:
  - arm: baseline
  - {arm: E, metric: am, set: {lambda_e: 0.1}}
seeds: [0, 1, 2]
"""

BASELINE, L2, E, H = range(4)
OURS = [91.0, 92.5, 90.25]
THEIRS = [88.0, 89.5, 90.0]
Arrays = dict[str, np.ndarray]


def cell_records(plan: Plan, cell: int, accuracies: list[float]) -> list[Record]:
    """Finished trials of a cell of one candidate, in the order of the seeds."""
    (configs,) = candidate_configs(plan, cell)
    return [done(config, accuracy) for config, accuracy in zip(configs, accuracies, strict=False)]


def filed(
    plan: Plan, places: Places, records: list[Record], arrays: dict[str, Arrays] | None = None
) -> StudyState:
    store = RecordStore(places.trials)
    for record in records:
        store.write(record, (arrays or {}).get(record.identity))
    return read_state(plan, places)


def frame_of(
    folder: Path, plan: Plan, records: list[Record], arrays: dict[str, Arrays] | None = None
) -> pd.DataFrame:
    return evidence_frame(StudyResults(filed(plan, places_in(folder), records, arrays)))


def test_a_table_s_numbers_are_scipy_s(tmp_path: Path) -> None:
    plan = planned(tmp_path, FOUR)
    others = [89.0, 88.5, 91.5]
    records = [
        *cell_records(plan, BASELINE, THEIRS),
        *cell_records(plan, L2, THEIRS),
        *cell_records(plan, E, OURS),
        *cell_records(plan, H, others),
    ]
    frame = frame_of(tmp_path, plan, records)
    tests = [stats.ttest_ind(ours, THEIRS, equal_var=False) for ours in (OURS, others)]
    for i, (ours, test) in enumerate(zip((OURS, others), tests, strict=True), E):
        row, interval = frame.iloc[i], test.confidence_interval(0.95)
        assert row["n"] == 3
        assert row["accuracy"] == pytest.approx(statistics.fmean(ours))
        assert row["std"] == pytest.approx(statistics.stdev(ours))
        scale = statistics.stdev(ours) / math.sqrt(3)
        around = stats.t.interval(0.95, 2, loc=statistics.fmean(ours), scale=scale)
        assert (row["low"], row["high"]) == pytest.approx(around)
        assert row["difference"] == pytest.approx(statistics.fmean(ours) - statistics.fmean(THEIRS))
        assert (row["difference_low"], row["difference_high"]) == pytest.approx(
            (interval.low, interval.high)
        )
        assert row["p"] == pytest.approx(test.pvalue)
    assert frame["p_holm"].tolist()[E:] == pytest.approx(holm([test.pvalue for test in tests]))
    assert frame["why_no_test"].tolist() == ["no reference", "is the reference", "", ""]
    assert frame["reference"].tolist() == ["", "", "baseline+l2", "baseline+l2"]
    assert frame.loc[:L2, "difference":"p_holm"].isna().all(axis=None)


def test_the_columns_are_these_and_have_their_types_even_without_any_record(tmp_path: Path) -> None:
    frame = frame_of(tmp_path, planned(tmp_path, FOUR), [])
    assert list(frame.columns) == [
        "row",
        "arm",
        "column",
        "n",
        "candidates",
        "accuracy",
        "std",
        "low",
        "high",
        "chosen_arm",
        "reference",
        "difference",
        "difference_low",
        "difference_high",
        "p",
        "p_holm",
        "why_no_test",
        "images_low",
        "images_high",
        "super_accuracy",
        "super_std",
        "mistake_severity",
        "severity_std",
    ]
    kinds = frame.dtypes.astype(str)
    assert set(kinds[["n", "candidates"]]) == {"int64"}
    assert {name for name in frame.columns if kinds[name] != "float64"} == {
        "row", "arm", "column", "chosen_arm", "reference", "why_no_test", "n", "candidates",
    }  # fmt: skip
    assert frame["n"].tolist() == [0] * 4
    assert frame["accuracy"].isna().all()
    assert frame["why_no_test"].tolist() == [
        "no reference",
        "is the reference",
        "incomplete",
        "incomplete",
    ]


# References.


def test_the_reference_is_the_baseline_with_the_column_s_own_l2(tmp_path: Path) -> None:
    plan = planned(tmp_path, TABLE_1)
    records = [
        r
        for cell, base in enumerate([60, 70, 61, 72])
        for r in cell_records(plan, cell, [base, base + 1.5, base + 2])
    ]
    frame = frame_of(tmp_path, plan, records)
    assert frame["arm"].tolist() == ["baseline", "baseline", "E", "E"]
    assert frame["reference"].tolist() == ["", "", "baseline", "baseline"]
    assert frame["difference"].tolist()[2:] == pytest.approx([1, 2])
    assert frame["why_no_test"].tolist() == ["is the reference"] * 2 + [""] * 2


@pytest.mark.parametrize("changed", ["weight_decay: 0.001", "model: resnet32", "dataset: cifar10"])
def test_a_baseline_with_another_l2_model_or_data_set_is_no_reference(
    tmp_path: Path, changed: str
) -> None:
    frame = frame_of(
        tmp_path,
        planned(tmp_path, FOUR.replace("{lambda_e: 0.1}", f"{{lambda_e: 0.1, {changed}}}")),
        [],
    )
    assert frame["reference"].tolist() == ["", "", "", "baseline+l2"]
    assert frame["why_no_test"][E] == "no reference"


def test_of_several_baselines_the_most_similar_is_the_reference(tmp_path: Path) -> None:
    rows = """\
  - {arm: baseline+l2, name: plain}
  - {arm: baseline+l2, name: plain bf16, set: {precision: bf16}}
  - {arm: E, set: {lambda_e: 0.1, precision: bf16}}
  - {arm: H, set: {lambda_l: 0.1}}
"""
    head, tail = FOUR.split("rows:\n")
    frame = frame_of(
        tmp_path, planned(tmp_path, f"{head}rows:\n{rows}seeds: {tail.split('seeds: ')[1]}"), []
    )
    assert frame["reference"].tolist() == ["", "", "plain bf16", "plain"]


def with_rows(rows: str, text: str = FOUR) -> str:
    """The study with other rows."""
    head, tail = text.split("rows:\n")
    return f"{head}rows:\n{rows}seeds: {tail.split('seeds: ')[1]}"


def reasons(folder: Path, rows: str, more: str = "") -> list[str]:
    """Return the reasons why the cells of some rows get no test, where every trial is done."""
    plan = planned(folder, with_rows(rows) + more)
    configs = [*plan.choosing.values(), *plan.confirming.values()]
    frame = frame_of(folder, plan, [done(config, 60 + config.seed % 7) for config in configs])
    return list(frame["why_no_test"])


@pytest.mark.parametrize(
    ("settings", "fields"),
    [
        ("epochs: 200, lr: 0.3", "epochs, lr"),
        ("protocol: paper", "protocol"),
        ("precision: bf16", "precision"),
        ("momentum: 0.8, lr_milestones: []", "lr_milestones, momentum"),
    ],
)
def test_a_reference_that_was_trained_otherwise_gives_no_test_and_the_fields_are_named(
    tmp_path: Path, settings: str, fields: str
) -> None:
    plan = planned(tmp_path, FOUR.replace("{lambda_e: 0.1}", f"{{lambda_e: 0.1, {settings}}}"))
    records = [
        *cell_records(plan, L2, [98.0, 98.1, 98.2]),
        *cell_records(plan, E, [99.9, 99.95, 100]),
    ]
    frame = frame_of(tmp_path, plan, [*records, *cell_records(plan, H, OURS)])
    assert frame["reference"][E] == "baseline+l2"
    assert frame["why_no_test"].tolist()[E:] == [f"reference differs in {fields}", ""]
    assert frame.loc[E, ["p", "p_holm", "difference_low"]].isna().all()
    assert frame["p_holm"][H] == frame["p"][H]  # no test, so none in Holm's family


@pytest.mark.parametrize(
    ("arm", "settings"),
    [
        ("E", "e_reduction: sum, conv_metric: am"),  # the arm's own
        (
            "E+H0",
            "centres: parent, radius: unit, tree: two.yaml",
        ),  # nothing that a plain classifier's training reads
        ("E", "lr_gamma: 0.1"),  # as good as the default
    ],
)
def test_what_the_reference_s_training_does_not_read_keeps_no_cell_from_its_test(
    tmp_path: Path, arm: str, settings: str
) -> None:
    (tmp_path / "two.yaml").write_text('x: ["0", "2"]\ny: ["1"]\n')
    rows = f"  - arm: baseline+l2\n  - {{arm: {arm}, set: {{lambda_e: 0.1, {settings}}}}}\n"
    assert reasons(tmp_path, rows) == ["is the reference", ""]


def test_a_field_that_a_row_names_as_its_control_keeps_no_cell_from_its_test_and_the_table_says_so(
    tmp_path: Path,
) -> None:
    rows = (
        "  - arm: baseline+l2\n  - {arm: E, set: {lambda_e: 0.1, epochs: 4}, control: [epochs]}\n"
    )
    assert reasons(tmp_path, rows) == ["is the reference", ""]
    page = render(StudyResults(read_state(planned(tmp_path, with_rows(rows)), places_in(tmp_path))))
    assert (
        "The row of E differs from its reference in epochs too, which it names as its control."
        in page.tables[1].notes
    )
    with pytest.raises(UserError, match="control names lr, but the row does not set it"):
        planned(tmp_path, with_rows(rows.replace("control: [epochs]", "control: [lr]")))


def test_what_both_search_by_the_same_axis_may_come_out_otherwise(tmp_path: Path) -> None:
    both = "confirm: {seeds: [10, 11, 12]}\nsearch: {lr: {grid: [0.1, 0.2]}}\n"
    rows = "  - arm: baseline+l2\n  - {arm: E, set: {lambda_e: 0.1}}\n"
    plan = planned(tmp_path, with_rows(rows) + both)
    records = [done(c, 60, 50 + (c.lr if c.lambda_e else -c.lr)) for c in plan.choosing.values()]
    records += [done(c, 60 + c.seed, None) for c in plan.confirming.values()]
    frame = frame_of(tmp_path, plan, records)
    assert frame["why_no_test"].tolist() == ["is the reference", ""]

    alone = rows.replace("0.1}", "0.1}, search: {lr: {grid: [0.2, 0.3]}}")
    assert (
        reasons(tmp_path, alone, "confirm: {seeds: [10, 11, 12]}\n")[1] == "reference differs in lr"
    )


def test_no_interval_leaves_0_to_100_percent(tmp_path: Path) -> None:
    plan = planned(tmp_path, FOUR)
    records = [*cell_records(plan, L2, [99.0, 90.0, 99.5]), *cell_records(plan, E, [0.0, 9.0, 0.5])]
    frame = frame_of(tmp_path, plan, records)
    assert frame["high"][L2] == 100
    assert frame["low"][E] == 0
    assert 0 < frame["low"][L2] < frame["accuracy"][L2]
    assert frame["difference_low"][E] == -100


# What keeps a cell from its test.


def test_below_three_seeds_there_is_a_difference_but_neither_test_nor_interval(
    tmp_path: Path,
) -> None:
    plan = planned(tmp_path, FOUR.replace("[0, 1, 2]", "[0, 1]"))
    row = frame_of(
        tmp_path, plan, [*cell_records(plan, L2, THEIRS), *cell_records(plan, E, OURS)]
    ).iloc[E]
    assert row["why_no_test"] == "n < 3"
    assert row["difference"] == pytest.approx(3)
    assert row[["difference_low", "difference_high", "p", "p_holm"]].isna().all()
    assert row["std"] == pytest.approx(statistics.stdev(OURS[:2]))
    assert row[["low", "high"]].isna().all()

    plan = planned(tmp_path, FOUR.replace("[0, 1, 2]", "[0]"))
    row = frame_of(
        tmp_path, plan, [*cell_records(plan, L2, THEIRS), *cell_records(plan, E, OURS)]
    ).iloc[E]
    assert (row["n"], row["accuracy"], row["difference"]) == (1, 91, 3)
    assert row[["std", "low", "high", "p"]].isna().all()


def test_an_incomplete_cell_and_one_with_an_incomplete_reference_get_no_test(
    tmp_path: Path,
) -> None:
    plan = planned(tmp_path, FOUR.replace("[0, 1, 2]", "[0, 1, 2, 3]"))
    whole = [*OURS, 91.0]
    records = [
        *cell_records(plan, L2, whole),
        *cell_records(plan, E, OURS),
        *cell_records(plan, H, whole),
    ]
    (configs,) = candidate_configs(plan, E)
    frame = frame_of(tmp_path, plan, [*records, unfinished(configs[3], "diverged")])
    assert frame["why_no_test"].tolist() == ["no reference", "is the reference", "incomplete", ""]
    assert frame["p_holm"][H] == frame["p"][H]

    records = [
        *cell_records(plan, L2, OURS),
        *cell_records(plan, E, whole),
        *cell_records(plan, H, whole),
    ]
    frame = frame_of(tmp_path / "other", plan, records)
    assert frame["why_no_test"].tolist()[E:] == ["reference: incomplete"] * 2


def test_a_cell_chosen_on_the_seeds_that_it_shows_gets_no_test(tmp_path: Path) -> None:
    searched = FOUR.replace("{lambda_e: 0.1}", "{}, search: {lambda_e: {grid: [0.1, 1]}}")
    plan = planned(tmp_path, searched)
    records = [done(config, 80 + i % 7) for i, config in enumerate(plan.choosing.values())]
    frame = frame_of(tmp_path, plan, records)
    assert frame["candidates"].tolist() == [1, 1, 2, 1]
    assert frame["why_no_test"].tolist() == [
        "no reference",
        "is the reference",
        "chosen on these same seeds",
        "",
    ]
    assert frame["p_holm"][H] == frame["p"][H]
    assert not math.isnan(frame["difference"][E])

    oracle = planned(tmp_path, searched + "rule: oracle\n", "oracle")
    assert frame_of(tmp_path, oracle, [])["why_no_test"][E] == "chosen on the test set"


def test_a_reference_that_was_chosen_spoils_the_tests_against_it(tmp_path: Path) -> None:
    plan = planned(
        tmp_path,
        FOUR.replace(
            "- arm: baseline+l2", "- {arm: baseline+l2, search: {lr: {grid: [0.1, 0.2]}}}"
        ),
    )
    frame = frame_of(
        tmp_path,
        plan,
        [done(config, 80 + i % 7) for i, config in enumerate(plan.choosing.values())],
    )
    assert frame["why_no_test"].tolist()[E:] == ["reference: chosen on these same seeds"] * 2


def test_where_no_seed_differs_there_is_no_p(tmp_path: Path) -> None:
    plan = planned(tmp_path, FOUR)
    records = [
        *cell_records(plan, L2, [90.1] * 3),
        *cell_records(plan, E, [91.1] * 3),
        *cell_records(plan, H, OURS),
    ]
    frame = frame_of(tmp_path, plan, records)
    assert frame["why_no_test"].tolist()[E:] == ["no spread over seeds", ""]
    assert frame.loc[E, ["p", "p_holm", "low", "difference_low"]].isna().all()
    assert frame["p_holm"][H] == frame["p"][H]


# Super-classes and severity.


def test_super_classes_and_severity_have_mean_and_spread_over_seeds(tmp_path: Path) -> None:
    plan = planned(tmp_path, FOUR)
    given = [(0.95, 1.5), (0.96, 1.7), (0.985, None)]
    records = [
        record.model_copy(
            update={
                "last": record.last.model_copy(
                    update={"test_super_accuracy": above, "test_mistake_severity": severity}
                )
            }
        )
        for record, (above, severity) in zip(cell_records(plan, E, OURS), given, strict=True)
        if record.last is not None
    ]
    row = frame_of(tmp_path, plan, records).iloc[E]
    assert row["super_accuracy"] == pytest.approx(96.5)
    assert row["super_std"] == pytest.approx(statistics.stdev([95, 96, 98.5]))
    assert row["mistake_severity"] == pytest.approx(1.6)
    assert row["severity_std"] == pytest.approx(statistics.stdev([1.5, 1.7]))


# Test images.

LABELS = (np.arange(200) % 3).astype(np.uint16)


def predicted(wrong: int, start: int = 0) -> np.ndarray:
    """Predictions that are wrong on so many images from one on."""
    predictions = LABELS.copy()
    predictions[start : start + wrong] += 1
    return predictions


def with_predictions(plan: Plan) -> tuple[list[Record], dict[str, Arrays]]:
    """Records of the baseline with l2 and of E, with other predictions at each epoch."""
    records = [*cell_records(plan, L2, THEIRS), *cell_records(plan, E, OURS)]
    arrays = {
        record.identity: {
            "predictions.last": predicted(20 + i, 10 * i),
            "predictions.best_validation": predicted(70 - 9 * i),
            "labels": LABELS,
        }
        for i, record in enumerate(records)
    }
    return records, arrays


def images(frame: pd.DataFrame) -> list[tuple[float, float]]:
    return list(zip(frame["images_low"], frame["images_high"], strict=True))


@pytest.mark.parametrize(
    ("accuracy", "name"), [("last", "last"), ("best_validation", "best_validation")]
)
def test_the_interval_over_images_is_the_bootstrap_of_the_shown_epoch_s_predictions(
    tmp_path: Path, accuracy: str, name: str
) -> None:
    plan = planned(tmp_path, FOUR + f"accuracy: {accuracy}\n")
    records, arrays = with_predictions(plan)
    right = [arrays[record.identity][f"predictions.{name}"] == LABELS for record in records]
    seed = seed_of("E", "E", "digits", "baseline+l2", "baseline+l2", "digits")
    expected = paired_bootstrap(np.stack(right[3:]), np.stack(right[:3]), seed=seed)
    frame = frame_of(tmp_path, plan, records, arrays)
    assert images(frame)[E] == expected
    assert frame[["images_low", "images_high"]].notna().all(axis=1).tolist() == [
        False,
        False,
        True,
        False,
    ]


def test_the_best_epoch_on_test_has_neither_test_nor_interval_over_images(tmp_path: Path) -> None:
    plan = planned(tmp_path, FOUR + "accuracy: oracle\n")
    frame = frame_of(tmp_path, plan, *with_predictions(plan))
    assert frame["images_low"].isna().all()
    assert frame["why_no_test"].tolist()[E:] == ["epoch chosen on the test set", "incomplete"]
    assert frame["p"].isna().all()
    assert frame["difference"][E] == pytest.approx(
        statistics.fmean(OURS) - statistics.fmean(THEIRS)
    )


def test_choosing_on_the_test_set_leaves_no_interval_over_images(tmp_path: Path) -> None:
    searched = FOUR.replace("{lambda_e: 0.1}", "{}, search: {lambda_e: {grid: [0.1, 1]}}")
    for rule, given in (("best_validation", True), ("oracle", False)):
        plan = planned(tmp_path, searched + f"rule: {rule}\n")
        records = [done(config, 90) for config in plan.choosing.values()]
        arrays = {
            r.identity: {"predictions.last": predicted(i), "labels": LABELS}
            for i, r in enumerate(records)
        }
        frame = frame_of(tmp_path / rule, plan, records, arrays)
        assert frame[["images_low", "images_high"]].notna().all(axis=1).tolist()[E:] == [
            given,
            True,
        ]


@pytest.mark.parametrize(
    "spoilt", ["no file", "damaged", "no labels", "other labels", "other images"]
)
def test_without_the_arrays_of_every_network_there_is_no_interval_and_no_error(
    tmp_path: Path, spoilt: str
) -> None:
    plan, places = planned(tmp_path, FOUR), places_in(tmp_path)
    records, arrays = with_predictions(plan)
    one = arrays[records[4].identity]
    if spoilt == "no labels":
        del one["labels"]
    elif spoilt == "other labels":
        one["labels"] = LABELS[::-1]
    elif spoilt == "other images":
        one["predictions.last"] = one["predictions.last"][:-1]
    now = filed(plan, places, records, arrays)
    identity = records[4].identity
    path = arrays_path(now.found.records[identity], now.found.paths[identity])
    if spoilt == "no file":
        path.unlink()
    elif spoilt == "damaged":
        path.write_bytes(path.read_bytes()[:-1])
    frame = evidence_frame(StudyResults(now))
    assert frame["images_low"].isna().all()
    assert frame["p"].notna().tolist() == [False, False, True, False]


def test_arrays_are_read_once_and_only_of_the_trials_that_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = FOUR.replace("{lambda_e: 0.1}", "{}, search: {lambda_e: {grid: [0.1, 1]}}")
    plan = planned(tmp_path, text)
    now = filed(plan, places_in(tmp_path), [done(config, 90) for config in plan.choosing.values()])
    read = []

    def noted(record: Record, path: Path) -> Arrays:
        read.append(record.identity)
        return read_arrays(record, path)

    monkeypatch.setattr("study.analysis.image_intervals.read_arrays", noted)
    evidence_frame(StudyResults(now))
    shown = [plan.cells[cell].candidates[0].trials for cell in (L2, E, H)]
    assert sorted(read) == sorted(identity for trials in shown for identity in trials)


def test_a_frame_made_again_is_the_same(tmp_path: Path) -> None:
    plan = planned(tmp_path, FOUR)
    now = filed(plan, places_in(tmp_path), *with_predictions(plan))
    pd.testing.assert_frame_equal(
        evidence_frame(StudyResults(now)), evidence_frame(StudyResults(now))
    )


def test_predictions_and_labels_of_a_real_trial_give_the_accuracy_of_its_record(
    tmp_path: Path,
) -> None:
    config: TrainConfig = bind(tiny_config(epochs=3), tiny().manifest)
    _, result = run(config)
    store = RecordStore(tmp_path)
    record = store.write(
        finished_record(config, datetime.now(UTC), result, tiny().manifest.tree),
        arrays_of(result.history, result),
    )
    arrays = read_arrays(record, store.path(record.identity))
    assert arrays["labels"].dtype == np.uint16
    for name, scores in (("last", record.last), ("best_validation", record.best_validation)):
        assert scores is not None
        assert (arrays[f"predictions.{name}"] == arrays["labels"]).mean() == pytest.approx(
            scores.test_accuracy
        )


def test_evidence_is_given_without_torch_ray_mlflow_and_the_whole_of_scipy() -> None:
    code = (
        "import study.analysis.significance, sys; print({'torch', 'ray', 'mlflow', 'scipy.stats'} "
        "& set(sys.modules))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=clean_environment(),
        check=True,
    )
    assert ended.stdout == "set()\n"


CONFIRMED = """\
title: Confirmed
config: {dataset: digits, epochs: 2, metric: cosine}
columns: [{name: digits}]
rows: [{arm: baseline+l2}, {arm: E, search: {lambda_e: {grid: [0.1, 1]}}}]
seeds: [0, 1]
confirm: {seeds: [10, 11, 12]}
"""


def test_a_choice_that_fresh_seeds_confirmed_is_tested_against_a_baseline_that_needed_none(
    tmp_path: Path,
) -> None:
    plan = planned(tmp_path, CONFIRMED)
    records = [done(config, 60, 50 + config.lambda_e) for config in plan.choosing.values()]
    confirming = [config for config in plan.confirming.values() if config.lambda_e != 0.1]
    records += [done(c, (OURS if c.lambda_e else THEIRS)[c.seed - 10], None) for c in confirming]
    frame = frame_of(tmp_path, plan, records)
    assert frame["why_no_test"].tolist() == ["is the reference", ""]
    assert frame["accuracy"].tolist() == pytest.approx(
        [statistics.fmean(THEIRS), statistics.fmean(OURS)]
    )
    assert frame["p"][1] == pytest.approx(stats.ttest_ind(OURS, THEIRS, equal_var=False).pvalue)


def test_a_search_that_has_not_begun_has_its_reference_and_no_test(tmp_path: Path) -> None:
    text = CONFIRMED.replace("grid: [0.1, 1]", "uniform: [0.1, 1]") + "searcher: {trials: 3}\n"
    frame = frame_of(tmp_path, planned(tmp_path, text), [])
    assert frame["reference"].tolist() == ["", "baseline+l2"]
    assert frame["why_no_test"].tolist() == ["is the reference", "incomplete"]
