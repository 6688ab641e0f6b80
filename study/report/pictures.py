"""The sections of a report that are figures: curves, responses, angles, violations."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.figure import Figure

from dh2l.tree import ClassTree
from study import figures
from study.angles import Floats, Trees, angle_frame, cosines
from study.curves import curve_frame, shown_arrays, without_arrays
from study.insight import importance_frame, pareto_frame, response_frame
from study.plan import Plan
from study.report.page import Block, Grid, Picture, Section, Text
from study.selection import CellResult
from study.states import Standing
from study.tables import number

Map = tuple[str, str, ClassTree, Floats]
SCORES = {"best_validation": "validation accuracy, %", "oracle": "test accuracy, % (chosen on test)"}
NOTHING_DONE = "no trial that the table shows is done"


def picture_sections(standing: Standing, results: Sequence[CellResult]) -> list[Section]:
    """Learning curves, responses, angles and violations; what there is nothing of says why."""
    curves = curve_frame(results, standing.found)
    arms = list(dict.fromkeys(cell.arm for cell in standing.plan.cells))
    lost = without_arrays(results, standing.found)
    total = sum(len(result.records) for result in results)
    note = [Text(f"Left out: {len(lost)} of {total} trials, whose arrays are missing or damaged.")] if lost else []
    return [
        Section("curves", "Learning curves", [*_learning(curves, arms), *note]),
        Section("responses", "Accuracy against what was searched", _responses(standing, arms)),
        Section("angles", "Angles between class vectors", [*_angles(results, standing), *note]),
        Section("violations", "Violations of the constraints", _violations(curves, arms)),
    ]


def _learning(curves: pd.DataFrame, arms: Sequence[str]) -> Sequence[Block]:
    if curves.empty:
        return [Text(f"No curves: {NOTHING_DONE} with its arrays.")]
    blocks: list[Block] = []
    for place, (column, part) in enumerate(_columns(curves)):
        metrics = set(part["metric"])
        part_of_data = "validation" if "validation_accuracy" in metrics else "test"
        drawn = [
            (f"{part_of_data}_accuracy", f"{part_of_data.capitalize()} accuracy", "in percent", "accuracy, %"),
            ("train_cross_entropy", "Training loss", "(its cross-entropy, the part that all arms share), in nats,",
             "cross-entropy, nats"),
        ]  # fmt: skip
        for metric, what, units, axis in drawn:
            if metric in metrics:
                caption = f"{what} {units} against epochs, {column}: mean over seeds{_band(part, metric)}. "
                caption += "A panel for each row of the table; the baselines, in grey, stand in each."
                figure = figures.learning_curves(part, metric, axis, arms)
                blocks.append(_picture(figure, f"curves-{place}-{metric}", f"{what}, {column}", caption))
    return blocks


def _band(curves: pd.DataFrame, metric: str) -> str:
    there = curves.loc[curves["metric"] == metric, "std"].notna().any()
    return ", shaded ± 1 sample standard deviation" if there else "; one seed, so no spread"


def _responses(standing: Standing, arms: Sequence[str]) -> Sequence[Block]:
    study = standing.plan.file.study
    frame = response_frame(standing).dropna(subset="score")
    if frame.empty:
        searched = any(len(cell.candidates) > 1 or cell.budget for cell in standing.plan.cells)
        why = "no configuration has all its seeds yet" if searched else "nothing is searched"
        return [Text(f"No responses: {why}.")]
    score = SCORES[study.rule]
    blocks: list[Block] = []
    for place, (column, part) in enumerate(_columns(frame)):
        what = score[0].upper() + score[1:].replace(", %", " in percent")
        crossed = part.groupby(["row", "arm"])["axis"].nunique().max() > 1
        several = " A line goes through the best over the other fields." if crossed else ""
        caption = (
            f"{what}, mean ± sample standard deviation over seeds, of every configuration against the "
            f"values of each searched field, {column}. "
            f"A panel for each field and row.{several} Circle: selected."
        )
        figure = figures.responses(part, _logarithmic(standing.plan), arms, score)
        blocks.append(_picture(figure, f"responses-{place}", f"Scores of the search, {column}", caption))
    return [*blocks, _importance(standing), *_front(standing)]


def _importance(standing: Standing) -> Block:
    """Which searched field explains the scores."""
    rows = [
        (line["row"], line["arm"], line["column"], line["axis"], line["why_none"] or f"{line['importance']:.2f}",
         str(line["candidates"]))
        for line in importance_frame(standing).to_dict("records")
    ]  # fmt: skip
    caption = "The searched fields' shares of what explains the scores (fANOVA): 1 in sum, were it all noise too."
    return Grid(caption, ("metric", "arm", "column", "field", "importance", "candidates"), rows, heads=4)


def _front(standing: Standing) -> list[Block]:
    """The Pareto front, where a search has two objectives."""
    searcher = standing.plan.file.study.searcher
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
        for point in pareto_frame(standing).to_dict("records")
    ]  # fmt: skip
    caption = "Pareto front: the candidates of which no other has a higher score (percent) without more violation."
    return [Grid(caption, ("metric", "arm", "column", "score", "total violation", "values"), rows, heads=3)]


def _logarithmic(plan: Plan) -> list[str]:
    return [key for spec in plan.specs for key, axis in spec.axes.items() if axis.loguniform is not None]


def _angles(results: Sequence[CellResult], standing: Standing) -> Sequence[Block]:
    frame = angle_frame(results, standing.found, standing.plan)
    if frame.empty:
        return [Text(f"No angles: {NOTHING_DONE} with its class vectors.")]
    maps = _maps(results, standing)
    blocks: list[Block] = []
    for place, (column, part) in enumerate(_columns(frame)):
        seeds = sorted({seed for seed, _ in maps[column]})
        caption = (
            f"Cosines of all pairs of class vectors, {column}, of the trial with seed {_listed(seeds)}. Classes stand "
            "in the order of the class tree; squares frame its nodes; the diagonal is left blank."
        )
        figure = figures.cosine_maps([one for _, one in maps[column]])
        blocks.append(_picture(figure, f"maps-{place}", f"Cosines between class vectors, {column}", caption))
        seeds = sorted(set(part["seed"]))
        caption = (
            f"The same by what two classes share in the tree, {column}, over seeds {_listed(seeds)}: mean cosine, and "
            "the range that holds 90% of the pairs, each averaged over seeds."
        )
        blocks.append(_picture(figures.cosine_levels(part), f"levels-{place}", f"Cosines by level, {column}", caption))
    return blocks


def _maps(results: Sequence[CellResult], standing: Standing) -> dict[str, list[tuple[int, Map]]]:
    """Of each column the cosines of its cells' first seeds, with the seed."""
    maps: dict[str, list[tuple[int, Map]]] = {}
    drawn, trees = set(), Trees(standing.plan)
    for result, record, arrays in shown_arrays(results, standing.found):
        cell, tree = result.cell, trees.of(record.identity)
        key = (cell.row, cell.arm, cell.column)
        if key not in drawn and len(arrays.get("vectors", ())) == tree.n_classes:
            drawn.add(key)
            one = (cell.row, cell.arm, tree, cosines(arrays["vectors"]))
            maps.setdefault(cell.column, []).append((record.seed, one))
    return maps


def _violations(curves: pd.DataFrame, arms: Sequence[str]) -> Sequence[Block]:
    violating = curves[curves["metric"].str.startswith("violation_")] if len(curves) else curves
    if violating.empty:
        return [Text("No violations: no finished trial that the table shows has a hierarchical classifier.")]
    blocks: list[Block] = []
    for place, (column, _) in enumerate(_columns(violating)):
        part = curves[curves["column"] == column]
        cells = violating.loc[violating["column"] == column, ["row", "arm"]].drop_duplicates()
        few = len(cells) <= figures.FEW
        spread = f"mean over seeds{_band(violating, violating['metric'].iloc[0])}" if few else "means over seeds"
        caption = (
            "Mean violation of each constraint, in units of vector length and whether penalised or not, against "
            f"epochs, {column}: {spread}. "
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


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def _picture(figure: Figure, name: str, title: str, caption: str) -> Picture:
    return Picture(figures.to_svg(figure, name, caption), title, caption)
