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
    """What a run trains next: all that has no settled record.

    A trial that the study's scheduler stopped has lost and is left alone, unless nothing else is missing and
    a cell has no winner without it.
    """
    missing = now.missing
    if now.plan.file.study.scheduler:
        missing = [i for i in missing if now.states[i] is not State.STOPPED] or needed_stopped(now)
    return [now.plan.configs[identity] for identity in missing]


def run_here(configs: Iterable[TrainConfig], places: Places, observer: Observer, *, threads: int | None) -> None:
    """Train configs one after the other in this process, without Ray."""
    from study.trial import drain, run_trial

    for config in configs:
        observer.started(config)
        record = drain(run_trial(config, places, threads=threads), partial(observer.epoch, config))
        observer.filed(record)


def run_plan(
    now: Standing, places: Places, resources: "Resources", observer: Observer, *, measure_share: bool = False
) -> bool:
    """Train what a plan misses through Ray, each trial once; then stopped ones without which a cell has no winner.

    Args:
        now: the plan and where it stands.
        places: where everything lies.
        resources: what one trial gets, and where.
        observer: told of everything.
        measure_share: measure first how many trials share a GPU best.

    Returns:
        Whether the user interrupted it.
    """
    from study.cluster import run_on_ray, with_measured_share

    plan, tried = now.plan, set[str]()
    if measure_share and (missing := missing_trials(now)):
        resources = with_measured_share(resources, missing, places, observer)
    cell_of = {i: f"{c.row} {c.arm} {c.column}" for c in plan.cells for k in c.candidates for i in k.trials}
    while configs := [config for config in missing_trials(now) if config.identity not in tried]:
        tried |= {config.identity for config in configs}
        finishing = all(now.states[config.identity] is State.STOPPED for config in configs)
        scheduler = None if finishing else plan.file.study.scheduler
        if run_on_ray(
            PlanSearcher(configs),
            len(configs),
            places,
            resources,
            observer,
            scheduler=scheduler,
            group_of=cell_of.__getitem__,
        ):
            return True
        now = standing(plan, places)
    return False
