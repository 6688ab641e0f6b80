"""The sections of a report that are figures: curves, responses, angles, violations."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from dh2l.tree import ClassTree
from dh2l.wording import listed
from study.analysis.class_vectors import Floats, Trees, angle_frame, cosines
from study.analysis.learning_curves import curve_frame, shown_arrays, without_arrays
from study.analysis.search_analysis import importance_frame, pareto_frame, response_frame
from study.reporting import figures
from study.reporting.cell_text import number
from study.reporting.html.page import Block, Grid, Picture, Section, Text
from study.spec.plan import Plan
from study.state.results import StudyResults

Map = tuple[str, str, ClassTree, Floats]
SCORES = {
    "best_validation": "validation accuracy, %",
    "oracle": "test accuracy, % (chosen on test)",
}
NOTHING_DONE = "no trial that the table shows is done"


def picture_sections(results: StudyResults) -> list[Section]:
    """Learning curves, responses, angles and violations; what there is nothing of says why."""
    curves = curve_frame(results.cells, results.found)
    arms = list(dict.fromkeys(cell.key.arm for cell in results.plan.cells))
    lost = without_arrays(results.cells, results.found)
    total = sum(len(cell.records) for cell in results.cells)
    note = (
        [Text(f"Left out: {len(lost)} of {total} trials, whose arrays are missing or damaged.")]
        if lost
        else []
    )
    return [
        Section("curves", "Learning curves", [*_learning(curves, arms), *note]),
        Section("responses", "Accuracy against what was searched", _responses(results, arms)),
        Section("angles", "Angles between class vectors", [*_angles(results), *note]),
        Section("violations", "Violations of the constraints", _violations(curves, arms)),
    ]


def _learning(curves: pd.DataFrame, arms: Sequence[str]) -> Sequence[Block]:
    if curves.empty:
        return [Text(f"No curves: {NOTHING_DONE} with its arrays.")]
    blocks: list[Block] = []
    for place, (column, part) in enumerate(_columns(curves)):
        metrics = set(part["metric"])
        for metric, what, units, axis in _curves_to_draw(metrics):
            caption = (
                f"{what} {units} against epochs, {column}: mean over seeds{_band(part, metric)}. "
                "A panel for each row of the table; the baselines, in grey, stand in each."
            )
            figure = figures.learning_curves(part, metric, axis, arms)
            blocks.append(
                _picture(figure, f"curves-{place}-{metric}", f"{what}, {column}", caption)
            )
    return blocks


def _curves_to_draw(metrics: set[str]) -> list[tuple[str, str, str, str]]:
    """Return the recorded metrics to draw: name, title, unit in words, label of the axis."""
    part = "validation" if "validation_accuracy" in metrics else "test"
    drawn = [
        (f"{part}_accuracy", f"{part.capitalize()} accuracy", "in percent", "accuracy, %"),
        (
            "train_cross_entropy",
            "Training loss",
            "(its cross-entropy, the part that all arms share), in nats,",
            "cross-entropy, nats",
        ),
    ]
    of_classes = sorted(metric for metric in metrics if metric.startswith("cosine_r_p_"))
    if of_classes:
        units = "(R_p under the metric cosine, whatever a trial's own)"
        title = "Cosine between classes of one parent"
        drawn.append((of_classes[-1], title, units, "mean cosine"))
    return [curve for curve in drawn if curve[0] in metrics]


def _band(curves: pd.DataFrame, metric: str) -> str:
    there = curves.loc[curves["metric"] == metric, "std"].notna().any()
    return ", shaded ± 1 sample standard deviation" if there else "; one seed, so no spread"


def _responses(results: StudyResults, arms: Sequence[str]) -> Sequence[Block]:
    study = results.study
    frame = response_frame(results).dropna(subset="score")
    if frame.empty:
        searched = any(len(cell.candidates) > 1 or cell.budget for cell in results.plan.cells)
        why = "no configuration has all its seeds yet" if searched else "nothing is searched"
        return [Text(f"No responses: {why}.")]
    score = SCORES[study.rule]
    blocks: list[Block] = []
    for place, (column, part) in enumerate(_columns(frame)):
        what = score[0].upper() + score[1:].replace(", %", " in percent")
        crossed = part.groupby(["row", "arm"])["axis"].nunique().max() > 1
        drawn = _sampled(results.plan)
        listed = crossed and not set(part["axis"]) <= set(drawn)
        several = (
            " A line goes through the best over the other fields, where values are listed."
            if listed
            else ""
        )
        caption = (
            f"{what}, mean ± sample standard deviation over seeds, of every configuration against "
            f"the values of each searched field, {column}. A panel for each field and "
            f"row.{several} Circle: selected."
        )
        figure = figures.responses(part, drawn, arms, score)
        blocks.append(
            _picture(figure, f"responses-{place}", f"Scores of the search, {column}", caption)
        )
    return [*blocks, _importance(results), *_front(results)]


def _importance(results: StudyResults) -> Block:
    """Tabulate the share of the scores that each searched field explains."""
    rows = [
        (
            line["row"],
            line["arm"],
            line["column"],
            line["axis"],
            line["why_none"] or f"{line['importance']:.2f}",
            str(line["candidates"]),
        )
        for line in importance_frame(results).to_dict("records")
    ]
    caption = (
        "The searched fields' shares of what explains the scores (fANOVA): 1 in sum, were it all "
        "noise too."
    )
    return Grid(
        caption, ("metric", "arm", "column", "field", "importance", "candidates"), rows, heads=4
    )


def _front(results: StudyResults) -> list[Block]:
    """Build the Pareto front, where a search has two objectives."""
    searcher = results.study.searcher
    if searcher is None or len(searcher.objectives) < 2:
        return []
    rows = [
        (
            point["row"],
            point["arm"],
            point["column"],
            number(point["score"]),
            f"{point['violation']:.4g}",
            point["values"],
        )
        for point in pareto_frame(results).to_dict("records")
    ]
    caption = (
        "Pareto front: the candidates of which no other has a higher score (percent) without more "
        "violation."
    )
    return [
        Grid(
            caption,
            ("metric", "arm", "column", "score", "total violation", "values"),
            rows,
            heads=3,
        )
    ]


def _sampled(plan: Plan) -> dict[str, bool]:
    """Return the fields drawn from a range, and whether by their logarithm."""
    axes = [item for spec in plan.cell_configs for item in spec.axes.items()]
    return {key: axis.loguniform is not None for key, axis in axes if axis.values is None}


def _angles(results: StudyResults) -> Sequence[Block]:
    frame = angle_frame(results.cells, results.found, results.plan)
    if frame.empty:
        return [Text(f"No angles: {NOTHING_DONE} with its class vectors.")]
    maps = _maps(results)
    blocks: list[Block] = []
    for place, (column, part) in enumerate(_columns(frame)):
        seeds = sorted({seed for seed, _ in maps[column]})
        caption = (
            f"Cosines of all pairs of class vectors, {column}, of the trial with "
            f"{listed('seed', seeds)}. Classes stand in the order of the class tree; squares frame "
            "its nodes; the diagonal is left blank."
        )
        figure = figures.cosine_maps([one for _, one in maps[column]])
        blocks.append(
            _picture(figure, f"maps-{place}", f"Cosines between class vectors, {column}", caption)
        )
        seeds = sorted(set(part["seed"]))
        caption = (
            f"The same by what two classes share in the tree, {column}, over "
            f"{listed('seed', seeds)}: mean cosine, and the range that holds 90% of the pairs, "
            "each averaged over seeds."
        )
        blocks.append(
            _picture(
                figures.cosine_levels(part),
                f"levels-{place}",
                f"Cosines by level, {column}",
                caption,
            )
        )
    return blocks


def _maps(results: StudyResults) -> dict[str, list[tuple[int, Map]]]:
    """Return for each column the cosines of its cells' first seeds, with the seed."""
    maps: dict[str, list[tuple[int, Map]]] = {}
    drawn, trees = set(), Trees(results.plan)
    for result, record, arrays in shown_arrays(results.cells, results.found):
        key, tree = result.key, trees.of(record.identity)
        if key not in drawn and len(arrays.get("vectors", ())) == tree.n_classes:
            drawn.add(key)
            one = (key.row, key.arm, tree, cosines(arrays["vectors"]))
            maps.setdefault(key.column, []).append((record.seed, one))
    return maps


