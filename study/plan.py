"""From a study to its trials: every cell's candidates, every candidate's seeds, expanded deterministically."""

import itertools
import json
import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from dh2l.config import TrainConfig
from dh2l.data import Manifest
from dh2l.errors import UserError
from dh2l.names import METRICS
from dh2l.tree import ClassTree
from study.paper import PrintedNumber, printed_number
from study.space import Axis, Row, Value
from study.spec import CellSpec
from study.studyfile import StudyFile
from study.uncollected import uncollected

MOST_TRIALS = 100_000
"""Combinations that a study may expand to."""


@dataclass(frozen=True)
class Candidate:
    """One point of a cell's search.

    Attributes:
        values: the searched fields' values; empty where nothing is searched.
        trials: identity of its trial for each seed, in the order of the study's seeds; empty where nothing has to be
            chosen before it is confirmed.
        confirmations: identity of its trial for each seed of `confirm`; empty where the study has none.
    """

    values: dict[str, Value]
    trials: tuple[str, ...]
    confirmations: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One cell of the table: a row and a column, and the candidates among which a rule selects.

    Attributes:
        row: the row's name.
        arm: its arm.
        column: the column's name.
        candidates: in the order of the study; of a cell that a searcher fills, those that are known so far.
        printed: what the paper prints for it.
        budget: number of candidates that a searcher gives the cell; None where all are known beforehand.
    """

    row: str
    arm: str
    column: str
    candidates: tuple[Candidate, ...]
    printed: PrintedNumber | None
    budget: int | None = None


@dataclass(frozen=True)
class Plan:
    """A study expanded over its prepared data.

    Attributes:
        file: the study and where it came from.
        cells: in the table's order, row by row.
        configs: every trial that chooses, or that the table shows where none is confirmed, once, by identity, in the
            order in which they are run: seed by seed, so that a whole table is there as early as possible.
        confirmations: the trials that confirm, of every candidate, likewise; only the chosen ones' are ever run.
        specs: what makes each cell's configs, in the order of the cells.
    """

    file: StudyFile
    cells: tuple[Cell, ...]
    configs: dict[str, TrainConfig]
    confirmations: dict[str, TrainConfig] = field(default_factory=dict)
    specs: tuple[CellSpec, ...] = ()

    @property
    def name(self) -> str:
        """The study's name."""
        return self.file.name

    @property
    def combinations(self) -> int:
        """Candidates of all cells, each for every seed, before shared trials are counted once."""
        return sum(len(candidate.trials) for cell in self.cells for candidate in cell.candidates)

    @property
    def trees(self) -> dict[str, ClassTree]:
        """The class trees that the study gives its data sets, by their hash."""
        trees = {}
        for spec in self.specs:
            config, axis = spec.config(any_point(spec), self.file.study.seeds[0]), spec.axes.get("tree")
            for name in [config.tree] if axis is None else axis.values or []:
                if name is not None:
                    tree = spec.tree_of(name, spec.manifest_of(config.dataset))
                    trees[tree.hash] = tree
        return trees

    def config(self, identity: str) -> TrainConfig:
        """The config of a trial of either stage."""
        return self.configs.get(identity) or self.confirmations[identity]

    def with_candidates(self, points: list[list[dict[str, Value]]]) -> "Plan":
        """This plan with more candidates: a list of points for each cell."""
        made = _Expansion(self.file)
        made.take(self)
        cells = []
        for cell, spec, of_cell in zip(self.cells, self.specs, points, strict=True):
            more = (made.candidate(spec, values, choosing=True) for values in of_cell)
            cells.append(replace(cell, candidates=_once_each([*cell.candidates, *more])))
        return made.plan(cells, self.specs)


@uncollected()
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
    made = _Expansion(file)
    cells: list[Cell] = []
    specs: list[CellSpec] = []
    n_trials = 0
    for (i, row), arm, metric in _table_rows(study.rows):
        label = row.name or (METRICS[metric].display_label if metric else arm)
        if (label, arm) in {(cell.row, cell.arm) for cell in cells}:
            raise UserError(
                f"{file.place(('rows', i))}: the row {label!r} with arm {arm} stands in the table twice; "
                "give one of them a name"
            )
        for j, column in enumerate(study.columns):
            spec = CellSpec(file, i, j, row, column, arm, metric, manifest_of)
            specs.append(spec)
            if study.searcher and spec.axes:
                cells.append(Cell(label, arm, column.name, (), _printed(spec, [any_point(spec)]), _budget(spec)))
                continue
            n_trials += spec.n_points * len(study.seeds)
            if n_trials > MOST_TRIALS:
                raise UserError(f"{file.place(())}: more than {MOST_TRIALS:,} trials; search fewer points")
            points = list(_points(spec))
            candidates = (made.candidate(spec, values, choosing=len(points) > 1) for values in points)
            cells.append(Cell(label, arm, column.name, _once_each(candidates), _printed(spec, points)))
    return made.plan(cells, tuple(specs))


