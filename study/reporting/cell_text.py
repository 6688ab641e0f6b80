"""Texts of numbers and cells in tables."""

from collections.abc import Callable
from typing import Any

import pandas as pd

MINUS = "−"


Cells = dict[str, Any]


def known(value: Any) -> bool:
    """Return True if there is a number."""
    return bool(pd.notna(value))


def number_with_spread(value: float, spread: float, decimals: int = 2) -> str:
    """Format as ``97.29 ± 0.24``, or the number alone without a spread."""
    shown = f"{value:.{decimals}f}"
    return f"{shown} ± {spread:.{decimals}f}" if known(spread) else shown


def number(value: float) -> str:
    """Format as ``97.29``; empty without a number."""
    return f"{value:.2f}".replace("-", MINUS) if known(value) else ""


def signed(value: float) -> str:
    """Format as ``+0.48`` or ``−0.43``; empty without a number."""
    return f"{value:+z.2f}".replace("-", MINUS) if known(value) else ""


def interval(low: float, high: float, sign: bool = False) -> str:
    """Format as ``[96.1, 98.5]``; empty without bounds."""
    if not (known(low) and known(high)):
        return ""
    return "[" + ", ".join(signed(v) if sign else number(v) for v in (low, high)) + "]"


def p_value(value: float) -> str:
    """Format with three decimals, or as ``< 0.001``."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def arm_text(cell: Cells) -> str:
    """Return the arm, unless the row's name has it already."""
    return "" if cell["row"] == cell["arm"] else str(cell["arm"])


def with_spread(value: str, spread: str, decimals: int = 2) -> Callable[[Cells], str]:
    """Return a function that formats one of a cell's numbers with its spread."""

    def text(cell: Cells) -> str:
        if not known(cell[value]):
            return ""
        return number_with_spread(cell[value], cell[spread], decimals)

    return text
