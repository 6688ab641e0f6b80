"""Trained networks that `run --keep` leaves, read back without the project's trainer."""

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from study_fixtures import CommandLine, write_study
from tiny_data import EH, tiny, tiny_config

from dh2l.config.binding import bind
from dh2l.config.train_config import TrainConfig
from dh2l.data import load
from dh2l.errors import UserError
from dh2l.training import checkpoint
from dh2l.training.saved_networks import load_network, path_in, save_network
from dh2l.training.trainer import train
from dh2l.training.training_state import Training
from study.execution.options import TrialOptions
from study.execution.trial import run_to_completion, run_trial
from study.records.arrays import read_arrays
from study.records.paths import Places
from study.records.store import RecordStore

STUDY = """
title: kept
config: {dataset: digits, epochs: 1, batch_size: 64}
columns: [{name: digits, set: {model: resnet20}}]
rows:
  - {arm: baseline+l2}
  - {arm: E+H, metric: cosine, set: {lambda_e: 0.1, lambda_l: 0.1}}
  - arm: E+H
    metric: cosine
    name: wrong
    set: {lambda_e: 0.1, lambda_l: 0.1, tree: shuffled, centres: mean, radius: unit}
seeds: [0]
"""


def test_a_kept_network_gives_the_predictions_of_its_record(
    tmp_path: Path, digits: Path, cli: CommandLine
) -> None:
    file = write_study(tmp_path, STUDY, "kept")
    assert cli("run", file, "--shard", "1/1", "--keep")[0] == 0
    data, found = load("digits", digits), RecordStore(cli.places.trials).read()
    assert len(found.records) == 3
    for identity, record in found.records.items():
        path = Path(str(cli.places.checkpoint(identity))) / "weights.pt"
        content = torch.load(path, weights_only=True)
        assert content["identity"] == identity
        network = load_network(path)
        with torch.inference_mode():
            logits = network(torch.from_numpy(np.array(data.test_x)))
        arrays = read_arrays(record, found.paths[identity])
        assert np.array_equal(logits.argmax(dim=1).numpy(), arrays["predictions.last"])
        assert network.classes == data.manifest.classes
        assert network.config.seed == 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_kept_network_gives_the_probabilities_of_its_trial_in_the_trial_s_precision(
    precision: str, tmp_path: Path
) -> None:
    training = Training(
        bind(tiny_config(**EH, precision=precision), tiny().manifest), tiny(), torch.device("cpu")
    )
    save_network(tmp_path, training.network.state_dict(), training.config, tiny().manifest)
    expected = training.evaluate(
        training.network, training.splits.test, probabilities=True
    ).log_probabilities
    with torch.inference_mode():
        logits = load_network(path_in(tmp_path))(torch.from_numpy(np.array(tiny().test_x)))
    assert expected is not None
    assert logits.dtype == torch.float32
    assert torch.equal(logits.log_softmax(dim=1).half(), expected)


def test_a_kept_network_moves_to_another_device_with_its_normalisation(tmp_path: Path) -> None:
    training = Training(bind(tiny_config(), tiny().manifest), tiny(), torch.device("cpu"))
    save_network(tmp_path, training.network.state_dict(), training.config, tiny().manifest)
    network = load_network(path_in(tmp_path)).to("meta")
    features = network.network.features(
        network.normalise(torch.from_numpy(np.array(tiny().test_x)).to("meta"))
    )
    assert features.device.type == "meta"


def test_without_keep_no_weights_stay(tmp_path: Path, cli: CommandLine) -> None:
    file = write_study(tmp_path, STUDY.replace("kept", "gone"), "gone")
    assert cli("run", file, "--shard", "1/3")[0] == 0
    assert list(Path(str(cli.places.results)).rglob("*.pt")) == []


def test_other_images_and_files_are_sentences(tmp_path: Path, cli: CommandLine) -> None:
    file = write_study(tmp_path, STUDY, "kept")
    assert cli("run", file, "--shard", "1/3", "--keep")[0] == 0
    (path,) = Path(str(cli.places.results)).rglob("weights.pt")
    network = load_network(str(path))
    with pytest.raises(
        UserError,
        match=r"torch\.float32 of shape \(1, 8, 8, 1\); expected torch\.uint8 of shape \(N, 8",
    ):
        network(torch.zeros(1, 8, 8, 1))
    with pytest.raises(UserError, match="cannot be read"):
        load_network(tmp_path / "nowhere.pt")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="not a trained network"):
        load_network(path)
    (checkpoint,) = Path(str(Places.of(cli.places.results, cli.places.data).results)).rglob(
        "checkpoint.pt"
    )
    with pytest.raises(UserError, match="not a trained network"):
        load_network(checkpoint)


def _no_space(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_kept_weights_are_the_last_epoch_s_though_its_checkpoint_could_not_be_saved(
    places: Places, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, save = load("digits", digits), checkpoint.save

    def save_all_but_the_last(folder: Path, state: dict[str, Any]) -> None:
        if state["epochs_done"] == 3:
            _no_space()
        save(folder, state)

    monkeypatch.setitem(train.__kwdefaults__ or {}, "checkpoint_seconds", 0.0)
    monkeypatch.setattr(checkpoint, "save", save_all_but_the_last)
    config = bind(TrainConfig(epochs=3, batch_size=256), data.manifest)
    with pytest.warns(UserWarning, match="no checkpoint is saved"):
        record = run_to_completion(
            run_trial(config, places, options=TrialOptions(keep=True)), lambda _: None, pytest.fail
        )
    path = path_in(places.checkpoint(config.identity))
    assert torch.load(str(path), weights_only=True)["epoch"] == 3
    with torch.inference_mode():
        logits = load_network(path)(torch.from_numpy(np.array(data.test_x)))
    arrays = read_arrays(record, RecordStore(places.trials).path(config.identity))
    assert np.array_equal(logits.argmax(dim=1).numpy(), arrays["predictions.last"])


def test_a_full_disk_costs_the_weights_and_not_the_record_and_is_reported(
    places: Places, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = bind(TrainConfig(epochs=1, batch_size=256), load("digits", digits).manifest)
    monkeypatch.setattr("study.execution.trial_output.save_network", _no_space)
    said: list[str] = []
    record = run_to_completion(
        run_trial(config, places, options=TrialOptions(keep=True)), lambda _: None, said.append
    )
    assert record.state == "done"
    assert RecordStore(places.trials).read().records == {config.identity: record}
    assert said == [
        f"the weights of {config.identity} are not kept in {places.checkpoint(config.identity)}: "
        "No space left on device. Train the trial again in another folder: "
        "run --keep --results FOLDER"
    ]


def test_keep_on_finished_trials_says_that_their_weights_are_not_there(
    tmp_path: Path, cli: CommandLine
) -> None:
    file = write_study(tmp_path, STUDY.replace("kept", "late"), "late")
    assert cli("run", file, "--shard", "1/3")[0] == 0
    code, printed, error = cli("run", file, "--shard", "1/3", "--keep")
    (identity,) = RecordStore(cli.places.trials).read().records
    assert code == 0
    assert (
        f"--keep: 1 trial finished earlier without weights, first {identity}; finished trials are "
        "not trained again. To keep their weights, train them in another folder: "
        "run --keep --results FOLDER"
    ) in " ".join((printed + error).split())
    assert "--keep" not in "".join(cli("run", file, "--shard", "2/3", "--keep")[1:])
    assert "--keep" not in "".join(cli("run", file, "--shard", "2/3", "--keep")[1:])
