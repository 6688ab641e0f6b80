"""The shipped studies: what each plans, and that together they hold every number that the paper
prints.
"""

import csv
from functools import cache
from pathlib import Path

import pytest
from official import official_manifest
from study_fixtures import ROOT, done, places_in, standing_of

from dh2l.config.train_config import TrainConfig
from dh2l.data import Planted, planted
from dh2l.registry.entries import METRICS
from dh2l.tree import ClassTree
from study.analysis.arm_comparison import compare_frame
from study.analysis.frames import cell_frame
from study.spec.count import count_trials
from study.spec.paper import PrintedNumber
from study.spec.plan import Plan, make_plan
from study.spec.sampling import any_point
from study.spec.study_file import find_study
from study.spec.trials import Cell
from study.state.results import StudyResults

SHIPPED = sorted(path.stem for path in (ROOT / "search_spaces").glob("*.yaml"))
TABLES = {1: 16, 2: 40, 3: 48, 4: 40, 5: 10, 6: 8}
"""The paper's tables and their numbers of cells."""
AS_PRINTED = {
    1: """
        90.34 92.21
        90.93 92.35
        90.47 92.38
        90.53 92.40
        90.67 92.48
        90.67 92.48
        90.84 92.93
        90.94 92.69
    """,
    2: """
        63.86 62.02
        68.03 72.90
        67.59 68.65 73.95 73.96
        67.83 67.76 74.40 73.89
        68.11 68.45 73.37 73.37
        68.44 68.68 73.73 73.97
        68.52 68.69 73.97 74.26
        68.58 68.86 73.43 73.50
        68.58 68.60 73.14 73.65
        67.57 68.36 73.14 73.72
        68.62 68.65 73.07 73.65
    """,
    3: """
        72.17 74.21
        72.29 74.05
        72.61 75.99 73.49 76.14
        72.43 76.11 73.55 76.66
        72.12 75.64 73.26 76.85
        72.58 75.99 73.57 76.37
        72.55 76.21 73.57 76.99
        73.04 76.02 73.88 75.95
        72.31 76.14 73.59 77.32
        72.28 75.37 72.42 74.12
        72.90 76.35 74.16 75.30
        72.55 76.11 74.64 76.94
        72.55 76.32 72.86 76.56
    """,
    4: """
        85.10 87.99
        85.58 87.92
        85.48 85.56 87.96 87.97
        85.11 85.13 88.34 87.85
        85.57 85.73 88.01 87.86
        85.35 85.99 85.35 88.07
        86.22 85.99 88.32 88.14
        85.66 85.66 88.39 88.11
        85.52 86.05 87.92 88.57
        85.76 86.43 88.07 87.96
        85.54 85.52 88.22 88.13
    """,
    5: "68.03\n68.64\n68.70\n68.80\n69.24\n68.55\n68.77\n68.96\n69.00\n68.83",
    6: "68.03\n68.22\n68.58\n68.62\n69.04\n68.62\n68.65\n68.70",
}
"""The tables in the paper's own lines, where E and E+H of a column share one: from its text, not
from `paper.csv`."""
SETTING_C = Planted(branching=(20, 5), n_test=10)


@cache
def plan_of(name: str) -> Plan:
    return make_plan(find_study(str(ROOT / "search_spaces" / f"{name}.yaml")), official_manifest)


def a_config(plan: Plan, cell: Cell) -> TrainConfig:
    """The config of one trial of a cell."""
    for candidate in cell.candidates:
        return plan.config((*candidate.trials, *candidate.confirmations)[0])
    spec = plan.cell_configs[plan.cells.index(cell)]
    return spec.config(any_point(spec), plan.file.study.seeds[0])


