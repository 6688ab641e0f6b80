"""A searched weight of 0: validation may choose no regulariser, and the cell then says so."""

from pathlib import Path

import pandas as pd
import pytest
from study_fixtures import done, made_manifest, places_in, planned, standing_of, write_study

from dh2l.errors import UserError
from study.analysis.frames import cell_frame
from study.execution.scheduling import early_stopping_groups
from study.execution.search.optuna_search import OptunaSearcher
from study.records.store import RecordStore
from study.reporting.page import to_markdown
from study.reporting.tables import render
from study.spec.plan import Plan, make_plan
from study.spec.study_file import StudyFile
from study.state.load import read_state
from study.state.results import StudyResults

ZEROS = """\
title: Zeros
config: {dataset: digits, epochs: 2}
columns: [{name: digits}]
rows:
  - {arm: baseline+l2}
  - {arm: H0}
  - {arm: [E, H, E+H], metric: cosine}
  - {arm: mma}
seeds: [0, 1, 2]
confirm: {seeds: [10, 11, 12]}
search:
  lambda_e: {grid: [0, 0.1]}
  lambda_l: {grid: [0.0, 0.5]}
  lambda_mma: {grid: [0, 0.2]}
"""
L2, H0, E, H, EH, MMA = range(6)


def trials(plan: Plan, cell: int, **values: float) -> tuple[tuple[str, ...], tuple[str, ...]]:
    (candidate,) = [c for c in plan.cells[cell].candidates if c.values == values]
    return candidate.trials, candidate.confirmations


def test_a_weight_of_0_makes_the_trials_of_the_arm_without_that_part(tmp_path: Path) -> None:
    plan = planned(tmp_path, ZEROS)
    (baseline,), (plain_h,) = plan.cells[L2].candidates, plan.cells[H0].candidates
    assert trials(plan, E, lambda_e=0)[1] == baseline.confirmations
    assert trials(plan, MMA, lambda_mma=0)[1] == baseline.confirmations
    assert trials(plan, H, lambda_l=0.0)[1] == plain_h.confirmations
    assert trials(plan, EH, lambda_e=0, lambda_l=0.0)[1] == plain_h.confirmations
    assert trials(plan, EH, lambda_e=0, lambda_l=0.5) == trials(plan, H, lambda_l=0.5)
    assert [len(cell.candidates) for cell in plan.cells] == [1, 1, 2, 2, 4, 2]


@pytest.mark.parametrize("chosen", [0, 0.1])
def test_where_validation_chose_0_the_cell_says_so_and_gets_no_test(
    tmp_path: Path, chosen: float
) -> None:
    rows = "rows:\n  - {arm: baseline+l2}\n  - {arm: E, metric: cosine}\n"
    rest = ZEROS.split("seeds:", 1)[1].split("  lambda_l:")[0]
    text = f"{ZEROS.split('rows:')[0]}{rows}seeds:{rest}"
    plan = planned(tmp_path, text)
    records = [done(c, 60, 70 + (c.lambda_e == chosen)) for c in plan.choosing.values()]
    records += [done(c, 80 + c.seed % 7 + c.lambda_e, None) for c in plan.confirming.values()]
    now = standing_of(plan, places_in(tmp_path), records)
    cell = cell_frame(StudyResults(now)).iloc[1]
    text = to_markdown(render(StudyResults(now)))
    footnote = "[1] a weight of 0 was chosen for E: these trials are of baseline+l2\n"
    if chosen == 0:
        assert (cell["chosen_arm"], cell["why_no_test"], cell["difference"]) == (
            "baseline+l2",
            "is baseline+l2",
            0,
        )
        assert pd.isna(cell["p"])
        assert footnote in text
        assert "lambda_e=0 (of 2)" in text
    else:
        assert (cell["chosen_arm"], cell["why_no_test"]) == ("", "")
        assert footnote not in text


def test_a_trial_that_a_baseline_shows_is_never_stopped_for_a_cell_that_tries_0(
    tmp_path: Path,
) -> None:
    plan = planned(tmp_path, ZEROS.replace("confirm: {seeds: [10, 11, 12]}\n", ""))
    (baseline,), (plain_h,) = plan.cells[L2].candidates, plan.cells[H0].candidates
    assert not {*baseline.trials, *plain_h.trials} & set(early_stopping_groups(plan))
    assert set(trials(plan, E, lambda_e=0.1)[0]) <= set(early_stopping_groups(plan))


