"""The outcome of a study in words: what differs, what cannot be told apart, what is missing."""

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from study.analysis.frames import cells_of
from study.analysis.significance import BASELINES
from study.reporting.cell_text import interval as bounds
from study.reporting.cell_text import p_value, signed

LEVEL = 0.05
"""The largest p, after Holm's correction, at which a cell is said to differ."""
NAMED = 8
"""Cells that a sentence names; of more it gives the number."""
WITH_INTERVALS = 4
"""Most cells whose intervals a sentence gives."""
Cells = Sequence[dict[str, Any]]


def findings(frame: pd.DataFrame) -> list[str]:
    """Sentences on the cells of `study.analysis.frames.cell_frame`."""
    cells, columns = cells_of(frame), frame["column"].nunique()
    compared = [cell for cell in cells if cell["arm"] not in BASELINES]
    tested = [cell for cell in compared if pd.notna(cell["p_holm"])]
    differing = sorted(
        (cell for cell in tested if cell["p_holm"] <= LEVEL), key=lambda c: -abs(c["difference"])
    )
    alike = [cell for cell in tested if cell["p_holm"] > LEVEL]
    name = _namer(columns)
    sentences = []
    for word, sign in (("higher", 1), ("lower", -1)):
        some = [cell for cell in differing if sign * cell["difference"] > 0]
        if some:
            told = _listed(
                (f"{name(c)} by {signed(c['difference'])} (p {_p(c['p_holm'])})" for c in some),
                len(some),
            )
            sentences.append(f"Accuracy is {word} than the reference's for {told}.")
    if tested and not differing:
        sentences.append("No cell differs from its reference beyond what seeds explain.")
    if alike:
        detailed = len(alike) <= WITH_INTERVALS
        told = _listed(
            (f"{name(c)} ({_range(c)})" if detailed else name(c) for c in alike), len(alike)
        )
        sentences.append(f"{_cells(len(alike))} cannot be told apart from the reference: {told}.")
    unsure = [cell for cell in differing if cell["images_low"] <= 0 <= cell["images_high"]]
    if unsure:
        told = _listed(map(name, unsure), len(unsure))
        sentences.append(f"On other test images the difference may vanish for {told}.")
    return [*sentences, *_untested(compared, name), *_missing(cells, name)]


def _namer(columns: int) -> Any:
    """Return the function that names a cell by row and arm, and by column if there are several."""

    def name(cell: dict[str, Any]) -> str:
        words = [cell["row"]] if cell["row"] == cell["arm"] else [cell["row"], cell["arm"]]
        place = f" on {cell['column']}" if columns > 1 else ""
        return " ".join(words) + place

    return name


def _untested(compared: Cells, name: Any) -> Iterable[str]:
    """Name the cells without a test, reason by reason; missing trials have their own sentence."""
    for reason in dict.fromkeys(cell["why_no_test"] for cell in compared):
        if reason not in ("", "incomplete"):
            some = [cell for cell in compared if cell["why_no_test"] == reason]
            yield f"No test ({reason}): {_listed(map(name, some), len(some))}."


def _missing(cells: Cells, name: Any) -> Iterable[str]:
    lacking = [cell for cell in cells if cell["problem"]]
    if not lacking:
        yield "No trial is missing."
        return
    told = _listed((f"{name(cell)}: {cell['problem']}" for cell in lacking), len(lacking), "; ")
    yield f"{len(lacking)} of {len(cells)} cells lack trials, and have no test: {told}."


def _listed(names: Iterable[str], number: int, between: str = ", ") -> str:
    """Join the first names, and count the others."""
    first = [name for name, _ in zip(names, range(NAMED), strict=False)]
    return between.join(first) + (f"{between}and {number - NAMED} more" if number > NAMED else "")


def _cells(number: int) -> str:
    return "1 cell" if number == 1 else f"{number} cells"


def _p(value: float) -> str:
    text = p_value(value)
    return text if text.startswith("<") else f"= {text}"


def _range(cell: dict[str, Any]) -> str:
    """Format a difference and its interval, where there is one."""
    return " ".join(
        filter(
            None,
            [
                signed(cell["difference"]),
                bounds(cell["difference_low"], cell["difference_high"], sign=True),
            ],
        )
    )
