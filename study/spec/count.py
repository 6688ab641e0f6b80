"""The number of a study's trials, counted without prepared data."""

import json
from dataclasses import dataclass
from typing import NoReturn

from study.spec.plan import check_trial_count, table_cells
from study.spec.sampling import any_point, every_point, search_budget
from study.spec.search_checks import check_searches
from study.spec.study_file import StudyFile
from study.spec.trials import CellKey
from study.spec.unused_settings import check_values, refuse_unused


@dataclass(frozen=True)
class TrialCount:
    """The number of a study's trials.

    Attributes:
        choosing: trials of the first stage; without `confirm`, all trials. With a searcher, it is
            an upper bound.
        confirming: trials of the second stage.
    """

    choosing: int
    confirming: int


@dataclass(frozen=True)
class CellCount:
    """The number of a cell's candidates.

    Attributes:
        key: its row, arm and column.
        candidates: the settings of its candidates, each once; empty with a searcher.
        budget: number of candidates that a searcher suggests at most; None without a searcher.
    """

    key: CellKey
    candidates: tuple[str, ...]
    budget: int | None

    @property
    def n_candidates(self) -> int:
        """Number of candidates; with a searcher, an upper bound."""
        return len(self.candidates) if self.budget is None else self.budget


def count_cells(file: StudyFile) -> list[CellCount]:
    """Count a study's candidates cell by cell, and check all that does not depend on data.

    Raises:
        UserError: a mistake in the study, as in `make_plan`.
    """
    check_searches(file)
    check_values(file)
    cells = [configs for configs, _ in table_cells(file, _no_data)]
    check_trial_count(file, sum(configs.n_points for configs in cells) * len(file.study.seeds))
    for configs in cells:
        is_searched = file.study.searcher and configs.axes
        for values in [any_point(configs)] if is_searched else every_point(configs):
            configs.unbound_config(values, file.study.seeds[0])
    refuse_unused(file, cells, None)
    return _cells(file)


def count_trials(file: StudyFile, cells: list[CellCount] | None = None) -> TrialCount:
    """Count a study's trials without its data.

    Two points with the same settings share their trials. A plan, which reads the data, may find
    more shared trials.
    """
    n_fresh_seeds = len(file.study.confirm.seeds) if file.study.confirm else 0
    suggested = selected = 0
    first_stage: set[str] = set()
    confirmed_only: set[str] = set()
    for cell in _cells(file) if cells is None else cells:
        if cell.budget is not None:
            suggested, selected = suggested + cell.budget, selected + 1
        elif len(cell.candidates) > 1:
            first_stage |= set(cell.candidates)
            selected += 1
        elif n_fresh_seeds:
            confirmed_only |= set(cell.candidates)
        else:
            first_stage |= set(cell.candidates)
    return TrialCount(
        choosing=(suggested + len(first_stage)) * len(file.study.seeds),
        confirming=n_fresh_seeds * (selected + len(confirmed_only)),
    )


def _cells(file: StudyFile) -> list[CellCount]:
    cells = []
    for configs, label in table_cells(file, _no_data):
        key = CellKey(label, configs.arm, configs.column.name)
        if file.study.searcher and configs.axes:
            cells.append(CellCount(key, (), search_budget(configs)))
            continue
        points = every_point(configs)
        settings = [json.dumps(configs.settings(values), sort_keys=True) for values in points]
        cells.append(CellCount(key, tuple(dict.fromkeys(settings)), None))
    return cells


def _no_data(name: str) -> NoReturn:
    raise LookupError(name)
