"""Measures of predicted probabilities and decisions, per trial and cell."""

from collections.abc import Sequence
from dataclasses import dataclass

from study.analysis.significance import mean_and_spread
from study.records.record import Record, Scores
from study.spec.schema import Study
from study.state.selection import reported


@dataclass(frozen=True)
class Measure:
    """One measure.

    Attributes:
        name: its column in the frames.
        heading: its column in the tables.
        percent: whether it is a fraction, shown in percent.
        decimals: number of digits after the point in tables.
    """

    name: str
    heading: str
    percent: bool = False
    decimals: int = 2


AHD = Measure("ahd", "AHD", decimals=3)
MEASURES = (
    Measure("nll", "NLL", decimals=3),
    Measure("ece", "ECE, %", percent=True),
    Measure("top5", "top-5, %", percent=True),
    Measure("summed_super_accuracy", "super-class summed, %", percent=True),
    Measure("crm_accuracy", "CRM accuracy, %", percent=True),
    Measure("crm_ahd", "CRM AHD", decimals=3),
    Measure("crm_mistake_severity", "CRM severity"),
)
"""Columns of the table of probabilities and decisions."""
COLUMNS = tuple(
    name for measure in (AHD, *MEASURES) for name in (measure.name, f"{measure.name}_std")
)
"""What a cell frame has of them: each mean with its spread."""
NOTES = (
    "NLL: mean negative log-likelihood of the true class, in nats. ECE: expected calibration error "
    "over 15 equal-width bins of the largest probability. Super-class summed: the super-class with "
    "the largest summed probability.",
    "CRM: decide for the class of least expected height in the class tree, without training. AHD: "
    "mean height at which the answer and the right class meet, over all images; severity: over the "
    "mistakes.",
)


def trial_measures(scores: Scores | None) -> dict[str, float | None]:
    """Collect the measures of one trial, by name; those that do not exist are None."""
    found = None if scores is None else scores.test_probabilities
    if found is None:
        return {measure.name: None for measure in MEASURES} | {AHD.name: _ahd(scores)}
    values = found.model_dump()
    levels = values.pop("level_accuracies")
    values["summed_super_accuracy"] = levels[0] if levels else None
    for measure in MEASURES:
        if measure.percent and values[measure.name] is not None:
            values[measure.name] *= 100
    return {measure.name: values[measure.name] for measure in (AHD, *MEASURES)}


def cell_measures(records: Sequence[Record], study: Study) -> dict[str, float | None]:
    """Compute mean and sample standard deviation of each measure over a cell's trials.

    A measure that one of the trials lacks is None, because its mean would be over fewer trials
    than the cell's accuracy.
    """
    trials = [trial_measures(reported(record, study)) for record in records]
    found: dict[str, float | None] = {}
    for measure in (AHD, *MEASURES):
        values = [value for trial in trials if (value := trial[measure.name]) is not None]
        complete = values if len(values) == len(trials) else []
        found[measure.name], found[f"{measure.name}_std"] = mean_and_spread(complete)
    return found


def n_lacking(records: Sequence[Record], study: Study) -> int:
    """Count a cell's trials that lack NLL, or a measure that another trial of the cell has."""
    trials = [trial_measures(reported(record, study)) for record in records]
    expected = {"nll"} | {
        measure.name for measure in MEASURES if any(t[measure.name] is not None for t in trials)
    }
    return sum(any(trial[name] is None for name in expected) for trial in trials)


def _ahd(scores: Scores | None) -> float | None:
    """Compute the average hierarchical distance from accuracy and mistake severity."""
    if scores is None or scores.test_super_accuracy is None:
        return None
    if scores.test_accuracy == 1:
        return 0.0
    severity = scores.test_mistake_severity
    return None if severity is None else (1 - scores.test_accuracy) * severity
