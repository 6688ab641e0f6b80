"""Config fields in study files: their values, and the axes that search them."""

import math
from datetime import date
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from dh2l.config.train_config import TrainConfig
from dh2l.errors import unknown_name_message
from dh2l.io.validation import format_value, remedy
from dh2l.registry.register import regulariser_fields
from study.spec.arms import positive


def _plain(value: Any) -> Any:
    """Return a value if a config field may have it: a string, a number, or a list of numbers."""
    for item in value if isinstance(value, list) else [value]:
        is_number = isinstance(item, int) or (isinstance(item, float) and math.isfinite(item))
        is_word = isinstance(item, (str, type(None))) and not isinstance(value, list)
        if not (is_number or is_word):
            raise ValueError(
                f"{format_value(value)} is not a value of a config field; expected a string, a "
                "finite number or a list of numbers"
                + remedy("string_type", item if isinstance(item, date) else None)
            )
    return value


Value = Annotated[Any, AfterValidator(_plain)]
"""A value of a config field."""


def _plain_or_several(value: Any) -> Any:
    """Return a value of a config field, or a list of them."""
    return [_plain(item) for item in value] if isinstance(value, list) else _plain(value)


OWN_KEYS = ("seed", "data_hash", "tree_hash", "weights_hash", "regularisers")
"""Config fields that a study sets in other ways.

These are `seeds`, the prepared data, and the fields of each regulariser.
"""


def config_keys() -> set[str]:
    """Return the config fields that a study may set, including those of regularisers."""
    return set(TrainConfig.model_fields) - set(OWN_KEYS) | set(regulariser_fields())


def _config_key(key: str) -> str:
    if key == "seed":
        raise ValueError("seed cannot be set here; use the study's `seeds`")
    if key in OWN_KEYS:
        raise ValueError(f"{key} cannot be set here; leave it out")
    if key not in config_keys():
        raise ValueError(unknown_name_message("config field", key, config_keys()))
    return key


ConfigKey = Annotated[str, AfterValidator(_config_key)]
"""The name of a config field that a study may set."""
Settings = dict[ConfigKey, Value]
"""Values of config fields."""


class Model(BaseModel):
    """Base of the models of a study file: strict, frozen, without unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Axis(Model):
    """Values of one searched field, in Ray Tune's terms; exactly one of the four kinds is set."""

    when: dict[ConfigKey, Annotated[Any, AfterValidator(_plain_or_several)]] = {}
    """Condition: the axis exists only if other fields have this value, or one of these values."""
    grid: list[Value] | None = Field(default=None, min_length=1)
    """Each of these values, crossed with every other axis."""
    choice: list[Value] | None = Field(default=None, min_length=1)
    """One of these values, drawn for each sample."""
    uniform: tuple[float, float] | None = Field(default=None, strict=False)
    """A number between two bounds, drawn uniformly."""
    loguniform: tuple[float, float] | None = Field(default=None, strict=False)
    """A number between two bounds above 0, with a logarithm drawn uniformly."""

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if len(self.model_fields_set - {"when"}) != 1:
            raise ValueError("an axis has exactly one of grid, choice, uniform and loguniform")
        if self.uniform is not None and not self.uniform[0] < self.uniform[1]:
            raise ValueError(f"uniform: {list(self.uniform)} must be two rising bounds")
        if self.loguniform is not None and not 0 < self.loguniform[0] < self.loguniform[1]:
            bounds = list(self.loguniform)
            raise ValueError(f"loguniform: {bounds} must be two rising bounds above 0")
        return self

    @property
    def values(self) -> list[Value] | None:
        """The values of a grid or choice; None for a range of numbers."""
        return self.grid if self.grid is not None else self.choice

    @property
    def may_be_zero(self) -> bool:
        """True if the axis of a weight can have the value 0, or a list of zeros."""
        return self.holds(0) if self.values is None else not all(map(positive, self.values))

    @property
    def bounds(self) -> tuple[float, float]:
        """The bounds of a range of numbers; two zeros for a grid or choice."""
        return self.uniform or self.loguniform or (0.0, 0.0)

    def holds(self, value: Value) -> bool:
        """Return whether the axis can have a value."""
        if self.values is not None:
            return value in self.values
        low, high = self.bounds
        return isinstance(value, (int, float)) and low <= value <= high


Axes = dict[ConfigKey, Axis]
"""Searched axes by their config field."""
