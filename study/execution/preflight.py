"""Preflight checks: one training step for each kind of trial before the run."""

from collections.abc import Iterable
from dataclasses import dataclass

from dh2l.config.train_config import TrainConfig
from study.state.states import State
from study.state.study_state import StudyState


@dataclass(frozen=True)
class Check:
    """A trial that takes one step for all trials of its kind.

    Attributes:
        cell: name of its cell in the table.
        config: config of the trial.
    """

    cell: str
    config: TrainConfig


def preflight_checks(state: StudyState, configs: Iterable[TrainConfig]) -> list[Check]:
    """Return a check for each kind of the trials to come, unless a trial of the kind is done.

    Trials of one kind have the same model, data, arm and metric.
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
        key = check_group(config)
        if key not in done:
            cell = cells.get(config.identity, f"{config.arm} / {config.model} on {config.dataset}")
            found.setdefault(key, Check(cell, config))
    return list(found.values())


def check_group(config: TrainConfig) -> tuple[str, ...]:
    """Return the kind of a trial, for which one check is enough."""
    return (
        config.dataset,
        config.data_hash,
        config.tree_hash,
        config.model,
        config.arm,
        config.metric or "",
    )
