"""Evidence behind a table: intervals, one test per cell, test-set uncertainty."""

import statistics
from collections.abc import Sequence

import pandas as pd

from dh2l.config.conditions import active_fields
from dh2l.config.identity import canonical
from dh2l.config.train_config import TrainConfig
from study.analysis.image_intervals import ImageIntervals
from study.analysis.statistics import (
    LEAST_SEEDS,
    Comparison,
    confirmatory,
    t_interval,
    within,
)
from study.records.record import Record
from study.spec.arms import exists_in
from study.spec.plan import Plan
from study.spec.sampling import any_point
from study.spec.schema import Study
from study.state.results import StudyResults
from study.state.selection import CellResult, reported

BASELINES = ("baseline", "baseline+l2")
"""Arms that others are compared with."""
WORDS = ("row", "arm", "column", "chosen_arm", "reference", "why_no_test")
COUNTS = ("n", "candidates")


def evidence_frame(results: StudyResults) -> pd.DataFrame:
    """Return one row per cell, in the table's order. Accuracies in percent, differences in points.

    Columns:
        `row`, `arm`, `column`: the cell.
        `n`: finished seeds. `candidates`: configurations among which the cell's was selected.
        `accuracy`, `std`: mean and sample standard deviation over seeds.
        `low`, `high`: 95% t interval of the mean, cut at 0 and 100; missing below three seeds, and
            where no seed differs.
        `chosen_arm`: the arm that the selected configuration trains, where a searched weight of 0
            makes it another than `arm`; else empty.
        `reference`: row of the cell's reference in the same column: the baseline with the same
            weight decay, data set and model; empty for baselines, and where there is none.
        `difference`: mean accuracy less the reference's.
        `difference_low`, `difference_high`, `p`: Welch's t over seeds, the cell's one confirmatory
            test; the interval is this cell's alone. `p_holm`: `p` adjusted by Holm over all tests
            of the table.
        `why_no_test`: empty where there is a test, else a phrase (`why_no_test`).
        `images_low`, `images_high`: 95% bootstrap interval of the difference over test images. It
            takes the networks as fixed, does not cover other seeds and does not replace the test.
        `super_accuracy`, `super_std`: the same as accuracy for super-classes.
        `mistake_severity`, `severity_std`: mean height of the lowest common ancestor over mistakes,
            of the networks that make any.

    Intervals over images need the arrays of all networks of both cells; where some are missing or
    damaged, or were written without labels, there is none.
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
    """Return the config of a shown trial: of the selected candidate, the first, or any."""
    confirmed = plan.study.confirm is not None
    candidate = result.selected or next(iter(result.cell.candidates), None)
    if candidate is None:  # a searcher has not begun
        spec = plan.cell_configs[number]
        return spec.config(any_point(spec), plan.study.seeds[0], confirm=confirmed)
    return plan.config((candidate.confirmations if confirmed else candidate.trials)[0])


def chosen_arm(result: CellResult, config: TrainConfig) -> str:
    """Return the arm of the selected configuration, if a searched weight of 0 changes it."""
    other = (
        result.selected is not None
        and result.key.arm not in BASELINES
        and config.arm != result.key.arm
    )
    return config.arm if other else ""


def _reference(
    i: int, results: Sequence[CellResult], configs: Sequence[TrainConfig], plan: Plan
) -> int | None:
    """Return the index of a cell's reference, the baseline of its column with its fields.

    It has the same weight decay, data set and model. Among several (a row for each precision, say)
    it is the one that differs from the cell in the fewest fields that count (`differing`), then in
    the fewest of all, then the one that the study lists first.
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
    """Return the fields in which a cell differs from its reference, beside the arm's own.

    Neither counts what the reference's training does not read, nor what the row names as its
    control, nor what both cells search by the same axis.
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
    """Return the reason why a cell gets no confirmatory test; empty where it gets one.

    "is the reference", "no reference", "reference differs in " and fields, "is " and another arm,
    or a problem of the cell, or (after "reference: ") of its reference: "incomplete", "chosen on
    these same seeds", "chosen on the test set", "epoch chosen on the test set", "n < 3".
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
    """Return the first of a cell's `doubts`; empty where there is none."""
    return next(iter(doubts(result, study)), "")


def doubts(result: CellResult, study: Study) -> list[str]:
    """List the reasons against a fair comparison of a cell's numbers, as phrases."""
    few = f"n < {LEAST_SEEDS}" if len(result.records) < LEAST_SEEDS else ""
    epoch = "epoch chosen on the test set" if study.accuracy == "oracle" else ""
    return [
        why
        for why in ("incomplete" if result.problem else "", _chosen(result, study), epoch, few)
        if why
    ]


def _chosen(result: CellResult, study: Study) -> str:
    """Return the choice that flatters the shown numbers, because the best of many looks better."""
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
