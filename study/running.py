"""Runs what a plan still misses, through Ray or in this process."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from dh2l.config import TrainConfig
from study.observer import Observer
from study.places import Places
from study.searcher import PlanSearcher
from study.selection import needed_stopped
from study.states import Standing, State, standing

if TYPE_CHECKING:
    from study.cluster import Resources


@dataclass(frozen=True)
class Shard:
    """A fixed share of a plan's trials: number `index` of `count`, counted from 1."""

    index: int
    count: int

    def of(self, identities: list[str]) -> list[str]:
        """This shard's share."""
        return identities[self.index - 1 :: self.count]


def missing_trials(now: Standing) -> list[TrainConfig]:
    """What a run trains: all that has no settled record.

    With a scheduler, a trial that it stopped has lost, and is left alone unless a table needs it.
    """
    keep = {State.STOPPED} if now.plan.file.study.scheduler else set()
    return [now.plan.configs[identity] for identity in now.missing if now.states[identity] not in keep]


def run_here(configs: Iterable[TrainConfig], places: Places, observer: Observer, *, threads: int | None) -> None:
    """Train configs one after the other in this process, without Ray."""
    from study.trial import drain, run_trial

    for config in configs:
        observer.started(config)
        record = drain(run_trial(config, places, threads=threads), partial(observer.epoch, config))
        observer.filed(record)


def run_plan(now: Standing, places: Places, resources: "Resources", observer: Observer) -> bool:
    """Train what a plan misses through Ray; then finish stopped trials without which a cell has no winner.

    Returns:
        Whether the user interrupted it.
    """
    from study.cluster import run_on_ray

    plan, scheduler = now.plan, now.plan.file.study.scheduler
    missing = missing_trials(now)
    cell_of = {i: f"{c.row} {c.arm} {c.column}" for c in plan.cells for k in c.candidates for i in k.trials}
    if missing:
        interrupted = run_on_ray(
            PlanSearcher(missing),
            len(missing),
            places,
            resources,
            observer,
            scheduler=scheduler,
            group_of=cell_of.__getitem__,
        )
        if interrupted:
            return True
    needed = [plan.configs[identity] for identity in needed_stopped(standing(plan, places))] if scheduler else []
    return run_on_ray(PlanSearcher(needed), len(needed), places, resources, observer) if needed else False
