"""The settings of one cell: axes and config fields, with their source locations."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dh2l.config.conditions import weights_of
from dh2l.config.train_config import TrainConfig
from dh2l.io.validation import Location
from dh2l.registry.register import regulariser_fields
from study.spec.arms import arm_settings, exists_in, positive
from study.spec.schema import Column, Row
from study.spec.settings import Axis, Value
from study.spec.study_file import StudyFile

BASELINE_PARTS = ("baseline", "l2")
"""The parts of an arm that are not regularisers with a weight of their own."""
Pick = Callable[[str, Axis], Value]
"""Return the value of an axis, given its field and the axis."""


@dataclass(frozen=True)
class CellSettings:
    """The part of a study that applies to one cell of its table.

    Attributes:
        file: the study.
        row_number: index of the row entry in the file.
        column_number: index of the column in the file.
        row: the row entry.
        column: the column.
        arm: the arm.
        metric: the pairwise penalty that the row names, if any.
    """

    file: StudyFile
    row_number: int
    column_number: int
    row: Row
    column: Column
    arm: str
    metric: str | None

    @property
    def axes(self) -> dict[str, Axis]:
        """The study's axes whose field exists in the arm, then the axes of the row."""
        shared = self.file.study.search
        searched = {key: axis for key, axis in shared.items() if exists_in(key, self.arm)}
        if self.row.metric is not None:
            searched.pop("metric", None)
        axes = searched | self.row.search
        return {key: axis for key, axis in axes.items() if key not in self.row.set}

    @property
    def n_points(self) -> int:
        """Number of points of the search, before equal ones are counted once."""
        grids = [len(axis.grid) for axis in self.axes.values() if axis.grid is not None]
        draws = self.file.study.samples if len(grids) < len(self.axes) else 1
        return math.prod(grids) * draws

    @property
    def own_settings(self) -> dict[str, Value]:
        """The fields that its row and its column set."""
        return self.row_settings | self.column.set

    @property
    def row_settings(self) -> dict[str, Value]:
        """The fields that its row sets, including the metric."""
        return self.row.set | ({} if self.metric is None else {"metric": self.metric})

    @property
    def row_name(self) -> str:
        """The name of the row in messages."""
        return self.row.name or self.metric or self.arm

    @property
    def folder(self) -> Path:
        """The folder of the study's file."""
        return self.file.document.path.parent.resolve()

    def settings(self, values: dict[str, Value]) -> dict[str, Any]:
        """Return all config fields that the study sets in the trials of a point."""
        study = self.file.study
        return {
            **study.config,
            **arm_settings(self.arm),
            **self.row_settings,
            **values,
            **self.column.set,
        }

    def setting(self, key: str) -> Value:
        """Return the value of a field that the cell does not search."""
        return self.settings({}).get(key, default_value(key))

    def source(self, key: str, values: dict[str, Value]) -> Location | None:
        """Return the location in the study of a field's value at a point; None if it is not set."""
        i, j = self.row_number, self.column_number
        sources: list[tuple[bool, Location]] = [
            (key in self.column.set, ("columns", j, "set", key)),
            (key in values and key in self.row.search, ("rows", i, "search", key)),
            (key in values, ("search", key)),
            (key == "metric" and self.metric is not None, ("rows", i, "metric")),
            (key in self.row.set, ("rows", i, "set", key)),
            (key in arm_settings(self.arm), ("rows", i, "arm")),
            (key in self.file.study.config, ("config", key)),
        ]
        return next((location for is_set, location in sources if is_set), None)

    def location(self, key: str) -> Location:
        """Return the location of the setting or axis of a field, by default of the row."""
        i, j = self.row_number, self.column_number
        sources: list[tuple[bool, Location]] = [
            (key in self.column.set, ("columns", j, "set", key)),
            (key in self.row.search, ("rows", i, "search", key)),
            (key in self.axes, ("search", key)),
            (key in self.row.set, ("rows", i, "set", key)),
            (key in self.file.study.config, ("config", key)),
        ]
        return next((location for is_set, location in sources if is_set), ("rows", i))

    def source_location(self, key: str) -> str:
        """Return the source location of the setting or axis of a field, by default the row."""
        return self.file.source_location(self.location(key))

    def has_all_parts(self, config: TrainConfig) -> bool:
        """Return whether a config has all parts of the arm: no searched weight of 0 removes one."""
        return self.missing_parts(config) == []

    def missing_parts(self, config: TrainConfig) -> list[str]:
        """Return the parts of the arm that a config does not have."""
        present = (*config.arm.split("+"), *BASELINE_PARTS)
        return [part for part in self.arm.split("+") if part not in present]

    def may_miss(self, part: str, values: dict[str, Value]) -> bool:
        """Return whether a point may lack a part: its weight is searched, with 0 among others."""
        searched = [self.axes[weight] for weight in weights_of(part) if weight in values]
        return any(axis.values is None or any(map(positive, axis.values)) for axis in searched)

    @property
    def optional_parts(self) -> set[str]:
        """The parts of the arm that a searched weight of 0 may remove."""
        parts = self.arm.split("+")
        return {part for part in parts if self._has_zero_weight(part)}

    def _has_zero_weight(self, part: str) -> bool:
        axes = self.axes
        return any(key in axes and axes[key].may_be_zero for key in weights_of(part))


def default_value(key: str) -> Value:
    """Return the default of a config field."""
    field = TrainConfig.model_fields.get(key)
    return regulariser_fields()[key] if field is None else field.default
