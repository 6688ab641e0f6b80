"""A study gives a data set its own class tree; planted data are prepared by settings."""

import json
from pathlib import Path

import pytest
from study_fixtures import CommandLine, planned, write_study

from dh2l.data import read_manifest
from dh2l.errors import UserError
from study.records import parse_record

STUDY = """\
title: Even and odd
config: {dataset: digits, epochs: 1, batch_size: 256, tree: parity.yaml}
columns: [{name: digits}]
rows: [{arm: H0}]
seeds: [0]
"""
PARITY = """\
even: ["0", "2", "4", "6", "8"]
odd: ["1", "3", "5", "7", "9"]
"""


def test_a_tree_beside_the_study_is_trained_on_and_is_part_of_the_identity(tmp_path: Path, cli: CommandLine) -> None:
    (tmp_path / "parity.yaml").write_text(PARITY, encoding="utf-8")
    study = write_study(tmp_path, STUDY)
    code, out, _ = cli("plan", study, "--json")
    (trial,) = json.loads(out)["trials"]
    assert code == 0
    own = read_manifest("digits", cli.places.data)
    assert trial["config"]["tree_hash"] != own.tree_hash
    code, _, err = cli("trial", study, trial["identity"], "--threads", "1", "--device", "cpu")
    assert code == 0, err
    record = parse_record(cli.places.trials / f"{trial['identity']}.json")
    # Two inner nodes instead of the data set's own three: 64 numbers fewer.
    without = write_study(tmp_path, STUDY.replace(", tree: parity.yaml", ""), "own")
    code, out, _ = cli("plan", without, "--json")
    (other,) = json.loads(out)["trials"]
    cli("trial", without, other["identity"], "--threads", "1", "--device", "cpu")
    parameters = parse_record(cli.places.trials / f"{other['identity']}.json").parameters
    assert parameters is not None
    assert record.parameters == parameters - 64


def test_a_tree_of_other_classes_is_a_sentence_at_its_place(tmp_path: Path) -> None:
    (tmp_path / "parity.yaml").write_text(PARITY.replace('"9"', '"10"'), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        planned(tmp_path, STUDY)
    assert str(caught.value).startswith(f"{tmp_path}/small.yaml:2:55: {tmp_path}/parity.yaml: ")


def test_an_unknown_tree_is_a_sentence_with_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        planned(tmp_path, STUDY.replace("parity.yaml", "animal_vehicles"))
    assert "did you mean 'animals_vehicles'?" in str(caught.value)


def test_weights_that_are_not_there_are_a_sentence_at_their_place(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        planned(tmp_path, STUDY.replace("tree: parity.yaml", "weights: no/such.pth"))
    assert str(caught.value).startswith(f"{tmp_path}/small.yaml:2:55: the weights 'no/such.pth' cannot be read")


def test_planted_data_are_prepared_by_their_settings(tmp_path: Path, cli: CommandLine) -> None:
    words = ("--planted", "branching=[2,3]", "--planted", "n_train=4", "--data", tmp_path / "data")
    code, out, err = cli("data", "prepare", "shapes", *words, placed=False)
    assert code == 0, err
    assert "shapes: 24 training and 300 test images of 8×8×3, classes 2 → 6" in out
    said = cli.mistake("data", "prepare", "others", "--planted", "nois=3", "--data", tmp_path / "data", placed=False)
    assert said == "unknown key 'nois'; did you mean 'noise'?"
