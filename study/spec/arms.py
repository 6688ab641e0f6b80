"""Arms of a comparison: the config fields that each sets, and those that exist in it."""

import itertools
from collections.abc import Callable
from typing import Any

from dh2l.config.conditions import needed_parts, weights_of
from dh2l.errors import unknown_name_message
from dh2l.registry.register import REGULARISERS

ARMS = ("baseline", "baseline+l2", "E", "H", "H0", "E+H", "E+H0")
"""The arms of the paper, and two with H0 that it lacks.

Registered regularisers are arms too, alone or combined with these.
"""


def arm_problem(arm: str) -> str:
    """Return why a text is not an arm, as a sentence; empty if it is one."""
    if arm in ARMS:
        return ""
    parts = arm.split("+")
    order = ["E", "H", "H0", *REGULARISERS]
    if not set(parts) <= set(order):
        known = [*ARMS, *REGULARISERS]
        if "+" in arm:
            known += map("+".join, itertools.product(ARMS[2:], REGULARISERS))
        return unknown_name_message("arm", arm, known)
    if {"H", "H0"} <= set(parts):
        return f"arm {arm} has both H and H0, which is H without its regulariser; remove one"
    sorted_parts = sorted(set(parts), key=order.index)
    return "" if parts == sorted_parts else f"arm {arm} is written {'+'.join(sorted_parts)}"


def arm_settings(arm: str) -> dict[str, Any]:
    """Return the config fields that an arm sets."""
    if arm == "baseline":
        return {"weight_decay": 0.0}
    return {"classifier": "hierarchical"} if {"H", "H0"} & set(arm.split("+")) else {}


def exists_in(field: str, arm: str) -> bool:
    """Return whether a config field has a meaning in an arm."""
    parts = needed_parts(field)
    return not parts or bool(set(parts) & set(arm.split("+")))


def positive(value: Any) -> bool:
    """Return whether a weight, or one of a list, is above 0.

    A value that is not a number counts as positive, because the config refuses it later.
    """
    numbers = value if isinstance(value, (list, tuple)) else [value]
    return any(not isinstance(number, (int, float)) or number > 0 for number in numbers)


def arm_at(arm: str, value_of: Callable[[str], Any]) -> str:
    """Return the arm that remains at some weights.

    Parts whose weights are all 0 disappear, and H becomes H0. If nothing remains, the arm is
    `baseline+l2`; the caller decides about weight decay.
    """
    parts = []
    for part in arm.split("+"):
        weights = weights_of(part)
        if not weights or any(positive(value_of(weight)) for weight in weights):
            parts.append(part)
        elif part == "H":
            parts.append("H0")
    return "+".join(parts) or "baseline+l2"
