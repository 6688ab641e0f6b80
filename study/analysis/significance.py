"""What a table's differences are worth: intervals, one confirmatory test per cell, uncertainty of the test set."""

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from dh2l.config.conditions import active_fields
from dh2l.config.identity import canonical
from dh2l.config.train_config import TrainConfig
from dh2l.errors import UserError
from study.analysis.statistics import (
    LEAST_SEEDS,
    Bools,
    Comparison,
    confirmatory,
    paired_bootstrap,
    seed_of,
    t_interval,
    within,
)
from study.records.arrays import read_arrays
from study.records.loaded_records import LoadedRecords
from study.records.record import Record
from study.spec.arms import exists_in
from study.spec.plan import Plan
from study.spec.sampling import any_point
from study.spec.schema import Study
from study.state.results import StudyResults
from study.state.selection import CellResult, reported

BASELINES = ("baseline", "baseline+l2")
"""Arms that others are compared with."""
PREDICTIONS = {"last": "predictions.last", "best_validation": "predictions.best_validation"}
"""The stored predictions of the epoch that a study reports; of the best epoch on test there are none."""
Predicted = tuple[npt.NDArray[Any], npt.NDArray[Any]]
"""Predictions, one network's ``(images,)`` or several's ``(networks, images)``, and the labels ``(images,)``."""
WORDS = ("row", "arm", "column", "chosen_arm", "reference", "why_no_test")
COUNTS = ("n", "candidates")


def evidence_frame(results: StudyResults) -> pd.DataFrame:
    """One row per cell, in the table's order. Accuracies are in percent, differences in points.

    Columns:
        `row`, `arm`, `column`: the cell.
        `n`: finished seeds. `candidates`: configurations among which the cell's was selected.
        `accuracy`, `std`: mean and sample standard deviation over seeds.
        `low`, `high`: 95% t interval of the mean, cut at 0 and 100; missing below three seeds, and where no seed
            differs.
        `chosen_arm`: the arm that the selected configuration trains, where a searched weight of 0 makes it another
            than `arm`; else empty.
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
    study = results.study
    cells = results.cells
    configs = [config_of(i, cell, results.plan) for i, cell in enumerate(cells)]
    references = [_reference(i, cells, configs, results.plan) for i in range(len(cells))]
    accuracies = [cell.accuracies(study) for cell in cells]
    whys = [why_no_test(i, cells, references, configs, results.plan) for i in range(len(cells))]
    pairs = [
        (accuracies[i], accuracies[j]) if not why and j is not None else None
        for i, (j, why) in enumerate(zip(references, whys, strict=True))
    ]
    comparisons, adjusted = confirmatory(pairs)
    images = ImageIntervals(study, results.found)
    rows = []
    for i, (result, reference) in enumerate(zip(cells, references, strict=True)):
        against = None if reference is None else cells[reference]
        interval = None if against is None else images.interval(result, against)
        mean, std = mean_and_spread(accuracies[i])
        reference_mean = None if reference is None else mean_and_spread(accuracies[reference])[0]
        rows.append(
            {
                **result.key._asdict(),
                "n": len(accuracies[i]),
                "candidates": len(result.cell.candidates),
                "accuracy": mean,
                "std": std,
                **_bounds("low", "high", within(t_interval(accuracies[i]), 0, 100)),
                "chosen_arm": chosen_arm(result, configs[i]),
                "reference": "" if against is None else against.key.row,
                "difference": None
                if mean is None or reference_mean is None
                else mean - reference_mean,
                **_tested(comparisons[i], adjusted[i]),
                "why_no_test": whys[i] or _no_p(comparisons[i]),
                **_bounds("images_low", "images_high", interval),
                **hierarchical(result.records, study),
            }
        )
    frame = pd.DataFrame(rows)
    return frame.astype({name: "float64" for name in frame.columns if name not in WORDS + COUNTS})


def config_of(number: int, result: CellResult, plan: Plan) -> TrainConfig:
    """The config of a trial that the table shows: of the selected candidate, the first, or any."""
    confirmed = plan.study.confirm is not None
    candidate = result.selected or next(iter(result.cell.candidates), None)
    if candidate is None:  # a searcher has not begun
        spec = plan.cell_configs[number]
        return spec.config(any_point(spec), plan.study.seeds[0], confirm=confirmed)
    return plan.config((candidate.confirmations if confirmed else candidate.trials)[0])


def chosen_arm(result: CellResult, config: TrainConfig) -> str:
    """The arm of a cell's selected configuration, where a searched weight of 0 makes it another; else empty."""
    other = (
        result.selected is not None
        and result.key.arm not in BASELINES
        and config.arm != result.key.arm
    )
    return config.arm if other else ""