def _violations(curves: pd.DataFrame, arms: Sequence[str]) -> Sequence[Block]:
    violating = curves[curves["metric"].str.startswith("violation_")] if len(curves) else curves
    if violating.empty:
        return [
            Text(
                "No violations: no finished trial that the table shows has a hierarchical "
                "classifier."
            )
        ]
    blocks: list[Block] = []
    for place, (column, _) in enumerate(_columns(violating)):
        part = curves[curves["column"] == column]
        cells = violating.loc[violating["column"] == column, ["row", "arm"]].drop_duplicates()
        few = len(cells) <= figures.FEW
        spread = (
            f"mean over seeds{_band(violating, violating['metric'].iloc[0])}"
            if few
            else "means over seeds"
        )
        caption = (
            "Mean violation of each constraint, in units of vector length and whether penalised "
            f"or not, against epochs, {column}: {spread}. "
            + (
                "A line for each cell with H or H0."
                if few
                else "A thin line for each cell with H or H0, in its arm's colour."
            )
        )
        if (part["metric"] == "clamped_fraction").any():
            caption += " Last: pairs that the clamp at ±0.99 holds, in percent."
        figure = figures.violation_curves(part, arms)
        blocks.append(_picture(figure, f"violations-{place}", f"Violations, {column}", caption))
    return blocks


def _columns(frame: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    return [(str(column), part) for column, part in frame.groupby("column", sort=False)]


def _picture(figure: Figure, name: str, title: str, caption: str) -> Picture:
    return Picture(figures.to_svg(figure, name, caption), title, caption)
