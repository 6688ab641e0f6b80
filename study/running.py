"""Runs what a plan still misses, through Ray or in this process."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from dh2l.atomic import remove_folder
from dh2l.config import TrainConfig
from study.checking import checks
from study.claims import ClaimedElsewhere, Claims
from study.cost import Estimate, Task, Work, estimate, longest_first
from study.interrupt import FailureLimit
from study.observer import Observer
from study.places import Places
from study.plan import Plan, any_point
from study.records import RecordStore
from study.searcher import PlanSearcher, Searcher
from study.selection import choose, needed_stopped, needless_trials, searches
from study.standing import standing
from study.states import Standing, State

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

    The other seeds of a candidate that has lost are not needed. A trial that the study's scheduler stopped has lost and
    is left alone, unless nothing else is missing and a cell has no winner without it.
    """
    needless = needless_trials(now)
    missing = [identity for identity in now.missing if identity not in needless]
    if now.plan.file.study.scheduler:
        missing = [i for i in missing if now.states[i] is not State.STOPPED] or needed_stopped(now)
    return in_order(now, missing)


def in_order(now: Standing, identities: Iterable[str]) -> list[TrainConfig]:
    """The configs of trials of a plan in the order in which they are run: seed by seed, the longest first."""
    return longest_first([now.plan.config(i) for i in identities], now.plan.specs[0].manifest_of)


