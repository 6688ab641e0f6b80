"""A study's expansion: how many trials, in which order, and what it refuses."""

from pathlib import Path

import pytest
from official import official_manifest
from study_fixtures import SEARCHED, SMALL, made_manifest, planned, write_study

from dh2l.data import Manifest, read_manifest
from dh2l.errors import UserError
from study.spec.paper import PrintedNumber
from study.spec.plan import Plan, make_plan
from study.spec.study_file import StudyFile, find_study, shipped_studies


def refused(folder: Path, text: str, overrides: dict[str, object] | None = None) -> str:
    """The sentence with which a study is refused, without the file's folder."""
    with pytest.raises(UserError) as caught:
        planned(folder, text, overrides=overrides)
    assert "\n" not in str(caught.value), str(caught.value)
    return str(caught.value).removeprefix(f"{folder}/")


def changed(old: str, new: str, text: str = SMALL) -> str:
    assert text.count(old) == 1
    return text.replace(old, new)


def values_of(plan: Plan, cell: int = 0) -> list[dict[str, object]]:
    return [dict(candidate.values) for candidate in plan.cells[cell].candidates]


@pytest.mark.parametrize("name", sorted(shipped_studies()))
def test_the_same_study_is_expanded_the_same_way_twice(name: str) -> None:
    first, second = (make_plan(find_study(name), official_manifest) for _ in range(2))
    assert first.cells == second.cells
    assert list(first.choosing.items()) == list(second.choosing.items())


def test_the_quickstart_has_7_cells_12_trials_that_choose_and_21_that_confirm() -> None:
    plan = make_plan(find_study("quickstart"), made_manifest)
    # Of E+H 2 λl are tried for 2 metrics, with 3 seeds; baseline+l2, and E and E+H0 have nothing to
    # choose.
    assert (len(plan.cells), plan.combinations, len(plan.choosing)) == (7, 12, 12)
    assert sum(len(cell.candidates[0].confirmations) for cell in plan.cells) == 21
    assert [(cell.key.row, cell.key.arm, cell.key.column) for cell in plan.cells] == [
        ("baseline+l2", "baseline+l2", "digits"),
        ("cosine", "E", "digits"),
        ("cosine", "E+H0", "digits"),
        ("cosine", "E+H", "digits"),
        ("D_cos(HM)", "E", "digits"),
        ("D_cos(HM)", "E+H0", "digits"),
        ("D_cos(HM)", "E+H", "digits"),
    ]


def test_table_2_has_40_cells_540_trials_that_choose_and_200_that_confirm() -> None:
    plan = make_plan(find_study("table2"), official_manifest)
    # 9 metrics with 2 λe under E and 2 × 2 (λe, λl) under E+H, 2 columns, 5 seeds; baselines have
    # nothing to choose
    assert (len(plan.cells), plan.combinations, len(plan.choosing)) == (40, 540, 540)
    assert [len(cell.candidates) for cell in plan.cells] == [1] * 4 + [2, 2, 4, 4] * 9
    assert sum(len(cell.candidates[0].confirmations) for cell in plan.cells) == 200


def test_a_cell_has_the_number_that_the_paper_prints_and_the_paper_s_label() -> None:
    plan = make_plan(find_study("table2"), official_manifest)
    printed = {
        (cell.key.row, cell.key.arm): cell.printed
        for cell in plan.cells
        if cell.key.column == "resnet-20"
    }
    assert printed["baseline", "baseline"] == PrintedNumber(63.86, "", True, "baseline")
    assert printed["baseline+l2", "baseline+l2"] == PrintedNumber(68.03, "", True, "baseline+l2")
    assert printed["D_AM", "E+H"] == PrintedNumber(68.86, "", True, "D_AM")
    assert printed["N-euclidean2", "E"] == PrintedNumber(67.59, "", True, "N-euclidean2")


def test_a_study_of_no_paper_table_has_no_printed_numbers(tmp_path: Path) -> None:
    assert [cell.printed for cell in planned(tmp_path, SMALL).cells] == [None, None]


