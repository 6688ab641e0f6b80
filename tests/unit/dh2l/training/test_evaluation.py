"""Evaluation against loops over the images."""

import math

import pytest
import torch
from sphere_oracle import DEEP, FLAT, UNBALANCED
from torch import Tensor, nn

from dh2l.training.batches import Normalise, Split
from dh2l.training.evaluation import EVALUATION_BATCH, Evaluator
from dh2l.tree import ClassTree

CPU = torch.device("cpu")


class Table(nn.Module):
    """Gives image i, whose pixels spell i in base 256, the i-th row of a table as logits."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.rows = nn.Parameter(logits)
        self.modes: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.modes.append(self.training)
        digits = (x * 255).round().long().reshape(len(x), -1)
        return self.rows[digits[:, 0] * 256 + digits[:, 1]]


def case(tree: ClassTree, n: int, part: slice = slice(None)) -> tuple[Table, Split]:
    generator = torch.Generator().manual_seed(0)
    number = torch.arange(n)
    images = torch.stack([number // 256, number % 256], dim=1).to(torch.uint8).reshape(n, 1, 2, 1)
    labels = torch.randint(tree.n_classes, (n,), generator=generator)
    return Table(torch.randn(n, tree.n_classes, generator=generator) * 2), Split.of(
        images, labels, number[part]
    )


def evaluator(tree: ClassTree) -> Evaluator:
    return Evaluator(tree, Normalise((0.0,), (1.0,), CPU), CPU, "fp32")


@pytest.mark.parametrize("tree", [FLAT, UNBALANCED, DEEP])
@pytest.mark.parametrize(
    ("n", "part"), [(60, slice(None)), (2 * EVALUATION_BATCH + 7, slice(3, None, 2))]
)
def test_every_number_is_that_of_a_loop_over_the_images(
    tree: ClassTree, n: int, part: slice
) -> None:
    network, split = case(tree, n, part)
    found = evaluator(tree)(network, split)
    loss, right, super_right, heights, predictions = 0.0, 0, 0, [], []
    for i in split.index.tolist():
        logits, truth = network.rows[i].tolist(), int(split.labels[i])
        loss += math.log(math.fsum(math.exp(logit) for logit in logits)) - logits[truth]
        predicted = logits.index(max(logits))
        predictions.append(predicted)
        right += predicted == truth
        a, b = tree.paths[truth], tree.paths[predicted]
        super_right += a[0] == b[0]
        if predicted != truth:
            heights.append(
                tree.depth - sum(a[: level + 1] == b[: level + 1] for level in range(tree.depth))
            )
    size = len(split)
    assert found.predictions.tolist() == predictions
    assert found.loss == pytest.approx(loss / size, rel=1e-5)
    assert found.accuracy == pytest.approx(right / size)
    if tree.depth == 1:
        assert found.super_accuracy is found.mistake_severity is None
    else:
        assert found.super_accuracy == pytest.approx(super_right / size)
        assert found.mistake_severity == pytest.approx(sum(heights) / len(heights))
        assert len(set(heights)) == tree.depth


def test_without_mistakes_there_is_no_severity() -> None:
    network, split = case(UNBALANCED, 20)
    with torch.no_grad():
        network.rows[torch.arange(20), split.labels] = 100.0
    found = evaluator(UNBALANCED)(network, split)
    assert (found.accuracy, found.super_accuracy, found.mistake_severity) == (1.0, 1.0, None)


def test_evaluation_runs_in_evaluation_mode_and_leaves_training_mode() -> None:
    network, split = case(UNBALANCED, 20)
    network.train()
    found = evaluator(UNBALANCED)(network, split)
    assert network.modes == [False]
    assert network.training
    assert not found.predictions.requires_grad


def test_evaluation_does_not_change_batch_norm() -> None:
    network = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(2, 7))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    evaluator(UNBALANCED)(network, case(UNBALANCED, 20)[1])
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_metrics_are_named_by_the_part() -> None:
    network, split = case(UNBALANCED, 20)
    found = evaluator(UNBALANCED)(network, split)
    assert found.metrics("test") == {
        "test_loss": found.loss,
        "test_accuracy": found.accuracy,
        "test_super_accuracy": found.super_accuracy,
        "test_mistake_severity": found.mistake_severity,
    }
