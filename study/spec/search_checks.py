"""Checks that each part of a search and confirmation has an effect."""

from collections.abc import Sequence

from dh2l.errors import UserError
from study.spec.arms import exists_in
from study.spec.cell import CellConfigs
from study.spec.study_file import StudyFile
from study.spec.trials import Cell

PlannedCell = tuple[Cell, CellConfigs]
"""A cell of a plan and the builder of its configs."""


def check_searches(file: StudyFile) -> None:
    """Check the axes, draws and searcher of a study against one another.

    Raises:
        UserError: one of them has no effect, or a searched field is fixed too.
    """
    study = file.study
    axes = list(study.search.values())
    for row in study.rows:
        axes += row.search.values()
    is_sampled = any(axis.grid is None for axis in axes)
    if study.samples > 1 and not is_sampled:
        raise UserError(
            f"{file.source_location(('samples',))}: samples is {study.samples}, but every axis is "
            "a grid; expected an axis that is drawn: choice, uniform or loguniform. Leave samples "
            "out"
        )
    if study.searcher and study.samples > 1:
        raise UserError(
            f"{file.source_location(('searcher',))}: samples is {study.samples}, but a searcher "
            "decides itself which points it tries; leave samples out"
        )
    if study.searcher and not axes:
        raise UserError(
            f"{file.source_location(('searcher',))}: a searcher tries points of the axes, but "
            "there are none; expected axes under search. Add some, or leave searcher out"
        )
    if not (is_sampled or study.searcher) and _is_own_seed(file):
        raise UserError(
            f"{file.source_location(('search_seed',))}: search_seed has no effect, because nothing "
            "is drawn; expected a choice, uniform or loguniform axis, or a searcher. Leave it out"
        )
    _check_fixed_axes(file)


def _check_fixed_axes(file: StudyFile) -> None:
    study = file.study
    for key in study.search:
        if key in study.config:
            location = ("config", key) if key in file.overrides else ("search", key)
            raise UserError(
                f"{file.source_location(location)}: {key} is searched and also fixed; remove one "
                "of the two"
            )


def _is_own_seed(file: StudyFile) -> bool:
    return "search_seed" in file.study.model_fields_set and _is_own(file, "search_seed")


def _is_own(file: StudyFile, key: str) -> bool:
    """Return whether a key is the file's own; with overrides, whether it is one of them."""
    return file.is_own((key,)) and (not file.overrides or bool(file.overridden((key,))))


def check_selections(file: StudyFile, cells: Sequence[PlannedCell]) -> None:
    """Check that a rule, scheduler or second stage finds cells with several candidates.

    Raises:
        UserError: one of them, a column or the paper's table has no effect.
    """
    study = file.study
    selecting = [configs for cell, configs in cells if cell.selects]
    if not selecting:
        _check_nothing_selected(file, cells)
    _check_scheduler(file, selecting)
    _check_objectives(file, selecting)
    has_paper_table = study.paper_table is not None and _is_own(file, "paper_table")
    if has_paper_table and not any(cell.printed for cell, _ in cells):
        raise UserError(
            f"{file.source_location(('paper_table',))}: paper_table is {study.paper_table}, but "
            "the paper's table has none of this study's cells; expected one with the same data, "
            "models and metrics. Change it, or leave it out"
        )
    _check_columns(file, cells)


def _check_nothing_selected(file: StudyFile, cells: Sequence[PlannedCell]) -> None:
    """Refuse a scheduler, rule or second stage if no cell has several candidates."""
    study = file.study
    is_searched = any(configs.axes for _, configs in cells)
    for key, is_set in (
        ("scheduler", study.scheduler is not None),
        ("confirm", study.confirm is not None),
        ("rule", study.rule == "oracle" and not is_searched),
    ):
        if is_set and _is_own(file, key):
            remedy = f"Add one, or leave {key} out"
            if key == "confirm":
                remedy += ", and move its seeds to `seeds` with protocol: paper"
            raise UserError(
                f"{file.source_location((key,))}: {key} has no effect, because no cell has more "
                f"than one candidate; expected an axis with several values. {remedy}"
            )


def _check_scheduler(file: StudyFile, selecting: Sequence[CellConfigs]) -> None:
    """Refuse a scheduler that may not stop a trial before the trial ends."""
    scheduler = file.study.scheduler
    if scheduler is None or not selecting:
        return
    longest = max(_max_epochs(configs) for configs in selecting)
    if scheduler.grace_epochs < longest:
        return
    source = file.source_location(("scheduler", "grace_epochs"))
    remedy = "Lower it, or leave scheduler out"
    if "epochs" in file.overrides:
        source = file.source_location(("config", "epochs"))
        remedy = "Train longer, or add --set scheduler=null"
    raise UserError(
        f"{source}: the scheduler has no effect, because grace_epochs is {scheduler.grace_epochs} "
        f"and the longest trial has epochs: {longest}; expected fewer grace_epochs than epochs. "
        f"{remedy}"
    )


def _max_epochs(configs: CellConfigs) -> int:
    axis = configs.axes.get("epochs")
    values = axis.values if axis and axis.values else [configs.setting("epochs")]
    return max(int(value) for value in values)


def _check_objectives(file: StudyFile, selecting: Sequence[CellConfigs]) -> None:
    """Refuse to optimise the violations of spheres in a cell without spheres."""
    searcher = file.study.searcher
    if searcher is None or "total_violation" not in searcher.objectives:
        return
    for configs in selecting:
        if not exists_in("centres", configs.arm):
            raise UserError(
                f"{file.source_location(('rows', configs.row_number))}: arm {configs.arm} has no "
                "spheres, so it has no objective total_violation; expected an arm with H or H0. "
                "Change the arm, or give the row fixed values instead of axes"
            )


def _check_columns(file: StudyFile, cells: Sequence[PlannedCell]) -> None:
    """Refuse a column that has the trials of another one."""
    columns = file.study.columns
    if len(columns) < 2 or not file.is_own(("columns",)):
        return
    first: dict[tuple[object, ...], int] = {}
    for j, column in enumerate(columns):
        of_column = [planned for planned in cells if planned[1].column_number == j]
        other = first.setdefault(tuple(_training_key(*planned) for planned in of_column), j)
        if other != j:
            raise UserError(
                f"{file.source_location(('columns', j))}: the column {column.name!r} has the same "
                f"trials as {columns[other].name!r}; expected a setting that differs. Change its "
                "`set`, or leave the column out"
            )


def _training_key(cell: Cell, configs: CellConfigs) -> object:
    """Return the trials of a cell; with a searcher, the settings of its column."""
    if cell.budget is None:
        return tuple((candidate.trials, candidate.confirmations) for candidate in cell.candidates)
    return tuple(sorted((key, str(value)) for key, value in configs.column.set.items()))
