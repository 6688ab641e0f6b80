"""Selection of a cell's candidate, and obstacles to a winner."""

from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from study_fixtures import (
    SEARCHED,
    candidate_configs,
    done,
    places_in,
    planned,
    standing_of,
    unfinished,
)

from study.execution.scheduling import early_stopping_groups, next_trials
from study.records.loaded_records import LoadedRecords
from study.records.paths import Places
from study.records.record import Record
from study.spec.plan import Plan
from study.state.remaining import skippable_trials, stopped_to_resume
from study.state.results import StudyResults
from study.state.selection import CellResult
from study.state.states import State
from study.state.study_state import StudyState

Lost = Literal["diverged", "failed", "stopped"]
TrialOutcome = tuple[float, float] | Lost | None
"""Test and validation accuracy of a trial in percent, or how it ended without, or None where it is
missing."""


def record_of(plan: Plan, candidate: int, seed: int, outcome: TrialOutcome) -> Record | None:
    config = candidate_configs(plan)[candidate][seed]
    if outcome is None:
        return None
    return unfinished(config, outcome) if isinstance(outcome, str) else done(config, *outcome)


def outcome(
    folder: Path,
    outcomes: list[list[TrialOutcome]],
    text: str = SEARCHED,
    places: Places | None = None,
) -> tuple[CellResult, StudyState]:
    """The only cell of a study, whose candidates ended so."""
    folder.mkdir(exist_ok=True)
    plan = planned(folder, text)
    records = [
        record_of(plan, i, j, o) for i, seeds in enumerate(outcomes) for j, o in enumerate(seeds)
    ]
    now = standing_of(
        plan, places or places_in(folder), [record for record in records if record is not None]
    )
    return StudyResults(now).cells[0], now


def winner(result: CellResult) -> float:
    assert result.selected is not None
    assert result.problem == ""
    return float(str(result.selected.values["lambda_e"]))


def test_the_highest_mean_validation_accuracy_wins_whatever_the_test_accuracies_are(
    tmp_path: Path,
) -> None:
    result, now = outcome(
        tmp_path, [[(99, 50), (99, 52)], [(1, 51), (1, 53)], [(99, 90), (99, 10)]]
    )
    assert winner(result) == 1
    assert result.choice.score == pytest.approx(0.52)
    assert result.accuracies(now.plan.file.study) == [1, 1]


@given(
    validation=st.lists(
        st.tuples(st.integers(0, 100), st.integers(0, 100)), min_size=3, max_size=3
    ),
    test=st.lists(st.tuples(st.integers(0, 100), st.integers(0, 100)), min_size=3, max_size=3),
)
@settings(deadline=None, max_examples=50)
def test_test_accuracies_never_change_what_is_selected(
    tmp_path_factory: pytest.TempPathFactory,
    validation: list[tuple[int, int]],
    test: list[tuple[int, int]],
) -> None:
    plan = planned(tmp_path_factory.getbasetemp(), SEARCHED, "selection")
    selected = []
    for accuracies in (test, [(0, 0)] * 3):
        records = [
            done(plan.choosing[identity], accuracies[i][j], validation[i][j])
            for i, candidate in enumerate(plan.cells[0].candidates)
            for j, identity in enumerate(candidate.trials)
        ]
        found = LoadedRecords(records={record.identity: record for record in records})
        states = dict.fromkeys(plan.choosing, State.DONE)
        result = StudyResults(StudyState.of(plan, states, found)).cells[0]
        selected.append(result.selected)
    sums = [sum(pair) for pair in validation]
    assert selected[0] is selected[1] is plan.cells[0].candidates[sums.index(max(sums))]


def test_of_equal_scores_the_candidate_that_the_study_lists_first_wins(tmp_path: Path) -> None:
    result, _ = outcome(tmp_path, [[(1, 50), (1, 50)], [(2, 60), (2, 62)], [(3, 62), (3, 60)]])
    assert winner(result) == 1
    text = SEARCHED.replace("[0.1, 1, 10]", "[10, 1, 10.0, 0.1]")
    result, _ = outcome(
        tmp_path, [[(1, 60), (1, 60)], [(2, 60), (2, 60)], [(3, 60), (3, 60)]], text
    )
    assert winner(result) == 10


