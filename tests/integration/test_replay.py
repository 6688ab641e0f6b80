"""A record's trial trained again: the same numbers, or where they part."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from study_fixtures import CommandLine, unfinished

from dh2l.config.binding import bind
from dh2l.config.train_config import TrainConfig
from dh2l.data import prepare, read_manifest
from study.execution.observers import Observers
from study.execution.replay import replay, replayable
from study.execution.replay_differences import compare_arrays
from study.execution.training import run_locally
from study.records.arrays import read_arrays
from study.records.paths import Places
from study.records.record import Record, parse_record
from study.records.store import RecordStore

PLUGIN = """\
from dh2l.registry import penalty

@penalty("mine_to_replay")
def mine(cos):
    return (2 * cos).exp()
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, digits: Path) -> Places:
    """Places with one trained trial."""
    places = Places.of(tmp_path_factory.mktemp("trained") / "results", digits)
    values = {"epochs": 2, "batch_size": 256, "lambda_e": 0.1, "metric": "cosine"}
    config = bind(TrainConfig.parse(values), read_manifest("digits", digits))
    run_locally([config], places, Observers([]), threads=1)
    return places


def only(places: Places) -> tuple[Record, Path, dict[str, np.ndarray]]:
    (path,) = (places.local / "trials").glob("*.json")
    record = parse_record(path)
    return record, path, read_arrays(record, path)


def refiled(
    places: Places, record: Record, arrays: dict[str, np.ndarray] | None, folder: Path
) -> Places:
    """Other places, with this record in them under a valid checksum."""
    other = Places.of(folder / "refiled", places.data)
    RecordStore(other.trials).write(record, arrays)
    return other


def files(folder: Path) -> dict[Path, tuple[bytes, int]]:
    return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


def test_a_trial_replays_to_the_same_bits_and_nothing_is_written(
    cli: CommandLine, trained: Places
) -> None:
    cli.places = trained
    record, *_ = only(trained)
    before = files(trained.local)
    code, out, error = cli("replay", record.identity[10:30])
    assert (code, error) == (0, "")
    first, *epochs, last = out.splitlines()
    assert first == f"replaying {record.identity}"
    assert [line.split(":")[0] for line in epochs] == ["epoch 1/2", "epoch 2/2"]
    assert last == "agrees bit for bit: every number, epoch, prediction and vector (done)"
    assert files(trained.local) == before


def test_a_record_that_was_altered_is_told_with_the_place_and_by_how_much(
    tmp_path: Path, cli: CommandLine, trained: Places
) -> None:
    record, _, arrays = only(trained)
    assert record.last is not None
    right = record.last.test_accuracy
    altered = record.model_copy(
        update={"last": record.last.model_copy(update={"test_accuracy": 0.25})}
    )
    history, vectors, predictions = (
        arrays[name].copy() for name in ("history.train_loss", "vectors", "predictions.last")
    )
    loss = float(history[1])
    history[1] = 0.5
    vectors[3, 5] += 0.125
    predictions[:7] += 1
    changed = {"history.train_loss": history, "vectors": vectors, "predictions.last": predictions}
    cli.places = refiled(trained, altered, arrays | changed, tmp_path)
    code, out, _ = cli("replay", record.identity)
    assert code == 1
    lines = out.splitlines()
    start = lines.index("differs in 4 places:")
    assert lines[start + 1 : start + 5] == [
        f"  last.test_accuracy: 0.25 → {right} ({right - 0.25:+.3g})",
        f"  history.train_loss in epoch 2: 0.5 → {loss!r} ({loss - 0.5:+.3g})",
        "  predictions.last: 355 of them → 7 others",
        "  vectors: 640 of them → 1 others (by ≤ 0.125)",
    ]


def test_other_circumstances_are_named_where_numbers_differ(
    trained: Places, tmp_path: Path
) -> None:
    record, _, arrays = only(trained)
    attempts = [
        {**record.provenance.attempts[0], "threads": 1, "cpu": "an abacus"},
        *record.provenance.attempts,
    ]
    then = record.provenance.model_copy(
        update={"attempts": attempts, "commit": "0" * 40, "versions": {"torch": "1"}}
    )
    places = refiled(trained, record.model_copy(update={"provenance": then}), arrays, tmp_path)
    found = replay(*replayable(record.identity, places), places)
    assert found.agrees  # bits do not depend on the name of the machine
    changes = {change.what: change for change in found.circumstances}
    assert changes["commit"].recorded == "0" * 40
    assert changes["torch"].recorded == "1"
    assert changes["cpu"].recorded.startswith("an abacus, then ")
    assert (changes["attempts"].recorded, changes["attempts"].replayed) == ("2", "1")
    assert "threads" not in changes


