"""Checks for settings of a study that change none of its trials."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from pydantic import ValidationError

from dh2l.config.conditions import BY_HASH, active_fields, arms_with, needs_of
from dh2l.config.train_config import TrainConfig
from dh2l.errors import UserError
from dh2l.io.validation import Location, validation_messages
from dh2l.registry.register import REGULARISERS
from study.spec.arms import exists_in
from study.spec.cell import CellConfigs
from study.spec.sampling import every_combination
from study.spec.settings import Axes, Axis
from study.spec.study_file import StudyFile

MAX_POINTS = 2_000
"""Combinations of a cell's axes that are checked.

In a cell with more, every setting counts as used.
"""


@dataclass
class _Setting:
    """One setting of the file that has to change a trial.

    Attributes:
        location: its location in the file.
        key: the config field.
        in_an_arm: whether some row's arm has the field.
        present: whether a point of some cell takes its value from here.
    """

    location: Location
    key: str
    in_an_arm: bool = field(default=False)
    present: bool = field(default=False)

    @property
    def is_axis(self) -> bool:
        return "search" in self.location

    def belongs_to(self, cell: CellConfigs) -> bool:
        """Return whether the setting is in the row or the column of a cell, or in all cells."""
        owner, *rest = self.location
        if owner == "rows":
            return rest[0] == cell.row_number
        return rest[0] == cell.column_number if owner == "columns" else True


def check_values(file: StudyFile) -> None:
    """Check each value of each axis and condition against its field, drawn or not.

    Raises:
        UserError: values that their field cannot have, one line for each with its source location.
    """
    study = file.study
    owners: list[tuple[Location, Axes]] = [(("search",), study.search)]
    owners += [(("rows", i, "search"), row.search) for i, row in enumerate(study.rows)]
    problems: list[str] = []
    for owner, axes in owners:
        for key, axis in axes.items():
            for location, problem in _axis_problems((*owner, key), key, axis):
                problems.append(f"{file.source_location(location)}: {problem}")
    if problems:
        raise UserError("\n".join(problems))


def _axis_problems(location: Location, key: str, axis: Axis) -> Iterator[tuple[Location, str]]:
    """Return the values and bounds of an axis that its field cannot have, with their locations."""
    kinds = ("grid", "choice", "uniform", "loguniform")
    kind = next(name for name in kinds if getattr(axis, name) is not None)
    if axis.values is None and (problem := _range_problem(key, axis, kind)):
        yield (*location, kind), problem
    for i, value in enumerate(axis.values or []):
        if problem := field_problem(key, value):
            yield (*location, kind, i), problem
    for other, expected in axis.when.items():
        for value in expected if isinstance(expected, list) else [expected]:
            if problem := field_problem(other, value):
                yield (*location, "when", other), f"a condition of the axis {key}: {problem}"


def _range_problem(key: str, axis: Axis, kind: str) -> str:
    """Return why a field cannot have every number of a range, or an empty text.

    The bounds themselves are never drawn.
    """
    low, high = axis.bounds
    margin = (high - low) * 1e-6
    for bound, inside in ((low, low + margin), (high, high - margin)):
        if problem := field_problem(key, inside):
            if not field_problem(key, math.ceil(inside)):
                return f"{key} takes whole numbers, but {kind} draws fractions; use grid or choice"
            return field_problem(key, bound) or problem
    return ""


def field_problem(key: str, value: Any) -> str:
    """Return why a config field cannot have a value, or an empty text.

    Other fields are not considered.
    """
    try:
        TrainConfig.model_validate({key: value})
    except ValidationError as error:
        for found in validation_messages(error, TrainConfig):
            if found.location[:1] in ((key,), ("regularisers",)):
                return found.sentence
    return ""


def refuse_unused(
    file: StudyFile, cells: Sequence[CellConfigs], original: Sequence[CellConfigs] | None
) -> None:
    """Refuse settings of the file that change none of its trials.

    Settings of a study that the file extends may be unused, because the file cannot remove them.

    Args:
        file: the study.
        cells: its cells.
        original: the cells without the study's overrides, if it has some. A setting of the file
            that is unused because of an override is not a mistake.

    Raises:
        UserError: unused settings, one line for each with its source location and its needs.
    """
    unused = _unused(file, cells)
    if file.overrides and unused:
        also = {} if original is None else _unused(file, original)
        unused = {loc: s for loc, s in unused.items() if file.overridden(loc) or loc in also}
    if unused:
        raise UserError(
            "\n".join(
                f"{file.source_location(location)}: {_sentence(setting, cells)}"
                for location, setting in unused.items()
            )
        )


def _unused(file: StudyFile, cells: Sequence[CellConfigs]) -> dict[Location, _Setting]:
    """Return the settings that change no trial of these cells."""
    unused = {location: _Setting(location, key) for location, key in _settings(file)}
    for cell in cells:
        settings = [setting for setting in unused.values() if setting.belongs_to(cell)]
        for setting in _used_in(cell, settings, file.study.seeds[0]):
            del unused[setting.location]
    return unused


def _used_in(cell: CellConfigs, settings: list[_Setting], seed: int) -> Iterator[_Setting]:
    """Return those settings of a cell that change one of its trials, and mark what they lack."""
    for setting in settings:
        setting.in_an_arm |= exists_in(setting.key, cell.arm)
    for n, values in enumerate(islice(every_combination(cell), MAX_POINTS + 1)):
        if not settings:
            return
        try:
            config = cell.unbound_config(values, seed)
        except UserError:  # Drawing this combination reports why it cannot be trained.
            continue
        active = None if n == MAX_POINTS else _active(config, cell)
        unused = []
        for setting in settings:
            is_source = cell.source(setting.key, values) == setting.location
            setting.present |= exists_in(setting.key, cell.arm) and is_source
            if active is None or (is_source and _matters(setting, cell, active)):
                yield setting
            else:
                unused.append(setting)
        settings = unused


def _settings(file: StudyFile) -> Iterator[tuple[Location, str]]:
    """Return the config fields that the file or the command line sets, with their locations."""
    study = file.study
    locations: list[Location] = [("config", key) for key in study.config]
    locations += [("search", key) for key in study.search]
    for i, row in enumerate(study.rows):
        locations += [("rows", i, "set", key) for key in row.set]
        locations += [("rows", i, "search", key) for key in row.search]
    for j, column in enumerate(study.columns):
        locations += [("columns", j, "set", key) for key in column.set]
    for location in locations:
        if file.is_own(location):
            yield location, str(location[-1])


def _active(config: TrainConfig, cell: CellConfigs) -> set[str]:
    """Return the fields on which a config's numbers depend.

    All weights that the arm has are among them, because their value 0 has a meaning.
    """
    active = active_fields(config) | set(BY_HASH)
    if config.tree == "shuffled":
        active = active | {"tree_seed"} if config.hierarchical else active - {"tree"}
    if config.energy_on_convolutions and config.conv_metric is None:
        active.add("metric")  # It is the metric of the convolutions too.
    for name in config.active_regularisers:
        active |= set(REGULARISERS[name].fields)
    active |= {key for key in TrainConfig.model_fields if key.startswith("lambda_")}
    active |= {entry.weight for entry in REGULARISERS.values()}
    return {key for key in active if exists_in(key, cell.arm)}


def _matters(setting: _Setting, cell: CellConfigs, active: set[str]) -> bool:
    """Return whether a setting changes the trial of a point that takes its value from here."""
    key, study = setting.key, cell.file.study
    if not setting.is_axis and key in study.search and exists_in(key, cell.arm):
        return True  # It removes an axis.
    replaces = setting.location[0] != "config" and key in study.config and key.startswith("lambda_")
    return key in active or replaces


def _sentence(setting: _Setting, cells: Sequence[CellConfigs]) -> str:
    """Return which setting is unused, why, and the remedy."""
    key = setting.key
    if setting.is_axis and not setting.in_an_arm:
        return (
            f"{key} is searched, but no row has {arms_with(key)}; add such a row, or leave the "
            "axis out"
        )
    if setting.is_axis and not setting.present:
        if all(key not in cell.axes for cell in cells):
            return f"{key} is searched, but every row that has it sets it too; leave the axis out"
        return (
            f"the axis {key} is always absent, because its `when` holds in no trial; change the "
            "condition"
        )
    if not setting.in_an_arm:
        return (
            f"{key} has no effect here; it needs {needs_of(key)}. Leave it out, or change the arm"
        )
    if not setting.present:
        return f"{key} has no effect, because every row or column sets it too; leave it out"
    needs = needs_of(key) or "another setting beside it"
    return f"{key} has no effect in any trial for which it is set; it needs {needs}. Leave it out"
