"""Checks of a cell's settings: sources, arm and protocol do not contradict one another."""

from dh2l.config.train_config import TrainConfig
from dh2l.errors import UserError
from dh2l.registry.register import REGULARISERS
from study.spec.cell_settings import BASELINE_PARTS, CellSettings
from study.spec.settings import Value

_BASELINES = ("baseline", "baseline+l2")


def check_sources(cell: CellSettings, values: dict[str, Value]) -> None:
    """Refuse a field that two sources set, because one of them would silently win.

    Raises:
        UserError: a field of the row, column, point or command line is set twice.
    """
    file = cell.file
    if cell.metric is not None and "metric" in cell.row.set | cell.row.search:
        part = "set" if "metric" in cell.row.set else "search"
        raise UserError(
            f"{file.source_location(('rows', cell.row_number, part, 'metric'))}: this row names "
            "its metric already; remove one of the two"
        )
    of_row = set(cell.row_settings) | set(values)
    if both := of_row & set(cell.column.set):
        key = min(both)
        raise UserError(
            f"{file.source_location(('columns', cell.column_number, 'set', key))}: {key} is set by "
            f"this column and by row {cell.row_name!r} too; remove one of the two"
        )
    if overridden := set(file.overrides) & (of_row | set(cell.column.set)):
        key = min(overridden)
        raise UserError(
            f"--set {key}: the study's rows, columns or axes set {key}, so it has no effect; edit "
            f"a copy of {file.document.path} instead"
        )


def check_arm(cell: CellSettings, config: TrainConfig, values: dict[str, Value]) -> None:
    """Refuse settings that contradict the row's arm.

    Raises:
        UserError: the config of the point has another arm, or a column sets part of the arm.
    """
    if cell.arm in _BASELINES and "weight_decay" in cell.column.set:
        _check_column_decay(cell, config)
        return
    missing = cell.missing_parts(config)
    extra = set(config.arm.split("+")) - set(cell.arm.split("+")) - {"H0", *BASELINE_PARTS}
    may_miss = not extra and all(cell.may_miss(part, values) for part in missing)
    if config.arm == cell.arm or (missing and may_miss):
        return
    needs = {
        "E": "lambda_e above 0",
        "H": "lambda_l (or a lambda_c, or lambda_o) above 0",
        "H0": "lambda_l, lambda_c and lambda_o of 0",
        **{name: f"{entry.weight} above 0" for name, entry in REGULARISERS.items()},
    }
    needed = " and ".join(needs[part] for part in missing if part in needs)
    remedy = "set it in config, row or column, or search it"
    if not needed:
        needed, remedy = "no other regulariser than its own", f"change the arm to {config.arm}"
    raise UserError(
        f"{cell.file.source_location(('rows', cell.row_number))}: row {cell.row_name!r} has arm "
        f"{cell.arm}, but its settings make it {config.arm}; arm {cell.arm} needs {needed}: "
        f"{remedy}"
    )


def _check_column_decay(cell: CellSettings, config: TrainConfig) -> None:
    """Accept weight decay of a column for the arm baseline only, as in Table 1 of the paper."""
    if cell.arm == "baseline" and config.arm in _BASELINES:
        return
    raise UserError(
        f"{cell.file.source_location(('rows', cell.row_number))}: the column {cell.column.name!r} "
        "sets weight_decay, which is the l2 of baseline+l2; name the arm baseline, because the "
        "column decides about l2"
    )


def check_full_training_set(
    cell: CellSettings, values: dict[str, Value], *, confirming: bool
) -> None:
    """Refuse a selection on the validation set under protocol: paper, which has none.

    Raises:
        UserError: the study selects a configuration or an epoch on the validation set.
    """
    study = cell.file.study
    if values and study.rule != "oracle" and not confirming:
        verb = "is" if len(values) == 1 else "are"
        raise UserError(
            f"{cell.file.source_location(('search',))}: protocol: paper has no validation set to "
            f"select on, but {' and '.join(values)} {verb} searched; use protocol: validated, or "
            "set rule: oracle to select on the test set (the table will say so)"
        )
    if study.accuracy == "best_validation":
        raise UserError(
            f"{cell.file.source_location(('accuracy',))}: protocol: paper has no validation set, "
            "so there is no best validation epoch; use accuracy: last"
        )