def numbers(printed: PrintedNumber | None) -> PrintedNumber:
    assert printed is not None
    return printed


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_study_plans_over_the_official_classes(name: str) -> None:
    plan = plan_of(name)
    assert len(plan.cells) == len(
        {(cell.key.row, cell.key.arm, cell.key.column) for cell in plan.cells}
    )
    for cell in plan.cells:
        assert cell.candidates or cell.budget
        config = a_config(plan, cell)
        with_l2 = "baseline+l2" if config.weight_decay else "baseline"
        assert config.arm == (with_l2 if cell.key.arm == "baseline" else cell.key.arm)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_study_has_a_reference_in_every_column(name: str) -> None:
    plan = plan_of(name)
    baselines = {
        (cell.key.column, a_config(plan, cell).weight_decay)
        for cell in plan.cells
        if "baseline" in cell.key.arm
    }
    assert {
        (cell.key.column, a_config(plan, cell).weight_decay) for cell in plan.cells
    } <= baselines


@pytest.mark.parametrize("name", SHIPPED)
def test_no_shipped_study_chooses_on_the_test_set_unless_its_title_says_so(name: str) -> None:
    study = plan_of(name).file.study
    on_test = "oracle" in (study.rule, study.accuracy)
    assert on_test == ("chosen on the test set" in study.title)
    assert on_test == name.endswith("_paper")


@pytest.mark.parametrize("name", SHIPPED)
def test_what_was_chosen_is_confirmed_on_fresh_seeds_and_the_full_training_set(name: str) -> None:
    plan = plan_of(name)
    study = plan.file.study
    if study.confirm is None:
        searched = any(len(cell.candidates) > 1 for cell in plan.cells)
        assert not searched or study.rule == "oracle"
        return
    assert not set(study.seeds) & set(study.confirm.seeds)
    assert len(study.confirm.seeds) == (3 if name == "quickstart" else 5)
    assert {config.protocol for config in plan.choosing.values()} <= {"validated"}
    assert {config.protocol for config in plan.confirming.values()} == {"paper"}


def test_the_quickstart_s_table_has_a_p_for_every_arm_and_nothing_beyond_100_percent(
    tmp_path: Path,
) -> None:
    plan = plan_of("quickstart")
    records = [done(config, 97, 90) for config in plan.choosing.values()]
    records += [
        done(c, 98 + 0.9 * (c.seed % 3) - c.lambda_e, None) for c in plan.confirming.values()
    ]
    cells = cell_frame(StudyResults(standing_of(plan, places_in(tmp_path), records)))
    assert cells["why_no_test"].tolist() == ["is the reference"] + [""] * 6
    assert cells["p_holm"].notna().tolist() == [False] + [True] * 6
    assert cells["high"].tolist() == [100] * 7


@pytest.mark.parametrize("name", ["cifar100_budget", "cifar100_30"])
def test_each_row_of_the_small_budget_is_tested_and_h_stands_beside_h0_on_the_right_tree(
    name: str, tmp_path: Path
) -> None:
    plan = plan_of(name)
    level = {"baseline+l2": 55.0, "E": 56.0, "E+H0": 57.0, "E+H": 58.0}

    def accuracy(config: TrainConfig) -> float:
        return level[config.arm] + 2 * (config.tree == "shuffled") + config.seed % 3 / 10

    records = [
        done(config, accuracy(config), 50 + config.lambda_e) for config in plan.choosing.values()
    ]
    records += [done(config, accuracy(config), None) for config in plan.confirming.values()]
    found = standing_of(plan, places_in(tmp_path), records)
    cells = cell_frame(StudyResults(found))
    assert cells["row"].tolist() == [
        "baseline+l2",
        "D_AMcos",
        "D_AMcos",
        "D_AMcos",
        "shuffled tree",
    ]
    assert cells["arm"].tolist() == ["baseline+l2", "E", "E+H0", "E+H", "E+H"]
    assert cells["why_no_test"].tolist() == ["is the reference"] + [""] * 4
    assert cells["difference"].tolist()[1:] == pytest.approx([1, 2, 3, 5])
    assert cells["n"].tolist() == [5] * 5
    assert len(plan.choosing) == 24
    pair = compare_frame(StudyResults(found), "E+H0", "E+H")
    assert pair["row"].tolist() == ["D_AMcos"]
    assert pair["difference"].tolist() == pytest.approx([1])
    assert pair["caution"].tolist() == [""]