@pytest.mark.parametrize(
    ("ended", "problem"),
    [("failed", "failed (1 of 6)"), (None, "missing (1 of 6)")],
)
def test_while_a_trial_is_failed_or_missing_there_is_no_winner(
    tmp_path: Path, ended: TrialOutcome, problem: str
) -> None:
    result, now = outcome(tmp_path, [[(90, 90), (90, 90)], [(80, 80), ended], [(70, 70), (70, 70)]])
    assert (result.selected, result.choice.score, result.problem) == (None, None, problem)
    assert result.accuracies(now.plan.file.study) == []


def test_failed_and_missing_trials_are_both_counted(tmp_path: Path) -> None:
    result, _ = outcome(tmp_path, [[(90, 90), "failed"], ["failed", None], [None, None]])
    assert result.problem == "failed (2 of 6), missing (3 of 6)"


@pytest.mark.parametrize("ended", ["diverged", "stopped"])
def test_a_candidate_with_a_diverged_or_stopped_seed_was_tried_and_loses(
    tmp_path: Path, ended: Lost
) -> None:
    result, now = outcome(tmp_path, [[(99, 99), ended], [(80, 80), (81, 79)], [(70, 70), (70, 70)]])
    assert winner(result) == 1
    assert result.accuracies(now.plan.file.study) == [80, 81]


def test_where_every_candidate_diverged_there_is_no_winner(tmp_path: Path) -> None:
    result, _ = outcome(
        tmp_path, [["diverged", (90, 90)], ["diverged", "diverged"], ["diverged", (90, 90)]]
    )
    assert (result.selected, result.problem) == (None, "diverged (4 of 6)")


def test_a_conflict_keeps_a_cell_from_a_winner(tmp_path: Path) -> None:
    places = places_in(tmp_path)
    outcomes: list[list[TrialOutcome]] = [
        [(90, 90), (90, 90)],
        [(80, 80), (80, 80)],
        [(70, 70), (70, 70)],
    ]
    _, now = outcome(tmp_path, outcomes, places=places)
    config = candidate_configs(now.plan)[1][0]
    elsewhere = Places.of(places.trials / "machine-2", places.data)
    standing_of(now.plan, elsewhere, [done(config, 80, 81)])
    result, _ = outcome(tmp_path, outcomes, places=places)
    assert (result.selected, result.problem) == (None, "conflict (1 of 6)")


def test_the_rule_oracle_selects_on_the_test_set(tmp_path: Path) -> None:
    outcomes: list[list[TrialOutcome]] = [
        [(50, 99), (50, 99)],
        [(60, 1), (60, 1)],
        [(55, 50), (55, 50)],
    ]
    result, _ = outcome(tmp_path, outcomes, SEARCHED + "rule: oracle\n")
    assert winner(result) == 1
    assert result.choice.score == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("accuracy", "selected", "accuracies"),
    [("last", 0.1, [50]), ("best_validation", 1, [41]), ("oracle", 0.1, [70])],
)
def test_selection_never_looks_at_the_best_epoch_on_test_whatever_the_table_reports(
    tmp_path: Path, accuracy: str, selected: float, accuracies: list[float]
) -> None:
    text = SEARCHED.replace("[0, 1]", "[0]") + f"accuracy: {accuracy}\n"
    plan = planned(tmp_path, text)
    (a,), (b,), (c,) = candidate_configs(plan)
    records = [
        done(a, 50, 90, at_best_validation=(40, 91), at_best_test=(70, 10)),
        done(b, 51, 80, at_best_validation=(41, 95), at_best_test=(71, 11)),
        done(c, 52, 70, at_best_validation=(42, 93), at_best_test=(72, 12)),
    ]
    result = StudyResults(standing_of(plan, places_in(tmp_path), records)).cells[0]
    assert winner(result) == selected
    assert result.accuracies(plan.file.study) == pytest.approx(accuracies)


def test_a_cell_of_one_candidate_selects_nothing_and_shows_the_seeds_that_are_there(
    tmp_path: Path,
) -> None:
    text = SEARCHED.replace("[0.1, 1, 10]", "[1]").replace("[0, 1]", "[0, 1, 2, 3]")
    result, now = outcome(tmp_path, [[(90, 1), None, "failed", "diverged"]], text)
    assert (result.choice.score, result.planned) == (None, 4)
    assert result.accuracies(now.plan.file.study) == [90]
    assert result.problem == "diverged (1 of 4), failed (1 of 4), missing (1 of 4)"


def needed(folder: Path, outcomes: list[list[TrialOutcome]]) -> list[tuple[float, int]]:
    """λe and seed of the stopped trials that a table needs."""
    _, now = outcome(folder, outcomes)
    configs = [now.plan.choosing[identity] for identity in stopped_to_resume(now)]
    assert all(now.states[config.identity] is State.STOPPED for config in configs)
    return sorted((config.lambda_e, config.seed) for config in configs)


