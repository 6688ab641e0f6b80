"""Scores of predicted probabilities: likelihood, calibration, levels, decisions."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dh2l.tree import ClassTree

BINS = 15
"""Equal-width bins of confidence in the expected calibration error (Guo et al., ICML 2017)."""
TOP = 5
Floats = npt.NDArray[np.floating]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class ProbabilityScores:
    """Scores of the probabilities that a network gives to the classes of some images.

    Attributes:
        nll: mean negative log-likelihood of the true classes, in nats.
        ece: expected calibration error, a fraction, over `BINS` equal-width bins of the largest
            probability.
        top5: fraction of images whose class is among the five most probable; None below six
            classes.
        ahd: average hierarchical distance, the mean over all images of the height of the lowest
            common ancestor of the true and the most probable class; None without hierarchy.
        level_accuracies: per level 1 … L − 1, the fraction of images whose ancestor has the largest
            summed probability; empty without hierarchy.
        crm_accuracy: fraction of images whose class has the least expected height (Karthik et al.,
            ICLR 2021); this and the next two are None without hierarchy.
        crm_ahd: average hierarchical distance of these decisions.
        crm_mistake_severity: its mean over the mistakes; None without mistakes.
    """

    nll: float
    ece: float
    top5: float | None
    ahd: float | None
    level_accuracies: tuple[float, ...]
    crm_accuracy: float | None
    crm_ahd: float | None
    crm_mistake_severity: float | None


def probability_scores(
    log_probabilities: Floats, labels: Indices, tree: ClassTree
) -> ProbabilityScores:
    """Score the predicted probabilities of some images.

    Args:
        log_probabilities: natural logarithms, ``(N, n_classes)``, N ≥ 1.
        labels: the true classes, ``(N,)``.
        tree: the class tree that heights and levels are measured by.
    """
    logs = np.asarray(log_probabilities, dtype=np.float64)
    probabilities = np.exp(logs)
    images = np.arange(len(labels))
    predicted = logs.argmax(axis=1)
    own = logs[images, labels]
    top5 = None
    if tree.n_classes > TOP:
        top5 = float(((logs > own[:, None]).sum(axis=1) < TOP).mean())
    crm = None
    if tree.depth > 1:
        crm = (probabilities @ tree.lca_height).argmin(axis=1)
    heights = None if crm is None else tree.lca_height[labels, crm]
    mistakes = 0 if heights is None else int((heights > 0).sum())
    return ProbabilityScores(
        nll=float(-own.mean()),
        ece=_calibration_error(probabilities[images, predicted], predicted == labels),
        top5=top5,
        ahd=None if crm is None else float(tree.lca_height[labels, predicted].mean()),
        level_accuracies=tuple(
            _level_accuracy(probabilities, labels, tree, level) for level in range(1, tree.depth)
        ),
        crm_accuracy=None if crm is None else float((crm == labels).mean()),
        crm_ahd=None if heights is None else float(heights.mean()),
        crm_mistake_severity=float(heights.sum() / mistakes)
        if heights is not None and mistakes
        else None,
    )


def _calibration_error(confidence: Floats, right: npt.NDArray[np.bool_]) -> float:
    """Return the mean over images of |accuracy − mean confidence| of their bin.

    Bin i of n holds (i/n, (i + 1)/n].
    """
    bins = np.clip(np.ceil(confidence * BINS) - 1, 0, BINS - 1).astype(np.int64)
    gaps = np.bincount(bins, weights=right - confidence, minlength=BINS)
    return float(np.abs(gaps).sum() / len(right))


def _level_accuracy(probabilities: Floats, labels: Indices, tree: ClassTree, level: int) -> float:
    """Fraction of images whose level-`level` ancestor has the largest summed probability."""
    ancestors = tree.ancestors(level)
    members = np.zeros((tree.n_classes, tree.size(level)))
    members[np.arange(tree.n_classes), ancestors] = 1.0
    return float(((probabilities @ members).argmax(axis=1) == ancestors[labels]).mean())
