"""Options of a run that change none of its trials' numbers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TrialOptions:
    """Evaluation of trials, and which of their files are kept.

    Attributes:
        keep: keep the checkpoints of finished trials, and the weights of their networks.
        evaluate_every: epochs between two evaluations of the test set; None:
            `dh2l.training.evaluation.evaluation_interval`.
        best_test: evaluate the test set after every epoch, because a table shows the best one.
        probabilities: keep the file of predicted probabilities.
    """

    keep: bool = False
    evaluate_every: int | None = None
    best_test: bool = False
    probabilities: bool = True