@pytest.mark.parametrize("name", SHIPPED)
def test_the_cost_of_a_shipped_study_names_the_numbers_of_its_trials_which_are_counted_without_data(
    name: str,
) -> None:
    plan = plan_of(name)
    study = plan.file.study
    seeds, fresh = len(study.seeds), len(study.confirm.seeds) if study.confirm else 0
    searched = sum(cell.budget or 0 for cell in plan.cells) * seeds
    confirming = {i for cell in plan.cells for c in cell.candidates[:1] for i in c.confirmations}
    n_confirm = len(confirming) + fresh * sum(not cell.candidates for cell in plan.cells)
    by_epochs = {
        epochs: (
            sum(c.epochs == epochs for c in plan.choosing.values()),
            sum(plan.confirming[i].epochs == epochs for i in confirming),
        )
        for epochs in {c.epochs for c in (*plan.choosing.values(), *plan.confirming.values())}
    }
    size = count_trials(plan.file)
    assert (size.choosing, size.confirming) == (searched + len(plan.choosing), n_confirm)
    words = study.cost.replace(",", "").replace(":", "").replace(";", "").split()
    counts = (
        [(searched + len(plan.choosing), n_confirm)]
        if searched or len(by_epochs) == 1
        else by_epochs.values()
    )
    for choosing, confirmed in counts:
        assert str(choosing) in words
        assert not confirmed or str(confirmed) in words


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("suffix", ["", "_paper"])
def test_each_table_is_complete_as_printed(table: int, suffix: str) -> None:
    """In the paper's order of rows, E before E+H, and columns."""
    plan = plan_of(f"table{table}{suffix}")
    assert len(plan.cells) == TABLES[table]
    lines: dict[str, dict[str, list[str]]] = {}
    for cell in plan.cells:
        of_row = lines.setdefault(cell.key.row, {})
        of_row.setdefault(cell.key.column, []).append(f"{numbers(cell.printed).accuracy:.2f}")
    found = [
        " ".join(number for of_column in line.values() for number in of_column)
        for line in lines.values()
    ]
    assert found == [line.strip() for line in AS_PRINTED[table].strip().splitlines()]


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("suffix", ["", "_paper"])
def test_every_row_has_the_paper_s_label(table: int, suffix: str) -> None:
    for cell in plan_of(f"table{table}{suffix}").cells:
        assert cell.key.row == numbers(cell.printed).display_label


@pytest.mark.parametrize("suffix", ["", "_paper"])
def test_the_six_tables_hold_every_number_that_the_paper_prints_once(suffix: str) -> None:
    found = []
    for table in TABLES:
        plan = plan_of(f"table{table}{suffix}")
        for cell in plan.cells:
            config = a_config(plan, cell)
            on_classifier = config.energy_on_classifier or config.regularised_hierarchy
            found.append(
                (
                    str(table),
                    config.dataset,
                    config.model,
                    "1" if config.weight_decay else "0",
                    cell.key.arm.removesuffix("+l2"),
                    str(config.metric) if on_classifier else "none",
                    str(config.conv_metric) if config.energy_on_convolutions and table == 6 else "",
                    f"{numbers(cell.printed).accuracy:.2f}",
                )
            )
    keys = ("table", "dataset", "model", "l2", "setting", "metric", "conv_metric", "accuracy")
    rows = csv.DictReader(
        (ROOT / "study" / "spec" / "paper.csv").read_text(encoding="utf-8").splitlines()
    )
    assert sorted(found) == sorted(tuple(row[key] for key in keys) for row in rows)


