"""What a network gets right and how bad its mistakes are."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from dh2l.batches import Normalise, Split, plain_batches
from dh2l.tree import ClassTree

EVALUATION_BATCH = 1000
"""Most images of a batch."""
EVALUATION_PIXELS = 1 << 23
"""Most pixels of a batch: 167 images of 224 × 224."""


class Evaluation(NamedTuple):
    """Quality on one part of the data.

    Attributes:
        loss: mean cross-entropy in nats.
        accuracy: fraction of images whose class is predicted.
        super_accuracy: fraction whose level-1 ancestor is that of the prediction; None without hierarchy.
        mistake_severity: mean height of the lowest common ancestor of truth and prediction over the
            mistakes; None without hierarchy or without mistakes.
        predictions: predicted class of every image, int64 ``(N,)``, on the CPU.
    """

    loss: float
    accuracy: float
    super_accuracy: float | None
    mistake_severity: float | None
    predictions: Tensor

    def metrics(self, part: str) -> dict[str, float | None]:
        """The numbers, keyed ``<part>_loss`` and so on."""
        return {
            f"{part}_loss": self.loss,
            f"{part}_accuracy": self.accuracy,
            f"{part}_super_accuracy": self.super_accuracy,
            f"{part}_mistake_severity": self.mistake_severity,
        }


class Evaluator:
    """Evaluates a network on parts of one data set; nothing is read back from the device but the result."""

    def __init__(self, tree: ClassTree, normalise: Normalise, device: torch.device, precision: str) -> None:
        self.hierarchical = tree.depth > 1
        self.super_class = torch.from_numpy(tree.ancestors(1)).to(device)
        self.lca_height = torch.from_numpy(tree.lca_height).to(device)
        self.normalise, self.device, self.precision = normalise, device, precision

    @torch.inference_mode()
    def __call__(self, network: nn.Module, split: Split) -> Evaluation:
        """Evaluate in inference mode; the network is left in training mode."""
        network.eval()
        losses, predictions = [], []
        height, width = split.output
        batch_size = max(1, min(EVALUATION_BATCH, EVALUATION_PIXELS // (height * width)))
        for images, labels in plain_batches(split, batch_size):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                logits = network(self.normalise(images))
            losses.append(functional.cross_entropy(logits.float(), labels, reduction="sum"))
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
        )
