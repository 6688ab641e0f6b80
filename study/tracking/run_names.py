"""Run names in MLflow, and defaults of searched fields."""

from dataclasses import dataclass
from typing import Any

from dh2l.config.conditions import BY_HASH, active_fields
from dh2l.config.train_config import TrainConfig
from dh2l.registry.register import regulariser_fields
from study.spec.cell import CellConfigs
from study.spec.plan import Plan
from study.spec.settings import Value

WEIGHT_PREFIX = "lambda_"


@dataclass(frozen=True)
class TrialNames:
    """Names of the trials of a study. Varying fields come first, because the UI cuts off the end.

    Attributes:
        show_arm: whether the study has more than one arm.
        searched: the searched fields.
        fields: the other fields in which trials differ, except the seed.
        absent: values for searched fields that some trials lack.
    """

    show_arm: bool
    searched: tuple[str, ...]
    fields: tuple[str, ...]
    absent: dict[str, Any]

    @classmethod
    def of_plan(cls, plan: Plan) -> "TrialNames":
        """Collect the fields that distinguish the trials of a plan."""
        searched = tuple(dict.fromkeys(axis for spec in plan.cell_configs for axis in spec.axes))
        registered = regulariser_fields()
        return cls(
            len({spec.arm for spec in plan.cell_configs}) > 1,
            searched,
            tuple(name for name in _differing_fields(plan.cell_configs) if name not in searched),
            {axis: registered[axis] for axis in searched if axis in registered},
        )

    def of(self, config: TrainConfig, identity: str) -> str:
        """Return the name of a trial.

        It consists of the searched values, the seed, the arm, the other fields that differ, and
        the end of the identity.
        """
        arm = [config.arm] if self.show_arm else []
        searched, other = _field_words(config, self.searched), _field_words(config, self.fields)
        return " ".join([*searched, f"s{config.seed}", *arm, *other, identity.rpartition("-")[2]])


def _field_words(config: TrainConfig, names: tuple[str, ...]) -> list[str]:
    """Format the fields that have an effect in a trial, e.g. `λe=0.1`."""
    values, active = config.flat(), active_fields(config) | {*BY_HASH, *config.regularisers}
    shown = [name for name in names if name in active and _has_effect(name, values.get(name))]
    return [f"{_label(name, config.arm)}={_format_value(values[name])}" for name in shown]


def _differing_fields(specs: tuple[CellConfigs, ...]) -> list[str]:
    """Return the fields that rows and columns set to different values."""
    settings: list[dict[str, Value]] = [spec.own_settings for spec in specs]
    differing = []
    for name in dict.fromkeys(key for cell in settings for key in cell):
        values = {str(cell[name]) if name in cell else None for cell in settings}
        if name == "metric" or name.startswith(WEIGHT_PREFIX):
            values.discard(None)  # the name of the arm tells these cells apart
        if len(values) > 1:
            differing.append(name)
    return differing


def _has_effect(name: str, value: Any) -> bool:
    """Return whether a field is set; a weight of 0 has no effect."""
    return value is not None and not (name.startswith(WEIGHT_PREFIX) and value == 0)


def _label(name: str, arm: str) -> str:
    """Abbreviate `lambda_`; if the arm is named after the weight, `λ` is enough."""
    return "λ" if name == f"{WEIGHT_PREFIX}{arm}" else name.replace(WEIGHT_PREFIX, "λ")


def _format_value(value: Any) -> str:
    if isinstance(value, list):
        return "~".join(map(_format_value, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