@pytest.mark.parametrize("table", TABLES)
def test_our_protocol_chooses_lambda_on_validation_with_five_seeds_and_the_paper_s_on_test_with_one(
    table: int,
) -> None:
    ours, theirs = (plan_of(f"table{table}{suffix}") for suffix in ("", "_paper"))
    assert ours.file.study.seeds == [0, 1, 2, 3, 4]
    assert ours.file.study.confirm is not None
    assert ours.file.study.confirm.seeds == [5, 6, 7, 8, 9]
    assert theirs.file.study.seeds == [0]
    assert {config.protocol for config in theirs.choosing.values()} == {"paper"}
    for plan in (ours, theirs):
        for cell in plan.cells:
            values = [dict(candidate.values) for candidate in cell.candidates]
            lambda_e = [{"lambda_e": e} for e in (0.1, 1)] if "E" in cell.key.arm else [{}]
            both = [{**e, "lambda_l": w} for e in lambda_e for w in (0.1, 0.5)]
            assert values == (both if "H" in cell.key.arm else lambda_e)


def test_the_heavy_tables_train_as_the_paper_says() -> None:
    for table in (3, 4):
        for config in plan_of(f"table{table}").choosing.values():
            assert (config.weights, config.epochs, config.batch_size, config.lr) == (
                "imagenet",
                100,
                256,
                0.1,
            )
    for table in (1, 2, 5, 6):
        for config in plan_of(f"table{table}").choosing.values():
            assert (config.weights, config.epochs, config.batch_size, config.lr) == (
                None,
                300,
                512,
                0.1,
            )


def test_the_rivals_beside_the_paper_s_rows_have_their_printed_numbers() -> None:
    for name, baseline, e_plus_h in (("rivals", 68.03, 68.86), ("rivals_cub200", 72.29, 76.02)):
        plan = plan_of(name)
        printed = {(cell.key.row, cell.key.arm): cell.printed for cell in plan.cells}
        assert numbers(printed["baseline+l2", "baseline+l2"]).accuracy == baseline
        assert numbers(printed["D_AM", "E+H"]).accuracy == e_plus_h
        assert sum(number is not None for number in printed.values()) == 7
        assert all(
            len(cell.candidates) == 2
            for cell in plan.cells
            if cell.key.arm in ("E", "mma", "orthogonality")
        )
        assert {("MMA", "mma"), ("orthogonality", "orthogonality")} <= set(printed)


ABLATIONS = sorted(name for name in SHIPPED if name.startswith("ablation_"))


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_fix_one_metric_the_only_proposed_one_in_tables_2_3_and_4(name: str) -> None:
    rows = csv.DictReader(
        (ROOT / "study" / "spec" / "paper.csv").read_text(encoding="utf-8").splitlines()
    )
    of_table: dict[str, set[str]] = {}
    for row in rows:
        of_table.setdefault(row["table"], set()).add(row["metric"])
    proposed = {key for key, metric in METRICS.items() if metric.mean}
    assert of_table["2"] & of_table["3"] & of_table["4"] & proposed == {"am"}
    plan = plan_of(name)
    used = {config.metric for config in (*plan.choosing.values(), *plan.confirming.values())}
    assert used <= {"am", None}


@pytest.mark.parametrize("name", ABLATIONS)
def test_the_rows_of_an_ablation_are_different_trials(name: str) -> None:
    plan = plan_of(name)
    shown = [(*c.trials, *c.confirmations) for cell in plan.cells for c in cell.candidates]
    assert len({identity for trials in shown for identity in trials}) == sum(map(len, shown))


