"""A study gives a data set its own class tree; planted data are prepared by settings."""

import json
from pathlib import Path

import pytest
from study_fixtures import CommandLine, planned, write_study
from tiny_data import tiny_config

from dh2l.data import read_manifest, read_tree
from dh2l.errors import UserError
from dh2l.models.network import build_network
from dh2l.tree import ClassTree
from study.records.arrays import read_arrays
from study.records.lookup import find_record
from study.records.record import parse_record
from study.state.load import open_study_to_run

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


def test_a_tree_beside_the_study_is_trained_on_and_is_part_of_the_identity(
    tmp_path: Path, cli: CommandLine
) -> None:
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


STARTED = STUDY.replace("tree: parity.yaml", "tree: parity.yaml, weights: start.pt")


@pytest.fixture
def complete(tmp_path: Path, cli: CommandLine, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study under a tree of its own and from weights of its own, all of whose records are
    there.
    """
    import torch

    monkeypatch.chdir(tmp_path)
    (tmp_path / "parity.yaml").write_text(PARITY, encoding="utf-8")
    network = build_network(
        tiny_config(model="resnet20", seed=7), ClassTree([("a",), ("b",)]), (8, 8, 1)
    )
    torch.save(network.backbone.state_dict(), tmp_path / "start.pt")
    study = write_study(tmp_path, STARTED)
    _, out, _ = cli("plan", study, "--json")
    (trial,) = json.loads(out)["trials"]
    code, _, err = cli("trial", study, trial["identity"], "--threads", "1", "--device", "cpu")
    assert code == 0, err
    return study


def test_tables_of_complete_records_need_neither_weights_nor_tree(
    complete: Path, tmp_path: Path, cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = cli("export", complete, "--format", "csv", "--of", "trials")[1]
    for name in ("parity.yaml", "start.pt"):
        (tmp_path / name).unlink()
    away = tmp_path / "away"
    away.mkdir()
    monkeypatch.chdir(away)  # nor the folder in which it was run
    code, shown, err = cli("export", complete, "--format", "csv", "--of", "trials")
    assert (code, shown) == (0, before), err
    assert (
        err.count("the class tree parity.yaml does not exist; its last run is shown, with hash")
        == 1
    )
    assert (
        err.count("the file of weights start.pt does not exist; its last run is shown, with hash")
        == 1
    )
    code, shown, err = cli("table", complete)
    assert code == 0, err
    code, out, _ = cli("plan", complete, "--json")
    assert [trial["state"] for trial in json.loads(out)["trials"]] == ["done"]
    said = cli.mistake(
        "trial", complete, json.loads(out)["trials"][0]["identity"], "--device", "cpu"
    )
    assert "class tree" in said  # but what trains needs them


def test_weights_and_trees_that_were_changed_are_other_trials(
    complete: Path, tmp_path: Path, cli: CommandLine
) -> None:
    (tmp_path / "parity.yaml").write_text(PARITY.replace("even", "straight"), encoding="utf-8")
    _, out, _ = cli("plan", complete, "--json")
    assert [trial["state"] for trial in json.loads(out)["trials"]] == ["planned"]
    (tmp_path / "parity.yaml").write_text(PARITY, encoding="utf-8")
    (tmp_path / "start.pt").write_bytes(b"other")
    _, out, _ = cli("plan", complete, "--json")
    assert [trial["state"] for trial in json.loads(out)["trials"]] == ["planned"]


def test_a_noted_tree_that_was_edited_is_named_and_a_damaged_note_is_none(
    complete: Path, tmp_path: Path, cli: CommandLine
) -> None:
    (tmp_path / "parity.yaml").unlink()
    (tree,) = (cli.places.results / "trees").iterdir()
    tree.write_bytes(tree.read_bytes().replace(b"even", b"evil"))
    assert "was edited; copy it again" in cli.mistake("table", complete)
    note = Path(str(cli.places.inputs("small")))
    for content in (b"", b"[" * 100_000, b"[1]", b'{"a": 1}'):
        note.write_bytes(content)
        assert "unknown class tree 'parity.yaml'" in cli.mistake("table", complete)


def test_weights_that_only_a_search_to_come_starts_from_are_noted(
    tmp_path: Path, cli: CommandLine
) -> None:
    for name in ("a.pt", "b.pt"):
        (tmp_path / name).write_bytes(name.encode())
    text = STUDY.replace(", tree: parity.yaml", "") + "searcher: {sampler: random, trials: 1}\n"
    text += f"search: {{weights: {{choice: [{tmp_path}/a.pt, {tmp_path}/b.pt]}}}}\n"
    file = str(write_study(tmp_path, text))
    open_study_to_run(file, None, cli.places, warn=print)
    note = Path(str(cli.places.inputs("small")))
    assert list(json.loads(note.read_text())) == ["weights a.pt", "weights b.pt"]


def test_a_tree_of_other_classes_is_a_sentence_at_its_place(tmp_path: Path) -> None:
    (tmp_path / "parity.yaml").write_text(PARITY.replace('"9"', '"10"'), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        planned(tmp_path, STUDY)
    assert str(caught.value).startswith(f"{tmp_path}/small.yaml:2:55: {tmp_path}/parity.yaml: ")


def test_an_unknown_tree_is_a_sentence_with_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        planned(tmp_path, STUDY.replace("parity.yaml", "animal_vehicles"))
    assert "did you mean 'animals_vehicles'?" in str(caught.value)


@pytest.mark.parametrize(
    ("tree", "file"), [("./shuffled", "shuffled"), ("shuffled.yaml", "shuffled.yaml")]
)
def test_a_file_named_shuffled_is_a_tree_and_not_the_data_set_s_own_one_shuffled(
    tree: str, file: str, tmp_path: Path, cli: CommandLine
) -> None:
    (tmp_path / file).write_text(PARITY, encoding="utf-8")
    study = write_study(tmp_path, STUDY.replace("parity.yaml", tree))
    (trial,) = json.loads(cli("plan", study, "--json")[1])["trials"]
    assert cli("trial", study, trial["identity"], "--threads", "1", "--device", "cpu")[0] == 0
    digits = read_manifest("digits", cli.places.data)
    parity = read_tree(tmp_path / file, digits.classes)
    assert trial["config"]["tree_hash"] == parity.hash
    assert cli("replay", trial["identity"])[0] == 0
    arrays = read_arrays(*find_record(trial["identity"], cli.places))
    ancestors = parity.ancestors(1)
    agreed = ancestors[arrays["predictions.last"]] == ancestors[arrays["labels"]]
    assert arrays["history.test_super_accuracy"][-1] == pytest.approx(agreed.mean())

    words = write_study(tmp_path, STUDY.replace("parity.yaml", "shuffled"), "words")
    (trial,) = json.loads(cli("plan", words, "--json")[1])["trials"]
    assert trial["config"]["tree_hash"] == digits.tree.shuffled(0).hash


def test_weights_that_are_not_there_are_a_sentence_at_their_place(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        planned(tmp_path, STUDY.replace("tree: parity.yaml", "weights: no/such.pth"))
    there = f"{tmp_path}/no/such.pth"
    assert str(caught.value).startswith(
        f"{tmp_path}/small.yaml:2:55: the weights {there!r} cannot be read"
    )


def test_planted_data_are_prepared_by_their_settings(tmp_path: Path, cli: CommandLine) -> None:
    words = ("--planted", "branching=[2,3]", "--planted", "n_train=4", "--data", tmp_path / "data")
    code, out, err = cli("data", "prepare", "shapes", *words, placed=False)
    assert code == 0, err
    assert "shapes: 24 training and 300 test images of 8×8×3, classes 2 → 6" in out
    said = cli.mistake(
        "data",
        "prepare",
        "others",
        "--planted",
        "nois=3",
        "--data",
        tmp_path / "data",
        placed=False,
    )
    assert said == "unknown key 'nois'; did you mean 'noise'?"


def test_a_file_with_a_shuffled_tree_of_the_data_is_refused(
    tmp_path: Path, digits: Path, cli: CommandLine
) -> None:
    own = read_manifest("digits", digits).tree
    for seed, expected in ((0, "tree: shuffled"), (7, "tree: shuffled and tree_seed: 7")):
        groups: dict[str, list[str]] = {}
        for *parents, name in own.shuffled(seed).paths:
            groups.setdefault("/".join(parents), []).append(name)
        (tmp_path / "parity.yaml").write_text(json.dumps(groups), encoding="utf-8")
        study = write_study(tmp_path, STUDY)
        place = f"{study}:2:{STUDY.splitlines()[1].index('tree:') + 1}"
        assert cli.mistake("plan", study) == (
            f"{place}: tree 'parity.yaml': this is the class tree of digits, shuffled; "
            f"expected {expected}, which measures by the data set's own tree. Use {expected}"
        )
    plain = write_study(tmp_path, STUDY.replace("H0", "baseline+l2"), "plain")
    assert cli("plan", plain)[0] == 0