def test_trials_run_seed_by_seed_so_that_a_whole_table_is_there_early(tmp_path: Path) -> None:
    configs = list(planned(tmp_path, SMALL).choosing.values())
    assert [(c.seed, c.arm) for c in configs] == [
        (0, "baseline+l2"),
        (0, "E"),
        (1, "baseline+l2"),
        (1, "E"),
    ]


def test_a_trial_that_several_cells_share_is_counted_once(tmp_path: Path) -> None:
    text = changed(
        "- arm: baseline+l2", "- arm: baseline+l2\n  - {arm: baseline+l2, name: once more}"
    )
    plan = planned(tmp_path, text)
    assert (len(plan.cells), plan.combinations, len(plan.choosing)) == (3, 6, 4)
    assert plan.cells[0].candidates == plan.cells[1].candidates


def test_candidates_that_are_the_same_trial_are_one_and_stand_in_the_order_of_the_study(
    tmp_path: Path,
) -> None:
    plan = planned(tmp_path, changed("[0.1, 1, 10]", "[10, 1, 10.0, 0.1, 1e-1]", SEARCHED))
    assert values_of(plan) == [{"lambda_e": 10}, {"lambda_e": 1}, {"lambda_e": 0.1}]


def test_grids_are_crossed_the_last_axis_fastest(tmp_path: Path) -> None:
    text = changed("{grid: [0.1, 1, 10]}", "{grid: [0.1, 1]}\n  lr: {grid: [0.2, 0.3]}", SEARCHED)
    assert values_of(planned(tmp_path, text)) == [
        {"lambda_e": 0.1, "lr": 0.2},
        {"lambda_e": 0.1, "lr": 0.3},
        {"lambda_e": 1, "lr": 0.2},
        {"lambda_e": 1, "lr": 0.3},
    ]


def test_an_axis_applies_to_the_arms_in_which_its_field_exists(tmp_path: Path) -> None:
    text = (
        changed("[{arm: E}]", "[{arm: [baseline, E, H, E+H]}]", SEARCHED)
        + "  lambda_l: {grid: [0.1, 0.5]}\n"
    )
    plan = planned(tmp_path, text)
    assert [(cell.key.arm, len(cell.candidates)) for cell in plan.cells] == [
        ("baseline", 1),
        ("E", 3),
        ("H", 2),
        ("E+H", 6),
    ]


def test_a_row_s_own_axis_replaces_the_study_s_and_its_setting_fixes_it(tmp_path: Path) -> None:
    rows = (
        "[{arm: E, search: {lambda_e: {grid: [2, 3]}}, name: own}, {arm: E, set: {lambda_e: 4}, "
        "name: fixed}, "
        "{arm: E, name: the study's}]"
    )
    plan = planned(tmp_path, changed("[{arm: E}]", rows, SEARCHED))
    assert values_of(plan, 0) == [{"lambda_e": 2}, {"lambda_e": 3}]
    assert values_of(plan, 1) == [{}]
    assert {plan.choosing[i].lambda_e for i in plan.cells[1].candidates[0].trials} == {4}


SAMPLED = changed(
    "{grid: [0.1, 1, 10]}",
    "{loguniform: [1e-3, 10]}\n  momentum: {uniform: [0.5, 0.9]}\n  lr: {choice: [0.1, 0.2, 0.3]}",
    changed(
        "columns: [{name: digits}]",
        "columns: [{name: a}, {name: b, set: {model: resnet32}}]",
        SEARCHED,
    ),
)


def test_samples_counts_the_draws_and_every_cell_tries_the_same_ones(tmp_path: Path) -> None:
    text = changed("[{arm: E}]", "[{arm: E, metric: [cosine, am]}]", SAMPLED).replace(
        ", metric: cosine}", "}"
    )
    text += "samples: 5\n"
    plan = planned(tmp_path, text)
    draws = [values_of(plan, cell) for cell in range(4)]
    assert len(draws[0]) == 5
    assert draws[0] == draws[1] == draws[2] == draws[3]
    assert len({draw["lambda_e"] for draw in draws[0]}) == 5
    for draw in draws[0]:
        assert 1e-3 <= float(str(draw["lambda_e"])) <= 10
        assert 0.5 <= float(str(draw["momentum"])) <= 0.9
        assert draw["lr"] in (0.1, 0.2, 0.3)