def run_here(
    configs: Iterable[TrainConfig],
    places: Places,
    observer: Observer,
    *,
    threads: int | None,
    keep: bool = False,
    limit: FailureLimit | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train configs one after the other in this process, without Ray, until the limit of failures is reached.

    Raises:
        KeyboardInterrupt: `stop` says so after an epoch.
    """
    from study.trial import drain, run_trial

    for config in configs:
        observer.started(config)
        training = run_trial(config, places, threads=threads, keep=keep)
        record = drain(training, partial(observer.epoch, config), observer.note, stop)
        observer.filed(record)
        if limit is not None and limit.reached:
            return


def run_plan(
    now: Standing,
    places: Places,
    resources: "Resources",
    observer: Observer,
    *,
    measure_share: bool = False,
    check: bool = True,
    limit: FailureLimit | None = None,
) -> bool:
    """Train what a study misses through Ray, each trial once; stage by stage, until a round leaves nothing to do.

    Args:
        now: the plan and where it stands.
        places: where everything lies.
        resources: what one trial gets, and where.
        observer: told of everything.
        measure_share: measure first how many trials share a GPU best.
        check: let a trial of each kind take one step before the first trains.
        limit: of the failures after which it ends.

    Returns:
        Whether the user interrupted it, or the limit was reached.

    Raises:
        UserError: a check failed, or Ray cannot be had.
    """
    from study.cluster import run_on_ray

    if measure_share:
        resources = measured_share(now, places, resources, observer)
    tried, searched, finishing = set[str](), False, False
    while True:
        missing = missing_trials(now)
        if not finishing and not unsearched(now.plan) and _all_stopped(now, missing):
            finishing, tried = True, set()  # without them a cell has no winner, so now they go to their end
        missing = [config for config in missing if config.identity not in tried]
        if not missing and (searched or not unsearched(now.plan)):
            return False
        searcher = _searcher(now, missing, places, search=not searched)
        searched = True
        tried |= {config.identity for config in missing}
        scheduler = None if finishing else now.plan.file.study.scheduler
        first, check = checks(now, typical_trials(now)) if check else [], False
        if run_on_ray(searcher, places, resources, observer, scheduler=scheduler, checks=first, limit=limit):
            return True
        now = standing(now.plan, places)


def let_go(now: Standing, places: Places, *, keep: bool) -> None:
    """End for processes what they did not that were killed after they had filed a trial's record."""
    claims = Claims(places.claims)
    for identity in claims.everyone():
        record = now.found.records.get(identity)
        if record is not None and record.settled and not claims.alive(identity):
            with suppress(ClaimedElsewhere, OSError), claims.hold(identity, 0):
                if not keep:
                    remove_folder(places.checkpoint(identity))


def _all_stopped(now: Standing, missing: list[TrainConfig]) -> bool:
    return bool(missing) and all(now.states[config.identity] is State.STOPPED for config in missing)


def measured_share(now: Standing, places: Places, resources: "Resources", observer: Observer) -> "Resources":
    """The resources with the share of a GPU that is best for what a run will train, measured."""
    from study.cluster import with_measured_share

    configs = typical_trials(now)
    return with_measured_share(resources, configs, places, observer) if configs else resources


def trials_to_come(now: Standing) -> int:
    """The trials that a run may train beside those of the standing: of candidates to search, of choices to confirm."""
    study = now.plan.file.study
    fresh = len(study.confirm.seeds) if study.confirm else 0
    return trials_to_search(now) + fresh * sum(choose(cell, now).candidate is None for cell in now.plan.cells)


def trials_to_search(now: Standing) -> int:
    """The trials of the candidates that searchers may still try."""
    return unsearched(now.plan) * len(now.plan.file.study.seeds)


def unsearched(plan: Plan) -> int:
    """How many candidates searchers may still try."""
    return sum(max(0, (cell.budget or 0) - len(cell.candidates)) for cell in plan.cells)


def typical_trials(now: Standing) -> list[TrainConfig]:
    """What a run will train, with one trial for each cell whose candidates are not known yet."""
    pairs = zip(now.plan.cells, now.plan.specs, strict=True)
    seed = now.plan.file.study.seeds[0]
    unknown = [spec.config(any_point(spec), seed) for cell, spec in pairs if (cell.budget or 0) > len(cell.candidates)]
    return [*missing_trials(now), *unknown]


def competing(plan: Plan) -> dict[str, str]:
    """The cell of every trial that a scheduler may stop: of those that choose among several candidates, and no others.

    A trial that some cell shows whatever comes out competes with none.
    """
    groups: dict[str, str] = {}
    given: set[str] = set()
    for cell in plan.cells:
        choosing = searches(cell)
        for candidate in cell.candidates:
            groups |= {identity: f"{cell.row} {cell.arm} {cell.column}" for identity in candidate.trials if choosing}
            given |= {*candidate.confirmations, *(() if choosing else candidate.trials)}
    return {identity: group for identity, group in groups.items() if identity not in given}


def work_to_come(now: Standing) -> Work:
    """The trials that a run may train, those that depend on results by one that stands for each cell's."""
    study = now.plan.file.study
    fresh = study.confirm.seeds if study.confirm else []
    searched: list[TrainConfig] = []
    confirming: list[TrainConfig] = []
    for cell, spec in zip(now.plan.cells, now.plan.specs, strict=True):
        values = cell.candidates[0].values if cell.candidates else any_point(spec)
        left = max(0, (cell.budget or 0) - len(cell.candidates))
        searched += [spec.config(values, seed) for _ in range(left) for seed in study.seeds]
        if choose(cell, now).candidate is None:
            confirming += [spec.config(values, seed, confirm=True) for seed in fresh]
    return Work(tuple(missing_trials(now)), tuple(searched), tuple(confirming), study.scheduler is not None)


def cost_to_come(
    now: Standing, places: Places, resources: "Resources", observer: Observer, *, loading_s: float = 0.0
) -> Estimate:
    """What a run would cost, timed where its trials will run; nothing is kept.

    Args:
        now: the plan and where it stands; something is left to train.
        places: where data lie.
        resources: what one trial gets, and where.
        observer: told what is timed.
        loading_s: seconds that a driver takes to load Ray, part of each start.

    Raises:
        UserError: the cluster cannot be reached or is too small, or a trial cannot be timed.
    """
    from study.cluster import timed

    work = work_to_come(now)
    tasks = {
        key: Task(config, places.data, None if config.tree is None else now.plan.trees[config.tree_hash].paths)
        for key, config in work.kinds.items()
    }
    timings, crew = timed(tasks, len(work.missing) + len(work.later), resources, observer)
    return estimate(work, timings, replace(crew, start_s=crew.start_s + loading_s))


def _searcher(now: Standing, missing: list[TrainConfig], places: Places, *, search: bool) -> Searcher:
    groups = competing(now.plan)
    if not search or not unsearched(now.plan):
        return PlanSearcher(missing, groups, Claims(places.claims).elsewhere)
    from study.search import OptunaSearcher

    return OptunaSearcher(now, missing, groups, RecordStore(places.trials).read)
