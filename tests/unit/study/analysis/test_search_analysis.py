"""Analysis of a search: responses, importance, the Pareto front."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from study_fixtures import (
    candidate_configs,
    done,
    places_in,
    planned,
    standing_of,
    unfinished,
)

from dh2l.config.train_config import TrainConfig
from study.analysis.search_analysis import dominates, importance_frame, pareto_frame, response_frame
from study.records.store import RecordStore
from study.spec.plan import Plan
from study.state.load import read_state
from study.state.results import StudyResults
from study.state.study_state import StudyState

GRID = """\
title: A grid
config: {dataset: digits, epochs: 2, metric: cosine}
columns: [{name: digits}]
rows: [{arm: baseline+l2, search: {lr: {grid: [0.1]}}}, {arm: E+H, set: {lambda_l: 0.1}}]
seeds: [0, 1]
search:
  lambda_e: {grid: [0.1, 1, 10]}
  centres: {grid: [learned, parent]}
  centre_scale: {grid: [0.2, 0.3, 0.4, 0.5], when: {centres: parent}}
"""
"""E+H has fifteen candidates: three with learned centres, twelve with a node's own vectors as
centres."""


SEARCH = """\
title: A search
config: {dataset: digits, epochs: 2, metric: cosine}
columns: [{name: digits}]
rows: [{arm: E+H}]
seeds: [0]
searcher: {trials: 5}
search: {lambda_e: {loguniform: [0.00001, 10]}, lambda_l: {loguniform: [0.00001, 10]}}
"""


def filed(folder: Path, plan: Plan, score: dict[str, float]) -> StudyState:
    """Every trial done; its validation accuracy is what `score` gives for its λe, and a little for
    its seed.
    """
    return standing_of(
        plan, places_in(folder), [done(c, 90, validation(c, score)) for c in plan.choosing.values()]
    )


def validation(config: TrainConfig, score: dict[str, float]) -> float:
    return score.get(str(config.lambda_e), 50) + config.seed


def test_a_response_is_the_mean_score_of_every_candidate_at_every_axis(tmp_path: Path) -> None:
    now = filed(tmp_path, planned(tmp_path, GRID), {"0.1": 40, "1.0": 60, "10.0": 50})
    frame = response_frame(StudyResults(now))
    assert set(frame["row"]) == {"E+H"}  # the baseline has one candidate: nothing is searched
    by_value = (
        frame[frame["axis"] == "lambda_e"].groupby("value")["score"].agg(["min", "max", "count"])
    )
    assert by_value.to_numpy().tolist() == [[40.5, 40.5, 5], [60.5, 60.5, 5], [50.5, 50.5, 5]]
    assert set(frame["n"]) == {2}
    assert frame["std"].to_numpy() == pytest.approx(np.full(len(frame), 0.5**0.5))
    assert set(frame[frame["axis"] == "centres"]["value"]) == {"learned", "parent"}
    assert len(frame[frame["axis"] == "centre_scale"]) == 12
    assert frame[frame["selected"]]["candidate"].nunique() == 1


def test_a_candidate_without_all_its_seeds_has_no_score_and_says_why(tmp_path: Path) -> None:
    plan = planned(tmp_path, GRID)
    configs = candidate_configs(plan, 1)
    records = [
        done(configs[0][0], 90),
        unfinished(configs[0][1], "diverged"),
        done(configs[1][0], 90),
    ]
    frame = response_frame(StudyResults(standing_of(plan, places_in(tmp_path), records)))
    first, second = frame[frame["candidate"] == 0].iloc[0], frame[frame["candidate"] == 1].iloc[0]
    assert (first["state"], first["n"]) == ("diverged", 1)
    assert (second["state"], second["n"]) == ("planned", 1)
    assert frame["score"].isna().all()


def test_the_axis_that_alone_moves_the_score_has_all_the_importance(tmp_path: Path) -> None:
    now = filed(tmp_path, planned(tmp_path, GRID), {"0.1": 40, "1.0": 60, "10.0": 50})
    frame = importance_frame(StudyResults(now)).set_index("axis")
    assert frame["importance"].to_dict() == pytest.approx(
        {"lambda_e": 1, "centres": 0, "centre_scale": 0}, abs=0.05
    )
    assert frame["importance"][["lambda_e", "centres"]].sum() == pytest.approx(
        1
    )  # the third is weighed where it is
    assert frame["candidates"].to_dict() == {"lambda_e": 15, "centres": 15, "centre_scale": 12}
    assert set(frame["why_none"]) == {""}
    again = importance_frame(StudyResults(now)).set_index("axis")
    assert again["importance"].tolist() == frame["importance"].tolist()


@pytest.mark.parametrize(
    ("score", "changed", "why"),
    [
        (
            {},
            ("lambda_e: {grid: [0.1, 1, 10]}", "lambda_e: {grid: [0.1, 1]}"),
            "all scores are equal",
        ),
        ({"0.1": 40}, ("grid: [0.1, 1, 10]", "grid: [0.1]"), "one value only"),
        ({"0.1": 40}, (GRID[GRID.index("  centres:") :], ""), "fewer than 8 scored candidates"),
    ],
)
def test_where_no_importance_can_be_given_it_says_why(
    tmp_path: Path, score: dict[str, float], changed: tuple[str, str], why: str
) -> None:
    frame = importance_frame(
        StudyResults(filed(tmp_path, planned(tmp_path, GRID.replace(*changed)), score))
    ).set_index("axis")
    assert frame["why_none"]["lambda_e"] == why
    assert np.isnan(frame["importance"]["lambda_e"])


def test_equal_counts_of_right_answers_have_no_importance_however_their_fractions_add_up(
    tmp_path: Path,
) -> None:
    text = GRID.replace("seeds: [0, 1]", "seeds: [0, 1, 2]")
    right = {"0.1": (102, 102, 103), "1.0": (101, 101, 105), "10.0": (102, 102, 103)}  # of 180 each
    plan = planned(tmp_path, text)
    records = [
        done(c, 90, 100 * right[str(c.lambda_e)][c.seed] / 180)
        for c in plan.choosing.values()
        if c.lambda_e
    ]
    now = standing_of(plan, places_in(tmp_path), records)
    assert set(importance_frame(StudyResults(now))["why_none"]) == {"all scores are equal"}
    assert response_frame(StudyResults(now))["score"].nunique() == 1


def test_a_loguniform_axis_counts_by_its_logarithm(tmp_path: Path) -> None:
    """The score turns at a small λe: below a thousandth of its range, which is more than half of
    its decades.
    """
    text = SEARCH.replace("trials: 5", "trials: 60")
    plan, source = planned(tmp_path, text), np.random.default_rng(0)
    records = []
    for _ in range(60):
        drawn = [round(float(10 ** source.uniform(-5, 1)), 9) for _ in range(2)]
        config = plan.cell_configs[0].config({"lambda_e": drawn[0], "lambda_l": drawn[1]}, 0)
        records.append(done(config, 90, 60 + 10 * (drawn[0] < 0.003) + 2 * (drawn[1] > 5)))
    frame = importance_frame(
        StudyResults(standing_of(plan, places_in(tmp_path), records))
    ).set_index("axis")
    assert frame["importance"]["lambda_e"] > 0.9


def test_the_pareto_front_is_of_score_and_violation(tmp_path: Path) -> None:
    text = GRID.replace("{lambda_l: 0.1}", "{lambda_l: 0.1, lambda_c1: 0.1}")
    plan, places = planned(tmp_path, text), places_in(tmp_path)
    store = RecordStore(places.trials)
    points = {"0.1": (70.0, 0.3), "1.0": (60.0, 0.1), "10.0": (50.0, 0.2)}
    for config in plan.choosing.values():
        score, violation = points.get(str(config.lambda_e), (10.0, 9.0))
        score -= 1 if config.centres == "parent" else 0
        arrays = {
            "history.violation_c1": np.array([9.0, violation]),
            "history.violation_c2": np.array([0.0, 0.0]),
        }
        store.write(done(config, 90, score), arrays)
    frame = pareto_frame(StudyResults(read_state(plan, places)))
    assert [(json.loads(values)["lambda_e"], s, v) for values, s, v in
            zip(frame["values"], frame["score"], frame["violation"], strict=True)] == [
        (0.1, pytest.approx(70), pytest.approx(0.3)),
        (1, pytest.approx(60), pytest.approx(0.1)),
    ]  # fmt: skip


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12))
@settings(deadline=None)
def test_what_nothing_dominates_is_the_front_by_its_definition(
    points: list[tuple[int, int]],
) -> None:
    front = {a for a in points if not any(dominates(b, a) for b in points)}
    for a in points:
        worse = [
            b for b in points if (b[0] > a[0] and b[1] <= a[1]) or (b[0] >= a[0] and b[1] < a[1])
        ]
        assert (a in front) == (not worse)
