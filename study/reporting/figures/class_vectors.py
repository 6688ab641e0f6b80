"""The cosines between class vectors: as maps ordered by the class tree, and summarised by level."""

import math
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from dh2l.tree import ClassTree
from study.analysis.class_vectors import Floats, blocks, height_name, tree_order
from study.reporting.figures.style import (
    BLUE,
    DARK,
    ORANGE,
    PALE,
    VERMILION,
    WIDTH,
    label,
    legend,
    our_style,
)

MANY = 12
"""Cells from which on all is drawn smaller."""
SHADES = 41
"""Steps of the colour scale: few, so that a map is a small picture."""
HEIGHT_LOOKS = ((VERMILION, "o"), (BLUE, "s"), (ORANGE, "^"), (DARK, "D"))


@our_style()
def cosine_maps(maps: Sequence[tuple[str, str, ClassTree, Floats]]) -> Figure:
    """Draw the cosines of all pairs of class vectors, a map for each cell.

    One scale is symmetric about 0. Classes are in the order of the tree, and squares frame the
    nodes of its levels. The diagonal is left blank.

    Args:
        maps: row, arm, class tree and cosines ``(n_classes, n_classes)`` of each.
    """
    across = min(len(maps), 4 if len(maps) <= MANY else 6)
    down = -(-len(maps) // across)
    side = (WIDTH - 0.7) / max(across, 4)
    figure = Figure(figsize=(side * across + 0.7, (side + 0.22) * down))
    grid = figure.subplots(down, across, squeeze=False)
    for spare in grid.flat[len(maps) :]:
        spare.remove()
    used = list(grid.flat[: len(maps)])
    limit = _limit([cos for *_, cos in maps])
    colours = mpl.colormaps["RdBu_r"].resampled(SHADES).with_extremes(bad="#8c8c8c")
    for axes, (row, arm, tree, cos) in zip(used, maps, strict=True):
        order = tree_order(tree)
        shown = np.ma.masked_array(cos[np.ix_(order, order)], mask=np.eye(len(cos), dtype=bool))
        image = axes.imshow(shown, cmap=colours, vmin=-limit, vmax=limit, interpolation="none")
        for level in range(1, tree.depth):
            frames = [_square(start, stop) for start, stop in blocks(tree, level)]
            axes.add_collection(LineCollection(frames, colors=DARK, linewidths=0.7 / level))
        axes.set(xticks=[], yticks=[])
        axes.set_title(label(row, arm), fontsize=8 if across <= 4 else 6.5)
        axes.grid(visible=False)
        for spine in axes.spines.values():
            spine.set_visible(False)
    bar = figure.colorbar(
        image, ax=used, extend="both", shrink=min(1.0, 1.6 / down), aspect=18, pad=0.02
    )
    bar.set_label("cosine")
    bar.outline.set_linewidth(0.4)
    return figure


def _limit(matrices: Sequence[Floats]) -> float:
    """Return the end of the scale, a round number that excludes one pair in two hundred."""
    largest = 0.0
    for matrix in matrices:
        pairs = np.abs(matrix[np.triu_indices_from(matrix, k=1)])
        if len(pairs):
            largest = max(largest, float(np.quantile(pairs, 0.995)))
    return min(1.0, max(0.1, math.ceil(largest * 10) / 10))


def _square(start: int, stop: int) -> list[tuple[float, float]]:
    a, b = start - 0.5, stop - 0.5
    return [(a, a), (b, a), (b, b), (a, b), (a, a)]


@our_style()
def cosine_levels(frame: pd.DataFrame) -> Figure:
    """Draw the mean cosine over seeds for each cell and level, and the range of 90% of pairs.

    Args:
        frame: `study.analysis.class_vectors.angle_frame` of one column.
    """
    cells = list(dict.fromkeys(zip(frame["row"], frame["arm"], strict=True)))
    kinds = sorted({(int(h), int(d)) for h, d in zip(frame["height"], frame["depth"], strict=True)})
    means = (
        frame.groupby(["row", "arm", "height", "depth"])[["mean", "low", "high"]]
        .mean()
        .to_dict("index")
    )
    each = (
        0.13 if len(cells) <= MANY else 0.075
    )  # inches of a line: all of a large table's on one page
    figure = Figure(
        figsize=(min(WIDTH, 5.6), (each * len(kinds) + 0.75 * each) * len(cells) + 0.95)
    )
    axes = figure.subplots()
    axes.axvline(0, color=DARK, linewidth=0.8)
    step = 0.62 / max(len(kinds), 1)
    for place, (row, arm) in enumerate(cells):
        for k, (height, depth) in enumerate(kinds):
            found = means.get((row, arm, height, depth))
            if found is None:
                continue
            colour, marker = HEIGHT_LOOKS[k % len(HEIGHT_LOOKS)]
            y = place + step * (k - (len(kinds) - 1) / 2)
            axes.plot([found["low"], found["high"]], [y, y], color=colour, linewidth=1)
            axes.plot(found["mean"], y, color=colour, marker=marker, linestyle="none")
    axes.set_yticks(range(len(cells)), [label(*cell) for cell in cells])
    axes.set_ylim(len(cells) - 0.4, -0.6)
    axes.set_xlabel("cosine")
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    for line in range(1, len(cells)):
        axes.axhline(line - 0.5, color=PALE, linewidth=0.4)
    handles = [
        Line2D([], [], color=c, marker=m, linewidth=1, label=height_name(*kind))
        for (c, m), kind in zip(HEIGHT_LOOKS * len(kinds), kinds, strict=False)
    ]
    legend(figure, handles, columns=len(handles) if len(handles) < 3 else 2)
    return figure
