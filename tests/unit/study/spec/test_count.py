"""Trials counted from a study's file alone, with the mistakes that the file alone decides."""

import json
from pathlib import Path

import pytest
from official import official_manifest
from study_fixtures import SEARCHED, SMALL, CommandLine, made_manifest, places_in, write_study

from dh2l.errors import UserError
from study.spec.count import count_cells, count_trials
from study.spec.plan import make_plan
from study.spec.study_file import StudyFile, find_study


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> CommandLine:
    return CommandLine(monkeypatch, capsys, places_in(tmp_path))


@pytest.mark.parametrize("name", ["table1", "table6", "rivals", "ablation_levels"])
def test_cells_are_counted_as_the_plan_over_the_data_has_them(name: str) -> None:
    plan = make_plan(find_study(name), official_manifest)
    cells = count_cells(find_study(name))
    assert [(c.key, c.n_candidates) for c in cells] == [
        (c.key, len(c.candidates)) for c in plan.cells
    ]
    assert count_trials(plan.file, cells).choosing == len(plan.choosing)


def test_a_plan_is_counted_without_data(cli: CommandLine, tmp_path: Path) -> None:
    code, out, error = cli("plan", "table1")
    assert code == 0
    assert out.startswith("table1: 140 trials in 16 cells, then 80 trials that confirm.\n")
    assert "the data set 'cifar10' is not prepared" in error
    code, out, _ = cli("plan", "table1", "--json")
    assert (code, json.loads(out)["choosing"]) == (0, 140)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--estimate", "--trials"])
def test_what_needs_the_data_is_refused_without_them(cli: CommandLine, option: str) -> None:
    assert "is not prepared" in cli.mistake("plan", "table1", option)


def test_a_data_set_of_ones_own_that_is_nowhere_is_a_mistake(
    cli: CommandLine, tmp_path: Path
) -> None:
    study = write_study(tmp_path, SMALL.replace("dataset: digits", "dataset: diggits"))
    assert "the data set 'diggits' is not prepared" in cli.mistake("plan", study)


@pytest.mark.parametrize(
    "text",
    [
        SMALL.replace("lambda_e: 0.1", "lambda_e: -1"),
        SMALL + "scheduler: {kind: median, reduction_factor: 2}\n",
        SEARCHED + "  lambda_mma: {grid: [0.1]}\n",
        SEARCHED.replace("epochs: 2", "epochs: 2, protocol: paper"),
        SEARCHED + "  lr: {uniform: [0, 1]}\nsamples: 1000000000\n",
    ],
)
def test_a_mistake_is_told_in_the_same_words_without_data(tmp_path: Path, text: str) -> None:
    path = write_study(tmp_path, text)
    with pytest.raises(UserError) as counting:
        count_cells(StudyFile(path))
    with pytest.raises(UserError) as planning:
        make_plan(StudyFile(path), made_manifest)
    assert str(counting.value) == str(planning.value)
