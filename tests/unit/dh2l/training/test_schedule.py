"""Schedules: the rate of every step against rates made by hand, and in the steps that training
takes.
"""

from fractions import Fraction
from math import cos, pi
from typing import Any

import pytest
from tiny_data import tiny_config

from dh2l.training.schedule import learning_rates


def rates(n_steps: int, **values: Any) -> list[float]:
    """Rates of all steps of a trial."""
    config = tiny_config(**values)
    return [
        rate
        for epoch in range(1, config.epochs + 1)
        for rate in learning_rates(config, epoch, n_steps)
    ]


def test_linear_falls_by_equal_parts_to_zero_in_the_last_step() -> None:
    found = rates(3, epochs=2, lr=0.5, schedule="linear")
    assert found == pytest.approx([0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    assert found[-1] == 0.0


def test_cosine_falls_along_half_a_wave() -> None:
    found = rates(2, epochs=2, lr=1.0, schedule="cosine")
    assert found == pytest.approx([1.0, (1 + cos(pi / 3)) / 2, (1 + cos(2 * pi / 3)) / 2, 0.0])
    assert found[1:3] == pytest.approx([0.75, 0.25])


def test_rex_falls_slowly_first() -> None:
    """(1 − t)/(1 − t/2) at quarters: 1, 6/7, 2/3, 2/5, 0."""
    found = rates(5, epochs=1, lr=1.0, schedule="rex")
    assert found == pytest.approx(
        [1.0, *(float(Fraction(*f)) for f in [(6, 7), (2, 3), (2, 5)]), 0.0]
    )


@pytest.mark.parametrize(("schedule", "middle"), [("linear", 0.5), ("cosine", 0.5), ("rex", 2 / 3)])
def test_the_last_rate_may_be_above_zero(schedule: str, middle: float) -> None:
    found = rates(1, epochs=3, lr=1.0, lr_final=0.2, schedule=schedule)
    assert found == pytest.approx([1.0, 0.2 + 0.8 * middle, 0.2])


@pytest.mark.parametrize("schedule", ["linear", "cosine", "rex"])
def test_warm_up_rises_in_every_step_and_the_decay_has_the_steps_that_are_left(
    schedule: str,
) -> None:
    found = rates(4, epochs=3, lr=0.8, schedule=schedule, warmup_epochs=1)
    assert found[:4] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert found[4:] == pytest.approx(rates(4, epochs=2, lr=0.8, schedule=schedule))


@pytest.mark.parametrize("schedule", ["linear", "cosine", "rex"])
def test_a_single_step_has_the_full_rate(schedule: str) -> None:
    assert rates(1, epochs=1, lr=0.3, schedule=schedule) == [0.3]
    assert rates(1, epochs=2, lr=0.3, schedule=schedule, warmup_epochs=1) == [0.3, 0.3]


def test_steps_keep_the_rate_of_an_epoch_in_all_its_steps() -> None:
    found = rates(2, epochs=4, lr=0.4, warmup_epochs=2, lr_milestones=[0.5])
    assert found == pytest.approx([0.2, 0.2, 0.4, 0.4, 0.04, 0.04, 0.04, 0.04])
