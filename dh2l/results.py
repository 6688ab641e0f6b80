"""Results of training: one per epoch, and one at the end."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

WEIGHTS_FILE = "weights.pt"
"""Name of the file of a finished trial's weights, in the folder of its checkpoint."""
History = dict[str, list[float | None]]
"""Every epoch's metrics, by name."""


@dataclass(frozen=True)
class EpochResult:
    """One epoch: its number, counted from 1, and what was measured.

    `metrics` holds train, validation and test loss (nats) and accuracy (fraction), super-class
    accuracy and mistake severity, each regulariser's value, E and R under one metric, the mean
    violation of each constraint, the fraction of clamped pairs, the learning rate of the epoch's
    last step, images/s of training, seconds of the whole epoch, and its end as seconds since 1970.
    None marks what does not exist for this trial.
    """

    epoch: int
    metrics: dict[str, float | None]


@dataclass(frozen=True)
class TrainResult:
    """Result of a finished trial.

    Attributes:
        history: every epoch's metrics, by name.
        predictions_last: predicted class of every test image after the last epoch, ``(N,)``.
        predictions_best: the same at the best validation epoch; None under protocol `paper`.
        labels: true class of every test image, in the same order.
        vectors: the classifier's effective projection vectors, float32 ``(n_classes, d)``.
        parameters: number of the network's parameters.
        log_probabilities: of the test and validation images at the last and the best validation
            epoch, float16 ``(N, n_classes)`` each, by names such as ``test.last`` and
            ``validation.best_validation``.
        validation_labels: true class of every validation image; None under protocol `paper`.
        attempts: one entry per process that trained: device, threads, first epoch, seconds.
        weights: the network's parameters and buffers after the last epoch, by name, on the CPU.
    """

    history: History
    predictions_last: npt.NDArray[np.int64]
    predictions_best: npt.NDArray[np.int64] | None
    labels: npt.NDArray[np.int64]
    vectors: npt.NDArray[np.float32]
    parameters: int
    log_probabilities: dict[str, npt.NDArray[np.float16]]
    validation_labels: npt.NDArray[np.int64] | None
    attempts: list[dict[str, Any]]
    weights: dict[str, Any] = field(default_factory=dict)
