"""From a study to its trials: every cell's candidates, every candidate's seeds, expanded deterministically."""

import itertools
import math
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from dh2l.config import TrainConfig
from dh2l.data import Manifest
from dh2l.errors import UserError
from dh2l.explain import findings
from dh2l.names import METRICS
from dh2l.registry import REGULARISERS
from study.paper import PrintedNumber, printed_number
from study.space import Axis, Column, Row, StudyFile, Value, arm_settings, exists_in


@dataclass(frozen=True)
class Candidate:
    """One point of a cell's search.

    Attributes:
        values: the searched fields' values; empty where nothing is searched.
        trials: identity of its trial for each seed, in the order of the study's seeds.
    """

    values: dict[str, Value]
    trials: tuple[str, ...]


@dataclass(frozen=True)
class Cell:
    """One cell of the table: a row and a column, and the candidates among which a rule selects."""

    row: str
    arm: str
    column: str
    candidates: tuple[Candidate, ...]
    printed: PrintedNumber | None


@dataclass(frozen=True)
class Plan:
    """A study expanded over its prepared data.

    Attributes:
        file: the study and where it came from.
        cells: in the table's order, row by row.
        configs: every trial once, by identity, in the order in which they are run: seed by seed, so
            that a whole table is there as early as possible.
    """

    file: StudyFile
    cells: tuple[Cell, ...]
    configs: dict[str, TrainConfig]

    @property
    def name(self) -> str:
        """The study's name."""
        return self.file.name

    @property
    def combinations(self) -> int:
        """Candidates of all cells, each for every seed, before shared trials are counted once."""
        return sum(len(candidate.trials) for cell in self.cells for candidate in cell.candidates)


def make_plan(file: StudyFile, manifest_of: Callable[[str], Manifest]) -> Plan:
    """Expand a study.

    Args:
        file: the study.
        manifest_of: gives the manifest of a prepared data set by its name.

    Raises:
        UserError: a combination that is not a valid trial, with its place; a data set not prepared.
    """
    study = file.study
    _check_searches(file)
    cells: list[Cell] = []
    configs_by_seed = [dict[str, TrainConfig]() for _ in study.seeds]
    for (i, row), arm, metric in _table_rows(study.rows):
        label = row.name or (METRICS[metric].display_label if metric else arm)
        if (label, arm) in {(cell.row, cell.arm) for cell in cells}:
            raise UserError(
                f"{file.place(('rows', i))}: the row {label!r} with arm {arm} stands in the table twice; "
                "give one of them a name"
            )
        for j, column in enumerate(study.columns):
            candidates: dict[tuple[str, ...], Candidate] = {}
            printed: set[PrintedNumber | None] = set()
            for values in _points(file, row, arm):
                expanded = _Expanded(file, i, j, row, column, arm, metric, values)
                configs = [expanded.config(seed, manifest_of) for seed in study.seeds]
                trials = tuple(config.identity for config in configs)
                for identity, config, of_seed in zip(trials, configs, configs_by_seed, strict=True):
                    of_seed.setdefault(identity, config)
                candidates.setdefault(trials, Candidate(values, trials))
                printed.add(printed_number(study.paper_table, configs[0]))
            # Where candidates differ in what the paper's tables distinguish, no one number is the cell's.
            of_cell = printed.pop() if len(printed) == 1 else None
            cells.append(Cell(label, arm, column.name, tuple(candidates.values()), of_cell))
    all_configs = {identity: config for of_seed in configs_by_seed for identity, config in of_seed.items()}
    return Plan(file, tuple(cells), all_configs)


def _table_rows(rows: list[Row]) -> Iterator[tuple[tuple[int, Row], str, str | None]]:
    """Every row of the table: metric by metric, within it arm by arm, as the paper sets E beside E+H."""
    for i, row in enumerate(rows):
        for metric, arm in itertools.product(row.metrics, row.arms):
            yield (i, row), arm, metric


def _check_searches(file: StudyFile) -> None:
    study = file.study
    axes = [*study.search.values(), *(axis for row in study.rows for axis in row.search.values())]
    if study.samples > 1 and not any(axis.grid is None for axis in axes):
        raise UserError(
            f"{file.place(('samples',))}: samples is {study.samples}, but every axis is a grid; "
            "samples count draws of choice, uniform and loguniform"
        )
    for key in study.search:
        if key in study.config:
            raise UserError(
                f"{file.place(('config', key) if key in file.overrides else ('search', key))}: {key} is searched "
                "and also fixed; keep one of the two"
            )


def _axes(file: StudyFile, row: Row, arm: str) -> dict[str, Axis]:
    """The axes that apply to a row: the study's whose field exists in the arm, then the row's own."""
    searched = {key: axis for key, axis in file.study.search.items() if exists_in(key, arm)}
    if row.metric is not None:
        searched.pop("metric", None)
    return {key: axis for key, axis in (searched | row.search).items() if key not in row.set}


def _points(file: StudyFile, row: Row, arm: str) -> Iterator[dict[str, Value]]:
    """Every point of a row's search: the grid crossed, and on each of its points `samples` draws.

    A draw depends on the search seed, the axis and its number alone: all rows and columns try the
    same values.
    """
    axes = _axes(file, row, arm)
    grids = {key: axis.grid for key, axis in axes.items() if axis.grid is not None}
    sampled = {key: axis for key, axis in axes.items() if axis.grid is None}
    for point in itertools.product(*grids.values()):
        fixed = dict(zip(grids, point, strict=True))
        for draw in range(file.study.samples if sampled else 1):
            drawn = {
                key: _draw(axis, random.Random(f"{file.study.search_seed}:{key}:{draw}"))  # noqa: S311 not secret
                for key, axis in sampled.items()
            }
            yield {key: (fixed | drawn)[key] for key in axes}


