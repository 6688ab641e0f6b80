"""Evaluation of a network: accuracy, losses, severity of mistakes."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from dh2l.training.batches import Normalise, Split, plain_batches
from dh2l.tree import ClassTree

EVALUATION_BATCH = 1000
"""Most images of a batch."""
EVALUATION_PIXELS = 1 << 23
"""Most pixels of a batch: 167 images of 224 × 224."""
LEAST_LOG = torch.finfo(torch.float16).min
"""The least logarithm of a probability that is kept."""

SCORES = ("loss", "accuracy", "super_accuracy", "mistake_severity")
"""The numbers of an `Evaluation`, as metrics call them after the part of the data."""
TEST_POINTS = 30
"""Points of the test curve that evaluation as needed gives at most, beside the best validation
epochs."""


def evaluation_interval(epochs: int) -> int:
    """Return the number of epochs between two evaluations of the test set, by default.

    It is a multiple of a hundredth of the epochs, so that curves of a hundred points show what was
    evaluated.
    """
    hundredth = math.ceil(epochs / 100)
    return hundredth * math.ceil(epochs / (hundredth * TEST_POINTS))


class Evaluation(NamedTuple):
    """Quality on one part of the data.

    Attributes:
        loss: mean cross-entropy in nats.
        accuracy: fraction of images whose class is predicted.
        super_accuracy: fraction whose level-1 ancestor is that of the prediction; None without
            hierarchy.
        mistake_severity: mean height of the lowest common ancestor of truth and prediction over the
            mistakes; None without hierarchy or without mistakes.
        predictions: predicted class of every image, int64 ``(N,)``, on the CPU.
        log_probabilities: natural logarithms of the predicted probabilities, float16 ``(N,
            n_classes)``, on the device, if they were requested. A float16 is off by at most 2⁻¹¹ of
            the logarithm; its least is −65,504.
    """

    loss: float
    accuracy: float
    super_accuracy: float | None
    mistake_severity: float | None
    predictions: Tensor
    log_probabilities: Tensor | None

    def metrics(self, part: str) -> dict[str, float | None]:
        """Return the numbers, keyed ``<part>_loss`` and so on."""
        return {f"{part}_{name}": getattr(self, name) for name in SCORES}


class Evaluator:
    """Evaluates a network on parts of one data set; reads only the result from the device."""

    def __init__(
        self, tree: ClassTree, normalise: Normalise, device: torch.device, precision: str
    ) -> None:
        self.hierarchical = tree.depth > 1
        self.super_class = torch.from_numpy(tree.ancestors(1)).to(device)
        self.lca_height = torch.from_numpy(tree.lca_height).to(device)
        self.normalise, self.device, self.precision = normalise, device, precision

    @torch.inference_mode()
    def __call__(
        self, network: nn.Module, split: Split, *, probabilities: bool = False
    ) -> Evaluation:
        """Evaluate in inference mode, and leave the network in training mode."""
        network.eval()
        losses, predictions, logs = [], [], []
        height, width = split.output
        batch_size = max(1, min(EVALUATION_BATCH, EVALUATION_PIXELS // (height * width)))
        for images, labels in plain_batches(split, batch_size):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                logits = network(self.normalise(images))
            losses.append(functional.cross_entropy(logits.float(), labels, reduction="sum"))
            if probabilities:
                logs.append(logits.float().log_softmax(dim=1).clamp(min=LEAST_LOG).half())
            predictions.append(logits.argmax(dim=1))
        network.train()
        predicted, truth = torch.cat(predictions), split.labels[split.index]
        right = predicted == truth
        counts = torch.stack(
            [
                torch.stack(losses).sum(),
                right.sum(),
                (self.super_class[predicted] == self.super_class[truth]).sum(),
                self.lca_height[truth, predicted].sum(),
            ]
        ).tolist()
        mistakes = len(split) - counts[1]
        return Evaluation(
            loss=counts[0] / len(split),
            accuracy=counts[1] / len(split),
            super_accuracy=counts[2] / len(split) if self.hierarchical else None,
            mistake_severity=counts[3] / mistakes if self.hierarchical and mistakes else None,
            predictions=predicted.cpu(),
            log_probabilities=torch.cat(logs) if logs else None,
        )
