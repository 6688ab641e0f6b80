"""Data model of a study file: rows × columns, seeds, searched axes, and the rule of selection."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    Field,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from dh2l.config.conditions import needed_parts
from dh2l.config.fields import Seed
from dh2l.errors import unknown_name_message
from dh2l.io.validation import FieldError, format_value, remedy
from dh2l.registry.entries import METRICS
from study.spec.arms import arm_problem, exists_in
from study.spec.settings import Axes, ConfigKey, Model, Settings


def _name_or_names(value: Any, validate: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    """Report one error for the union. Pydantic would report one per branch."""
    try:
        return validate(value)
    except ValidationError:
        names = value if isinstance(value, list) else [value]
        other = next((name for name in names if not isinstance(name, str)), None)
        raise ValueError(
            f"{info.field_name} is {format_value(value)}, but must be a string or a list of strings"
            + remedy("string_type", other)
        ) from None


class Row(Model):
    """One row of the table, or several: every arm with every metric that it lists."""

    arm: Annotated[str | list[str], WrapValidator(_name_or_names)]
    """An arm, or several.

    Arms are baseline, baseline+l2, E, H, H0, E+H, E+H0, or registered regularisers, joined by +.
    """
    metric: Annotated[str | list[str] | None, WrapValidator(_name_or_names)] = None
    """The pairwise penalty, or several: one row for each, in this order."""
    name: str | None = Field(default=None, min_length=1)
    """Name of the row in the table. Default: the paper's name of the metric, or the arm."""
    set: Settings = Field(default={})
    """Config fields of this row."""
    search: Axes = Field(default={})
    """Searched axes of this row, in addition to the study's or instead of them."""
    control: list[ConfigKey] = Field(default=[])
    """Fields that differ from the baseline on purpose and so do not prevent a test against it."""

    @property
    def arms(self) -> list[str]:
        """The arms as a list."""
        return [self.arm] if isinstance(self.arm, str) else self.arm

    @property
    def metrics(self) -> list[str | None]:
        """The metrics as a list; ``[None]`` if none is named."""
        return list(self.metric) if isinstance(self.metric, list) else [self.metric]

    @model_validator(mode="after")
    def _check(self) -> Self:
        for arm in self.arms:
            self._check_arm(arm)
        for metric in self.metrics:
            if metric is not None and metric not in METRICS:
                raise ValueError(unknown_name_message("metric", metric, METRICS))
        if unset := [key for key in self.control if key not in self.set | self.search]:
            pronoun = "it" if len(unset) == 1 else "them"
            raise ValueError(
                f"control names {', '.join(unset)}, but the row does not set {pronoun}; set or "
                f"search {pronoun}, or remove {pronoun} from control"
            )
        if not self.arms or not self.metrics:
            raise ValueError("a row needs at least one arm, and one metric if `metric` is given")
        if self.name is not None and len(self.arms) * len(self.metrics) > 1:
            raise ValueError(
                f"the name {self.name!r} would belong to several rows; give each its own entry"
            )
        return self

    def _check_arm(self, arm: str) -> None:
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


class Column(Model):
    """One column of the table: a model, a data set, or both."""

    name: str = Field(min_length=1)
    """Name of the column in the table."""
    set: Settings = Field(default={})
    """Config fields of this column."""


class SchedulerSettings(Model):
    """Early stopping by one of Ray's schedulers, within each cell.

    A candidate that it stops is not selected.
    """

    kind: Literal["asha", "median"]
    """Successive halving (ASHA), or stopping below the running median."""
    grace_epochs: int = Field(default=1, ge=1)
    """Epochs after which a trial may be stopped."""
    reduction_factor: int = Field(default=3, ge=2)
    """ASHA keeps one trial in this many at each rung."""

    @model_validator(mode="after")
    def _check_factor(self) -> Self:
        if self.kind == "median" and "reduction_factor" in self.model_fields_set:
            raise ValueError(
                "reduction_factor has no effect with kind: median, which has no rungs; leave it "
                "out, or use kind: asha"
            )
        return self


