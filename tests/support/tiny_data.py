"""A data set small enough to train on in milliseconds, made in memory, and how to train on it."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sphere_oracle import UNBALANCED
from torch import Tensor

from dh2l.config.train_config import TrainConfig
from dh2l.data import FileRecord, Manifest, PreparedData
from dh2l.data.canonical import statistics
from dh2l.data.manifest import ARRAYS, FILES, array_hash, data_hash
from dh2l.results import EpochResult, TrainResult
from dh2l.training.batches import Split, TrainBatches
from dh2l.training.trainer import train
from dh2l.tree import ClassTree

TIMES = ("time", "seconds", "images_per_s")
"""Names of the metrics that differ between two runs of one trial."""


def prepared(
    tree: ClassTree, arrays: dict[str, npt.NDArray[Any]], **changes: object
) -> PreparedData:
    """The arrays with a manifest that is true of them."""
    mean, std = statistics(arrays["train_x"])
    shape = arrays["train_x"].shape
    values: dict[str, Any] = {"flip": True, "crop_padding": 1, **changes}
    hashes = {name: array_hash(arrays[name]) for name in ARRAYS}
    manifest = Manifest(
        name="tiny",
        source="made in memory",
        classes=tree.paths,
        image_shape=(shape[1], shape[2], shape[3]),
        n_train=len(arrays["train_y"]),
        n_test=len(arrays["test_y"]),
        mean=mean,
        std=std,
        files={file: FileRecord(bytes=0, sha256="") for file in FILES},
        data_hash=data_hash(hashes, mean, std, values["flip"], values["crop_padding"]),
        tree_hash=tree.hash,
        **values,
    )
    return PreparedData(
        manifest, arrays["train_x"], arrays["train_y"], arrays["test_x"], arrays["test_y"]
    )


@cache
def tiny(tree: ClassTree = UNBALANCED) -> PreparedData:
    """Noisy 8 × 8 × 3 images: of each class 6 for training (1 of them for validation) and 4 for the
    test.
    """
    rng = np.random.default_rng(0)
    n = tree.n_classes
    pattern = rng.integers(0, 200, (n, 8, 8, 3))
    arrays: dict[str, npt.NDArray[Any]] = {}
    for part, per_class in (("train", 6), ("test", 4)):
        labels = np.repeat(np.arange(n, dtype=np.int64), per_class)
        arrays[f"{part}_x"] = (
            pattern[labels] + rng.integers(0, 56, (len(labels), 8, 8, 3))
        ).astype(np.uint8)
        arrays[f"{part}_y"] = labels
    return prepared(tree, arrays)


def with_test_labels(data: PreparedData, labels: npt.NDArray[np.int64]) -> PreparedData:
    """The same data with other labels of the test images, the manifest unchanged."""
    return dataclasses.replace(data, test_y=labels)


def tiny_config(**values: object) -> TrainConfig:
    """Two epochs of five batches."""
    return TrainConfig.parse(
        {"dataset": "tiny", "epochs": 2, "batch_size": 8, "lr": 0.05, **values}
    )


E: dict[str, Any] = {"lambda_e": 0.5, "metric": "cos_hm"}
H: dict[str, Any] = {"classifier": "hierarchical", "lambda_l": 0.5, "metric": "cos_hm"}
EH: dict[str, Any] = {**E, **H}
H0: dict[str, Any] = {"classifier": "hierarchical"}


def epoch_batches(
    split: Split, *, batch_size: int, padding: int, flip: bool, seed: int, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of one epoch, as a step takes them."""
    batches = TrainBatches(split, batch_size=batch_size, padding=padding, flip=flip, seed=seed)
    batches.begin(epoch)
    position = torch.zeros((), dtype=torch.int64, device=split.labels.device)
    for size in batches:
        yield batches.at(position, size)
        position += size


def run(
    config: TrainConfig, data: PreparedData | None = None, checkpoints: Path | None = None
) -> tuple[list[EpochResult], TrainResult]:
    """Every epoch's result and the final one, on one CPU thread."""
    generator = train(
        config,
        data or tiny(),
        device="cpu",
        threads=1,
        checkpoints=checkpoints,
        checkpoint_seconds=0,
    )
    results = []
    while True:
        try:
            results.append(next(generator))
        except StopIteration as stop:
            final: TrainResult = stop.value
            return results, final


def numbers(result: TrainResult) -> dict[str, object]:
    """Everything of a result that the same trial must give again, bit for bit."""
    return {
        "history": {name: values for name, values in result.history.items() if name not in TIMES},
        "predictions_last": result.predictions_last.tolist(),
        "predictions_best": None
        if result.predictions_best is None
        else result.predictions_best.tolist(),
        "vectors": result.vectors.tobytes(),
        "parameters": result.parameters,
    }


@contextmanager
def one_thread() -> Iterator[None]:
    """For what a test computes itself: small work is slower on more threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
