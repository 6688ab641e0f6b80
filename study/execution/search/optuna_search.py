"""Optuna: the only module that talks to it. Searches the axes of a study's cells; all it remembers are the records."""

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
from study.records.store import Findings
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
"""How many suggestions in a row may be known already before a cell counts as exhausted."""


@dataclass
class Evaluated:
    """A candidate as Optuna is told of it.

    Attributes:
        values: of the axes.
        trials: its trials.
        state: RUNNING, COMPLETE, PRUNED (stopped early, or diverged) or FAIL.
        results: the objectives, where it is complete.
    """

    values: dict[str, Value]
    trials: tuple[str, ...]
    state: TrialState
    results: list[float] | None = None


class OptunaSearcher:
    """Gives the trials of a study whose cells are searched: those that are known and missing first, then new ones.

    Args:
        state: the state of the study; its plan has the candidates that the records know.
        missing: its known trials that are not done.
        groups: the cell of each of these that competes with others.
        read: reads the records of some trials.
    """

    def __init__(
        self,
        state: StudyState,
        missing: Iterable[TrainConfig],
        groups: Mapping[str, str],
        read: Callable[[Iterable[str]], Findings],
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._groups, self._queue = dict(groups), deque(missing)
        self._owner: dict[str, CellSearch] = {}
        pairs = zip(state.plan.cells, state.plan.cell_configs, strict=True)
        self._cells = deque(
            CellSearch(cell, spec, state, read) for cell, spec in pairs if cell.budget is not None
        )
        for search in self._cells:
            self._owner |= {
                identity: search for tried in search.tried.values() for identity in tried.trials
            }
        # With a weight of 0 a candidate's trials may be those of a cell that shows them whatever comes out.
        given = [cell for cell in state.plan.cells if not searches(cell)]
        self._given = {identity for cell in given for c in cell.candidates for identity in c.trials}
        n_seeds = len(state.study.seeds)
        self.limit = len(self._queue) + n_seeds * sum(search.left for search in self._cells)

    def suggest(self) -> TrainConfig | None:
        """A known trial that is missing; else the first trial of a new candidate, cell by cell."""
        while not self._queue and any(search.left for search in self._cells):
            search = self._cells[0]
            self._cells.rotate(-1)
            configs = search.ask()
            self._queue.extend(configs)
            self._owner |= {config.identity: search for config in configs}
            self._groups |= {
                c.identity: search.label for c in configs if c.identity not in self._given
            }
        return self._queue.popleft() if self._queue else None

    def tell(self, identity: str, outcome: TrialOutcome) -> None:
        """Note a trial's end; the other seeds of a candidate that has lost are not begun, unless a cell shows them."""
        if (search := self._owner.get(identity)) is not None and outcome != "failed":
            needless = {trial for trial in search.tell(identity, outcome) if trial in self._groups}
            self._queue = deque(config for config in self._queue if config.identity not in needless)

    def group(self, identity: str) -> str | None:
        """The trial's cell, where it competes."""
        return self._groups.get(identity)


class CellSearch:
    """The search of one cell. Every suggestion comes from an Optuna study that is made anew of what was tried.

    So nothing has to be kept but the records, and a search that goes on after a kill is the one that was killed.

    Attributes:
        label: the cell's name.
        left: how many candidates may still be suggested.
        tried: by their values, as JSON.
    """

    def __init__(
        self,
        cell: Cell,
        spec: CellConfigs,
        state: StudyState,
        read: Callable[[Iterable[str]], Findings],
    ) -> None:
        assert cell.budget is not None  # noqa: S101 the caller has seen it
        self._spec, self._study, self._read = spec, state.study, read
        self.label = str(cell.key)
        self.left = cell.candidates_left
        self.tried = {json.dumps(c.values): _known(c, state) for c in cell.candidates}
        self._repeats: list[str] = []

    def ask(self) -> list[TrainConfig]:
        """The trials of a new candidate, one for each seed; none where the search's space holds no more."""
        for _ in range(REPEATS):
            values = self._suggestion()
            if (name := json.dumps(values)) in self.tried:
                self._repeats.append(name)  # told, it moves the sampler on
                continue
            configs = [self._spec.config(values, seed) for seed in self._study.seeds]
            self.tried[name] = Evaluated(
                values, tuple(c.identity for c in configs), TrialState.RUNNING
            )
            self.left -= 1
            return configs
        self.left = 0
        return []

    def tell(self, identity: str, outcome: TrialOutcome) -> tuple[str, ...]:
        """Note a trial's end; returns the trials of a candidate that has lost."""
        tried = next(tried for tried in self.tried.values() if identity in tried.trials)
        if outcome in ("stopped", "diverged"):
            tried.state = TrialState.PRUNED
            return tried.trials
        results = objectives(tried.trials, self._read(tried.trials), self._study)
        if results is not None:
            tried.state, tried.results = TrialState.COMPLETE, results
        return ()

    def _suggestion(self) -> dict[str, Value]:
        told = [*self.tried.values(), *(self.tried[name] for name in self._repeats)]
        study = rebuild_optuna_study(self._spec, told)
        settings, number = self._study.searcher, len(told)
        assert settings is not None  # noqa: S101 only cells with a budget are searched
        study.sampler = _sampler(settings, f"{self._study.search_seed}:{self.label}:{number}")
        trial = study.ask()

        def pick(key: str, axis: Axis) -> Value:
            if axis.values is not None:
                return json.loads(trial.suggest_categorical(key, _words(axis)))
            low, high = axis.uniform or axis.loguniform or (0.0, 0.0)
            drawn = rounded(trial.suggest_float(key, low, high, log=axis.loguniform is not None))
            return min(max(drawn, low), high)

        return self._spec.resolve_point(pick)


def rebuild_optuna_study(spec: CellConfigs, tried: Iterable[Evaluated]) -> optuna.Study:
    """An Optuna study in memory that knows what was tried in a cell."""
    settings = spec.file.study.searcher
    assert settings is not None  # noqa: S101 only cells with a budget are searched
    several = len(settings.objectives) > 1
    study = optuna.create_study(directions=[DIRECTIONS[name] for name in settings.objectives])
    for one in tried:
        # With several objectives Optuna knows no pruning: there a lost candidate has failed.
        state = TrialState.FAIL if several and one.state is TrialState.PRUNED else one.state
        study.add_trial(
            create_trial(
                state=state,
                values=one.results if state is TrialState.COMPLETE else None,
                params={
                    k: json.dumps(v) if spec.axes[k].values is not None else v
                    for k, v in one.values.items()
                },
                distributions={key: _distribution(spec.axes[key]) for key in one.values},
            )
        )
    return study


def _known(candidate: Candidate, state: StudyState) -> Evaluated:
    states = [state.states[identity] for identity in candidate.trials]
    results = objectives(candidate.trials, state.found, state.study)
    if results is not None:
        return Evaluated(candidate.values, candidate.trials, TrialState.COMPLETE, results)
    lost = State.STOPPED in states or State.DIVERGED in states
    return Evaluated(
        candidate.values, candidate.trials, TrialState.PRUNED if lost else TrialState.RUNNING
    )


def _sampler(settings: SearchSettings, seed: str) -> BaseSampler:
    number = random.Random(seed).getrandbits(31)  # noqa: S311 not secret
    if settings.sampler == "random":
        return RandomSampler(seed=number)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return TPESampler(seed=number, constant_liar=True)


def _distribution(axis: Axis) -> BaseDistribution:
    if axis.values is not None:
        return CategoricalDistribution(_words(axis))
    low, high = axis.uniform or axis.loguniform or (0.0, 0.0)
    return FloatDistribution(low, high, log=axis.loguniform is not None)


def _words(axis: Axis) -> list[Any]:
    """The values of a grid or choice as JSON: Optuna takes no lists."""
    return list(dict.fromkeys(json.dumps(value) for value in axis.values or []))