class SearchSettings(Model):
    """Optuna search over the axes of each cell, instead of every combination."""

    sampler: Literal["tpe", "random"] = "tpe"
    """Tree-structured Parzen estimator, or random."""
    trials: int = Field(ge=1)
    """Configurations that are tried in each cell, each with every seed."""
    objectives: list[Literal["validation_accuracy", "total_violation"]] = Field(
        default=["validation_accuracy"], min_length=1, max_length=2
    )
    """Objectives, as means over the seeds.

    These are validation accuracy, and the sum of the constraints' violations.
    """

    @model_validator(mode="after")
    def _check_objectives(self) -> Self:
        is_first = self.objectives[0] == "validation_accuracy"
        if not is_first or len(set(self.objectives)) < len(self.objectives):
            raise ValueError(
                f"objectives are {self.objectives}, but must be [validation_accuracy] or "
                "[validation_accuracy, total_violation]"
            )
        return self


def _unique_seeds(seeds: list[int]) -> list[int]:
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"seeds are {seeds}, but each may occur only once; remove the copies")
    return seeds


Seeds = Annotated[list[Seed], AfterValidator(_unique_seeds)]
"""Seeds of trials, each once."""


class Confirmation(Model):
    """Second stage: each cell's configuration, trained again on the full training set."""

    seeds: Seeds = Field(min_length=1)
    """Fresh seeds, none of them among the study's `seeds`."""


def _unique_names(columns: list[Column]) -> list[Column]:
    names = [column.name for column in columns]
    if len(set(names)) < len(names):
        raise ValueError(
            f"columns are named {names}, but each name may occur only once; rename one"
        )
    return columns


class Study(Model):
    """A study: rows × columns of a table, the candidates of each cell, and their common seeds."""

    title: str = Field(min_length=1)
    """The comparison in one line."""
    extends: str | None = None
    """A study from which this file inherits keys, and `config` field by field.

    It is the name of a shipped study, or a path relative to this file.
    """
    reproduces: str = ""
    """The paper's table that the study reproduces, and the protocol."""
    expected: str = ""
    """Numbers that a sound run should come near."""
    cost: str = ""
    """Time of the whole study, and the hardware on which it was measured."""
    paper_table: int | None = Field(default=None, ge=1, le=6)
    """The paper's table whose numbers are printed beside ours."""
    config: Settings = Field(default={})
    """The fixed part of every trial's config."""
    rows: list[Row] = Field(min_length=1)
    """The table's rows."""
    columns: Annotated[list[Column], AfterValidator(_unique_names)] = Field(min_length=1)
    """The table's columns."""
    seeds: Seeds = Field(min_length=1)
    """Seeds of the trials, the same for every cell; with `confirm`, seeds of the selection."""
    confirm: Confirmation | None = None
    """Second stage on the full training set and fresh seeds; the table then has its trials only."""
    search: Axes = Field(default={})
    """Searched axes; each applies to the arms in which its field exists."""
    samples: int = Field(default=1, ge=1)
    """Draws of the sampled axes (choice, uniform, loguniform) for each point of the grid."""
    search_seed: Seed = 0
    """Seed of these draws."""
    rule: Literal["best_validation", "oracle"] = "best_validation"
    """Rule of selection: mean validation accuracy, or (oracle) mean test accuracy."""
    accuracy: Literal["last", "best_validation", "oracle"] = "last"
    """Epoch of the reported test accuracy.

    It is the last one, the best on validation, or (oracle) the best on test.
    """
    searcher: SearchSettings | None = None
    """Optuna search over the axes; by default every combination is tried."""
    scheduler: SchedulerSettings | None = None
    """Early stopping; none by default."""

    @model_validator(mode="after")
    def _check_stages(self) -> Self:
        if self.confirm is None:
            return self
        if both := sorted(set(self.seeds) & set(self.confirm.seeds)):
            raise FieldError(
                ("confirm", "seeds"),
                f"seeds {both} both choose and confirm, but a confirmation needs fresh seeds; "
                "confirm on others",
            )
        if self.rule == "oracle":
            raise FieldError(
                ("confirm",),
                "rule: oracle selects on the test set, so nothing can be confirmed on it; leave "
                "confirm out",
            )
        if self.accuracy != "last":
            raise FieldError(
                ("accuracy",),
                "confirm trains without a validation set and reports accuracy: last, not "
                f"{self.accuracy}; leave accuracy out",
            )
        if self.config.get("protocol", "validated") != "validated":
            raise FieldError(
                ("config", "protocol"),
                "confirm trains on the full training set after a selection on a part of it; leave "
                "protocol out",
            )
        return self