def test_more_samples_keep_the_earlier_draws_and_another_search_seed_gives_others(
    tmp_path: Path,
) -> None:
    few, many = (values_of(planned(tmp_path, SAMPLED + f"samples: {n}\n")) for n in (2, 6))
    assert many[:2] == few
    other = values_of(planned(tmp_path, SAMPLED + "samples: 2\nsearch_seed: 1\n"))
    assert other != few


def test_samples_are_drawn_on_every_point_of_the_grid(tmp_path: Path) -> None:
    text = changed(
        "{grid: [0.1, 1, 10]}",
        "{grid: [0.1, 1]}\n  lr: {uniform: [0.1, 0.2]}\nsamples: 3",
        SEARCHED,
    )
    values = values_of(planned(tmp_path, text))
    assert [value["lambda_e"] for value in values] == [0.1] * 3 + [1] * 3
    assert [value["lr"] for value in values[:3]] == [value["lr"] for value in values[3:]]


def test_samples_without_a_sampled_axis_is_refused(tmp_path: Path) -> None:
    said = refused(tmp_path, SEARCHED + "samples: 4\n")
    assert said.startswith("small.yaml:8:1: samples is 4, but every axis is a grid")


def test_a_field_both_searched_and_fixed_is_refused(tmp_path: Path) -> None:
    said = refused(tmp_path, changed("metric: cosine}", "metric: cosine, lambda_e: 1}", SEARCHED))
    assert said.startswith("small.yaml:7:3: lambda_e is searched ")


def test_a_field_set_by_row_and_column_is_refused(tmp_path: Path) -> None:
    text = changed("  - arm: baseline+l2\n", "")
    said = refused(tmp_path, changed("{model: resnet20}", "{model: resnet20, lambda_e: 1}", text))
    assert said.startswith(
        "small.yaml:4:43: lambda_e is set by this column and by row 'cosine' too"
    )


def test_a_field_set_by_column_and_axis_is_refused(tmp_path: Path) -> None:
    said = refused(
        tmp_path, changed("[{name: digits}]", "[{name: digits, set: {lambda_e: 1}}]", SEARCHED)
    )
    assert said.startswith("small.yaml:3:32: lambda_e is set by this column and by row 'E' too")


def test_an_override_of_what_rows_columns_or_axes_set_is_refused(tmp_path: Path) -> None:
    for text, key, value in ((SMALL, "model", "resnet32"), (SEARCHED, "lambda_e", 1)):
        assert refused(tmp_path, text, {key: value}).startswith(f"--set {key}: ")


@pytest.mark.parametrize(
    ("row", "is_arm", "needs"),
    [
        ("{arm: E, metric: cosine}", "baseline+l2", "lambda_e above 0"),
        ("{arm: H, metric: cosine}", "H0", "lambda_l (or a lambda_c, or lambda_o) above 0"),
        (
            "{arm: E+H, metric: cosine, set: {lambda_e: 1}}",
            "E+H0",
            "lambda_l (or a lambda_c, or lambda_o) above 0",
        ),
        (
            "{arm: E+H0, metric: cosine, set: {lambda_e: 1, lambda_l: 1}}",
            "E+H",
            "lambda_l, lambda_c and lambda_o of 0",
        ),
        ("{arm: baseline+l2, set: {lambda_e: 1, metric: cosine}}", "E", "no other regulariser"),
    ],
)
def test_an_arm_that_its_settings_contradict_is_refused(
    tmp_path: Path, row: str, is_arm: str, needs: str
) -> None:
    said = refused(tmp_path, changed("- arm: baseline+l2", f"- {row}"))
    assert said.startswith("small.yaml:6:5: row ")
    assert f"but its settings make it {is_arm};" in said
    assert needs in said


