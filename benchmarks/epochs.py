"""Epochs of a trial: evaluation as needed, and batch sizes.

Resnet-20 on 32×32 images: evaluation as needed against every epoch, batch 128 against 512. Training
and test set are five to one, as CIFAR's are. Evaluation as needed takes the epochs of one
evaluation of a trial of 300 epochs together. A GPU measures each precision, a CPU fp32 alone.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from benchmarks.frame import Measured, Row, at_most, compared, measured_device, paired
from benchmarks.throughput import prepare_random
from dh2l.config.binding import bind
from dh2l.config.train_config import TrainConfig
from dh2l.data import PreparedData, load
from dh2l.training.allocator import retain_freed_memory
from dh2l.training.evaluation import evaluation_interval
from dh2l.training.numeric_settings import numeric_settings
from dh2l.training.step import WARM_UP
from dh2l.training.training_state import Training

EPOCHS = 300
BATCHES = (128, 512)
PRECISIONS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"precision": "bf16"},
    "bf16, compiled": {"precision": "bf16", "compiled": True},
}


def measure(quick: bool) -> Measured:
    """Measure the rows of the GPU where there is one, else of the CPU."""
    device = measured_device()
    names = list(PRECISIONS) if device == "cuda" else ["fp32"]
    n_images = 512 if device == "cpu" else 12_288
    with TemporaryDirectory() as folder:
        prepare_random(Path(folder), n_images, n_images // 5)
        data = load("random", Path(folder))
        rounds, every = (1, 2) if quick else (3, evaluation_interval(EPOCHS))
        rows = [
            _as_needed(data, device, name, batch, rounds, every)
            for name in names
            for batch in BATCHES
        ]
        rows += [
            _batches(data, device, name, rounds if device == "cpu" else 2 * rounds)
            for name in names
        ]
    notes = [
        f"Random images of 32×32×3, {n_images:,} for training and a fifth of that to evaluate; "
        "one CPU thread, as a "
        "trial has. E, H and a validation set are not part of it.",
    ]
    return Measured(rows, notes=notes)


@contextmanager
def _training(
    data: PreparedData, device: str, name: str, batch: int, every: int
) -> Iterator[Training]:
    """Yield a trial in a worker's environment, whose first steps are over."""
    values = {
        "dataset": "random",
        "protocol": "paper",
        "epochs": EPOCHS,
        "batch_size": batch,
        **PRECISIONS[name],
    }
    config = bind(TrainConfig.parse(values), data.manifest)
    with retain_freed_memory(), numeric_settings(config, 1):
        training = Training(config, data, torch.device(device), evaluate_every=every)
        training.start_attempt({})
        yield training


def _as_needed(
    data: PreparedData, device: str, name: str, batch: int, rounds: int, every: int
) -> Row:
    with (
        _training(data, device, name, batch, every) as needed,
        _training(data, device, name, batch, 1) as always,
    ):
        ways: dict[str, Callable[[], object]] = {
            "needed": partial(_consecutive, needed, every),
            "always": partial(_consecutive, always, every),
        }
        seconds = paired(ways, rounds, warm_up=1)
    return compared(
        f"seconds of {every} epochs, {device}, {name}, batch {batch}, evaluation as needed",
        "evaluation every epoch",
        seconds["needed"], seconds["always"], aim=at_most(0.97),
        bound=(
            "the training steps; evaluating a fifth as many images costs a third of a step's "
            "operations an image"
        ),
    )  # fmt: skip


def _consecutive(training: Training, n: int) -> None:
    """Train and evaluate n epochs in a row, in the middle of a trial."""
    for epoch in range(EPOCHS // 2, EPOCHS // 2 + n):
        training.epoch(epoch)
    if training.device.type == "cuda":
        torch.cuda.synchronize()


def _batches(data: PreparedData, device: str, name: str, rounds: int) -> Row:
    small, large = BATCHES
    with (
        _training(data, device, name, small, EPOCHS) as of_small,
        _training(data, device, name, large, EPOCHS) as of_large,
    ):
        ways: dict[str, Callable[[], object]] = {
            "small": partial(of_small.train_epoch, 1),
            "large": partial(of_large.train_epoch, 1),
        }
        seconds = paired(ways, rounds, warm_up=1 if device == "cpu" else WARM_UP)
    n = len(data.train_y)
    rates = {way: [n / s for s in found] for way, found in seconds.items()}
    bound = "launches: a smaller batch's kernels leave the GPU idle"
    if device == "cpu":
        bound = (
            "caches, which hold more of a smaller batch, against four times the optimizer's steps"
        )
    measure = f"images/s of a trial, {device}, {name}, batch {small}"
    return compared(
        measure, f"batch {large}", rates["small"], rates["large"], unit="images/s", bound=bound
    )
