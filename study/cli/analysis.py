"""Commands that look closer: compare, importance."""

from typing import TYPE_CHECKING, Annotated

import typer

from study.cli.console import out
from study.cli.options import (
    DATA,
    RESULTS,
    DataOption,
    PluginOption,
    ResultsOption,
    SetOption,
    StudyArgument,
    load_plugins,
    load_state,
)
from study.records.paths import Places

if TYPE_CHECKING:
    import pandas as pd

MOST_VALUES = 6
"""Values of a field that are listed one by one."""
CsvOption = Annotated[bool, typer.Option("--csv", help="Print CSV.")]


def compare(
    study: StudyArgument,
    first: Annotated[str, typer.Argument(metavar="ARM", help="An arm of the study, e.g. E+H0.")],
    second: Annotated[
        str, typer.Argument(metavar="ARM", help="Another; differences are this one less the first.")
    ],
    set_: SetOption = None,
    plugin: PluginOption = None,
    results: ResultsOption = RESULTS,
    data: DataOption = DATA,
    csv: CsvOption = False,
) -> None:
    """Compare two arms of a study wherever they differ in nothing else. Explores; tests nothing."""
    from study.analysis.arm_comparison import compare_frame
    from study.cli.terminal_tables import print_parts
    from study.reporting.cell_text import interval, signed
    from study.state.results import StudyResults

    load_plugins(plugin)
    evaluated = StudyResults(load_state(study, set_, Places.of(results, data), check_arrays=True))
    frame = compare_frame(evaluated, first, second)
    if csv:
        out.print(frame.to_csv(index=False), end="", markup=False)
        return
    heads = ["difference, 95% interval", "test images, 95%", "super-class", "severity", "caution"]
    table = [["metric", "column", first, second, *heads]]
    table += [
        [
            pair["row"],
            pair["column"],
            _mean(pair["first"], pair["n_first"]),
            _mean(pair["second"], pair["n_second"]),
            " ".join(
                [signed(pair["difference"]), interval(pair["low"], pair["high"], sign=True)]
            ).strip(),
            interval(pair["images_low"], pair["images_high"], sign=True),
            signed(pair["super_difference"]),
            signed(pair["severity_difference"]),
            pair["caution"],
        ]
        for pair in frame.to_dict("records")
    ]
    print_parts(
        f"{evaluated.plan.name}: {second} less {first}. Accuracies in percent, differences in "
        "points.",
        table,
        "This explores: no test is made, and no interval is adjusted for the number of pairs. The "
        "table's own test of "
        "each cell is the one against its reference.\n"
        "Intervals: Welch's t over seeds; over test images a bootstrap with the networks as they "
        "are.",
    )


def importance(
    study: StudyArgument,
    set_: SetOption = None,
    plugin: PluginOption = None,
    results: ResultsOption = RESULTS,
    data: DataOption = DATA,
    csv: CsvOption = False,
) -> None:
    """Show which searched fields matter, how the score answers to each, and the Pareto front."""
    from dh2l.errors import UserError
    from study.analysis.search_analysis import importance_frame, pareto_frame, response_frame
    from study.cli.terminal_tables import print_parts
    from study.reporting.cell_text import number
    from study.reporting.statements import RULES
    from study.state.results import StudyResults

    load_plugins(plugin)
    evaluated = StudyResults(load_state(study, set_, Places.of(results, data)))
    frame = importance_frame(evaluated)
    if frame.empty:
        raise UserError(
            f"{evaluated.plan.name} has nothing searched so far, so no field can matter; `plan` "
            "shows its trials"
        )
    if csv:
        out.print(frame.to_csv(index=False), end="", markup=False)
        return
    responses, rows = response_frame(evaluated), list[list[str]]()
    for line in frame.to_dict("records"):
        place = [str(line[key]) for key in ("row", "arm", "column", "axis")]
        same = (responses[["row", "arm", "column", "axis"]] == place).all(axis=1)
        told = line["why_none"] or f"{line['importance']:.2f}"
        rows.append([*place, told, str(line["candidates"]), _best(responses[same])])
    settings = evaluated.study
    parts: list[str | list[list[str]]] = [
        f"{evaluated.plan.name}: the fields' shares of what explains the scores (fANOVA). They sum "
        "to 1 also where noise is all there is: look at the scores beside them. The score: "
        f"{RULES[settings.rule]}.",
        [
            ["metric", "arm", "column", "field", "importance", "candidates", "best score by value"],
            *rows,
        ],
    ]
    if settings.searcher is not None and len(settings.searcher.objectives) > 1:
        front = pareto_frame(evaluated).to_dict("records")
        points = [
            [
                p["row"],
                p["arm"],
                p["column"],
                number(p["score"]),
                f"{p['violation']:.4g}",
                p["values"],
            ]
            for p in front
        ]
        parts += [
            "Pareto front: no other candidate has a higher score without more violation.",
            [["metric", "arm", "column", "score", "violation", "values"], *points],
        ]
    print_parts(*parts)


def _mean(accuracy: float, n: int) -> str:
    return f"{accuracy:.2f} (n={n})" if n else "none yet"


def _best(responses: "pd.DataFrame") -> str:
    """Return the best score at each value of a field, or in each quarter of many numbers."""
    done = responses.dropna(subset="score")
    if done.empty:
        return ""
    if done["value"].nunique() <= MOST_VALUES:
        best = done.groupby("value", sort=False)["score"].max()
        return ", ".join(f"{value}: {score:.2f}" for value, score in best.items())
    if not done["value"].map(lambda value: isinstance(value, (int, float))).all():
        best = done.groupby("value", sort=False)["score"].max()
        return ", ".join(f"{value}: {score:.2f}" for value, score in best.items())
    values = sorted(set(done["value"]))
    parts = [values[i * len(values) // 4 : (i + 1) * len(values) // 4] for i in range(4)]
    scores = [done.loc[done["value"].isin(part), "score"].max() for part in parts]
    return ", ".join(
        f"{part[0]:.3g} to {part[-1]:.3g}: {score:.2f}"
        for part, score in zip(parts, scores, strict=True)
    )
