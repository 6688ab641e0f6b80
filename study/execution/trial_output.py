"""Output of a trained trial, and how it is written."""

import time
from collections.abc import Generator
from dataclasses import dataclass

import numpy as np
import torch

from dh2l.config.train_config import TrainConfig
from dh2l.data import Manifest
from dh2l.io.files import AnyPath
from dh2l.training.saved_networks import save_network
from study.records.record import Record
from study.records.store import RecordStore

WAIT_S = 2.0
"""Seconds between two attempts of a trial that waits."""


@dataclass(frozen=True)
class Waiting:
    """A trial that cannot continue, or a file that it cannot write.

    Attributes:
        reason: a sentence for the user.
    """

    reason: str


@dataclass(frozen=True)
class TrialOutput:
    """A record that is not written yet, with its arrays and weights."""

    record: Record
    arrays: dict[str, np.ndarray] | None = None
    probabilities: dict[str, np.ndarray] | None = None
    weights: dict[str, torch.Tensor] | None = None
    manifest: Manifest | None = None


def write_record(store: RecordStore, output: TrialOutput) -> Generator[Waiting, None, Record]:
    """Write a record, and retry until there is room, because training again would cost more.

    Returns:
        The record on disk.
    """
    while True:
        try:
            return store.write(output.record, output.arrays, output.probabilities)
        except OSError as error:
            reason = error.strerror or str(error)
        yield Waiting(
            f"cannot write the record of {output.record.identity} to {store.folder}: {reason}; "
            f"retrying every {WAIT_S:g} s"
        )
        time.sleep(WAIT_S)


def save_weights(
    folder: AnyPath, weights: dict[str, torch.Tensor], config: TrainConfig, manifest: Manifest
) -> Generator[Waiting]:
    """Save the weights of a finished trial, or yield the reason why they cannot be saved."""
    try:
        save_network(folder, weights, config, manifest)
    except OSError as error:
        reason = error.strerror or str(error)
        yield Waiting(
            f"the weights of {config.identity} are not kept in {folder}: {reason}. "
            "Train the trial again in another folder: run --keep --results FOLDER"
        )