WEIGHED = """\
title: Arms with weights
config: {dataset: digits, metric: cosine}
columns: [{name: digits}]
rows: [{arm: E+H}]
seeds: [0]
search:
  lambda_c2: {grid: [1]}
"""


@pytest.mark.parametrize("field", ["lambda_e", "lambda_c1", "lambda_l"])
@pytest.mark.parametrize(
    ("text", "place"),
    [
        (changed("epochs: 2", "epochs: 2, FIELD: -1"), "2:38"),
        (changed("resnet20}}", "resnet20, FIELD: -1}}"), "4:43"),
        (
            changed("metric: cosine, set: {lambda_e: 0.1}", "metric: cosine, set: {FIELD: -1}"),
            "7:36",
        ),
        (WEIGHED.replace("lambda_c2: {grid: [1]}", "FIELD: {grid: [-1]}"), ""),
    ],
    ids=["config", "column", "row", "axis"],
)
def test_a_negative_weight_is_one_sentence_at_its_place(
    tmp_path: Path, text: str, place: str, field: str
) -> None:
    said = refused(tmp_path, text.replace("FIELD", field))
    place = place or f"7:{13 + len(field)}"
    assert said.startswith(f"small.yaml:{place}: {field} is -1")


def test_under_protocol_paper_a_searched_axis_needs_the_rule_oracle(tmp_path: Path) -> None:
    text = changed("epochs: 2,", "epochs: 2, protocol: paper,", SEARCHED)
    said = refused(tmp_path, text)
    assert said.startswith(
        "small.yaml:6:1: protocol: paper has no validation set to select on, but lambda_e is "
        "searched"
    )
    assert "rule: oracle" in said
    assert len(planned(tmp_path, text + "rule: oracle\n").choosing) == 6


def test_under_protocol_paper_there_is_no_best_validation_epoch_to_report(tmp_path: Path) -> None:
    text = changed("epochs: 2,", "epochs: 2, protocol: paper,") + "accuracy: best_validation\n"
    assert refused(tmp_path, text).startswith(
        "small.yaml:9:1: protocol: paper has no validation set"
    )


def test_a_data_set_that_is_not_prepared_is_a_sentence_with_the_command_to_type(
    tmp_path: Path,
) -> None:
    def manifest_of(name: str) -> Manifest:
        return read_manifest(name, tmp_path / "data")

    file = StudyFile(write_study(tmp_path, changed("dataset: digits", "dataset: mine")))
    with pytest.raises(UserError) as caught:
        make_plan(file, manifest_of)
    assert str(caught.value).startswith(
        f"{file.document.path}:2:10: the data set 'mine' is not prepared under "
    )
    assert str(caught.value).endswith("type: dh2l-study data prepare mine --from PATH")


def test_two_rows_of_one_name_and_arm_are_refused(tmp_path: Path) -> None:
    for rows in (
        "- arm: baseline+l2\n  - arm: baseline+l2",
        "- arm: [baseline, baseline]",
        "- {arm: E, metric: [am, am], set: {lambda_e: 1}}",
    ):
        assert "is in the table twice" in refused(tmp_path, changed("- arm: baseline+l2", rows))


def test_other_pixels_make_other_trials(tmp_path: Path) -> None:
    file = StudyFile(write_study(tmp_path, SMALL))
    before = make_plan(file, made_manifest)
    after = make_plan(
        file, lambda name: made_manifest(name).model_copy(update={"data_hash": "f" * 64})
    )
    assert not set(before.choosing) & set(after.choosing)


def test_a_data_set_s_name_in_the_column_is_where_its_trials_look(tmp_path: Path) -> None:
    text = changed("dataset: digits, ", "").replace("{model: resnet20}", "{dataset: one}")
    plan = planned(tmp_path, text.replace("rows:", "  - {name: other, set: {dataset: two}}\nrows:"))
    assert [plan.choosing[cell.candidates[0].trials[0]].dataset for cell in plan.cells] == [
        "one",
        "two",
    ] * 2
