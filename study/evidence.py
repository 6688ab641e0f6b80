"""What a table's differences are worth: intervals, one confirmatory test per cell, uncertainty of the test set."""

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dh2l.config import TrainConfig
from dh2l.errors import UserError
from study.plan import any_point
from study.records import Findings, Record, read_arrays
from study.selection import CellResult, evaluate_cell, reported
from study.space import Study
from study.states import Standing
from study.statistics import LEAST_SEEDS, Bools, Comparison, confirmatory, paired_bootstrap, seed_of, t_interval

BASELINES = ("baseline", "baseline+l2")
"""Arms that others are compared with."""
PREDICTIONS = {"last": "predictions.last", "best_validation": "predictions.best_validation"}
"""The stored predictions of the epoch that a study reports; of the best epoch on test there are none."""
Predicted = tuple[npt.NDArray[Any], npt.NDArray[Any]]
"""Predictions, one network's ``(images,)`` or several's ``(networks, images)``, and the labels ``(images,)``."""
WORDS = ("row", "arm", "column", "reference", "why_no_test")
COUNTS = ("n", "candidates")


def evidence_frame(standing: Standing) -> pd.DataFrame:
    """One row per cell, in the table's order. Accuracies are in percent, differences in points.

    Columns:
        `row`, `arm`, `column`: the cell.
        `n`: finished seeds. `candidates`: configurations among which the cell's was selected.
        `accuracy`, `std`: mean and sample standard deviation over seeds.
        `low`, `high`: 95% t interval of the mean; missing where there is no spread to see (one seed).
        `reference`: row of the cell's reference in the same column: the baseline with the same weight decay,
            data set and model; empty for baselines, and where there is none.
        `difference`: mean accuracy less the reference's.
        `difference_low`, `difference_high`, `p`: Welch's t over seeds, the cell's one confirmatory test; the
            interval is this cell's alone. `p_holm`: `p` adjusted by Holm over all tests of the table.
        `why_no_test`: empty where there is a test, else a phrase (`why_no_test`).
        `images_low`, `images_high`: 95% bootstrap interval of the difference over test images. It takes the
            networks as fixed, says nothing of other seeds and is no second test.
        `super_accuracy`, `super_std`: the same as accuracy for super-classes.
        `mistake_severity`, `severity_std`: mean height of the lowest common ancestor over mistakes, of the
            networks that make any.

    Intervals over images need the arrays of all networks of both cells; where some are missing or damaged, or
    were filed without labels, there is none.
    """
    study = standing.plan.file.study
    results = [evaluate_cell(cell, standing) for cell in standing.plan.cells]
    configs = [config_of(i, result, standing) for i, result in enumerate(results)]
    references = [_reference(i, results, configs) for i in range(len(results))]
    accuracies = [result.accuracies(study) for result in results]
    whys = [why_no_test(i, results, references, study) for i in range(len(results))]
    pairs = [
        (accuracies[i], accuracies[j]) if not why and j is not None else None
        for i, (j, why) in enumerate(zip(references, whys, strict=True))
    ]
    comparisons, adjusted = confirmatory(pairs)
    images = ImageIntervals(study, standing.found)
    rows = []
    for i, (result, reference) in enumerate(zip(results, references, strict=True)):
        against = None if reference is None else results[reference]
        interval = None if against is None else images.interval(result, against)
        mean, std = mean_and_spread(accuracies[i])
        reference_mean = None if reference is None else mean_and_spread(accuracies[reference])[0]
        rows.append(
            {
                "row": result.cell.row,
                "arm": result.cell.arm,
                "column": result.cell.column,
                "n": len(accuracies[i]),
                "candidates": len(result.cell.candidates),
                "accuracy": mean,
                "std": std,
                **_bounds("low", "high", t_interval(accuracies[i])),
                "reference": "" if against is None else against.cell.row,
                "difference": None if mean is None or reference_mean is None else mean - reference_mean,
                **_tested(comparisons[i], adjusted[i]),
                "why_no_test": whys[i] or _no_p(comparisons[i]),
                **_bounds("images_low", "images_high", interval),
                **hierarchical(result.records, study),
            }
        )
    frame = pd.DataFrame(rows)
    return frame.astype({name: "float64" for name in frame.columns if name not in WORDS + COUNTS})


def config_of(number: int, result: CellResult, standing: Standing) -> TrainConfig:
    """What a cell's trials share with their reference: read off the selected candidate, the first, or any."""
    plan = standing.plan
    candidate = result.selected or next(iter(result.cell.candidates), None)
    if candidate is None:  # a searcher has not begun
        spec = plan.specs[number]
        return spec.config(any_point(spec), plan.file.study.seeds[0])
    return plan.config((*candidate.trials, *candidate.confirmations)[0])


def _reference(i: int, results: Sequence[CellResult], configs: Sequence[TrainConfig]) -> int | None:
    """Number of a cell's reference: the baseline of its column with its weight decay, data set and model.

    Of several (a row for each precision, say) the one that differs from the cell in the fewest fields, then the
    one that the study lists first.
    """
    cell, config = results[i].cell, configs[i]
    if cell.arm in BASELINES:
        return None

    def shared(other: TrainConfig) -> tuple[float, str, str]:
        return other.weight_decay, other.dataset, other.model

    fitting = [
        j
        for j, other in enumerate(results)
        if other.cell.arm in BASELINES and other.cell.column == cell.column and shared(configs[j]) == shared(config)
    ]
    return min(fitting, key=lambda j: _differing(config, configs[j]), default=None)