def _reference(
    i: int, results: Sequence[CellResult], configs: Sequence[TrainConfig], plan: Plan
) -> int | None:
    """Number of a cell's reference: the baseline of its column with its weight decay, data set and model.

    Of several (a row for each precision, say) the one that differs from the cell in the fewest fields that count
    (`differing`), then in the fewest of all, then the one that the study lists first.
    """
    key, config = results[i].key, configs[i]
    if key.arm in BASELINES:
        return None

    def shared(other: TrainConfig) -> tuple[float, str, str]:
        return other.weight_decay, other.dataset, other.model

    fitting = [
        j
        for j, other in enumerate(results)
        if other.key.arm in BASELINES
        and other.key.column == key.column
        and shared(configs[j]) == shared(config)
    ]

    def distance(j: int) -> tuple[int, int]:
        of_all = sum(
            getattr(config, name) != getattr(configs[j], name) for name in TrainConfig.model_fields
        )
        return len(differing(i, j, configs, plan)), of_all

    return min(fitting, key=distance, default=None)


def differing(i: int, reference: int, configs: Sequence[TrainConfig], plan: Plan) -> list[str]:
    """The fields in which a cell differs from its reference beside its arm and the arm's own.

    Neither counts what the reference's training does not read, nor what the row names as its control, nor what both
    cells search by the same axis.
    """
    ours, theirs = canonical(configs[i]), canonical(configs[reference])
    read = active_fields(configs[reference]) - {"seed", "classifier", "regularisers", "tree_hash"}
    axes, of_reference = plan.cell_configs[i].axes, plan.cell_configs[reference].axes
    return [
        name
        for name in TrainConfig.model_fields
        if name in read
        and ours.get(name) != theirs.get(name)
        and exists_in(name, configs[reference].arm)
        and name not in plan.cell_configs[i].row.control
        and (name not in axes or axes[name] != of_reference.get(name))
    ]


def why_no_test(
    i: int,
    results: Sequence[CellResult],
    references: Sequence[int | None],
    configs: Sequence[TrainConfig],
    plan: Plan,
) -> str:
    """Why a cell gets no confirmatory test; empty where it gets one.

    "is the reference", "no reference", "reference differs in " and fields, "is " and another arm, or what is wrong
    with the cell, or (after "reference: ") with its reference: "incomplete", "chosen on these same seeds", "chosen on
    the test set", "epoch chosen on the test set", "n < 3".
    """
    reference, study = references[i], plan.study
    if reference is None:
        return "is the reference" if i in references else "no reference"
    if others := differing(i, reference, configs, plan):
        return f"reference differs in {', '.join(others)}"
    if other := chosen_arm(results[i], configs[i]):
        return f"is {other}"
    return unfit(results[i], study) or (
        f"reference: {why}" if (why := unfit(results[reference], study)) else ""
    )


def unfit(result: CellResult, study: Study) -> str:
    """The first of a cell's `doubts`; empty where there is none."""
    return next(iter(doubts(result, study)), "")


def doubts(result: CellResult, study: Study) -> list[str]:
    """What keeps a cell's numbers from being compared fairly, as phrases."""
    few = f"n < {LEAST_SEEDS}" if len(result.records) < LEAST_SEEDS else ""
    epoch = "epoch chosen on the test set" if study.accuracy == "oracle" else ""
    return [
        why
        for why in ("incomplete" if result.problem else "", _chosen(result, study), epoch, few)
        if why
    ]


def _chosen(result: CellResult, study: Study) -> str:
    """What the shown numbers were chosen on, where that spoils a test of them: the best of many looks better."""
    if not result.chosen_on_these:
        return ""
    return "chosen on the test set" if study.rule == "oracle" else "chosen on these same seeds"


def _no_p(comparison: Comparison | None) -> str:
    return "no spread over seeds" if comparison is not None and comparison.p is None else ""


def _tested(comparison: Comparison | None, adjusted: float | None) -> dict[str, float | None]:
    c = comparison or Comparison(0.0, None, None, None, None)
    bounds = _bounds("difference_low", "difference_high", within(c.interval, -100, 100))
    return {**bounds, "p": c.p, "p_holm": adjusted}


def _bounds(low: str, high: str, interval: tuple[float, float] | None) -> dict[str, float | None]:
    return dict(zip((low, high), interval or (None, None), strict=True))


def mean_and_spread(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Mean and sample standard deviation, where there are values enough."""
    return statistics.fmean(values) if values else None, statistics.stdev(values) if len(
        values
    ) > 1 else None


def hierarchical(records: Sequence[Record], study: Study) -> dict[str, float | None]:
    """Mean and spread of super-class accuracy (percent) and mistake severity."""
    scores = [reported(record, study) for record in records]
    above = [100 * s.test_super_accuracy for s in scores if s.test_super_accuracy is not None]
    severities = [s.test_mistake_severity for s in scores if s.test_mistake_severity is not None]
    names = ("super_accuracy", "super_std", "mistake_severity", "severity_std")
    return dict(zip(names, (*mean_and_spread(above), *mean_and_spread(severities)), strict=True))


class ImageIntervals:
    """Intervals over test images, from predictions that are read once per trial."""

    def __init__(self, study: Study, found: LoadedRecords) -> None:
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
        seed = seed_of(*(name for cell in cells for name in cell.key))
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
        predictions, labels = (
            arrays.get(PREDICTIONS.get(self.study.accuracy, "")),
            arrays.get("labels"),
        )
        if predictions is None or labels is None or predictions.shape != labels.shape:
            return None
        return predictions, labels


def _right(predictions: npt.NDArray[Any], labels: npt.NDArray[Any]) -> Bools:
    right: Bools = predictions == labels
    return right