@pytest.mark.parametrize("grid", ["[0]", "[0, 0.0]"])
def test_an_arm_whose_only_weight_is_0_is_still_a_mistake(tmp_path: Path, grid: str) -> None:
    with pytest.raises(
        UserError, match=r"row 'E' has arm E, but its settings make it baseline\+l2; arm E needs"
    ):
        planned(
            tmp_path,
            ZEROS.replace("[E, H, E+H], metric: cosine", "E").replace(
                "grid: [0, 0.1]", f"grid: {grid}"
            ),
        )


@pytest.mark.parametrize("settings", ["lambda_e: 0", "lambda_e: 0, lr: 0.2"])
def test_a_fixed_weight_of_0_is_still_a_mistake(tmp_path: Path, settings: str) -> None:
    with pytest.raises(UserError, match="arm E needs lambda_e above 0"):
        planned(
            tmp_path, ZEROS.replace("{arm: mma}", f"{{arm: E, metric: am, set: {{{settings}}}}}")
        )


def test_the_fields_of_a_part_that_is_off_are_not_searched(tmp_path: Path) -> None:
    text = ZEROS.replace(
        "lambda_e: {grid: [0, 0.1]}",
        "lambda_e: {grid: [0, 0.1]}\n  e_reduction: {grid: [sum, mean]}",
    )
    (zero, *others) = planned(tmp_path, text).cells[E].candidates
    assert zero.values == {"lambda_e": 0}
    assert [list(c.values.values()) for c in others] == [[0.1, "sum"], [0.1, "mean"]]


def test_the_paper_s_number_stands_beside_a_cell_that_may_choose_0(tmp_path: Path) -> None:
    text = ZEROS.replace("dataset: digits", "dataset: cifar100, model: resnet20").replace(
        "metric: cosine", "metric: am"
    )
    plan = planned(tmp_path, text.replace("title: Zeros", "title: Zeros\npaper_table: 2"))
    assert [cell.printed is not None for cell in plan.cells] == [
        True,
        False,
        True,
        False,
        True,
        False,
    ]
    assert plan.cells[E].printed != plan.cells[L2].printed


SEARCHER = """\
title: Searched
config: {dataset: digits, epochs: 2}
columns: [{name: digits}]
rows: [{arm: baseline+l2}, {arm: E, metric: cosine}]
seeds: [0]
search:
  lambda_e: {grid: [0, 1]}
  conv_metric: {grid: [am, hm]}
searcher: {trials: 9}
"""


def test_a_search_finds_its_0_in_the_baseline_s_record_and_whole_numbers_in_its_own(
    tmp_path: Path,
) -> None:
    places, file = places_in(tmp_path), StudyFile(write_study(tmp_path, SEARCHER))
    plan = make_plan(file, made_manifest)
    assert plan.cells[1].budget == 3  # with a weight of 0 there is no metric to choose
    (baseline,) = plan.choosing.values()
    one = plan.cell_configs[1].config({"lambda_e": 1, "conv_metric": "am"}, 0)
    store = RecordStore(places.trials)
    store.write(done(baseline, 60))
    store.write(done(one, 61))
    now = read_state(plan, places)
    assert sorted(str(c.values) for c in now.plan.cells[1].candidates) == [
        "{'lambda_e': 0}",
        "{'lambda_e': 1, 'conv_metric': 'am'}",
    ]
    searcher = OptunaSearcher(now, [], {}, store.read)
    suggested = searcher.suggest()
    assert suggested is not None
    assert (suggested.lambda_e, suggested.conv_metric) == (1, "hm")
    assert searcher.suggest() is None


def test_a_search_s_0_that_a_baseline_shows_competes_with_nothing(tmp_path: Path) -> None:
    plan = planned(tmp_path, SEARCHER)
    (baseline,) = plan.choosing
    now = standing_of(plan, places_in(tmp_path), [])
    searcher = OptunaSearcher(now, [], {}, RecordStore(places_in(tmp_path).trials).read)
    suggested = [config for config in iter(searcher.suggest, None) if config is not None]
    groups = {config.identity: searcher.group(config.identity) for config in suggested}
    assert groups.pop(baseline) is None
    assert set(groups.values()) == {"cosine E digits"}
