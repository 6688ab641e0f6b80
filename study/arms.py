"""The arms of a comparison: what each fixes in a trial's config, and which fields exist in it."""

from typing import Any

from dh2l.errors import unknown_name
from dh2l.registry import REGULARISERS, regulariser_of

ARMS = ("baseline", "baseline+l2", "E", "H", "H0", "E+H", "E+H0")
"""The arms of the paper, and the two (H0) that it lacks. Registered regularisers are arms too, alone or with these."""

CONDITIONS: dict[str, tuple[str, ...]] = {
    "metric": ("E", "H"),
    "conv_metric": ("E",),
    "lambda_e": ("E",),
    "lambda_l": ("H",),
    "lambda_c1": ("H",),
    "lambda_c2": ("H",),
    "lambda_c3": ("H",),
    "lambda_o": ("H",),
    "constraint_form": ("H",),
    "batch_structure": ("H",),
    "centres": ("H", "H0"),
    "centre_scale": ("H", "H0"),
    "radius": ("H", "H0"),
    "radius_ratio": ("H", "H0"),
    "outer_radius_factor": ("H", "H0"),
    "e_scope": ("E",),
    "e_reduction": ("E",),
    "means": ("E", "H"),
    "ternary_threshold": ("E", "H"),
}
"""The parts of an arm, of which one must be there for a field to exist: no λe without E, no λl or λc without H."""


def arm_problem(arm: str) -> str:
    """Why a text is no arm, as a sentence; empty where it is one."""
    if arm in ARMS:
        return ""
    parts = arm.split("+")
    order = ["E", "H", "H0", *REGULARISERS]
    if not set(parts) <= set(order):
        near = [*ARMS, *REGULARISERS, *(f"{base}+{name}" for base in ARMS[2:] for name in REGULARISERS)]
        return unknown_name("arm", arm, [*ARMS, *REGULARISERS] if "+" not in arm else near)
    sorted_parts = sorted(set(parts), key=order.index)
    if {"H", "H0"} <= set(parts):
        return f"arm {arm} has both H and H0, which is H without its regulariser; keep one"
    return "" if parts == sorted_parts else f"arm {arm} is written {'+'.join(sorted_parts)}"


def arm_settings(arm: str) -> dict[str, Any]:
    """What an arm fixes in the config."""
    if arm == "baseline":
        return {"weight_decay": 0.0}
    return {"classifier": "hierarchical"} if {"H", "H0"} & set(arm.split("+")) else {}


def needed_parts(field: str) -> tuple[str, ...]:
    """The parts of an arm, of which one must be there for a field to exist; empty for a field that all arms have."""
    owner = regulariser_of(field)
    return (owner,) if owner else CONDITIONS.get(field, ())


def exists_in(field: str, arm: str) -> bool:
    """Whether a config field means anything in an arm."""
    parts = needed_parts(field)
    return not parts or bool(set(parts) & set(arm.split("+")))
