"""Evaluation of the test set as needed: when it happens, and that nothing else depends on it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from study_fixtures import CommandLine, write_study
from tiny_data import EH, TIMES, tiny, tiny_config

from dh2l.results import TrainResult
from dh2l.training.evaluation import TEST_POINTS, evaluation_interval
from dh2l.training.trainer import train
from study.analysis.learning_curves import curve_epochs, curve_frame
from study.records.paths import Places
from study.records.store import RecordStore
from study.state.load import open_study
from study.state.results import StudyResults


@pytest.mark.parametrize("epochs", [1, 10, 15, 30, 31, 99, 100, 101, 150, 200, 300, 1000, 12345])
def test_the_curve_has_about_thirty_points_that_a_thinned_curve_shows(epochs: int) -> None:
    every = evaluation_interval(epochs)
    evaluated = [epoch for epoch in range(1, epochs + 1) if (epochs - epoch) % every == 0]
    assert evaluated[-1] == epochs
    assert min(epochs, TEST_POINTS) / 2 <= len(evaluated) <= TEST_POINTS
    assert set(evaluated) <= set(curve_epochs(epochs))


def trained(folder: Path | None = None, stop: int = 0, **options: Any) -> TrainResult:
    config = tiny_config(**EH, epochs=9, lr=0.02)
    training = train(
        config, tiny(), device="cpu", threads=1, checkpoints=folder, checkpoint_seconds=0, **options
    )
    while True:
        try:
            epoch = next(training).epoch
        except StopIteration as end:
            result: TrainResult = end.value
            return result
        if epoch == stop:
            training.close()
            return trained(folder, **options)


def test_it_happens_every_n_epochs_counted_back_from_the_last_and_at_each_new_best() -> None:
    whole, sparse = trained(evaluate_every=1), trained(evaluate_every=4)
    validation = [value or 0.0 for value in whole.history["validation_accuracy"]]
    best = {
        i + 1 for i, value in enumerate(validation) if value > max(validation[:i], default=-1.0)
    }
    expected = {1, 5, 9} | best
    assert len(expected) < 9
    for name in ("test_accuracy", "test_loss", "test_super_accuracy"):
        found = {i + 1 for i, value in enumerate(sparse.history[name]) if value is not None}
        assert found == expected
        assert [v for v in sparse.history[name] if v is not None] == [
            v for i, v in enumerate(whole.history[name]) if i + 1 in expected
        ]


def test_nothing_else_depends_on_it() -> None:
    whole, sparse = trained(evaluate_every=1), trained(evaluate_every=7)
    assert np.array_equal(whole.vectors, sparse.vectors)
    assert np.array_equal(whole.predictions_last, sparse.predictions_last)
    assert whole.predictions_best is not None
    assert sparse.predictions_best is not None
    assert np.array_equal(whole.predictions_best, sparse.predictions_best)
    assert whole.log_probabilities.keys() == sparse.log_probabilities.keys()
    for name, logs in whole.log_probabilities.items():
        assert np.array_equal(logs, sparse.log_probabilities[name])
    for name in whole.history.keys() - set(TIMES):
        if not name.startswith("test_"):
            assert whole.history[name] == sparse.history[name]


@pytest.mark.parametrize("stop", [1, 4, 8])
def test_a_resumed_trial_keeps_the_predictions_of_its_best_epoch(stop: int, tmp_path: Path) -> None:
    straight, resumed = trained(evaluate_every=4), trained(tmp_path, stop, evaluate_every=4)
    assert len(resumed.attempts) == 2
    assert resumed.history["test_accuracy"] == straight.history["test_accuracy"]
    for name, logs in straight.log_probabilities.items():
        assert np.array_equal(logs, resumed.log_probabilities[name])


def test_the_best_of_all_epochs_is_not_looked_for_in_a_checkpoint_with_gaps(tmp_path: Path) -> None:
    config = tiny_config(**EH, epochs=9, lr=0.02)
    cut = train(
        config,
        tiny(),
        device="cpu",
        threads=1,
        checkpoints=tmp_path,
        checkpoint_seconds=0,
        evaluate_every=9,
    )
    while next(cut).metrics["test_accuracy"] is not None:
        pass
    cut.close()
    result = trained(tmp_path, best_test=True)
    assert None not in result.history["test_accuracy"]
    assert len(result.attempts) == 1


STUDY = """
title: as needed
config: {dataset: digits, epochs: 6, batch_size: 256, lr: 0.3}
columns: [{name: digits, set: {model: resnet20}}]
rows:
  - {arm: baseline+l2}
