"""Settings of a study without effect are mistakes with a place; those that have one are not."""

from pathlib import Path
from typing import Any

import pytest
from study_fixtures import SEARCHED, SMALL, planned, write_study

from dh2l.errors import UserError

LONG = SEARCHED.replace("epochs: 2", "epochs: 9")
H = SEARCHED.replace("[{arm: E}]", "[{arm: E+H, set: {lambda_l: 1}}]")


def refused(folder: Path, text: str, overrides: dict[str, Any] | None = None) -> str:
    with pytest.raises(UserError) as caught:
        planned(folder, text, overrides=overrides)
    assert "\n" not in str(caught.value), str(caught.value)
    return str(caught.value).removeprefix(f"{folder}/")


def small(old: str, new: str, text: str = SMALL) -> str:
    assert text.count(old) == 1
    return text.replace(old, new)


IDLE = {
    "an axis without an arm": (
        SEARCHED + "  lambda_mma: {grid: [0.1, 1]}\n",
        "small.yaml:8:3: lambda_mma is searched, but no row has an arm with mma; add such a row",
    ),
    "an axis of a field that is off": (
        H + "  centre_scale: {grid: [0.1, 0.2]}\n",
        "small.yaml:8:3: centre_scale has no effect in any trial",
    ),
    "a sampled axis of a field that is off": (
        H + "  centre_scale: {uniform: [0.1, 0.2]}\n",
        "small.yaml:8:3: centre_scale has no effect in any trial",
    ),
    "an axis that every row replaces": (
        small("[{arm: E}]", "[{arm: E, set: {lambda_e: 1}}]", SEARCHED),
        "small.yaml:7:3: lambda_e is searched, but every row that has it sets it too",
    ),
    "a condition that never holds": (
        SEARCHED + "  lr: {grid: [0.1, 0.2], when: {centres: parent}}\n",
        "small.yaml:8:3: the axis lr is always absent, because its `when` holds in no trial",
    ),
    "a condition on a value that its axis never takes": (
        H
        + "  centres: {grid: [learned, mean]}\n  centre_scale: {grid: [0.1], when: {centres: parent}}\n",
        "small.yaml:9:3: the axis centre_scale is always absent",
    ),
    "a fixed field that is off": (
        small("epochs: 2,", "epochs: 2, centre_scale: 0.3,"),
        "small.yaml:2:38: centre_scale has no effect here; it needs centres: parent in an arm "
        "with H or H0",
    ),
    "a fixed field that every column replaces": (
        small("epochs: 2,", "epochs: 2, model: resnet32,"),
        "small.yaml:2:38: model has no effect, because every row or column sets it too",
    ),
    "a field of a row whose arm lacks it": (
        small("- arm: baseline+l2", "- {arm: baseline+l2, set: {centres: parent}}"),
        "small.yaml:6:30: centres has no effect here; it needs an arm with H or H0",
    ),
    "a field of a column": (
        small("{model: resnet20}", "{model: resnet20, radius: unit}"),
        "small.yaml:4:43: radius has no effect here; it needs an arm with H or H0",
    ),
    "a field of a regulariser without its arm": (
        small("epochs: 2,", "epochs: 2, mma_scope: conv,"),
        "small.yaml:2:38: mma_scope has no effect here; it needs an arm with mma",
    ),
    "parts of a batch no smaller than it": (
        small("epochs: 2,", "epochs: 2, micro_batch: 512,"),
        "small.yaml:2:38: micro_batch has no effect in any trial",
    ),
    "a second metric without E on the convolutions": (
        small("set: {lambda_e: 0.1}", "set: {lambda_e: 0.1, e_scope: classifier, conv_metric: am}"),
        "small.yaml:7:72: conv_metric has no effect",
    ),
    "a scheduler with nothing to stop": (
        SMALL + "scheduler: {kind: asha}\n",
        "small.yaml:9:1: scheduler has no effect, because no cell has more than one candidate",
    ),
    "a scheduler that comes too late": (
        SEARCHED + "scheduler: {kind: asha, grace_epochs: 2}\n",
        "small.yaml:8:25: the scheduler has no effect, because grace_epochs is 2 and the longest "
        "trial has epochs: 2",
    ),
    "a draw's seed without draws": (
        SEARCHED + "search_seed: 3\n",
        "small.yaml:8:1: search_seed has no effect, because nothing is drawn",
    ),
    "a rule without candidates": (
        SMALL + "rule: oracle\n",
        "small.yaml:9:1: rule has no effect, because no cell has more than one candidate",
    ),
    "a second stage of what was not chosen": (
        SMALL + "confirm: {seeds: [5]}\n",
        "small.yaml:9:1: confirm has no effect, because no cell has more than one candidate",
    ),
    "a column twice": (
        small("{model: resnet20}}", "{model: resnet20}}\n  - {name: twin, set: {model: resnet20}}"),
        "small.yaml:5:5: the column 'twin' has the same trials as 'digits'",
    ),
    "a printed table of other cells": (
        SMALL + "paper_table: 2\n",
        "small.yaml:9:1: paper_table is 2, but the paper's table has none of this study's cells",
    ),
    "violations without spheres": (
        SEARCHED + "searcher: {trials: 2, objectives: [validation_accuracy, total_violation]}\n",
        "small.yaml:4:8: arm E has no spheres, so it has no objective total_violation",
    ),
}


