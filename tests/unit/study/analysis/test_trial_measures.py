"""Measures of predicted probabilities of trials whose records lack them."""

import pytest
from study_fixtures import scores

from study.analysis.quality import trial_measures


@pytest.mark.parametrize(
    ("accuracy", "severity", "expected"), [(75, 1.6, 0.4), (100, None, 0.0), (75, None, None)]
)
def test_ahd_follows_from_accuracy_and_severity_without_probabilities(
    accuracy: float, severity: float | None, expected: float | None
) -> None:
    hierarchy = {"test_super_accuracy": 0.9, "test_mistake_severity": severity}
    found = trial_measures(scores(accuracy).model_copy(update=hierarchy))
    assert found["ahd"] == (None if expected is None else pytest.approx(expected))
    assert found["nll"] is None
    assert trial_measures(scores(accuracy))["ahd"] is None
