"""Scores of probabilities, against scikit-learn and loops over the images."""

import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.metrics import log_loss, top_k_accuracy_score
from sphere_oracle import DEEP, FLAT, UNBALANCED
from tiny_data import E, H, run, tiny_config

from dh2l.calibration import BINS, probability_scores
from dh2l.tree import ClassTree

Floats = npt.NDArray[np.float64]
N = 400


def made(tree: ClassTree, seed: int = 0) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Log-probabilities that are right more often than by chance, and labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, tree.n_classes, N)
    logits = random.normal(size=(N, tree.n_classes)) * 1.5
    logits[np.arange(N), labels] += 1.5
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    return logs, labels


def height(tree: ClassTree, a: int, b: int) -> int:
    """Height of the lowest common ancestor, by comparing paths."""
    pairs = zip(tree.paths[a], tree.paths[b], strict=True)
    return tree.depth - len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))


@pytest.mark.parametrize("tree", [FLAT, UNBALANCED, DEEP])
def test_likelihood_and_top_5_are_scikit_learns(tree: ClassTree) -> None:
    logs, labels = made(tree)
    found = probability_scores(logs, labels, tree)
    classes = list(range(tree.n_classes))
    assert found.nll == pytest.approx(log_loss(labels, np.exp(logs), labels=classes))
    if tree is FLAT:
        assert found.top5 is None  # five classes
    else:
        assert found.top5 == pytest.approx(top_k_accuracy_score(labels, logs, k=5, labels=classes))


def test_calibration_is_that_of_a_loop_over_bins() -> None:
    logs, labels = made(UNBALANCED)
    probabilities = np.exp(logs)
    error = 0.0
    for i in range(BINS):
        members = [row for row in range(N) if i / BINS < probabilities[row].max() <= (i + 1) / BINS]
        if members:
            accuracy = np.mean([probabilities[row].argmax() == labels[row] for row in members])
            confidence = np.mean([probabilities[row].max() for row in members])
            error += len(members) / N * abs(accuracy - confidence)
    assert probability_scores(logs, labels, UNBALANCED).ece == pytest.approx(error)
    assert 0.01 < error < 0.5


def test_certain_and_right_is_perfectly_calibrated_and_certain_and_wrong_is_off_by_one() -> None:
    logs = np.where(np.eye(7, dtype=bool), 0.0, -1e4)
    assert probability_scores(logs, np.arange(7), UNBALANCED).ece == 0.0
    assert probability_scores(logs, (np.arange(7) + 1) % 7, UNBALANCED).ece == 1.0


@pytest.mark.parametrize("tree", [UNBALANCED, DEEP])
def test_heights_levels_and_decisions_are_those_of_loops(tree: ClassTree) -> None:
    logs, labels = made(tree)
    probabilities = np.exp(logs)
    found = probability_scores(logs, labels, tree)
    heights, decided = [], []
    right = np.zeros(tree.depth - 1)
    for row, truth in zip(probabilities, labels, strict=True):
        heights.append(height(tree, int(truth), int(row.argmax())))
        expected = [
            sum(p * height(tree, a, b) for b, p in enumerate(row)) for a in range(tree.n_classes)
        ]
        decided.append(expected.index(min(expected)))
        for level in range(1, tree.depth):
            sums: dict[tuple[str, ...], float] = {}
            for path, p in zip(tree.paths, row, strict=True):
                sums[path[:level]] = sums.get(path[:level], 0.0) + p
            right[level - 1] += max(sums, key=lambda node: sums[node]) == tree.paths[truth][:level]
    crm_heights = [height(tree, int(a), b) for a, b in zip(labels, decided, strict=True)]
    assert found.ahd == pytest.approx(np.mean(heights))
    assert found.level_accuracies == pytest.approx(right / N)
    assert found.crm_accuracy == pytest.approx(
        np.mean([a == b for a, b in zip(labels, decided, strict=True)])
    )
    assert found.crm_ahd == pytest.approx(np.mean(crm_heights))
    assert found.crm_mistake_severity == pytest.approx(np.mean([h for h in crm_heights if h]))
    assert np.mean(crm_heights) < np.mean(heights)  # the aim of these decisions
    assert any(
        decision != row.argmax() for decision, row in zip(decided, probabilities, strict=True)
    )


def test_without_hierarchy_there_are_no_heights() -> None:
    found = probability_scores(*made(FLAT), FLAT)
    assert (found.ahd, found.level_accuracies, found.crm_accuracy, found.crm_ahd) == (
        None,
        (),
        None,
        None,
    )


def test_without_mistakes_their_severity_is_missing() -> None:
    logs = np.where(np.eye(7, dtype=bool), 0.0, -1e4)
    found = probability_scores(logs, np.arange(7), UNBALANCED)
    assert (found.crm_mistake_severity, found.ahd, found.crm_accuracy) == (None, 0.0, 1.0)


def test_severity_may_rise_while_every_image_improves() -> None:
    """100 images: 60 right and 75 in the right super-class, then 65 and 75; AHD falls, severity
    rises.
    """
    tree = ClassTree([("a", "0"), ("a", "1"), ("b", "2"), ("b", "3")])

    def scores(right: int, above: int) -> tuple[float, float]:
        predicted = np.array([0] * right + [1] * (above - right) + [2] * (100 - above))
        logs = np.where(np.eye(4, dtype=bool)[predicted], 0.0, -50.0)
        ahd = probability_scores(logs, np.zeros(100, dtype=np.int64), tree).ahd
        assert ahd is not None
        return ahd, 100 * ahd / (100 - right)

    assert scores(60, 75) == pytest.approx((0.65, 1.625))
    assert scores(65, 75) == pytest.approx((0.60, 1.7142857))


@pytest.mark.parametrize("values", [{}, {**E, **H}])
def test_a_trials_kept_probabilities_give_its_loss_and_predictions(
    values: dict[str, object],
) -> None:
    """As float16 they are off by at most 2⁻¹¹ of the logarithm."""
    config = tiny_config(epochs=3, **values)
    _, result = run(config)
    for part, labels in (("test", result.labels), ("validation", result.validation_labels)):
        assert labels is not None
        logs = result.log_probabilities[f"{part}.last"].astype(np.float64)
        assert logs.shape == (len(labels), 7)
        nll, loss = -logs[np.arange(len(labels)), labels].mean(), result.history[f"{part}_loss"][-1]
        assert nll == pytest.approx(loss, rel=2**-11)
        assert np.abs(np.exp(logs).sum(axis=1) - 1).max() < 2**-10 * math.log(7) * 2
    assert (
        result.log_probabilities["test.last"].argmax(axis=1) == result.predictions_last
    ).mean() > 0.95
    best = result.log_probabilities["test.best_validation"]
    assert result.predictions_best is not None
    assert (best.argmax(axis=1) == result.predictions_best).mean() > 0.95
