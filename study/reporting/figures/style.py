"""Style of all figures, distinguishable without colour, reproducible as bytes."""

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

_TAG, _ID, _REFERENCE = (
    re.compile("<[^>]*>"),
    re.compile(' id="([^"]*)"'),
    re.compile(r'(?:url\(|href=")#([^)"]+)'),
)
WIDTH = 7.2
"""Inches: what fits between the margins of A4."""
PANELS_ACROSS, WIDEST = 4, 2.9
"""Of small multiples: panels side by side, and a panel's width in inches where there are few."""
BLUE, VERMILION, GREEN, ORANGE, SKY, PURPLE = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#E69F00",
    "#56B4E9",
    "#CC79A7",
)
"""Of Okabe and Ito's palette."""
GREY, PALE, DARK = "#777777", "#bbbbbb", "#222222"
SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: to search, to read aloud, and small
    "svg.hashsalt": "dh2l",
    "font.family": "DejaVu Sans",  # comes with Matplotlib: the same layout everywhere
    "font.size": 7.5,
    "text.parse_math": False,  # a user's name may hold a dollar sign
    "axes.titlesize": 8,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 7.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.edgecolor": DARK,
    "grid.color": "#e2e2e2",
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "legend.handlelength": 2.6,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True)
class Look:
    """Style of an arm: colour, dashes and marker, each alone enough to distinguish it."""

    colour: str
    dashes: Literal["-"] | tuple[float, Sequence[float]]
    marker: str


LOOKS = {
    "baseline": Look(PALE, (0, (1, 1)), "x"),
    "baseline+l2": Look(GREY, "-", "+"),
    "E": Look(BLUE, "-", "o"),
    "H0": Look(ORANGE, (0, (5, 1.5, 1, 1.5)), "v"),
    "H": Look(GREEN, (0, (1, 1)), "^"),
    "E+H0": Look(PURPLE, (0, (5, 1.5, 1, 1.5, 1, 1.5)), "D"),
    "E+H": Look(VERMILION, (0, (4, 1.5)), "s"),
}
OTHERS = (
    Look(SKY, "-", "P"),
    Look(DARK, (0, (4, 1.5)), "*"),
    Look(BLUE, (0, (1, 1)), "<"),
    Look(VERMILION, "-", ">"),
    Look(GREEN, (0, (5, 1.5, 1, 1.5)), "h"),
)
LINES = (
    *(Look(colour, "-", "") for colour in (BLUE, ORANGE, PURPLE, DARK)),
    *(Look(colour, (0, (4, 1.5)), "") for colour in (VERMILION, GREEN, SKY, GREY)),
)
"""Looks of cells that share an arm."""


def look(arm: str, arms: Sequence[str]) -> Look:
    """Return the style of an arm: ours alike in every report, others in their order."""
    others = [name for name in dict.fromkeys(arms) if name not in LOOKS]
    return LOOKS[arm] if arm in LOOKS else OTHERS[others.index(arm) % len(OTHERS)]


def label(row: str, arm: str) -> str:
    """Return the name of a cell's line: its row, and its arm unless the row's name has it."""
    return row if row == arm else f"{row}, {arm}"


@contextmanager
def our_style() -> Iterator[None]:
    """Make Matplotlib draw as our reports do inside the context, whatever its user has set."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(SETTINGS)
        yield


def panels(
    n: int, *, height: float = 1.45, share_x: bool = True, share_y: bool = True
) -> tuple[Figure, list[Axes]]:
    """Make a figure of small multiples; `height` in inches is a panel's."""
    columns = min(PANELS_ACROSS, n)
    rows = -(-n // columns)
    figure = Figure(
        figsize=(min(WIDTH, WIDEST * columns), (height + 0.2 * (rows == 1)) * rows + 0.35)
    )
    grid = figure.subplots(rows, columns, sharex=share_x, sharey=share_y, squeeze=False)
    for spare in grid.flat[n:]:
        spare.remove()
    if share_x:
        for lowest in grid.flat[max(0, n - columns) : n]:  # also where the last row is not full
            lowest.tick_params(labelbottom=True)
    return figure, list(grid.flat[:n])


def epochs_below(axes: Axes) -> None:
    """Whole epochs on the lower axis."""
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))


def logarithmic(axes: Axes) -> None:
    """Make an upright axis logarithmic, with plain numbers, also within a decade."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def legend(figure: Figure, handles: Sequence[Line2D], columns: int | None = None) -> None:
    """One legend for all panels, above them."""
    width = columns or max(1, min(len(handles), int(figure.get_figwidth() / 1.2)))
    figure.legend(handles=list(handles), loc="outside upper left", ncols=width, borderaxespad=0.2)


@our_style()
def to_svg(figure: Figure, name: str, alternative: str) -> str:
    """Render a figure as SVG for a page: no fixed size, ids that begin with its name.

    Args:
        figure: the figure.
        name: unique in the page, letters, digits and hyphens.
        alternative: the text for screen readers.
    """
    written = io.StringIO()
    with warnings.catch_warnings():
        # The widths of letters that DejaVu lacks are guessed; the reader's own font shows them.
        warnings.filterwarnings(
            "ignore", message=r"Glyph .* missing from font", category=UserWarning
        )
        nothing: dict[str, Any] = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(written, format="svg", metadata=nothing)
    text = written.getvalue()
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    referred = set(_REFERENCE.findall(text))
    text = _TAG.sub(lambda tag: _own_ids(tag[0], name, referred), text)
    head, mark, rest = text.partition(">")
    width = re.search(r'width="([\d.]+)pt"', head)
    points = float(width[1]) if width else 72 * figure.get_figwidth()
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None  # noqa: S101 Matplotlib always writes one
    spaces = 'xmlns:xlink="http://www.w3.org/1999/xlink" xmlns="http://www.w3.org/2000/svg"'
    opening = f"<svg {spaces} {box[0]}"
    opening += f' role="img" aria-label="{_attribute(alternative)}" style="--width: {points:.0f}pt"'
    return (opening + mark + rest).strip()


def _own_ids(tag: str, name: str, referred: set[str]) -> str:
    """Prefix a tag's ids and references with the figure's name; drop unused ids."""
    tag = _ID.sub(lambda found: f' id="{name}-{found[1]}"' if found[1] in referred else "", tag)
    return re.sub(r'(url\(|href=")#', rf"\g<1>#{name}-", tag)


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
