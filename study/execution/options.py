"""Options of a run that change none of its trials' numbers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TrialOptions:
    """How trials are evaluated, and which of their files stay.

    Attributes:
        keep: leave the checkpoints of finished trials where they are, with the network's weights beside.
        evaluate_every: epochs between two evaluations of the test set; None:
            `dh2l.training.evaluation.evaluation_interval`.
        best_test: evaluate the test set after every epoch, because a table shows the best of them.
        probabilities: keep the file of predicted probabilities.
    """

    keep: bool = False
    evaluate_every: int | None = None
    best_test: bool = False
    probabilities: bool = True