def test_no_stopped_trial_is_needed_where_a_candidate_is_complete(tmp_path: Path) -> None:
    assert needed(tmp_path, [[(1, 1), (1, 1)], [(90, 90), "stopped"], ["stopped", "stopped"]]) == []


def test_the_candidates_that_came_furthest_are_finished_where_none_is_complete(
    tmp_path: Path,
) -> None:
    assert needed(
        tmp_path, [["stopped", "stopped"], [(90, 90), "stopped"], ["stopped", (80, 80)]]
    ) == [(1, 1), (10, 0)]


def test_all_candidates_are_finished_where_none_came_further_than_the_others(
    tmp_path: Path,
) -> None:
    assert len(needed(tmp_path, [["stopped", "stopped"]] * 3)) == 6


def test_a_diverged_candidate_is_not_finished_and_does_not_keep_the_others_from_it(
    tmp_path: Path,
) -> None:
    outcomes: list[list[TrialOutcome]] = [
        [(90, 90), "diverged"],
        ["stopped", "stopped"],
        ["diverged", "stopped"],
    ]
    assert needed(tmp_path, outcomes) == [(1, 0), (1, 1)]


def test_once_the_needed_trials_are_finished_the_cell_has_a_winner(tmp_path: Path) -> None:
    result, _ = outcome(
        tmp_path, [["stopped", "stopped"], [(90, 90), (80, 80)], ["stopped", (99, 99)]]
    )
    assert winner(result) == 1


def test_a_tie_goes_to_the_candidate_listed_first_and_is_said(tmp_path: Path) -> None:
    """Equal counts of right answers tie, however their fractions add up in floating point."""
    percent = [100 * right / 143 for right in (137, 141, 139)]
    result, _ = outcome(
        tmp_path, [[(1, percent[2])] * 2, [(2, percent[0]), (2, percent[1])], [(3, 1), (3, 1)]]
    )
    assert winner(result) == 0.1
    assert result.choice.tied == 1


def test_the_other_seeds_of_a_candidate_that_has_lost_keep_no_winner_back_and_are_not_needed(
    tmp_path: Path,
) -> None:
    lost: list[list[TrialOutcome]] = [
        ["diverged", None],
        [(90, 40), (90, 42)],
        [(90, 50), (90, 52)],
    ]
    result, now = outcome(tmp_path, lost)
    assert winner(result) == 10
    (needless,) = skippable_trials(now)
    assert (now.plan.choosing[needless].lambda_e, now.plan.choosing[needless].seed) == (0.1, 1)
    assert next_trials(now) == []


def test_a_stopped_candidate_s_other_seeds_are_needless_under_its_scheduler_alone(
    tmp_path: Path,
) -> None:
    outcomes: list[list[TrialOutcome]] = [
        ["stopped", None],
        [(90, 40), (90, 42)],
        [(90, 50), (90, 52)],
    ]
    _, without = outcome(tmp_path / "a", outcomes)
    assert sorted(c.seed for c in next_trials(without)) == [0, 1]
    _, under = outcome(tmp_path / "b", outcomes, SEARCHED + "scheduler: {kind: asha}\n")
    assert next_trials(under) == []


def test_what_one_cell_lost_another_may_need(tmp_path: Path) -> None:
    text = SEARCHED.replace(
        "rows: [{arm: E}]", "rows: [{arm: E}, {arm: E, name: fixed, set: {lambda_e: 0.1}}]"
    )
    plan = planned(tmp_path, text)
    first, second = candidate_configs(plan)[0]
    now = standing_of(plan, places_in(tmp_path), [unfinished(first, "diverged")])
    assert skippable_trials(now) == set()
    assert second in next_trials(now)
    groups = early_stopping_groups(plan)
    assert first.identity not in groups  # a row shows it, whatever comes out
    assert len(groups) == 4


def test_of_candidates_that_were_all_stopped_those_with_most_epochs_are_finished(
    tmp_path: Path,
) -> None:
    plan = planned(tmp_path, SEARCHED)
    records = [unfinished(c, "stopped") for configs in candidate_configs(plan) for c in configs]
    failure = records[2].failure
    assert failure is not None
    records[2] = records[2].model_copy(update={"failure": failure.model_copy(update={"epoch": 2})})
    now = standing_of(plan, places_in(tmp_path), records)
    assert [plan.choosing[i].lambda_e for i in stopped_to_resume(now)] == [1, 1]
