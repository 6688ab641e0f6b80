"""Figures that compare cells: a forest of differences, and search responses."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from study.reporting.figures.style import (
    BLUE,
    DARK,
    ORANGE,
    WIDTH,
    label,
    legend,
    look,
    our_style,
    panels,
)

DECADE = 10
"""Positive values whose largest is this many times their smallest stand on a logarithmic axis."""
FOREST_COLUMNS = 3
MOST_TICKS = 6
"""Listed values that stand below an axis; of more the decades do."""


def compared(evidence: pd.DataFrame) -> pd.DataFrame:
    """Return the cells of an evidence frame with a difference from a reference."""
    return evidence[(evidence["reference"] != "") & evidence["difference"].notna()]


@our_style()
def forest(evidence: pd.DataFrame) -> Figure:
    """Draw differences from the reference with their intervals, a panel for each column.

    Args:
        evidence: `study.analysis.significance.evidence_frame`, of which `compared` cells are drawn,
            in the table's order.
    """
    cells = compared(evidence)
    columns = list(dict.fromkeys(cells["column"]))
    names = list(dict.fromkeys(zip(cells["row"], cells["arm"], strict=True)))
    across = min(FOREST_COLUMNS, len(columns))
    down = -(-len(columns) // across)
    height = down * (0.19 * len(names) + 0.75) + 0.35
    figure = Figure(figsize=(min(WIDTH, 2.2 + 2.6 * across), height))
    grid = figure.subplots(down, across, sharey=True, squeeze=False)
    for spare in grid.flat[len(columns) :]:
        spare.remove()
    for axes, column in zip(grid.flat, columns, strict=False):
        axes.axvline(0, color=DARK, linewidth=0.8)
        for _, cell in cells[cells["column"] == column].iterrows():
            _differences(axes, names.index((cell["row"], cell["arm"])), cell)
        axes.set(title=column, xlabel="difference in accuracy, points")
        axes.set_yticks(range(len(names)), [label(*name) for name in names])
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(visible=False, axis="y")
    handles = [
        Line2D(
            [], [], color=BLUE, marker="o", linewidth=1.8, label="over seeds: Welch's 95% interval"
        )
    ]
    if cells["difference_low"].isna().any():
        handles += [
            _points("over seeds: no interval", color=BLUE, marker="o", markerfacecolor="white")
        ]
    if cells["images_low"].notna().any():
        text = "over test images, of these networks: bootstrap 95%"
        handles += [
            Line2D([], [], color=ORANGE, marker="|", linewidth=0.9, markersize=5, label=text)
        ]
    legend(figure, handles, columns=min(len(handles), 2 if across > 1 else 1))
    return figure


def _differences(axes: Axes, place: int, cell: "pd.Series[Any]") -> None:
    if pd.notna(cell["images_low"]):
        ends = [cell["images_low"], cell["images_high"]]
        axes.plot(ends, [place + 0.22] * 2, color=ORANGE, marker="|", linewidth=0.9, markersize=5)
    if pd.notna(cell["difference_low"]):
        ends = [cell["difference_low"], cell["difference_high"]]
        axes.plot(ends, [place - 0.08] * 2, color=BLUE, linewidth=1.8, solid_capstyle="butt")
    face = BLUE if pd.notna(cell["difference_low"]) else "white"
    axes.plot(
        cell["difference"],
        place - 0.08,
        color=BLUE,
        marker="o",
        markerfacecolor=face,
        linestyle="none",
    )


def _points(text: str, **how: Any) -> Line2D:
    return Line2D([], [], linestyle="none", label=text, **how)


@our_style()
def responses(
    frame: pd.DataFrame, sampled: Mapping[str, bool], arms: Sequence[str], score: str
) -> Figure:
    """Draw scores of one column's candidates against values, a panel for each axis and row.

    Args:
        frame: `study.analysis.search_analysis.response_frame` of one column, where there is a
            score.
        sampled: the axes whose values are drawn from a range, and whether by their logarithm; the
            others list theirs.
        arms: all arms of the study.
        score: the name of what the rule compares, with its unit.
    """
    keys = list(dict.fromkeys(zip(frame["axis"], frame["row"], strict=True)))
    figure, grid = panels(len(keys), height=1.6, share_x=False)
    several = frame["row"].nunique() > 1
    for axes, (axis, row) in zip(grid, keys, strict=True):
        whole = frame[frame["axis"] == axis]
        place = _scale(axes, list(whole["value"]), sampled.get(axis))
        part = whole[whole["row"] == row]
        for arm, of_arm in part.groupby("arm", sort=False):
            style = look(str(arm), arms)
            x, y = [place(value) for value in of_arm["value"]], of_arm["score"]
            if axis not in sampled:
                best = of_arm.assign(x=x).groupby("x")["score"].max()
                axes.plot(best.index, best, color=style.colour, linestyle=style.dashes)
            spread: dict[str, Any] = {
                "yerr": of_arm["std"],
                "ecolor": style.colour,
                "elinewidth": 0.5,
            }
            dots: dict[str, Any] = {
                "color": style.colour,
                "marker": style.marker,
                "linestyle": "none",
                "markersize": 3,
            }
            axes.errorbar(x, y, **spread, **dots, alpha=0.8)
            chosen = of_arm["selected"].to_numpy(dtype=bool)
            there = pd.Series(x)[chosen], y[chosen]
            axes.plot(
                *there,
                marker="o",
                markersize=9,
                color=DARK,
                markerfacecolor="none",
                linestyle="none",
            )
        axes.set(xlabel=axis, title=row if several else "")
        axes.margins(0.12)
    figure.supylabel(score, fontsize=7.5)
    shown = dict.fromkeys(frame["arm"])
    styles = [(arm, look(arm, arms)) for arm in shown]
    lines = any(axis not in sampled for axis, _ in keys)
    handles = [
        Line2D(
            [],
            [],
            color=s.colour,
            linestyle=s.dashes if lines else "none",
            marker=s.marker,
            markersize=3,
            label=a,
        )
        for a, s in styles
    ]
    handles += [_points("selected", marker="o", markersize=8, color=DARK, markerfacecolor="none")]
    legend(figure, handles)
    return figure


def _scale(axes: Axes, values: list[Any], drawn_by_logarithm: bool | None) -> Any:
    """Set an axis up for some values, words or numbers.

    Args:
        axes: the panel.
        values: of all candidates.
        drawn_by_logarithm: whether they are drawn from a range by their logarithm; None where the
            study lists them.

    Returns:
        The function from a value to its position.
    """
    numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
    if len(numbers) < len(values):
        words = list(dict.fromkeys(map(str, values)))
        axes.set_xticks(
            range(len(words)), words, rotation=30 * (max(map(len, words)) > 5), ha="center"
        )
        axes.set_xlim(-0.5, len(words) - 0.5)
        return lambda value: words.index(str(value))
    positive = [v for v in numbers if v > 0]
    wide = bool(positive) and min(numbers) >= 0 and max(positive) >= DECADE * min(positive)
    listed = drawn_by_logarithm is None
    if wide if listed else drawn_by_logarithm:
        if len(positive) < len(numbers):
            axes.set_xscale("symlog", linthresh=min(positive), linscale=0.5)
        else:
            axes.set_xscale("log")
        few = (
            sorted(set(numbers)) if listed and len(set(numbers)) <= MOST_TICKS else _round(positive)
        )
        axes.set_xticks(few, [f"{v:g}" for v in few])
        axes.xaxis.set_minor_locator(NullLocator())
    return float


def _round(positive: list[float]) -> list[float]:
    """Return round values for an axis: decades, or finer steps where these are few."""
    low, high = min(positive), max(positive)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1,), (1, 2, 5), (1, 2, 3, 5, 7)):
        inside = [
            v
            for decade in decades
            for step in steps
            if low <= (v := float(f"{step}e{decade}")) <= high
        ]
        if len(inside) > 1:
            return inside
    return [low, high]
