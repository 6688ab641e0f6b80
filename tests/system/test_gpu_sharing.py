"""Number of trials that share a GPU."""

import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from study_fixtures import CommandLine

from dh2l.config.binding import bind
from dh2l.config.train_config import TrainConfig
from dh2l.data import read_manifest
from dh2l.errors import UserError
from dh2l.registry.entries import MODELS, Model
from study.execution.estimate.gpu_sharing import (
    Sample,
    SharingTask,
    choose_trials_per_gpu,
    heaviest,
    side_by_side,
)

Values = dict[str, Any]
GPU = 80.0
"""Capacity of the device in these tests."""


def device(peak: float, alone: float, memory: float = 1.0) -> Callable[[int], Sample]:
    """A device on which trials add up to a peak throughput, each taking the same memory."""
    return lambda n: Sample(n, min(peak, n * alone), n * memory, GPU)


@pytest.mark.parametrize(
    ("measure", "most", "expected", "tried"),
    [
        (device(100, 100), 16, 1, [1, 2]),  # one trial fills the device
        (device(100, 30), 16, 4, [1, 2, 4, 8]),  # the fourth still helps, the eighth does not
        (device(1000, 10, memory=15), 16, 4, [1, 2, 4]),  # eight would not fit
        (device(1000, 10, memory=30), 16, 2, [1, 2]),
        (device(1000, 10, memory=70), 16, 1, [1]),
        (device(1000, 10), 6, 4, [1, 2, 4]),  # no more cores
        (device(1000, 10), 1, 1, [1]),
    ],
)
def test_trials_are_doubled_while_they_fit_and_train_faster_together(
    measure: Callable[[int], Sample], most: int, expected: int, tried: list[int]
) -> None:
    n, samples = choose_trials_per_gpu(measure, most)
    assert n == expected
    assert [sample.trials for sample in samples] == tried


def test_of_about_equal_numbers_the_smallest_is_taken() -> None:
    speeds = {1: 100.0, 2: 180.0, 4: 199.0, 8: 150.0}
    assert choose_trials_per_gpu(lambda n: Sample(n, speeds[n], n, GPU), 8)[0] == 4
    speeds[2] = 185.0
    assert choose_trials_per_gpu(lambda n: Sample(n, speeds[n], n, GPU), 8)[0] == 2


SHAPES = {"cifar100": (32, 32, 3), "cub200": (224, 224, 3), "digits": (8, 8, 1)}
"""Image shapes by data set."""


@pytest.mark.parametrize(
    ("lighter", "heavier"),
    [
        ({"batch_size": 256}, {"batch_size": 512}),
        ({"model": "resnet20"}, {"model": "resnet110"}),
        ({"model": "resnet18"}, {"model": "resnet50"}),
        ({"model": "resnet18"}, {"model": "resnet110"}),  # of images of one size
        ({"precision": "bf16"}, {"precision": "fp32"}),
        ({"micro_batch": 64}, {"micro_batch": 128}),
        ({"micro_batch": 64}, {}),
        ({"dataset": "digits"}, {"dataset": "cifar100"}),
        # The batches of the paper: CIFAR-100's is larger, but CUB200's pixels are many more.
        (
            {"model": "resnet110", "batch_size": 512},
            {"model": "resnet18", "batch_size": 256, "dataset": "cub200"},
        ),
        (
            {"model": "resnet20", "batch_size": 512},
            {"model": "resnet50", "micro_batch": 16, "dataset": "cub200"},
        ),
    ],
)
def test_the_trial_that_computes_most_at_a_time_is_the_heaviest(
    lighter: Values, heavier: Values
) -> None:
    configs = [
        TrainConfig.parse({"dataset": "cifar100", **values}) for values in (lighter, heavier)
    ]
    assert heaviest(configs, SHAPES.__getitem__) is configs[1]
    assert heaviest(configs[::-1], SHAPES.__getitem__) is configs[1]


def test_a_users_model_is_taken_to_be_as_heavy_as_resnet50(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODELS, "mine", Model("mine", lambda request: request))
    configs = [
        TrainConfig.parse({"dataset": "cub200", "model": name, "batch_size": batch})
        for name, batch in (("resnet50", 31), ("mine", 32), ("resnet18", 64))
    ]
    assert heaviest(configs, SHAPES.__getitem__) is configs[1]


def test_trials_are_really_trained_side_by_side(digits: Path) -> None:
    config = bind(TrainConfig(dataset="digits", batch_size=64), read_manifest("digits", digits))
    sample = side_by_side(SharingTask(config, digits, device="cpu", seconds=0.5), 2)
    assert sample.trials == 2
    assert sample.images_per_s > 64
    assert 2 * 2**27 < sample.memory < sample.capacity == psutil.virtual_memory().total
    assert not [
        p
        for p in psutil.Process().children()
        if "study.execution.estimate.gpu_sharing" in " ".join(p.cmdline())
    ]


def test_a_trial_that_cannot_be_measured_says_why(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"cannot be measured side by side: .*'digits' is not prepared"
    ):
        side_by_side(SharingTask(TrainConfig(), tmp_path, device="cpu"), 1)


def test_where_one_of_several_cannot_be_measured_the_others_are_killed(
    digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[subprocess.Popen[str]] = []
    programs = iter(["raise SystemExit('no memory left')", "import time; time.sleep(600)"])

    def popen(words: list[str], **kwargs: Any) -> "subprocess.Popen[str]":
        started.append(plain([words[0], "-c", next(programs)], **kwargs))
        return started[-1]

    plain = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", popen)
    with pytest.raises(UserError, match="side by side: no memory left"):
        side_by_side(SharingTask(TrainConfig(), digits, device="cpu"), 2)
    assert [process.returncode for process in started] == [1, -signal.SIGKILL]


def test_more_trials_than_fit_after_all_are_not_chosen() -> None:
    def measure(n: int) -> Sample:
        if n == 4:
            raise UserError("out of memory")
        return Sample(n, 10.0 * n, n, GPU)

    assert choose_trials_per_gpu(measure, 16)[0] == 2


def test_mistakes_are_told_in_a_sentence(cli: CommandLine) -> None:
    for value in ("0", "101", "some", "-1", "1.5"):
        assert "expected a number from 1 to 100, or auto" in cli.mistake(
            "run", "quickstart", f"--trials-per-gpu={value}"
        )
    both = cli.mistake("run", "quickstart", "--trials-per-gpu", "2", "--gpus-per-trial", "0.5")
    assert "expected one. Remove one." in both
    assert "--shard" in cli.mistake("run", "quickstart", "--trials-per-gpu", "2", "--shard", "1/2")