def _draw(axis: Axis, source: random.Random) -> Value:
    if axis.choice is not None:
        return source.choice(axis.choice)
    if axis.uniform is not None:
        return _rounded(source.uniform(*axis.uniform))
    assert axis.loguniform is not None  # noqa: S101 an axis is exactly one of four kinds
    low, high = axis.loguniform
    return _rounded(math.exp(source.uniform(math.log(low), math.log(high))))


def _rounded(value: float) -> float:
    """Six significant digits: another machine's exp and log must not make other trials of the same draw."""
    return float(f"{value:.6g}")


@dataclass(frozen=True)
class _Expanded:
    """One point of one cell, with where each of its settings came from."""

    file: StudyFile
    row_number: int
    column_number: int
    row: Row
    column: Column
    arm: str
    metric: str | None
    values: dict[str, Value]

    def config(self, seed: int, manifest_of: Callable[[str], Manifest]) -> TrainConfig:
        """The bound config of this point for a seed."""
        study = self.file.study
        self._check_sources()
        settings: dict[str, Any] = study.config | arm_settings(self.arm) | self._of_row | self.values | self.column.set
        try:
            config = TrainConfig.model_validate(settings | {"seed": seed})
        except ValidationError as error:
            raise UserError(
                "\n".join(
                    f"{self._place(f.location)}: {f.sentence} (row {self._row_name!r}, column {self.column.name!r})"
                    for f in findings(error, TrainConfig)
                )
            ) from None
        self._check_arm(config)
        if config.protocol == "paper" and self.values and study.rule != "oracle":
            raise UserError(
                f"{self.file.place(('search',))}: protocol: paper has no validation set to select on, but "
                f"{' and '.join(self.values)} {'is' if len(self.values) == 1 else 'are'} searched; use protocol: "
                "validated, or say rule: oracle to choose on the test set (the table will say so)"
            )
        if config.protocol == "paper" and study.accuracy == "best_validation":
            raise UserError(
                f"{self.file.place(('accuracy',))}: protocol: paper has no validation set, so there is no best "
                "validation epoch; use accuracy: last"
            )
        try:
            return config.bound(manifest_of(config.dataset))
        except UserError as error:
            raise type(error)(f"{self._place(('dataset',))}: {error}") from None

    @property
    def _of_row(self) -> dict[str, Value]:
        return self.row.set | ({} if self.metric is None else {"metric": self.metric})

    def _check_sources(self) -> None:
        """Refuse a field that two places set, where one would silently win."""
        i, j = self.row_number, self.column_number
        if self.metric is not None and "metric" in self.row.set | self.row.search:
            raise UserError(
                f"{self.file.place(('rows', i, 'set' if 'metric' in self.row.set else 'search', 'metric'))}: this row "
                "names its metric already; keep one of the two"
            )
        if both := (set(self._of_row) | set(self.values)) & set(self.column.set):
            key = min(both)
            raise UserError(
                f"{self.file.place(('columns', j, 'set', key))}: {key} is set by this column "
                f"and by row {self._row_name!r} too; keep one of the two"
            )
        if over := set(self.file.overrides) & (set(self._of_row) | set(self.values) | set(self.column.set)):
            key = min(over)
            raise UserError(
                f"--set {key}: the study's rows, columns or axes set {key} themselves; edit a copy of "
                f"{self.file.document.path} instead"
            )

    def _check_arm(self, config: TrainConfig) -> None:
        plain = ("baseline", "baseline+l2")
        if self.arm in plain and "weight_decay" in self.column.set:
            if self.arm == "baseline" and config.arm in plain:
                return  # the column is the l2 term's, as in the paper's Table 1
            raise UserError(
                f"{self.file.place(('rows', self.row_number))}: the column {self.column.name!r} sets weight_decay, "
                "which is the l2 of baseline+l2; name the arm baseline, and the column says whether it has l2"
            )
        if config.arm == self.arm:
            return
        needs = {
            "E": "lambda_e above 0",
            "H": "lambda_l (or a lambda_c) above 0",
            "H0": "lambda_l and lambda_c of 0",
            **{name: f"{known.weight} above 0" for name, known in REGULARISERS.items()},
        }
        parts = [needs[part] for part in self.arm.split("+") if part in needs and part not in config.arm.split("+")]
        raise UserError(
            f"{self.file.place(('rows', self.row_number))}: row {self._row_name!r} says arm {self.arm}, but its "
            f"settings make it {config.arm}; arm {self.arm} needs "
            + (" and ".join(parts) or "no other regulariser than its own")
            + ": set it in config, row or column, or search it"
        )

    @property
    def _row_name(self) -> str:
        return self.row.name or self.metric or self.arm

    def _place(self, location: tuple[int | str, ...]) -> str:
        """Where the setting came from that a mistake in the config is about."""
        key = str(location[0]) if location else ""
        i, j = self.row_number, self.column_number
        sources: list[tuple[bool, tuple[int | str, ...]]] = [
            (key in self.column.set, ("columns", j, "set", key)),
            (key in self.row.search, ("rows", i, "search", key)),
            (key in self.values, ("search", key)),
            (key in self.row.set, ("rows", i, "set", key)),
            (key in self.file.study.config, ("config", key)),
        ]
        return self.file.place(next((place for given, place in sources if given), ("rows", i)))
