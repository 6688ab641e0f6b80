"""Learning curves and violations of constraints, over epochs."""

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from study.analysis.significance import BASELINES
from study.reporting.figures.style import (
    GREY,
    LINES,
    Look,
    epochs_below,
    label,
    legend,
    logarithmic,
    look,
    our_style,
    panels,
)

FEW = len(LINES)
"""As many lines as a panel can tell apart; of more, none has a band or a name."""
VIOLATIONS = {
    "violation_c1": "C1, radius",
    "violation_c2": "C2, centre",
    "violation_c3": "C3, margin",
    "clamped_fraction": "clamped pairs, %",
}
"""The metrics of `violation_curves`, and what its panels call them."""


@our_style()
def learning_curves(frame: pd.DataFrame, metric: str, unit: str, arms: Sequence[str]) -> Figure:
    """Draw one metric over epochs, mean and band over seeds, a panel for each row.

    The baselines of the column are in all panels.

    Args:
        frame: `study.analysis.learning_curves.curve_frame` of one column.
        metric: its name in the history.
        unit: the label of the upright axis.
        arms: all arms of the study.
    """
    part = frame[frame["metric"] == metric]
    is_baseline = part["arm"].isin(BASELINES)
    rows = list(dict.fromkeys(part.loc[~is_baseline, "row"])) or [""]
    figure, grid = panels(len(rows))
    baselines = list(part[is_baseline].groupby(["row", "arm"], sort=False))
    for axes, row in zip(grid, rows, strict=True):
        own = list(part[~is_baseline & (part["row"] == row)].groupby(["row", "arm"], sort=False))
        for (_, arm), curve in [*baselines, *own]:
            _line(
                axes, curve, look(str(arm), arms), most=100 if metric.endswith("accuracy") else None
            )
        axes.set(title=row)
    figure.supxlabel("epoch", fontsize=7.5)
    epochs_below(grid[0])
    figure.supylabel(unit, fontsize=7.5)
    if metric.endswith("cross_entropy"):
        logarithmic(grid[0])
    shown = dict.fromkeys(part["arm"])
    legend(figure, [_handle(look(arm, arms), arm) for arm in shown])
    return figure


@our_style()
def violation_curves(frame: pd.DataFrame, arms: Sequence[str]) -> Figure:
    """Draw the mean violation of each constraint over epochs, a line for each cell.

    Args:
        frame: `study.analysis.learning_curves.curve_frame` of one column.
        arms: all arms of the study.
    """
    violating = frame.loc[
        frame["metric"].str.startswith("violation_"), ["row", "arm"]
    ].drop_duplicates()
    cells = list(violating.itertuples(index=False, name=None))
    metrics = [name for name in VIOLATIONS if (frame["metric"] == name).any()]
    figure, grid = panels(len(metrics), share_y=False)
    few = len(cells) <= FEW
    alone = len({arm for _, arm in cells}) == len(cells)
    looks = {
        cell: LINES[i] if few and not alone else look(cell[1], arms) for i, cell in enumerate(cells)
    }
    for axes, metric in zip(grid, metrics, strict=True):
        part = frame[frame["metric"] == metric]
        for cell, style in looks.items():
            curve = part[(part["row"] == cell[0]) & (part["arm"] == cell[1])]
            if len(curve):
                _line(axes, curve, style, band=few, width=1.2 if few else 0.7)
        axes.set(title=VIOLATIONS[metric], xlabel="epoch")
        if part["mean"].max() > 0:
            axes.set_ylim(bottom=0)
        else:
            axes.set(ylim=(-0.05, 1), yticks=[0])
            axes.text(
                0.5,
                0.5,
                "0 throughout",
                transform=axes.transAxes,
                ha="center",
                va="center",
                color=GREY,
            )
        epochs_below(axes)
    if few:
        legend(figure, [_handle(style, label(*cell)) for cell, style in looks.items()])
    else:
        legend(
            figure,
            [_handle(look(arm, arms), arm) for arm in dict.fromkeys(arm for _, arm in cells)],
        )
    return figure


def _line(
    axes: Axes,
    curve: pd.DataFrame,
    style: Look,
    *,
    band: bool = True,
    width: float = 1.2,
    most: float | None = None,
) -> None:
    """Draw a curve and its band, which ends at 0 and `most` where its quantity does."""
    x, mean, std = curve["epoch"], curve["mean"], curve["std"]
    if band and std.notna().any():
        low, high = mean - std, mean + std
        if most is not None:
            low, high = low.clip(lower=0), high.clip(upper=most)
        axes.fill_between(x, low, high, color=style.colour, alpha=0.2, linewidth=0)
    # An only epoch makes no line.
    marker = style.marker if len(curve) == 1 else None
    axes.plot(x, mean, color=style.colour, linestyle=style.dashes, linewidth=width, marker=marker)


def _handle(style: Look, text: str) -> Line2D:
    return Line2D([], [], color=style.colour, linestyle=style.dashes, label=text)
