"""Cost of the trials to come, from timings of each kind."""

import heapq
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from dh2l.config.train_config import TrainConfig
from dh2l.errors import UserError
from dh2l.wording import counted
from study.execution.estimate.workload import Workload, kind_of


@dataclass(frozen=True)
class Timing:
    """Measured time of a trial of one kind, beside as many others as in a run.

    Attributes:
        once_s: seconds to set up a trial, save its last checkpoint and write its record.
        epoch_s: seconds of an epoch: its steps, its evaluations and its share of a checkpoint.
        steps: number of steps of an epoch.
        evaluated: number of validation and test images evaluated after an epoch.
        record_bytes: size of a trial's record and arrays.
        checkpoint_bytes: size of its checkpoint.
        measured_s: seconds that the measurement took.
    """

    once_s: float
    epoch_s: float
    steps: int
    evaluated: int
    record_bytes: int
    checkpoint_bytes: int
    measured_s: float

    def trial_s(self, epochs: int) -> float:
        """Return the seconds of a trial."""
        return self.once_s + epochs * self.epoch_s


@dataclass(frozen=True)
class WorkerPool:
    """Workers that train trials side by side.

    Attributes:
        slots: number of trials side by side.
        cpus: CPUs of each.
        gpus: GPUs of each.
        start_s: seconds to start Ray.
        workers_s: seconds from then on to start the workers.
    """

    slots: int
    cpus: float
    gpus: float
    start_s: float
    workers_s: float


@dataclass(frozen=True)
class KindCost:
    """Cost of the trials of one kind.

    Attributes:
        config: a trial with the most epochs.
        timing: its measured time.
        trials: number of missing trials.
        later: number of trials that may follow, depending on results.
        hours: GPU hours of all these trials; core hours if trials have no GPU.
    """

    config: TrainConfig
    timing: Timing
    trials: int
    later: int
    hours: float


@dataclass(frozen=True)
class Estimate:
    """Cost of a study's trials to come.

    Attributes:
        kinds: cost by kind of trial.
        pool: workers that train the trials.
        hours: GPU hours of the missing trials; core hours if trials have no GPU.
        later_hours: maximum hours of the trials that depend on results.
        wall_s: seconds of all training without `start_s`. Each trial takes the first free slot in
            the order of the plan; trials that confirm follow all others.
        rounds: number of times that workers start.
        record_bytes: size of all records.
        checkpoint_bytes: size of the checkpoints that exist at the same time.
        scheduled: True if a scheduler may stop trials early.
    """

    kinds: tuple[KindCost, ...]
    pool: WorkerPool
    hours: float
    later_hours: float
    wall_s: float
    rounds: int
    record_bytes: int
    checkpoint_bytes: int
    scheduled: bool

    @property
    def unit(self) -> str:
        """Unit of the hours."""
        return "GPU hours" if self.pool.gpus else "CPU-core hours"

    @property
    def trials(self) -> int:
        """Number of missing trials."""
        return sum(kind.trials for kind in self.kinds)

    @property
    def later(self) -> int:
        """Number of trials that may follow, depending on results."""
        return sum(kind.later for kind in self.kinds)

    @property
    def start_s(self) -> float:
        """Seconds in which no trial trains yet."""
        return self.pool.start_s + self.rounds * self.pool.workers_s

    @property
    def measured_s(self) -> float:
        """Seconds that the measurement of all kinds took."""
        return sum(kind.timing.measured_s for kind in self.kinds)


def estimate(work: Workload, timings: Mapping[str, Timing], pool: WorkerPool) -> Estimate:
    """Add up the cost of the trials to come.

    Args:
        work: the trials.
        timings: measured time of a trial of each kind, by the kind's key.
        pool: workers that train the trials.
    """

    def seconds(configs: Iterable[TrainConfig]) -> list[float]:
        return [timings[kind_of(config)].trial_s(config.epochs) for config in configs]

    def hours(configs: Iterable[TrainConfig]) -> float:
        return sum(seconds(configs)) * (pool.gpus or pool.cpus) / 3600

    everything = [*work.missing, *work.later]
    by_kind: dict[str, list[TrainConfig]] = {}
    for config in everything:
        by_kind.setdefault(kind_of(config), []).append(config)
    now, later = (Counter(map(kind_of, configs)) for configs in (work.missing, work.later))
    kinds = tuple(
        KindCost(config, timings[key], now[key], later[key], hours(by_kind[key]))
        for key, config in work.kinds.items()
    )
    rounds = [part for part in (work.missing + work.searched, work.confirming) if part]
    timing_of_each = [timings[kind_of(config)] for config in everything]
    largest = sorted((timing.checkpoint_bytes for timing in timing_of_each), reverse=True)
    return Estimate(
        kinds=kinds,
        pool=pool,
        hours=hours(work.missing),
        later_hours=hours(work.later),
        wall_s=sum(makespan(seconds(part), pool.slots) for part in rounds),
        rounds=len(rounds),
        record_bytes=sum(timing.record_bytes for timing in timing_of_each),
        checkpoint_bytes=sum(largest[: pool.slots]),
        scheduled=work.scheduled,
    )


def makespan(seconds: Sequence[float], slots: int) -> float:
    """Return the end of the last trial if each in turn starts on the first free slot."""
    free = [0.0] * slots
    for duration in seconds:
        heapq.heapreplace(free, free[0] + duration)
    return max(free)


def mean_timing(timings: Sequence[Timing]) -> Timing:
    """Return the mean of the timings of one kind that several workers measured at once."""
    first = timings[0]
    return Timing(
        once_s=fmean(timing.once_s for timing in timings),
        epoch_s=fmean(timing.epoch_s for timing in timings),
        steps=first.steps,
        evaluated=first.evaluated,
        record_bytes=first.record_bytes,
        checkpoint_bytes=first.checkpoint_bytes,
        measured_s=sum(timing.measured_s for timing in timings),
    )


def require_within(cost: Estimate, limit: float, study: str) -> None:
    """Raise if the trials to come take more GPU hours than the limit.

    Raises:
        UserError: the estimate exceeds the limit, or the trials use no GPU.
    """
    total = cost.hours + cost.later_hours
    if not cost.pool.gpus:
        raise UserError(
            f"--max-gpu-hours {limit:g} counts GPU hours, but trials train on CPU cores here: "
            f"{study} takes about {figure(total)} CPU-core hours and no GPU; nothing was trained. "
            "Remove --max-gpu-hours to train it."
        )
    if total > limit:
        later = f", {cost.later} of which depend on results" if cost.later else ""
        trials = counted(cost.trials + cost.later, "trial")
        raise UserError(
            f"{study} takes about {figure(total)} GPU hours by estimate ({trials}{later}), but "
            f"--max-gpu-hours is {limit:g}; nothing was trained. Raise the limit, or train less "
            "with --set: fewer epochs or seeds. Several trials on a GPU (--trials-per-gpu auto) "
            "may need fewer hours."
        )


def figure(value: float) -> str:
    """Format a number with the precision of an estimate, three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def kinds_of_trials(n: int) -> str:
    """Format a number of kinds, e.g. ``3 kinds of trials``."""
    return counted(n, "kind of trials", "kinds of trials")
