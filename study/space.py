"""What a study file may say: fixed config, rows × columns, seeds, searched axes, the rule that selects."""

import math
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from dh2l.config import TrainConfig
from dh2l.errors import unknown_name
from dh2l.names import METRICS
from dh2l.registry import regulariser_fields
from study.arms import arm_problem, exists_in, needed_parts


def _plain(value: Any) -> Any:
    """A value as a config field may have it: one word or number, or a list of numbers."""
    numbers = value if isinstance(value, list) else [value]
    words = (bool, str, type(None)) if not isinstance(value, list) else ()
    for number in numbers:
        if not isinstance(number, (int, float, *words)) or (isinstance(number, float) and not math.isfinite(number)):
            raise ValueError(
                f"{value!r} is no value of a config field: give a word, a finite number or a list of numbers"
            )
    return value


Value = Annotated[Any, AfterValidator(_plain)]


def _plain_or_several(value: Any) -> Any:
    """A value of a config field, or a list of them."""
    return [_plain(one) for one in value] if isinstance(value, list) else _plain(value)


OWN_KEYS = ("seed", "data_hash", "tree_hash", "weights_hash", "regularisers")
"""Config fields that a study sets by other means: `seeds`, the prepared data, and regularisers' fields one by one."""


def config_keys() -> set[str]:
    """The config fields that a study may set: the config's own and those of registered regularisers."""
    return set(TrainConfig.model_fields) - set(OWN_KEYS) | set(regulariser_fields())


def _config_key(key: str) -> str:
    if key in OWN_KEYS:
        raise ValueError(f"{key} cannot be set here" + ("; use the study's `seeds`" if key == "seed" else ""))
    if key not in config_keys():
        raise ValueError(unknown_name("config field", key, config_keys()))
    return key


ConfigKey = Annotated[str, AfterValidator(_config_key)]
Settings = dict[ConfigKey, Value]