def _differing(a: TrainConfig, b: TrainConfig) -> int:
    return sum(getattr(a, name) != getattr(b, name) for name in TrainConfig.model_fields)


def why_no_test(i: int, results: Sequence[CellResult], references: Sequence[int | None], study: Study) -> str:
    """Why a cell gets no confirmatory test; empty where it gets one.

    "is the reference", "no reference", or what is wrong with the cell, or (after "reference: ") with its
    reference: "incomplete", "chosen on these same seeds", "chosen on the test set", "n < 3".
    """
    reference = references[i]
    if reference is None:
        return "is the reference" if i in references else "no reference"
    return unfit(results[i], study) or (f"reference: {why}" if (why := unfit(results[reference], study)) else "")


def unfit(result: CellResult, study: Study) -> str:
    """The first of a cell's `doubts`; empty where there is none."""
    return next(iter(doubts(result, study)), "")


def doubts(result: CellResult, study: Study) -> list[str]:
    """What keeps a cell's numbers from being compared fairly, as phrases."""
    few = f"n < {LEAST_SEEDS}" if len(result.records) < LEAST_SEEDS else ""
    return [why for why in ("incomplete" if result.problem else "", _chosen(result, study), few) if why]


def _chosen(result: CellResult, study: Study) -> str:
    """What the shown numbers were chosen on, where that spoils a test of them: the best of many looks better."""
    if not result.chosen_on_these:
        return ""
    return "chosen on the test set" if study.rule == "oracle" else "chosen on these same seeds"


def _no_p(comparison: Comparison | None) -> str:
    return "no spread over seeds" if comparison is not None and comparison.p is None else ""


def _tested(comparison: Comparison | None, adjusted: float | None) -> dict[str, float | None]:
    c = comparison or Comparison(0.0, None, None, None, None)
    return {"difference_low": c.low, "difference_high": c.high, "p": c.p, "p_holm": adjusted}


def _bounds(low: str, high: str, interval: tuple[float, float] | None) -> dict[str, float | None]:
    return dict(zip((low, high), interval or (None, None), strict=True))


def mean_and_spread(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation, where there are values enough."""
    return statistics.fmean(values) if values else None, statistics.stdev(values) if len(values) > 1 else None


def hierarchical(records: Sequence[Record], study: Study) -> dict[str, float | None]:
    """Mean and spread of super-class accuracy (percent) and mistake severity."""
    scores = [reported(record, study) for record in records]
    above = [100 * s.test_super_accuracy for s in scores if s.test_super_accuracy is not None]
    severities = [s.test_mistake_severity for s in scores if s.test_mistake_severity is not None]
    names = ("super_accuracy", "super_std", "mistake_severity", "severity_std")
    return dict(zip(names, (*mean_and_spread(above), *mean_and_spread(severities)), strict=True))


class ImageIntervals:
    """Intervals over test images, from predictions that are read once per trial."""

    def __init__(self, study: Study, found: Findings) -> None:
        self.study, self.found = study, found
        self.read: dict[str, Predicted | None] = {}

    def interval(self, result: CellResult, reference: CellResult) -> tuple[float, float] | None:
        """Bounds of the difference in accuracy, in points; None where it cannot be given.

        Where test accuracy chose between candidates, an interval over these images would hide that: none.
        """
        cells = (result.cell, reference.cell)
        if self.study.rule == "oracle" and any(len(cell.candidates) > 1 for cell in cells):
            return None
        ours, theirs = (self._predicted(r.records) for r in (result, reference))
        if ours is None or theirs is None or not np.array_equal(ours[1], theirs[1]):
            return None
        seed = seed_of(*(name for cell in cells for name in (cell.row, cell.arm, cell.column)))
        return paired_bootstrap(_right(*ours), _right(*theirs), seed=seed)

    def _predicted(self, records: Sequence[Record]) -> Predicted | None:
        """What some networks predict, if all of them were given the same images."""
        found = []
        for record in records:
            if record.identity not in self.read:
                self.read[record.identity] = self._stored(record)
            found.append(self.read[record.identity])
        of_all = [of_one for of_one in found if of_one is not None]
        if not of_all or len(of_all) < len(found):
            return None
        labels = of_all[0][1]
        if any(not np.array_equal(labels, others) for _, others in of_all):
            return None
        return np.stack([predictions for predictions, _ in of_all]), labels

    def _stored(self, record: Record) -> Predicted | None:
        """Predictions and labels of one trial, at the epoch that the study reports."""
        try:
            arrays = read_arrays(record, self.found.paths[record.identity])
        except UserError:
            return None
        predictions, labels = arrays.get(PREDICTIONS.get(self.study.accuracy, "")), arrays.get("labels")
        if predictions is None or labels is None or predictions.shape != labels.shape:
            return None
        return predictions, labels


def _right(predictions: npt.NDArray[Any], labels: npt.NDArray[Any]) -> Bools:
    right: Bools = predictions == labels
    return right