@pytest.mark.parametrize(("text", "said"), IDLE.values(), ids=IDLE)
def test_what_can_have_no_effect_is_a_sentence_at_its_place(
    tmp_path: Path, text: str, said: str
) -> None:
    assert refused(tmp_path, text).startswith(said)


def test_the_reduction_factor_of_a_median_rule_is_a_mistake(tmp_path: Path) -> None:
    said = refused(tmp_path, LONG + "scheduler: {kind: median, reduction_factor: 4}\n")
    assert said.startswith("small.yaml:8:1: reduction_factor has no effect with kind: median")


@pytest.mark.parametrize(
    ("axis", "said"),
    [
        (
            "lr: {grid: [0.1, 0.2], when: {centres: parnet}}",
            "8:33: a condition of the axis lr: centres is 'parnet'",
        ),
        (
            "lr: {grid: [0.1, 0.2], when: {epochs: [2, two]}}",
            "8:33: a condition of the axis lr: epochs is 'two'",
        ),
        (
            "model: {choice: [resnet20, resnet2000]}",
            "8:30: unknown model 'resnet2000'; did you mean",
        ),
        ("lr: {uniform: [-1, 1]}", "8:8: lr is -1"),
        (
            "warmup_epochs: {uniform: [0, 2]}",
            "8:19: warmup_epochs takes whole numbers, but uniform draws fractions",
        ),
    ],
)
def test_a_value_that_its_field_cannot_have_is_refused_drawn_or_not(
    tmp_path: Path, axis: str, said: str
) -> None:
    assert refused(tmp_path, f"{SEARCHED}  {axis}\n").startswith(f"small.yaml:{said}")


EFFECTIVE = {
    "a zero that takes an axis away": small(
        "[{arm: E+H, set: {lambda_l: 1}}]",
        "[{arm: E+H, set: {lambda_l: 1, lambda_c2: 0}, name: a}, {arm: E+H, set: {lambda_l: 1}, "
        "name: b}]",
        H,
    )
    + "  lambda_c2: {grid: [0.1]}\n",
    "a default spelled out where it counts": small(
        "{lambda_l: 1}", "{lambda_l: 1, centres: learned}", H
    ),
    "a field that one arm of several has": small("[{arm: E}]", "[{arm: [baseline, E]}]", SEARCHED),
    "a condition that some combination meets": H
    + "  centres: {grid: [learned, parent]}\n  centre_scale: {grid: [0.1, 0.2], when: {centres: parent}}\n",
    "a metric that stands for the convolutions' alone": small(
        "[{arm: E}]", "[{arm: E+H0}]", SEARCHED
    ),
    "a range up to bounds that are never drawn": SEARCHED
    + "  lr: {uniform: [0, 1]}\n  momentum: {uniform: [0.5, 1]}\n",
    "a scheduler before the end": LONG + "scheduler: {kind: median, grace_epochs: 8}\n",
}


@pytest.mark.parametrize("text", EFFECTIVE.values(), ids=EFFECTIVE)
def test_what_has_an_effect_is_taken(tmp_path: Path, text: str) -> None:
    assert planned(tmp_path, text).choosing


def test_what_idles_under_an_override_alone_is_no_mistake(tmp_path: Path) -> None:
    text = small("{lambda_l: 1}", "{lambda_l: 1, centre_scale: 0.3}", H).replace(
        "epochs: 2", "epochs: 2, centres: parent"
    )
    assert planned(tmp_path, text, overrides={"centres": "mean"}).choosing


def test_an_override_that_can_have_no_effect_is_placed_on_the_command_line(tmp_path: Path) -> None:
    assert refused(tmp_path, SMALL, {"radius": "unit"}).startswith(
        "--set radius: radius has no effect here"
    )
    said = refused(tmp_path, LONG + "scheduler: {kind: asha, grace_epochs: 5}\n", {"epochs": 2})
    assert said.startswith("--set epochs: the scheduler has no effect")
    assert said.endswith("add --set scheduler=null")


def test_what_an_extended_study_says_may_idle(tmp_path: Path) -> None:
    write_study(tmp_path, SEARCHED, "base")
    text = (
        "extends: base.yaml\ntitle: Without E\nrows: [{arm: baseline}]\nsearch: {lr: {grid: [0.1, "
        "0.2]}}\n"
    )
    assert len(planned(tmp_path, text, "mine").choosing) == 4