class _Expansion:
    """Collects the trials of a plan, each once."""

    def __init__(self, file: StudyFile) -> None:
        study = file.study
        self._file, self._seeds = file, study.seeds
        self._fresh = study.confirm.seeds if study.confirm else []
        self._of_seed = [dict[str, TrainConfig]() for _ in self._seeds]
        self._of_fresh = [dict[str, TrainConfig]() for _ in self._fresh]

    def take(self, plan: Plan) -> None:
        """Take over the trials of a plan of the same study."""
        for configs, seeds, parts in (
            (plan.configs, self._seeds, self._of_seed),
            (plan.confirmations, self._fresh, self._of_fresh),
        ):
            for identity, config in configs.items():
                parts[seeds.index(config.seed)][identity] = config

    def candidate(self, spec: CellSpec, values: dict[str, Value], *, choosing: bool) -> Candidate:
        """A point's candidate; its trials are noted. Where nothing is to be chosen, a confirmed one needs no others."""
        trials: list[str] = []
        if choosing or not self._fresh:
            for seed, part in zip(self._seeds, self._of_seed, strict=True):
                config = spec.config(values, seed)
                trials.append(identity := config.identity)
                part.setdefault(identity, config)
        confirmations: list[str] = []
        for seed, part in zip(self._fresh, self._of_fresh, strict=True):
            config = spec.config(values, seed, confirm=True)
            confirmations.append(identity := config.identity)
            part.setdefault(identity, config)
        return Candidate(values, tuple(trials), tuple(confirmations))

    def plan(self, cells: list[Cell], specs: tuple[CellSpec, ...]) -> Plan:
        """The plan of these cells."""
        first, second = (
            {identity: config for part in parts for identity, config in part.items()}
            for parts in (self._of_seed, self._of_fresh)
        )
        return Plan(self._file, tuple(cells), first, second, specs)


def _once_each(candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """The candidates without those that are the trials of an earlier one."""
    known: dict[tuple[tuple[str, ...], ...], Candidate] = {}
    for candidate in candidates:
        known.setdefault((candidate.trials, candidate.confirmations), candidate)
    return tuple(known.values())


def _printed(spec: CellSpec, points: list[dict[str, Value]]) -> PrintedNumber | None:
    """What the paper prints for a cell; None where its candidates differ in what the paper's tables distinguish."""
    table, seed = spec.file.study.paper_table, spec.file.study.seeds[0]
    if table is None:
        return None
    found = {printed_number(table, spec.config(values, seed)) for values in points}
    return found.pop() if len(found) == 1 else None


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
    if study.searcher and (study.samples > 1 or not axes):
        raise UserError(
            f"{file.place(('searcher',))}: a searcher tries `trials` points of the axes under search: "
            + ("leave samples out" if axes else "there are none; add some, or leave searcher out")
        )
    for key in study.search:
        if key in study.config:
            raise UserError(
                f"{file.place(('config', key) if key in file.overrides else ('search', key))}: {key} is searched "
                "and also fixed; keep one of the two"
            )


def _points(spec: CellSpec) -> Iterator[dict[str, Value]]:
    """Every point of a cell's search: the grid crossed, and on each of its points `samples` draws.

    A draw depends on the search seed, the axis and its number alone: all rows and columns try the
    same values.
    """
    study, axes = spec.file.study, spec.axes
    grids = {key: axis.grid for key, axis in axes.items() if axis.grid is not None}
    for point in itertools.product(*grids.values()):
        fixed = dict(zip(grids, point, strict=True))
        for draw in range(study.samples if len(grids) < len(axes) else 1):

            def pick(key: str, axis: Axis, fixed: dict[str, Value] = fixed, draw: int = draw) -> Value:
                return fixed[key] if key in fixed else _drawn(axis, random.Random(f"{study.search_seed}:{key}:{draw}"))  # noqa: S311 not secret

            yield spec.assembled(pick)


def any_point(spec: CellSpec) -> dict[str, Value]:
    """One point of a cell's search, whichever."""

    def pick(key: str, axis: Axis) -> Value:
        return axis.values[0] if axis.values else _drawn(axis, random.Random(key))  # noqa: S311 not secret

    return spec.assembled(pick)


def _budget(spec: CellSpec) -> int:
    """How many candidates a searcher gives a cell: no more than there are."""
    study = spec.file.study
    assert study.searcher is not None  # noqa: S101 the caller has seen it
    if any(axis.values is None for axis in spec.axes.values()):
        return study.searcher.trials
    crossed = itertools.product(*(axis.values or [] for axis in spec.axes.values()))
    points = set()
    for chosen in itertools.islice(crossed, 100_000):
        point = dict(zip(spec.axes, chosen, strict=True))

        def pick(key: str, _: Axis, point: dict[str, Value] = point) -> Value:
            return point[key]

        points.add(json.dumps(spec.assembled(pick)))
    return min(study.searcher.trials, len(points))


def _drawn(axis: Axis, source: random.Random) -> Value:
    if axis.values is not None:
        return source.choice(axis.values)
    if axis.uniform is not None:
        return rounded(source.uniform(*axis.uniform))
    assert axis.loguniform is not None  # noqa: S101 an axis is exactly one of four kinds
    low, high = axis.loguniform
    return rounded(math.exp(source.uniform(math.log(low), math.log(high))))


def rounded(value: float) -> float:
    """Six significant digits: another machine's exp and log must not make other trials of the same draw."""
    return float(f"{value:.6g}")
