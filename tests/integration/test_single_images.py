"""Batches of a single image, against batch norm itself."""

import pytest
from tiny_data import run, tiny_config

from dh2l.config.batch_sizes import check_batches, n_training_images
from dh2l.data import load
from dh2l.errors import UserError
from dh2l.registry.entries import MODELS, Model
from study.execution.trial import train_one_step
from study.records.paths import Places

N = 35  # the training images of `tiny` without those for validation


def test_what_is_refused_is_what_batch_norm_refuses_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dh2l.training.training_state.check_batches", lambda *_: None)
    fails = tiny_config(model="resnet18", epochs=1, batch_size=34)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        run(fails)
    for values in ({"model": "resnet20"}, {"model": "resnet18", "batch_size": 33}):
        config = tiny_config(**{"batch_size": 34, "epochs": 1, "lr": 1e-4, **values})
        check_batches(config, N, (8, 8, 3))
        run(config)
    check_batches(fails, N, (33, 8, 3))  # two pixels are two values
    with pytest.raises(UserError, match="leave one image alone"):
        check_batches(tiny_config(batch_size=34), N, (4, 4, 3))


def test_a_check_takes_a_step_with_the_last_batch_too(
    places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = MODELS["resnet18"]
    monkeypatch.setitem(
        MODELS, "resnet18", Model("resnet18", own.build, 18)
    )  # as of a user's model nothing is known
    data = load("digits", places.data)
    n = n_training_images(tiny_config(), data.manifest)
    assert n is not None
    config = tiny_config(dataset="digits", model="resnet18", batch_size=n - 1)
    failure = train_one_step(config, places, device="cpu", threads=1)
    assert failure is not None
    assert "Expected more than 1 value per channel" in failure.message
    assert (
        train_one_step(
            config.model_copy(update={"batch_size": n - 2}), places, device="cpu", threads=1
        )
        is None
    )