class _Part(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Axis(_Part):
    """Values of one searched field, in Ray Tune's words. Exactly one of the four is given."""

    when: dict[ConfigKey, Annotated[Any, AfterValidator(_plain_or_several)]] = {}
    """The axis is there only where other fields, searched or fixed, have this value or one of these."""
    grid: list[Value] | None = Field(default=None, min_length=1)
    """Each of these values, crossed with every other axis."""
    choice: list[Value] | None = Field(default=None, min_length=1)
    """One of these values, drawn anew for each sample."""
    uniform: tuple[float, float] | None = Field(default=None, strict=False)
    """A number between two bounds, drawn evenly."""
    loguniform: tuple[float, float] | None = Field(default=None, strict=False)
    """A number between two bounds above 0, drawn evenly in its logarithm."""

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if len(self.model_fields_set - {"when"}) != 1:
            raise ValueError("an axis is exactly one of grid, choice, uniform and loguniform")
        for kind in ("uniform", "loguniform"):
            bounds = getattr(self, kind)
            if bounds is not None and not (0 if kind == "loguniform" else float("-inf")) < bounds[0] < bounds[1]:
                raise ValueError(
                    f"{kind}: {list(bounds)} must be two rising bounds" + (" above 0" * (kind == "loguniform"))
                )
        return self

    @property
    def values(self) -> list[Value] | None:
        """The values of a grid or choice; None for a range of numbers."""
        return self.grid if self.grid is not None else self.choice

    def holds(self, value: Value) -> bool:
        """Whether the axis can take a value."""
        if self.values is not None:
            return value in self.values
        low, high = self.uniform or self.loguniform or (0.0, 0.0)
        return isinstance(value, (int, float)) and low <= value <= high


Axes = dict[ConfigKey, Axis]


def _word_or_words(value: Any, validate: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    """One sentence for a union that pydantic would report branch by branch."""
    try:
        return validate(value)
    except ValidationError:
        raise ValueError(f"{info.field_name} is {value!r}, but must be a word or a list of words") from None


class Row(_Part):
    """One row of the table, or several: every arm with every metric that it lists."""

    arm: Annotated[str | list[str], WrapValidator(_word_or_words)]
    """An arm, or several: baseline, baseline+l2, E, H, H0, E+H, E+H0, or registered regularisers, joined by +."""
    metric: Annotated[str | list[str] | None, WrapValidator(_word_or_words)] = None
    """The pairwise penalty, or several: a row for each, in this order."""
    name: str | None = Field(default=None, min_length=1)
    """What the table calls the row. Default: the paper's name of the metric, or the arm."""
    set: Settings = {}
    """Config fields of this row."""
    search: Axes = {}
    """Searched axes of this row, beside or instead of the study's."""

    @property
    def arms(self) -> list[str]:
        """The arms as a list."""
        return [self.arm] if isinstance(self.arm, str) else self.arm

    @property
    def metrics(self) -> list[str | None]:
        """The metrics as a list; ``[None]`` where none is named."""
        return list(self.metric) if isinstance(self.metric, list) else [self.metric]

    @model_validator(mode="after")
    def _known(self) -> Self:
        for arm in self.arms:
            if problem := arm_problem(arm):
                raise ValueError(problem)
            for axis in self.search:
                if not exists_in(axis, arm):
                    raise ValueError(
                        f"the axis {axis} does not exist in arm {arm}, only in arms with "
                        f"{' or '.join(needed_parts(axis))}; leave it out or change the arm"
                    )
            if self.metric is not None and not exists_in("metric", arm):
                raise ValueError(f"arm {arm} has no metric, but the row names one; leave `metric` out")
        for metric in self.metrics:
            if metric is not None and metric not in METRICS:
                raise ValueError(unknown_name("metric", metric, METRICS))
        if not self.arms or not self.metrics:
            raise ValueError("a row needs at least one arm, and `metric` is left out or names at least one")
        if self.name is not None and len(self.arms) * len(self.metrics) > 1:
            raise ValueError(f"the name {self.name!r} would stand for several rows; give each its own entry")
        return self


class Column(_Part):
    """One column of the table: a model, a data set, or both."""

    name: str = Field(min_length=1)
    """What the table calls it."""
    set: Settings = {}
    """Config fields of this column."""


class Scheduler(_Part):
    """Early stopping by one of Ray's schedulers, within each cell. Candidates that it stops lose."""

    kind: Literal["asha", "median"]
    """Successive halving (ASHA), or stopping below the running median."""
    grace_epochs: int = Field(default=1, ge=1)
    """Epochs that every trial is given."""
    reduction_factor: int = Field(default=3, ge=2)
    """ASHA keeps one in this many at each rung."""


class Search(_Part):
    """An Optuna search over the axes of each cell that has some, instead of every combination."""

    sampler: Literal["tpe", "random"] = "tpe"
    """Tree-structured Parzen estimator, or random."""
    trials: int = Field(ge=1)
    """Configurations that are tried in each cell, each with every seed."""
    objectives: list[Literal["validation_accuracy", "total_violation"]] = Field(
        default=["validation_accuracy"], min_length=1, max_length=2
    )
    """What is optimised, as means over the seeds: validation accuracy, and the sum of the constraints' violations."""

    @model_validator(mode="after")
    def _accuracy_first(self) -> Self:
        if self.objectives[0] != "validation_accuracy" or len(set(self.objectives)) < len(self.objectives):
            raise ValueError(
                f"objectives are {self.objectives}, but must be [validation_accuracy] or "
                "[validation_accuracy, total_violation]"
            )
        return self


def _once_each(seeds: list[int]) -> list[int]:
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds are {seeds}, but each may stand only once")
    return seeds


Seeds = Annotated[list[Annotated[int, Field(ge=0)]], AfterValidator(_once_each)]


class Confirmation(_Part):
    """The second stage: each cell's configuration, chosen or given, trained anew on the full training set."""

    seeds: Seeds = Field(min_length=1)
    """Fresh seeds, none of them among the study's `seeds`."""


def _named_once(columns: list[Column]) -> list[Column]:
    names = [column.name for column in columns]
    if len(set(names)) < len(names):
        raise ValueError(f"columns are named {names}, but each name may stand only once")
    return columns


class Study(_Part):
    """A study: rows × columns of a table, each cell's candidates, and the seeds that they share."""

    title: str = Field(min_length=1)
    """One line: what is compared."""
    extends: str | None = None
    """A study, shipped or a path from this file's folder, whose keys hold where this file has none; `config` merges."""
    reproduces: str = ""
    """Which of the paper's tables, under which protocol."""
    expected: str = ""
    """Numbers that a sound run should come near."""
    cost: str = ""
    """What the whole study takes, and on what."""
    paper_table: int | None = Field(default=None, ge=1, le=6)
    """The paper's table whose numbers stand beside ours."""
    config: Settings = {}
    """The fixed part of every trial's config."""
    rows: list[Row] = Field(min_length=1)
    """The table's rows."""
    columns: Annotated[list[Column], AfterValidator(_named_once)] = Field(min_length=1)
    """The table's columns."""
    seeds: Seeds = Field(min_length=1)
    """Trial seeds, the same for every cell; with `confirm` those that choose."""
    confirm: Confirmation | None = None
    """Train what was chosen anew, on the full training set and fresh seeds; the table shows these trials."""
    search: Axes = {}
    """Searched axes; each applies to the arms in which its field exists."""
    samples: int = Field(default=1, ge=1)
    """Draws of the sampled axes (choice, uniform, loguniform) for each point of the grid."""
    search_seed: int = Field(default=0, ge=0)
    """Seed of these draws."""
    rule: Literal["best_validation", "oracle"] = "best_validation"
    """Selection among a cell's candidates: mean validation accuracy, or (chosen on test) mean test accuracy."""
    accuracy: Literal["last", "best_validation", "oracle"] = "last"
    """The epoch whose test accuracy the table shows: the last, the best on validation, or (oracle) the best on test."""
    searcher: Search | None = None
    """Search the axes by Optuna; by default every combination is tried."""
    scheduler: Scheduler | None = None
    """Early stopping; none by default."""

    @model_validator(mode="after")
    def _stages_fit(self) -> Self:
        if self.confirm is None:
            return self
        if both := sorted(set(self.seeds) & set(self.confirm.seeds)):
            raise ValueError(
                f"seeds {both} both choose and confirm, but only seeds that chose nothing are fresh: confirm on others"
            )
        if self.rule == "oracle":
            raise ValueError(
                "rule: oracle chooses on the test set, so nothing can be confirmed on it; leave confirm out"
            )
        if self.accuracy != "last":
            raise ValueError(f"confirm trains without validation set and reports accuracy: last, not {self.accuracy}")
        if self.config.get("protocol", "validated") != "validated":
            raise ValueError("confirm trains on the full training set after choosing on a part: leave protocol out")
        return self
