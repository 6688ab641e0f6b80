"""Conditions of config fields: arms that have them, trials that depend on them."""

from collections.abc import Callable
from dataclasses import dataclass

from dh2l.config.fields import ConfigFields
from dh2l.registry.entries import METRICS, MODELS
from dh2l.registry.register import REGULARISERS, regulariser_of

Predicate = Callable[[ConfigFields], bool]


def _always(_: ConfigFields) -> bool:
    return True


def _never(_: ConfigFields) -> bool:
    return False


@dataclass(frozen=True)
class Condition:
    """The condition of one config field.

    Attributes:
        parts: parts of an arm. The field exists in an arm with one of them; if there are none, in
            every arm.
        active: returns True for a config whose numbers depend on the field.
        needs: the condition in words, for messages; empty where `parts` say it all.
    """

    parts: tuple[str, ...] = ()
    active: Predicate = _always
    needs: str = ""


UNCONDITIONAL = Condition()
"""The condition of a field that every arm has and every trial depends on."""
_E, _H, _E_OR_H, _SPHERES = ("E",), ("H",), ("E", "H"), ("H", "H0")

CONDITIONS: dict[str, Condition] = {
    "tree": Condition(active=_never),  # its hash stands for it
    "tree_seed": Condition(active=_never, needs="tree: shuffled in an arm with H or H0"),
    "validation_fraction": Condition(
        active=lambda c: c.protocol == "validated", needs="protocol: validated"
    ),
    "data_seed": Condition(active=lambda c: c.protocol == "validated", needs="protocol: validated"),
    "shortcut": Condition(
        active=lambda c: "cifar" in str(MODELS[c.model].build), needs="a CIFAR network"
    ),
    "weights": Condition(active=lambda c: not c.weights_hash),  # the hash stands for them
    "micro_batch": Condition(
        active=lambda c: c.micro_batch is None or c.micro_batch < c.batch_size,
        needs="a value below batch_size",
    ),
    "lr_final": Condition(
        active=lambda c: c.schedule != "steps", needs="schedule: linear, cosine or rex"
    ),
    "lr_milestones": Condition(active=lambda c: c.schedule == "steps", needs="schedule: steps"),
    "lr_gamma": Condition(
        active=lambda c: c.schedule == "steps" and bool(c.lr_milestones),
        needs="schedule: steps and an entry in lr_milestones",
    ),
    "decay_batch_norm": Condition(
        active=lambda c: c.weight_decay > 0, needs="a weight_decay above 0"
    ),
    "lambda_e": Condition(_E),
    "metric": Condition(
        _E_OR_H, active=lambda c: c.energy_on_classifier or c.regularised_hierarchy
    ),
    "conv_metric": Condition(
        _E, active=lambda c: c.energy_on_convolutions, needs="E on the convolutions"
    ),
    "e_scope": Condition(_E, active=lambda c: c.lambda_e > 0),
    "e_reduction": Condition(_E, active=lambda c: c.lambda_e > 0),
    "ternary_threshold": Condition(
        _E_OR_H,
        active=lambda c: "hamming_ternary" in c.used_metrics,
        needs="metric: hamming_ternary",
    ),
    "means": Condition(
        _E_OR_H,
        active=lambda c: any(METRICS[name].depends_on_means for name in c.used_metrics),
        needs="a metric with geometric or harmonic means",
    ),
    "centres": Condition(_SPHERES, active=lambda c: c.hierarchical),
    "centre_scale": Condition(
        _SPHERES,
        active=lambda c: c.hierarchical and c.centres == "parent",
        needs="centres: parent in an arm with H or H0",
    ),
    "radius": Condition(_SPHERES, active=lambda c: c.hierarchical),
    "radius_ratio": Condition(
        _SPHERES,
        active=lambda c: c.hierarchical and c.radius == "unit",
        needs="radius: unit in an arm with H or H0",
    ),
    "outer_radius_factor": Condition(
        _SPHERES,
        active=lambda c: c.hierarchical and c.radius == "free" and c.centres != "parent",
        needs="radius: free and centres: learned or mean in an arm with H or H0",
    ),
    "lambda_l": Condition(_H, active=lambda c: c.regularised_hierarchy),
    "batch_structure": Condition(
        _H,
        active=lambda c: c.regularised_hierarchy or c.constrained or c.lambda_o > 0,
        needs="a lambda_l, lambda_c or lambda_o above 0",
    ),
    "lambda_c1": Condition(_H),
    "lambda_c2": Condition(_H),
    "lambda_c3": Condition(_H),
    "constraint_form": Condition(_H, active=lambda c: c.constrained, needs="a lambda_c above 0"),
    "lambda_o": Condition(_H),
}
"""Conditions by field. A field without an entry is `UNCONDITIONAL`."""

WEIGHTS: dict[str, tuple[str, ...]] = {
    part: tuple(
        field
        for field, condition in CONDITIONS.items()
        if field.startswith("lambda_") and condition.parts == (part,)
    )
    for part in ("E", "H")
}
"""Weights of the parts of an arm. A part is on where one of its weights is above 0."""
BY_HASH = ("tree", "weights")
"""Fields on which numbers depend only through the hash of their file."""


def is_active(config: ConfigFields, field: str) -> bool:
    """Return True if a trial's numbers depend on a field."""
    return CONDITIONS.get(field, UNCONDITIONAL).active(config)


def active_fields(config: ConfigFields) -> set[str]:
    """Return the names of the fields that a trial's numbers depend on."""
    return {field for field in type(config).model_fields if is_active(config, field)}


def needs_of(field: str) -> str:
    """Describe what a field needs in order to matter, for messages; empty if it needs nothing."""
    condition = CONDITIONS.get(field, UNCONDITIONAL)
    return condition.needs or arms_with(field)


def arms_with(field: str) -> str:
    """Describe the arms that have a field, for messages; empty if every arm has it."""
    parts = needed_parts(field)
    return f"an arm with {' or '.join(parts)}" if parts else ""


def needed_parts(field: str) -> tuple[str, ...]:
    """Return the parts of an arm of which a field needs one; empty if every arm has it."""
    owner = regulariser_of(field)
    return CONDITIONS.get(field, UNCONDITIONAL).parts if owner is None else (owner,)


def weights_of(part: str) -> tuple[str, ...]:
    """Return the weights of a part of an arm; empty for a part that has none, such as H0."""
    return (REGULARISERS[part].weight,) if part in REGULARISERS else WEIGHTS.get(part, ())


def is_weight(field: str) -> bool:
    """Return True if a field is the weight of a part of an arm."""
    return any(field in weights_of(part) for part in (*WEIGHTS, *REGULARISERS))
