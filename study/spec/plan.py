"""Plan of a study: the candidates of every cell and the trials of every candidate."""

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property

from dh2l.config.train_config import TrainConfig
from dh2l.data import Manifest
from dh2l.errors import UserError
from dh2l.registry.entries import METRICS
from dh2l.tree import ClassTree
from study.spec.cell import CellConfigs
from study.spec.inputs import Inputs
from study.spec.paper import PrintedNumber, printed_number
from study.spec.sampling import any_point, every_point, search_budget
from study.spec.schema import Row, Study
from study.spec.search_checks import check_searches, check_selections
from study.spec.settings import Value
from study.spec.study_file import StudyFile
from study.spec.trials import Candidate, Cell, CellKey, Stage, Trial
from study.spec.unused_settings import check_values, refuse_unused

MAX_TRIALS = 100_000
"""Combinations that a study may expand to."""


@dataclass(frozen=True)
class Plan:
    """A study expanded over its prepared data.

    Attributes:
        file: the study and its source.
        cells: the cells in the order of the table, row by row.
        trials: every trial once, by identity, in the order of execution. The first stage comes
            before the second, and each stage runs seed by seed, so that a whole table exists early.
            The second stage has trials of every candidate; only those of selected ones are run.
        cell_configs: the builders of each cell's configs, in the order of the cells.
    """

    file: StudyFile
    cells: tuple[Cell, ...]
    trials: dict[str, Trial]
    cell_configs: tuple[CellConfigs, ...] = ()

    @property
    def study(self) -> Study:
        """The study."""
        return self.file.study

    @cached_property
    def choosing(self) -> dict[str, TrainConfig]:
        """The configs of the first stage, which selects; without `confirm`, all configs."""
        return self._of_stage("choose")

    @cached_property
    def confirming(self) -> dict[str, TrainConfig]:
        """The configs of the second stage, of every candidate."""
        return self._of_stage("confirm")

    def _of_stage(self, stage: Stage) -> dict[str, TrainConfig]:
        trials = self.trials.items()
        return {identity: trial.config for identity, trial in trials if trial.stage == stage}

    @property
    def name(self) -> str:
        """The study's name."""
        return self.file.name

    @property
    def combinations(self) -> int:
        """Candidates of all cells times seeds, before shared trials are counted once."""
        candidates = itertools.chain.from_iterable(cell.candidates for cell in self.cells)
        return sum(len(candidate.trials) for candidate in candidates)

    @property
    def trees(self) -> dict[str, ClassTree]:
        """The class trees that the study gives its data sets, by their hash."""
        trees = {}
        for configs in self.cell_configs:
            config = configs.config(any_point(configs), self.study.seeds[0])
            for name in _tree_names(configs, config):
                tree = configs.tree_of(name, configs.manifest_of(config.dataset))
                trees[tree.hash] = tree
        return trees

    def hash_weights(self) -> None:
        """Hash every file of weights, including those of points that a search may still reach."""
        for configs in self.cell_configs:
            axis = configs.axes.get("weights")
            if axis is None:
                continue
            config = configs.config(any_point(configs), self.study.seeds[0])
            for name in axis.values or []:
                other = config.model_copy(update={"weights": name, "weights_hash": ""})
                with suppress(UserError):  # Planning that point reports it with its source.
                    configs.with_weights_hash(other)

    def config(self, identity: str) -> TrainConfig:
        """Return the config of a trial of either stage."""
        return self.trials[identity].config

    def with_candidates(self, points: list[list[dict[str, Value]]]) -> "Plan":
        """Return this plan with more candidates: a list of points for each cell."""
        builder = _PlanBuilder(self.file)
        builder.add_trials(self)
        cells = []
        for cell, configs, new in zip(self.cells, self.cell_configs, points, strict=True):
            more = [builder.candidate(cell.key, configs, values, selects=True) for values in new]
            cells.append(replace(cell, candidates=_deduplicated([*cell.candidates, *more])))
        return builder.plan(cells, self.cell_configs)


def _tree_names(configs: CellConfigs, config: TrainConfig) -> list[str]:
    """Return the class trees that a cell names: by its axis, else by its config."""
    axis = configs.axes.get("tree")
    names = [config.tree] if axis is None else axis.values or []
    return [name for name in names if name not in (None, "shuffled")]


def make_plan(
    file: StudyFile, manifest_of: Callable[[str], Manifest], inputs: Inputs | None = None
) -> Plan:
    """Expand a study.

    Args:
        file: the study.
        manifest_of: returns the manifest of a prepared data set, given its name.
        inputs: reads the weights and class trees that the study names; default: the current files.

    Raises:
        UserError: a combination that is not a valid trial, with its source location; or a data set
            that is not prepared.
    """
    inputs = inputs or Inputs()
    check_searches(file)
    check_values(file)
    builder = _PlanBuilder(file)
    cells: dict[CellKey, Cell] = {}
    cell_configs: list[CellConfigs] = []
    n_trials = 0
    for configs, label in table_cells(file, manifest_of, inputs):
        key = CellKey(label, configs.arm, configs.column.name)
        if key in cells:
            raise UserError(
                f"{file.source_location(('rows', configs.row_number))}: the row {label!r} with arm "
                f"{configs.arm} is in the table twice; give one of them a name"
            )
        cell_configs.append(configs)
        if not (file.study.searcher and configs.axes):
            n_trials += configs.n_points * len(file.study.seeds)
            check_trial_count(file, n_trials)
        cells[key] = builder.cell(key, configs)
    plan = builder.plan(list(cells.values()), tuple(cell_configs))
    refuse_unused(file, cell_configs, _without_overrides(file, manifest_of, inputs))
    check_selections(file, list(zip(plan.cells, plan.cell_configs, strict=True)))
    return plan