def test_without_its_arrays_a_record_s_own_numbers_are_compared_and_that_is_not_agreement(
    cli: CommandLine, trained: Places, tmp_path: Path
) -> None:
    cli.places = refiled(trained, only(trained)[0], None, tmp_path)
    code, out, _ = cli("replay", "digits")
    assert code == 1
    assert "agrees in part: the record's own numbers do (done)" in out
    assert "not compared: the arrays " in out


def test_a_diverged_trial_replays_to_the_same_divergence(cli: CommandLine, places: Places) -> None:
    config = bind(
        TrainConfig(epochs=2, batch_size=256, lr=1e30), read_manifest("digits", places.data)
    )
    run_locally([config], places, Observers([]), threads=1)
    assert only(places)[0].state == "diverged"
    code, out, _ = cli("replay", config.identity, "--json")
    assert code == 0
    assert (json.loads(out)["agrees"], json.loads(out)["state"]) == (True, "diverged")


def test_the_history_s_first_epoch_that_differs_is_told_and_the_clock_s_metrics_do_not_count() -> (
    None
):
    then = {
        "history.seconds": np.ones(3),
        "history.a": np.array([1.0, 2.0, 3.0]),
        "history.b": np.full(3, np.nan),
    }
    now = {
        "history.seconds": np.zeros(3),
        "history.a": np.array([1.0, 2.5, 9.0]),
        "history.b": np.full(3, np.nan),
    }
    (difference,) = compare_arrays(then, now)
    assert (difference.what, difference.note) == ("history.a in epoch 2", "+0.5")
    assert compare_arrays(then, then | {"history.seconds": now["history.seconds"]}) == []
    assert [d.what for d in compare_arrays(then, {"history.b": then["history.b"]})] == ["history.a"]
    assert compare_arrays({"history.b": then["history.b"]}, then) == []  # a metric introduced since


@pytest.mark.usefixtures("forgotten")
def test_a_trial_of_a_plugin_needs_the_plugin_as_it_was(
    cli: CommandLine, places: Places, tmp_path: Path, trained: Places
) -> None:
    record, *_ = only(trained)
    text = f"config of {record.identity} is not valid here: "
    store = RecordStore(places.trials)
    store.write(record.model_copy(update={"config": {**record.config, "metric": "mine_to_replay"}}))
    said = cli.mistake("replay", "digits")
    assert text in said
    assert said.endswith("if its trial used a plugin, pass it with --plugin")
    plugin = tmp_path / "mine.py"
    plugin.write_text(PLUGIN, encoding="utf-8")
    said = cli.mistake("replay", "digits", "--plugin", plugin)
    assert "the project's numerics or a plugin's source changed since" in said


def test_an_unknown_trial_is_a_sentence_with_near_names(
    cli: CommandLine, trained: Places, tmp_path: Path
) -> None:
    cli.places = trained
    identity = only(trained)[0].identity
    said = cli.mistake("replay", identity.replace("E", "F"))
    assert said.endswith(f"; near are: {identity}")
    assert "there are no records under " in cli.mistake(
        "replay", identity, results=tmp_path / "nowhere"
    )


def test_several_records_that_fit_are_a_sentence(cli: CommandLine, places: Places) -> None:
    for seed in (0, 1):
        RecordStore(places.trials).write(unfinished(TrainConfig(seed=seed), "failed"))
    assert "'digits' fits 2 records" in cli.mistake("replay", "digits")


def test_a_failed_record_has_nothing_to_compare(cli: CommandLine, places: Places) -> None:
    config = TrainConfig()
    RecordStore(places.trials).write(unfinished(config, "failed"))
    assert cli.mistake("replay", config.identity) == (
        f"the record of {config.identity} has no numbers to compare: the trial failed (disk on "
        "fire); `dh2l-study run` "
        "trains it again"
    )


def test_a_damaged_record_is_a_sentence(cli: CommandLine, trained: Places, tmp_path: Path) -> None:
    record, path, _ = only(trained)
    cli.places = Places.of(tmp_path / "results", trained.data)
    cli.places.trials.mkdir(parents=True)
    shutil.copy(path, cli.places.local / "trials")
    (cli.places.trials / path.name).write_bytes(path.read_bytes()[:-9])
    assert "is left out: it is truncated" in cli.mistake("replay", record.identity)


def test_data_that_are_missing_or_others_are_a_sentence(
    cli: CommandLine, trained: Places, tmp_path: Path
) -> None:
    record, *_ = only(trained)
    cli.places = Places.of(trained.results, tmp_path / "data")
    assert "the data set 'digits' is not prepared under " in cli.mistake("replay", record.identity)
    prepare("digits", tmp_path / "data", flip=True)
    said = cli.mistake("replay", record.identity)
    assert f", but the trial was trained on {record.config['data_hash'][:12]}; " in said
