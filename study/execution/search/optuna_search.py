"""Search of the axes of a study's cells with Optuna.

The search has no storage except the records.
"""

import json
import random
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import TrialState, create_trial

from dh2l.config.train_config import TrainConfig
from study.execution.search.base import TrialOutcome
from study.records.loaded_records import LoadedRecords
from study.spec.cell import CellConfigs
from study.spec.sampling import rounded
from study.spec.schema import SearchSettings
from study.spec.settings import Axis, Value
from study.spec.trials import Candidate, Cell
from study.state.objectives import DIRECTIONS, objectives
from study.state.selection import searches
from study.state.states import State
from study.state.study_state import StudyState

REPEATS = 100
"""Number of known suggestions in a row after which a cell counts as exhausted."""


@dataclass
class Evaluated:
    """A candidate that was tried, for Optuna.

    Attributes:
        values: value of each axis.
        trials: identities of its trials.
        state: RUNNING, COMPLETE, PRUNED (stopped early, or diverged) or FAIL.
        results: the objectives, if it is complete.
    """

    values: dict[str, Value]
    trials: tuple[str, ...]
    state: TrialState
    results: list[float] | None = None


class OptunaSearcher:
    """Searcher of a study whose cells are searched.

    It suggests the missing trials of known candidates first, then trials of new candidates.
    """

    def __init__(
        self,
        state: StudyState,
        missing: Iterable[TrainConfig],
        groups: Mapping[str, str],
        read: Callable[[Iterable[str]], LoadedRecords],
    ) -> None:
        """Start a search of each cell from what the records have.

        Args:
            state: state of the study; its plan has the candidates that the records name.
            missing: configs of known trials that are not done.
            groups: cell of each of these trials that competes with others.
            read: reads the records of some trials.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._groups, self._queue = dict(groups), deque(missing)
        self._owner: dict[str, CellSearch] = {}
        pairs = zip(state.plan.cells, state.plan.cell_configs, strict=True)
        self._cells = deque(
            CellSearch(cell, spec, state, read) for cell, spec in pairs if cell.budget is not None
        )
        for search in self._cells:
            for tried in search.tried.values():
                self._owner |= dict.fromkeys(tried.trials, search)
        self._given = _trials_without_choice(state)
        n_seeds = len(state.study.seeds)
        self.limit = len(self._queue) + n_seeds * sum(search.left for search in self._cells)

    def suggest(self) -> TrainConfig | None:
        """Return a known missing trial, or else a trial of a new candidate, cell by cell."""
        while not self._queue and any(search.left for search in self._cells):
            search = self._cells[0]
            self._cells.rotate(-1)
            configs = search.ask()
            self._queue.extend(configs)
            for identity in (config.identity for config in configs):
                self._owner[identity] = search
                if identity not in self._given:
                    self._groups[identity] = search.label
        return self._queue.popleft() if self._queue else None

    def tell(self, identity: str, outcome: TrialOutcome) -> None:
        """Receive the outcome of a trial.

        Other seeds of a candidate that has lost are dropped, unless a cell shows them anyway.
        """
        search = self._owner.get(identity)
        if search is None or outcome == "failed":
            return
        skippable = {trial for trial in search.tell(identity, outcome) if trial in self._groups}
        self._queue = deque(config for config in self._queue if config.identity not in skippable)

    def group(self, identity: str) -> str | None:
        """Return the cell of a trial that competes with others."""
        return self._groups.get(identity)


class CellSearch:
    """Search of one cell.

    Each suggestion comes from an Optuna study that is rebuilt from all candidates tried so far.
    A search therefore needs no storage except the records, and resumes exactly after a kill.

    Attributes:
        label: name of the cell.
        left: number of candidates that may still be suggested.
        tried: candidates that were tried, by their values as JSON.
    """

    def __init__(
        self,
        cell: Cell,
        spec: CellConfigs,
        state: StudyState,
        read: Callable[[Iterable[str]], LoadedRecords],
    ) -> None:
        assert cell.budget is not None  # noqa: S101 the caller has checked it
        self._spec, self._study, self._read = spec, state.study, read
        self.label = str(cell.key)
        self.left = cell.candidates_left
        self.tried = {json.dumps(c.values): _known(c, state) for c in cell.candidates}
        self._repeats: list[str] = []

    def ask(self) -> list[TrainConfig]:
        """Return the trials of a new candidate, one for each seed.

        There are none if the search space is exhausted.
        """
        for _ in range(REPEATS):
            values = self._suggestion()
            name = json.dumps(values)
            if name in self.tried:
                self._repeats.append(name)  # reported again, so that the next suggestion differs
                continue
            configs = [self._spec.config(values, seed) for seed in self._study.seeds]
            identities = tuple(config.identity for config in configs)
            self.tried[name] = Evaluated(values, identities, TrialState.RUNNING)
            self.left -= 1
            return configs
        self.left = 0
        return []

    def tell(self, identity: str, outcome: TrialOutcome) -> tuple[str, ...]:
        """Receive the outcome of a trial, and return the trials of a candidate that has lost."""
        tried = next(tried for tried in self.tried.values() if identity in tried.trials)
        if outcome in ("stopped", "diverged"):
            tried.state = TrialState.PRUNED
            return tried.trials
        results = objectives(tried.trials, self._read(tried.trials), self._study)
        if results is not None:
            tried.state, tried.results = TrialState.COMPLETE, results
        return ()

    def _suggestion(self) -> dict[str, Value]:
        tried = [*self.tried.values(), *(self.tried[name] for name in self._repeats)]
        study = rebuild_optuna_study(self._spec, tried)
        settings = self._study.searcher
        assert settings is not None  # noqa: S101 only cells with a budget are searched
        study.sampler = _sampler(settings, f"{self._study.search_seed}:{self.label}:{len(tried)}")
        trial = study.ask()

        def pick(key: str, axis: Axis) -> Value:
            if axis.values is not None:
                return json.loads(trial.suggest_categorical(key, _json_values(axis)))
            low, high = axis.uniform or axis.loguniform or (0.0, 0.0)
            drawn = rounded(trial.suggest_float(key, low, high, log=axis.loguniform is not None))
            return min(max(drawn, low), high)

        return self._spec.resolve_point(pick)


def rebuild_optuna_study(spec: CellConfigs, tried: Iterable[Evaluated]) -> optuna.Study:
    """Return an Optuna study in memory with the candidates that were tried in a cell."""
    settings = spec.file.study.searcher
    assert settings is not None  # noqa: S101 only cells with a budget are searched
    several = len(settings.objectives) > 1
    study = optuna.create_study(directions=[DIRECTIONS[name] for name in settings.objectives])
    for one in tried:
        state = one.state
        if several and state is TrialState.PRUNED:
            state = TrialState.FAIL  # Optuna has no pruning with several objectives
        trial = create_trial(
            state=state,
            values=one.results if state is TrialState.COMPLETE else None,
            params={key: _parameter(spec.axes[key], value) for key, value in one.values.items()},
            distributions={key: _distribution(spec.axes[key]) for key in one.values},
        )
        study.add_trial(trial)
    return study


def _trials_without_choice(state: StudyState) -> set[str]:
    """Return the trials of cells that show them regardless of the results.

    With a weight of 0, a candidate of a searched cell may have such trials too.
    """
    trials: set[str] = set()
    for cell in state.plan.cells:
        if not searches(cell):
            for candidate in cell.candidates:
                trials.update(candidate.trials)
    return trials


def _known(candidate: Candidate, state: StudyState) -> Evaluated:
    states = [state.states[identity] for identity in candidate.trials]
    results = objectives(candidate.trials, state.found, state.study)
    if results is not None:
        return Evaluated(candidate.values, candidate.trials, TrialState.COMPLETE, results)
    lost = State.STOPPED in states or State.DIVERGED in states
    trial_state = TrialState.PRUNED if lost else TrialState.RUNNING
    return Evaluated(candidate.values, candidate.trials, trial_state)


def _sampler(settings: SearchSettings, seed: str) -> BaseSampler:
    number = random.Random(seed).getrandbits(31)  # noqa: S311 not secret
    if settings.sampler == "random":
        return RandomSampler(seed=number)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(seed=number, constant_liar=True)


def _parameter(axis: Axis, value: Value) -> Any:
    return value if axis.values is None else json.dumps(value)


def _distribution(axis: Axis) -> BaseDistribution:
    if axis.values is not None:
        return CategoricalDistribution(_json_values(axis))
    low, high = axis.uniform or axis.loguniform or (0.0, 0.0)
    return FloatDistribution(low, high, log=axis.loguniform is not None)


def _json_values(axis: Axis) -> list[Any]:
    """Return the values of a grid or choice as JSON, because Optuna does not take lists."""
    return list(dict.fromkeys(json.dumps(value) for value in axis.values or []))