def _without_overrides(
    file: StudyFile, manifest_of: Callable[[str], Manifest], inputs: Inputs
) -> list[CellConfigs] | None:
    """Return the cells of a study without its overrides.

    Return None if it has no overrides, or is not valid without them.
    """
    if not file.overrides:
        return None
    try:
        original = StudyFile(file.document.path)
    except UserError:
        return None
    return [configs for configs, _ in table_cells(original, manifest_of, inputs)]


def check_trial_count(file: StudyFile, n_trials: int) -> None:
    """Refuse a study of too many trials.

    Raises:
        UserError: it has more than `MAX_TRIALS`.
    """
    if n_trials > MAX_TRIALS:
        raise UserError(
            f"{file.source_location(())}: more than {MAX_TRIALS:,} trials; search fewer points"
        )


def table_cells(
    file: StudyFile, manifest_of: Callable[[str], Manifest], inputs: Inputs | None = None
) -> Iterator[tuple[CellConfigs, str]]:
    """Return every cell in the order of the table, with the label of its row."""
    inputs = inputs or Inputs()
    for (i, row), arm, metric in table_rows(file.study.rows):
        label = row.name or (METRICS[metric].display_label if metric else arm)
        for j, column in enumerate(file.study.columns):
            yield CellConfigs(file, i, j, row, column, arm, metric, manifest_of, inputs), label


def table_rows(rows: list[Row]) -> Iterator[tuple[tuple[int, Row], str, str | None]]:
    """Return every row of the table: metric by metric, then arm by arm, as in the paper."""
    for i, row in enumerate(rows):
        for metric, arm in itertools.product(row.metrics, row.arms):
            yield (i, row), arm, metric


class _PlanBuilder:
    """Collects the trials of a plan, each once."""

    def __init__(self, file: StudyFile) -> None:
        study = file.study
        self._file, self._seeds = file, study.seeds
        self._fresh_seeds = study.confirm.seeds if study.confirm else []
        self._trials: dict[tuple[Stage, int], dict[str, Trial]] = {
            **{("choose", seed): {} for seed in self._seeds},
            **{("confirm", seed): {} for seed in self._fresh_seeds},
        }

    def add_trials(self, plan: Plan) -> None:
        """Add the trials of a plan of the same study."""
        for identity, trial in plan.trials.items():
            self._trials[trial.stage, trial.seed][identity] = trial

    def cell(self, key: CellKey, configs: CellConfigs) -> Cell:
        """Build a cell and add the trials of its candidates; with a searcher it has none yet."""
        if self._file.study.searcher and configs.axes:
            printed = _printed(configs, [any_point(configs)])
            return Cell(key, (), printed, search_budget(configs))
        points = list(every_point(configs))
        selects = len(points) > 1
        candidates = [self.candidate(key, configs, point, selects=selects) for point in points]
        return Cell(key, _deduplicated(candidates), _printed(configs, points))

    def candidate(
        self, key: CellKey, configs: CellConfigs, values: dict[str, Value], *, selects: bool
    ) -> Candidate:
        """Build the candidate of a point and add its trials.

        If nothing is selected, a candidate that is confirmed needs no trials of the first stage.
        """
        trials: list[str] = []
        if selects or not self._fresh_seeds:
            trials = [self._add("choose", key, configs.config(values, s)) for s in self._seeds]
        confirmations = [
            self._add("confirm", key, configs.config(values, seed, confirm=True))
            for seed in self._fresh_seeds
        ]
        return Candidate(values, tuple(trials), tuple(confirmations))

    def _add(self, stage: Stage, key: CellKey, config: TrainConfig) -> str:
        identity = config.identity
        self._trials[stage, config.seed].setdefault(identity, Trial(identity, config, stage, key))
        return identity

    def plan(self, cells: list[Cell], cell_configs: tuple[CellConfigs, ...]) -> Plan:
        """Return the plan of these cells."""
        trials: dict[str, Trial] = {}
        for of_stage_and_seed in self._trials.values():
            for identity, trial in of_stage_and_seed.items():
                trials.setdefault(identity, trial)
        return Plan(self._file, tuple(cells), trials, cell_configs)


def _deduplicated(candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """Return the candidates without those that have the trials of an earlier one."""
    unique: dict[tuple[tuple[str, ...], ...], Candidate] = {}
    for candidate in candidates:
        unique.setdefault((candidate.trials, candidate.confirmations), candidate)
    return tuple(unique.values())


def _printed(configs: CellConfigs, points: list[dict[str, Value]]) -> PrintedNumber | None:
    """Return the paper's number for a cell; None if it has none, or several."""
    table, seed = configs.file.study.paper_table, configs.file.study.seeds[0]
    if table is None:
        return None
    trained = [configs.config(values, seed) for values in points]
    numbers = {printed_number(table, c) for c in trained if configs.has_all_parts(c)}
    return numbers.pop() if len(numbers) == 1 else None