seeds: [0, 1]
"""


@pytest.fixture
def places(tmp_path: Path, digits: Path) -> Places:
    return Places.of(tmp_path / "results", digits)


def words(file: Path, places: Places) -> list[object]:
    return [file, "--results", places.results, "--data", places.data]


def test_a_study_that_shows_the_best_test_epoch_trains_such_records_again_and_keeps_both(
    tmp_path: Path, places: Places, cli: CommandLine
) -> None:
    longer = STUDY.replace(
        "epochs: 6", "epochs: 12"
    )  # no trial has ten new best validation epochs in a row
    file = write_study(tmp_path, longer, "needed")
    oracle = write_study(tmp_path, longer + "accuracy: oracle\n", "oracle")
    code, _, error = cli("run", *words(file, places), "--shard", "1/1", "--evaluate-every", "11")
    assert (code, error) == (0, "")
    first = RecordStore(places.trials).read()
    assert {record.best_test for record in first.records.values()} == {None}
    code, printed, error = cli("plan", *words(oracle, places))
    assert code == 0
    assert "2 trials trained without evaluating the test set after every epoch" in error.replace(
        "\n", " "
    )
    assert "2 planned" in printed
    code, _, error = cli("run", *words(oracle, places), "--shard", "1/1")
    assert code == 0, error
    second = RecordStore(places.trials).read()
    assert second.conflicts == {}
    assert all(record.best_test is not None for record in second.records.values())
    assert [r.numbers() for r in second.records.values()] == [
        r.numbers() for r in first.records.values()
    ]
    for identity, path in first.paths.items():
        assert Path(str(path)).exists()
        assert second.paths[identity] == RecordStore(places.trials).evaluated / f"{identity}.json"
    code, printed, error = cli("run", *words(oracle, places), "--shard", "1/1")
    assert (code, error) == (0, "")
    assert "2 done" in printed
    assert cli("table", *words(file, places))[0] == 0


def test_a_trial_that_fails_when_it_is_trained_again_is_not_called_done(
    tmp_path: Path, places: Places, cli: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_study(tmp_path, STUDY, "needed")
    oracle = write_study(tmp_path, STUDY + "accuracy: oracle\n", "oracle")
    assert cli("run", *words(file, places), "--shard", "1/1", "--evaluate-every", "4")[0] == 0
    first = RecordStore(places.trials).read()

    def broken(*_: object) -> None:
        raise RuntimeError("disk on fire")

    monkeypatch.setattr("dh2l.training.trainer.Training.epoch", broken)
    code, printed, error = cli("run", *words(oracle, places), "--shard", "1/1")
    assert code == 1
    assert "disk on fire" in printed + error
    assert RecordStore(places.trials).read().records == first.records


def test_an_interval_and_a_study_of_the_best_test_epoch_do_not_go_together(
    tmp_path: Path, places: Places, cli: CommandLine
) -> None:
    oracle = write_study(tmp_path, STUDY + "accuracy: oracle\n", "oracle")
    code, _, error = cli("run", *words(oracle, places), "--shard", "1/1", "--evaluate-every", "2")
    assert code == 2
    assert "needs the test accuracy of every epoch" in error.replace("\n", " ")


def test_records_that_differ_in_how_often_they_were_evaluated_agree_and_replay(
    tmp_path: Path, places: Places, cli: CommandLine
) -> None:
    file = write_study(tmp_path, STUDY, "needed")
    assert cli("run", *words(file, places), "--shard", "1/1", "--evaluate-every", "4")[0] == 0
    identity = min(RecordStore(places.trials).read().records)
    code, printed, _ = cli("replay", identity, "--results", places.results, "--data", places.data)
    assert code == 0, printed


def test_a_curve_of_the_test_set_has_the_epochs_that_every_seed_has(
    tmp_path: Path, places: Places, cli: CommandLine
) -> None:
    file = write_study(tmp_path, STUDY, "needed")
    assert cli("run", *words(file, places), "--shard", "1/1", "--evaluate-every", "4")[0] == 0
    now = open_study(str(file), [], places, note=pytest.fail, warn=pytest.fail)
    frame = curve_frame(StudyResults(now).cells, now.found)
    epochs = {metric: {*part["epoch"]} for metric, part in frame.groupby("metric")}
    assert epochs["train_loss"] == {1, 2, 3, 4, 5, 6}
    assert {2, 6} <= epochs["test_accuracy"] < epochs["train_loss"]
    assert {*frame.loc[frame["metric"] == "test_accuracy", "n"]} == {2}


def test_probabilities_are_kept_beside_the_record_unless_told_otherwise(
    tmp_path: Path, places: Places, cli: CommandLine
) -> None:
    file = write_study(tmp_path, STUDY, "needed")
    assert cli("run", *words(file, places), "--shard", "1/2")[0] == 0
    assert cli("run", *words(file, places), "--shard", "2/2", "--no-probabilities")[0] == 0
    store = RecordStore(places.trials)
    kept = {
        record.seed: store.read_probabilities(record) for record in store.read().records.values()
    }
    with_them, without = kept.values()
    assert without is None or with_them is None
    (found,) = (probabilities for probabilities in kept.values() if probabilities is not None)
    assert found["test.last"].dtype == np.float16
    assert set(found) == {
        f"{part}.{what}"
        for part in ("test", "validation")
        for what in ("last", "best_validation", "labels")
    }
    for record in store.read().records.values():
        assert record.last is not None
        assert record.last.test_probabilities is not None
        assert record.last.test_probabilities.nll == pytest.approx(record.last.test_loss, rel=1e-3)


def test_probabilities_that_are_not_the_records_are_a_sentence_and_their_absence_is_none(
    tmp_path: Path, places: Places, cli: CommandLine
) -> None:
    file = write_study(tmp_path, STUDY, "needed")
    assert cli("run", *words(file, places), "--shard", "1/1")[0] == 0
    store = RecordStore(places.trials)
    first, second = store.read().records.values()
    paths = sorted(Path(str(store.probabilities)).iterdir())
    assert len(paths) == 2
    for path in paths:
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Exception, match="are damaged: they are not those of their record"):
        store.read_probabilities(first)
    for path in paths:
        path.unlink()
    assert store.read_probabilities(second) is None
    code, _, error = cli("table", *words(file, places))
    assert (code, error) == (0, "")
