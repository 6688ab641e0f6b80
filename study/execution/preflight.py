"""Before a sweep each kind of its trials takes one step: what cannot train is told before the budget is burnt."""

from collections.abc import Iterable
from dataclasses import dataclass

from dh2l.config.train_config import TrainConfig
from study.state.states import State
from study.state.study_state import StudyState


@dataclass(frozen=True)
class Check:
    """A trial that takes one step for all of its kind.

    Attributes:
        cell: the cell of the table that it is of, in words.
        config: the trial's.
    """

    cell: str
    config: TrainConfig


def preflight_checks(state: StudyState, configs: Iterable[TrainConfig]) -> list[Check]:
    """A check for each kind among the trials to come of which no trial is done yet.

    Of one kind are trials with the same model, data, arm and metric.
    """
    done = {
        check_group(state.plan.config(identity))
        for identity, its_state in state.states.items()
        if its_state is State.DONE
    }
    cells = {
        identity: " / ".join(cell.key)
        for cell in state.plan.cells
        for candidate in cell.candidates
        for identity in (*candidate.trials, *candidate.confirmations)
    }
    found: dict[tuple[str, ...], Check] = {}
    for config in configs:
        if (key := check_group(config)) not in done:
            cell = cells.get(config.identity, f"{config.arm} / {config.model} on {config.dataset}")
            found.setdefault(key, Check(cell, config))
    return list(found.values())


def check_group(config: TrainConfig) -> tuple[str, ...]:
    """What trials have in common of which one is checked for all."""
    return (
        config.dataset,
        config.data_hash,
        config.tree_hash,
        config.model,
        config.arm,
        config.metric or "",
    )
