"""Learning rates of the steps of a trial, under each schedule."""

from typing import Any

import pytest
import torch
from tiny_data import run, tiny, tiny_config
from torch import Tensor

from dh2l.training.batches import Normalise, make_splits
from dh2l.training.schedule import learning_rates
from dh2l.training.training_state import Training

CPU = torch.device("cpu")


SCHEDULES: dict[str, dict[str, Any]] = {
    "steps": {"lr_milestones": [0.5]},
    "linear": {"schedule": "linear", "warmup_epochs": 1, "lr_final": 0.001},
    "cosine": {"schedule": "cosine", "nesterov": True},
    "rex": {"schedule": "rex", "warmup_epochs": 2},
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_each_step_is_taken_with_its_own_rate(name: str) -> None:
    """The parameters of three epochs are those of torch's own SGD, driven by hand on the same
    gradients.
    """
    config = tiny_config(epochs=3, lr=0.02, **SCHEDULES[name])
    training, twin = Training(config, tiny(), CPU), Training(config, tiny(), CPU)
    n = len(training.batches.sizes)
    groups = [
        {"params": g["params"], "weight_decay": g["weight_decay"], "lr": 1.0}
        for g in twin.optimizer.param_groups
    ]
    sgd = torch.optim.SGD(groups, momentum=config.momentum, nesterov=config.nesterov)
    normalise = Normalise(tiny().manifest.mean, tiny().manifest.std, CPU)
    assert len(make_splits(config, tiny(), CPU).train) == sum(twin.batches.sizes)
    for epoch in (1, 2, 3):
        training.train_epoch(epoch)
        twin.begin_epoch(epoch)
        position = torch.zeros((), dtype=torch.int64)
        for size, rate in zip(twin.batches, learning_rates(config, epoch, n), strict=True):
            images, labels = twin.batches.at(position, size)
            for group in sgd.param_groups:
                group["lr"] = rate
            sgd.zero_grad()
            twin.objective(normalise(images), labels).total.backward()  # type: ignore[no-untyped-call]
            sgd.step()
            position += size
    pairs: list[tuple[Tensor, Tensor]] = list(
        zip(training.network.parameters(), twin.network.parameters(), strict=True)
    )
    for found, expected in pairs:
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
def test_training_reports_the_rate_of_each_epochs_last_step(name: str) -> None:
    config = tiny_config(epochs=3, **SCHEDULES[name])
    found = run(config)[1].history["lr"]
    assert found == [learning_rates(config, epoch, 5)[-1] for epoch in (1, 2, 3)]
