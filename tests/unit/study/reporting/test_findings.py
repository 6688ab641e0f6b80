"""A report's first paragraph, and the axes of what was searched."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from study_fixtures import done, places_in, planned, standing_of, unfinished

from study.analysis.frames import cell_frame
from study.analysis.search_analysis import response_frame
from study.records.record import Record
from study.reporting.figures import learning_curves, responses
from study.reporting.html import report_html
from study.reporting.html.findings import findings
from study.spec.plan import Plan
from study.state.results import StudyResults

FIVE = """\
title: Five arms
config: {dataset: digits, epochs: 2}
columns: [{name: digits}]
rows:
  - arm: baseline+l2
  - {arm: E, metric: cosine, set: {lambda_e: 0.1}}
  - {arm: H, metric: cosine, set: {lambda_l: 0.1}}
  - {arm: E, metric: am, set: {lambda_e: 0.1, lr: 0.3}}
  - {arm: H0}
seeds: [0, 1, 2]
"""


def words(folder: Path, plan: Plan, records: list[Record]) -> list[str]:
    return findings(cell_frame(StudyResults(standing_of(plan, places_in(folder), records))))


def test_the_first_paragraph_says_what_differs_what_cannot_be_told_apart_and_what_is_missing(
    tmp_path: Path,
) -> None:
    plan = planned(tmp_path, FIVE)
    means = {"baseline+l2": 90.0, "E": 95.0, "H": 90.2, "H0": 80.0}
    records = [done(c, means[c.arm] + 0.3 * c.seed) for c in plan.choosing.values()]
    last = next(
        i for i, record in enumerate(records) if "-H-" in record.identity and record.seed == 2
    )
    assert words(tmp_path / "whole", plan, records) == [
        "Accuracy is higher than the reference's for cosine E by +5.00 (p < 0.001).",
        "Accuracy is lower than the reference's for H0 by −10.00 (p < 0.001).",
        "1 cell cannot be told apart from the reference: cosine H (+0.20 [−0.48, +0.88]).",
        "No test (reference differs in lr): D_AM E.",
        "No trial is missing.",
    ]
    config = next(c for c in plan.choosing.values() if c.identity == records[last].identity)
    records[last] = unfinished(config, "diverged")
    assert words(tmp_path / "part", plan, records)[2:] == [
        "No test (reference differs in lr): D_AM E.",
        "1 of 5 cells lack trials, and have no test: cosine H: diverged (1 of 3).",
    ]


def test_where_nothing_differs_it_says_so_and_many_cells_are_counted(tmp_path: Path) -> None:
    many = (
        "  - {arm: E, metric: [n_euclidean0, n_euclidean1, n_euclidean2, angular0, angular1, "
        "angular2, cosine, am, hm,"
    )
    plan = planned(
        tmp_path,
        FIVE.split("  - {arm: E, metric: cosine")[0]
        + f"{many} gm], set: {{lambda_e: 0.1}}}}\nseeds: [0, 1, 2]\n",
    )
    sentences = words(tmp_path, plan, [done(c, 90 + c.seed) for c in plan.choosing.values()])
    assert sentences[0] == "No cell differs from its reference beyond what seeds explain."
    assert sentences[1].startswith(
        "10 cells cannot be told apart from the reference: N-euclidean0 E, N-euclidean1 E,"
    )
    assert sentences[1].endswith(", and 2 more.")


def test_a_study_that_has_not_begun_has_no_results_to_tell(tmp_path: Path) -> None:
    plan = planned(tmp_path, FIVE)
    sentences = words(tmp_path, plan, [])
    assert sentences[-1].startswith(
        "5 of 5 cells lack trials, and have no test: baseline+l2: missing (3 of 3); "
    )
    html = report_html(StudyResults(standing_of(plan, places_in(tmp_path), [])))
    assert f'<p class="lead">{" ".join(sentences)}</p>' in html


SAMPLED = """\
title: Sampled
config: {dataset: digits, epochs: 2, metric: cosine}
columns: [{name: digits}]
rows: [{arm: E+H}]
seeds: [0]
samples: 12
search:
  lambda_e: {loguniform: [0.001, 10]}
  lambda_l: {loguniform: [0.2, 0.9]}
  lambda_c2: {uniform: [0.0, 0.5]}
  lambda_c3: {grid: [0, 0.1, 1]}
"""


def panels(frame: pd.DataFrame, sampled: dict[str, bool]) -> dict[str, Axes]:
    figure = responses(frame, sampled, ["E+H"], "validation accuracy, %")
    figure.draw_without_rendering()
    return {axes.get_xlabel(): axes for axes in figure.axes}


def test_the_axes_of_sampled_weights_have_round_numbers_and_points_without_a_line(
    tmp_path: Path,
) -> None:
    plan = planned(tmp_path, SAMPLED)
    now = standing_of(
        plan, places_in(tmp_path), [done(c, 90, 50 + c.lambda_e) for c in plan.choosing.values()]
    )
    sampled = {"lambda_e": True, "lambda_l": True, "lambda_c2": False}
    axes = panels(response_frame(StudyResults(now)), sampled)
    ticks = {
        name: [label.get_text() for label in one.get_xticklabels()] for name, one in axes.items()
    }
    assert set(ticks["lambda_e"]) <= {"0.01", "0.1", "1"}
    assert len(ticks["lambda_e"]) > 1
    assert set(ticks["lambda_l"]) <= {"0.2", "0.3", "0.5", "0.7"}
    assert len(ticks["lambda_l"]) > 1
    assert ticks["lambda_c3"] == ["0", "0.1", "1"]
    assert axes["lambda_c2"].get_xscale() == "linear"
    dashed = {
        name: any(line.get_linestyle() not in ("None", "none") for line in one.lines)
        for name, one in axes.items()
    }
    assert dashed == {"lambda_e": False, "lambda_l": False, "lambda_c2": False, "lambda_c3": True}
    html = report_html(StudyResults(now))
    assert "mathdefault" not in html
    assert "A line goes through the best over the other fields, where values are listed." in html


@pytest.mark.parametrize("values", [[0.31, 0.34], [0.42, 0.43]])
def test_a_short_range_has_ticks_too(values: list[float]) -> None:
    rows = [
        {
            "axis": "lambda_l",
            "row": "r",
            "arm": "E+H",
            "value": v,
            "score": 1,
            "std": math.nan,
            "selected": False,
        }
        for v in values
    ]
    (axes,) = panels(pd.DataFrame(rows), {"lambda_l": True}).values()
    assert [label.get_text() for label in axes.get_xticklabels()] == [f"{v:g}" for v in values]


def test_a_band_of_accuracies_ends_at_100_percent() -> None:
    rows = [
        {
            "row": "E",
            "arm": "E",
            "metric": "test_accuracy",
            "epoch": epoch,
            "mean": 99.0,
            "std": 3.0,
        }
        for epoch in (1, 2)
    ]
    figure = learning_curves(pd.DataFrame(rows), "test_accuracy", "accuracy, %", ["E"])
    (band,) = figure.axes[0].collections
    edges = np.asarray(band.get_paths()[0].vertices)[:, 1]
    assert (edges.min(), edges.max()) == (96, 100)