def test_h0_is_compared_with_h_on_all_four_data_sets_the_regulariser_alone_differing() -> None:
    plan = plan_of("ablation_h0")
    assert {config.dataset for config in plan.confirming.values()} == {
        "cifar10",
        "cifar100",
        "cub200",
        "cars",
    }
    of_cell = {(cell.key.arm, cell.key.column): cell for cell in plan.cells}
    for column in ("CIFAR-10", "CIFAR-100", "CUB200", "Cars"):
        for without, with_r in (("H0", "H"), ("E+H0", "E+H")):
            (plain,) = of_cell[without, column].candidates
            base = plan.config(plain.confirmations[0]).canonical()
            for candidate in of_cell[with_r, column].candidates:
                ours = plan.config(candidate.confirmations[0]).canonical()
                assert set(ours) - set(base) <= {"lambda_l", "metric"}
                assert {key: ours[key] for key in base if key != "conv_metric"} == {
                    key: value for key, value in base.items() if key != "conv_metric"
                }
    assert official_manifest("cifar10").tree.depth == 1
    assert {tree.depth for tree in plan.trees.values()} == {2}


def test_every_level_weight_of_the_ablation_of_levels_is_a_loss_of_its_own() -> None:
    plan = plan_of("ablation_levels")
    weights = {
        cell.key.row: a_config(plan, cell).effective_lambda_l
        for cell in plan.cells
        if cell.key.arm == "H"
    }
    assert weights == {
        "level 1": (0.5, 0.0),
        "level 2": (0.0, 0.5),
        "both": 0.5,
        "1:5": (0.1, 0.5),
        "5:1": (0.5, 0.1),
    }


def test_the_three_levels_of_cifar_100_keep_its_own_super_classes_under_six_groups() -> None:
    (tree,) = plan_of("ablation_depth").trees.values()
    own = official_manifest("cifar100").tree
    assert [tree.size(level) for level in (1, 2, 3)] == [6, 20, 100]
    assert [path[1:] for path in tree.paths] == list(own.paths)


@pytest.mark.parametrize("name", ["search_constraints", "search_constraints_pareto"])
def test_the_searches_share_their_axes_but_for_the_constraints(name: str) -> None:
    plan = plan_of(name)
    _, without, with_c = plan.cell_configs
    assert set(with_c.axes) - set(without.axes) == {
        "lambda_c1",
        "lambda_c2",
        "lambda_c3",
        "constraint_form",
    }
    assert set(without.axes) == {"metric", "lambda_e", "lambda_l", "radius"}
    assert [cell.budget for cell in plan.cells] == [None, 40, 40]


@pytest.mark.parametrize("radius", ["free", "unit"])
def test_the_weight_of_c1_is_searched_where_lengths_are_free_alone(radius: str) -> None:
    spec = plan_of("search_constraints").cell_configs[2]
    values = spec.resolve_point(
        lambda key, axis: radius if key == "radius" else axis.values[0] if axis.values else 0.5
    )
    assert ("lambda_c1" in values) == (radius == "free")
    assert spec.config(values, 0).arm == "E+H"


def test_the_pareto_front_is_searched_without_stopping_early() -> None:
    one, several = (
        plan_of(name).file.study for name in ("search_constraints", "search_constraints_pareto")
    )
    assert one.searcher is not None
    assert several.searcher is not None
    assert (one.searcher.objectives, one.scheduler is None) == (["validation_accuracy"], False)
    assert (several.searcher.objectives, several.scheduler) == (
        ["validation_accuracy", "total_violation"],
        None,
    )
    assert one.search == several.search


def test_the_planted_study_chooses_nothing_and_its_seeds_chose_nothing() -> None:
    """Its setting was chosen on seeds 0 to 7 (docs/explanation/planted-data.md)."""
    plan = plan_of("planted")
    assert plan.cell_configs[0].manifest_of("planted").tree == ClassTree(planted(SETTING_C).paths)
    assert [candidate.values for cell in plan.cells for candidate in cell.candidates] == [{}] * 4
    assert {config.protocol for config in plan.choosing.values()} == {"paper"}
    assert not set(range(8)) & set(plan.file.study.seeds)
