"""Order of a run's trials, and groups for early stopping."""

from collections.abc import Iterable
from itertools import groupby

from dh2l.config.train_config import TrainConfig
from study.execution.estimate.workload import epoch_work
from study.spec.plan import Plan
from study.spec.sampling import any_point
from study.state.remaining import missing_trials
from study.state.selection import searches
from study.state.study_state import StudyState


def next_trials(state: StudyState) -> list[TrainConfig]:
    """Return the configs of the trials that a run trains next, in order."""
    return in_order(state, missing_trials(state))


def in_order(state: StudyState, identities: Iterable[str]) -> list[TrainConfig]:
    """Return the configs of trials in the order of a run: seed by seed, the longest first.

    Long trials come first so that no single one is left at the end.
    """
    manifest_of = state.plan.cell_configs[0].manifest_of

    def work(config: TrainConfig) -> float:
        return config.epochs * epoch_work(config, manifest_of(config.dataset))

    ordered: list[TrainConfig] = []
    configs = [state.plan.config(identity) for identity in identities]
    for _, same_seed in groupby(configs, key=lambda config: config.seed):
        ordered += sorted(same_seed, key=work, reverse=True)
    return ordered


def representative_trials(state: StudyState) -> list[TrainConfig]:
    """Return the trials of a run, with one trial for each cell whose candidates are unknown."""
    pairs = zip(state.plan.cells, state.plan.cell_configs, strict=True)
    seed = state.study.seeds[0]
    unknown = [spec.config(any_point(spec), seed) for cell, spec in pairs if cell.candidates_left]
    return [*next_trials(state), *unknown]


def early_stopping_groups(plan: Plan) -> dict[str, str]:
    """Return the cell of each trial that a scheduler may stop.

    These are the trials that choose among several candidates of a cell. A trial that is in the
    table of some cell regardless of its result is not among them.
    """
    groups: dict[str, str] = {}
    always_needed: set[str] = set()
    for cell in plan.cells:
        choosing = searches(cell)
        for candidate in cell.candidates:
            always_needed.update(candidate.confirmations)
            if choosing:
                groups.update(dict.fromkeys(candidate.trials, str(cell.key)))
            else:
                always_needed.update(candidate.trials)
    return {identity: cell for identity, cell in groups.items() if identity not in always_needed}
