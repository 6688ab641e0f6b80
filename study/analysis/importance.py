"""Importance of the searched fields, by Optuna's fANOVA."""

import json
import math
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import create_trial

from study.spec.settings import Axis, Value


def importances(
    axes: Mapping[str, Axis], points: list[dict[str, Value]], scores: list[float], seed: int
) -> dict[str, float]:
    """Compute the share of the scores' variance that each axis explains, by fANOVA.

    Source: Hutter et al. 2014. A loguniform axis counts by its logarithm, or its largest decade
    would weigh most; of a grid or choice every value counts alike.

    Args:
        axes: by their fields.
        points: the candidates, each with the same axes.
        scores: one for each.
        seed: of the forest that is fitted.

    Returns:
        Fractions that sum to 1, of the axes that have more than one value.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    spread = {key: _spread(axes[key], [point[key] for point in points]) for key in points[0]}
    study = optuna.create_study(direction="maximize")
    for point, value in zip(points, scores, strict=True):
        params = {key: _scaled(axes[key], point[key]) for key in point}
        study.add_trial(create_trial(params=params, distributions=spread, value=value))
    return dict(get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=seed)))


def _spread(axis: Axis, values: list[Value]) -> BaseDistribution:
    """Return the range, or the words, of some values of an axis."""
    scaled = list(dict.fromkeys(_scaled(axis, value) for value in values))
    return (
        FloatDistribution(min(scaled), max(scaled))
        if axis.values is None
        else CategoricalDistribution(scaled)
    )


def _scaled(axis: Axis, value: Value) -> Any:
    """Return a value as the forest needs it: a number on the axis's scale, or a word."""
    if axis.values is not None:
        return json.dumps(value)
    return math.log(value) if axis.loguniform is not None else value
