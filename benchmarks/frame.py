"""Results of benchmarks, and their layout: rows of ratios, curves, small tables.

A section is a module with `measure(quick: bool) -> Measured`. Ratios are the result, of ways that
took turns on one machine. Absolute figures are beside them for reference.
"""

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's, which people with any colour vision tell apart."""
MARKERS = "osD^vX"


@dataclass(frozen=True)
class Row:
    """One line of the table: a ratio, what it should be, and what bounds it."""

    measure: str
    """What is measured."""
    against: str
    """What it is compared with: the ratio is `measure` over `against`."""
    ratio: float | None
    """Median over the rounds; None where it was not measured."""
    aim: str
    """What the ratio should be, e.g. ``≤ 3``; empty where nothing was promised."""
    met: bool | None
    """Whether it is; None where there is no aim or no ratio."""
    ours: str
    """Median of the measured figures with their unit, or why there are none."""
    theirs: str
    """The same of what it is compared with."""
    rounds: int
    """How many pairs the median is of."""
    bound: str
    """What bounds the figure: bytes, operations, launches, processes."""
    spread: str = ""
    """Lowest and highest ratio of a round."""


@dataclass(frozen=True)
class Curve:
    """A plot: one line per way."""

    name: str
    """Its file's stem."""
    title: str
    x: str
    """The horizontal axis, with its unit."""
    y: str
    """The vertical axis, with its unit."""
    lines: dict[str, list[tuple[float, float]]]
    """Points by the way's name."""
    logarithmic: bool = False
    """Whether both axes are."""


@dataclass(frozen=True)
class Detail:
    """A small table below the main one, for instance of the seconds behind one figure."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class Measured:
    """Results of a section."""

    rows: list[Row]
    curves: list[Curve] = field(default_factory=list)
    details: list[Detail] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """How it was measured, a sentence each."""


def measured_device() -> str:
    """Return the device to measure: the GPU if there is one and it is visible."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True)
class Aim:
    """Target of a ratio."""

    text: str
    holds: Callable[[float], bool]


def at_least(bound: float) -> Aim:
    """Return the aim that a ratio is not below a bound."""
    return Aim(f"≥ {bound:g}", lambda ratio: ratio >= bound)


def at_most(bound: float) -> Aim:
    """Return the aim that a ratio is not above a bound."""
    return Aim(f"≤ {bound:g}", lambda ratio: ratio <= bound)


def paired(
    ways: Mapping[str, Callable[[], object]],
    rounds: int,
    *,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Time each way, round by round: the ways take turns, so that a machine's drift hits all.

    Args:
        ways: the functions to time, by name. They must wait for work that is queued on a device.
        rounds: how often each is timed.
        warm_up: rounds before these that are not counted.
        clock: seconds from any origin.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(warm_up + rounds):
        for name, way in ways.items():
            started = clock()
            way()
            elapsed = clock() - started
            if number >= warm_up:
                seconds[name].append(elapsed)
    return seconds


def ratios_of(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Return the ratio of each round."""
    return [a / b for a, b in zip(ours, theirs, strict=True)]


def ratio_of(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the rounds' ratios."""
    return statistics.median(ratios_of(ours, theirs))


def compared(  # noqa: PLR0913 a row has as many fields
    measure: str,
    against: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    bound: str,
    unit: str = "s",
    aim: Aim | None = None,
) -> Row:
    """Make the row of two ways' figures, a pair per round: seconds, or rates to maximise."""
    ratios = ratios_of(ours, theirs)
    ratio = statistics.median(ratios)
    return Row(
        measure=measure,
        against=against,
        ratio=ratio,
        aim=aim.text if aim else "",
        met=aim.holds(ratio) if aim else None,
        ours=figure(statistics.median(ours), unit),
        theirs=figure(statistics.median(theirs), unit),
        rounds=len(ratios),
        bound=bound,
        spread=f"{figure(min(ratios))} to {figure(max(ratios))}" if len(ratios) > 1 else "",
    )


def not_measured(
    measure: str, against: str, why: str, *, bound: str = "", aim: Aim | None = None
) -> Row:
    """Make the row of what this machine cannot measure, or of what failed."""
    return Row(measure, against, None, aim.text if aim else "", None, why, "", 0, bound)


def figure(value: float, unit: str = "") -> str:
    """Format a number to three significant digits, never with an exponent."""
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:.{digits}f} {unit}".rstrip()


def rows_table(rows: Sequence[Row]) -> str:
    """Render the main table in Markdown."""
    header = ("measure", "against", "ratio", "aim", "met", "ours", "theirs", "rounds", "bounded by")
    return pipe_table(header, [_cells(row) for row in rows])


def _cells(row: Row) -> tuple[str, ...]:
    ratio = "not measured" if row.ratio is None else figure(row.ratio)
    met = {True: "yes", False: "no", None: ""}[row.met]
    spread = f" ({row.spread})" if row.spread else ""
    rounds = str(row.rounds or "")
    return (
        row.measure,
        row.against,
        ratio + spread,
        row.aim,
        met,
        row.ours,
        row.theirs,
        rounds,
        row.bound,
    )


def pipe_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Render a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def draw(curve: Curve, folder: Path) -> Path:
    """Draw a curve as a PNG into a folder."""
    from matplotlib.figure import Figure  # no section's process needs it

    picture = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = picture.subplots()
    for (name, points), colour, marker in zip(curve.lines.items(), COLOURS, MARKERS, strict=False):
        x, y = zip(*points, strict=True)
        axes.plot(x, y, color=colour, marker=marker, label=name)
    if curve.logarithmic:
        axes.set_xscale("log")
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set(title=curve.title, xlabel=curve.x, ylabel=curve.y)
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    path = folder / f"{curve.name}.png"
    picture.savefig(path, dpi=110)
    return path
