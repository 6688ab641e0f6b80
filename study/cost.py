"""What trials to come will cost, from what one of each kind was timed to take. Arithmetic alone: no Ray, no torch."""

import heapq
import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from statistics import fmean

from dh2l.config import TrainConfig
from dh2l.data.manifest import Manifest
from dh2l.errors import UserError
from dh2l.names import MODELS

KIND_FIELDS = (
    *("dataset", "data_hash", "tree_hash", "protocol", "validation_fraction", "crop_padding", "flip"),
    *("model", "shortcut", "batch_size", "micro_batch", "precision", "compiled", "deterministic"),
)
"""Config fields on which, beside the arm, the cost of an epoch depends. Metrics and weights do not move it by much."""

TIMED_S = 3.0
"""Seconds of training, and of evaluation, by which a kind of trial is timed."""


def per_pixel(name: str) -> float:
    """Multiplications of a model's forward pass per pixel of an image, roughly; a user's are taken to be resnet50's."""
    model = MODELS[name]
    if model.build == MODELS["resnet20"].build:  # a layer of a CIFAR network: 9·16² on all pixels, 9·32² on a quarter
        return 2304.0 * model.depth
    return {"resnet18": 1.8e9 / 224**2}.get(name, 4.1e9 / 224**2)


def longest_first(configs: Sequence[TrainConfig], manifest_of: Callable[[str], Manifest]) -> list[TrainConfig]:
    """The trials of each seed in turn, those first that compute most: then no long one is left for the end alone."""

    def work(config: TrainConfig) -> float:
        manifest = manifest_of(config.dataset)
        height, width, _ = manifest.image_shape
        return config.epochs * manifest.n_train * height * width * per_pixel(config.model)

    seeds = (list(of_seed) for _, of_seed in groupby(configs, key=lambda config: config.seed))
    return [config for of_seed in seeds for config in sorted(of_seed, key=work, reverse=True)]


@dataclass(frozen=True)
class Task:
    """What is timed.

    Attributes:
        config: bound to its data.
        data: the folder of prepared data sets.
        tree: the classes' paths in the tree that the config names; None where it names none.
        seconds: of training, and likewise of evaluation, that the clock runs at least; less if all is done before.
    """

    config: TrainConfig
    data: Path
    tree: tuple[tuple[str, ...], ...] | None
    seconds: float = TIMED_S


@dataclass(frozen=True)
class Timing:
    """What a trial of one kind was measured to take, beside as many others as would train.

    Attributes:
        once_s: seconds of setting a trial up, of its last checkpoint and of filing its record.
        epoch_s: seconds of an epoch: its steps, its evaluations, its share of a checkpoint.
        steps: of an epoch.
        evaluated: images that an epoch ends by evaluating, of validation and test set.
        record_bytes: of a trial's record and arrays.
        checkpoint_bytes: of its checkpoint.
        measured_s: seconds that the clock ran.
    """

    once_s: float
    epoch_s: float
    steps: int
    evaluated: int
    record_bytes: int
    checkpoint_bytes: int
    measured_s: float

    def trial_s(self, epochs: int) -> float:
        """Seconds of a trial."""
        return self.once_s + epochs * self.epoch_s


@dataclass(frozen=True)
class Crew:
    """Where trials go.

    Attributes:
        places: how many train side by side.
        cpus: of each.
        gpus: of each.
        start_s: seconds before the first trial trains and after the last, of Ray and its workers.
    """

    places: int
    cpus: float
    gpus: float
    start_s: float


@dataclass(frozen=True)
class Work:
    """The trials to come, each list in the order in which they are run.

    Attributes:
        missing: those that are known.
        searched: of candidates that a searcher may still try; one stands for all that a cell may get.
        confirming: of choices that are not made yet, likewise.
        scheduled: whether a scheduler may stop some of them early.
    """

    missing: tuple[TrainConfig, ...]
    searched: tuple[TrainConfig, ...] = ()
    confirming: tuple[TrainConfig, ...] = ()
    scheduled: bool = False

    @property
    def later(self) -> tuple[TrainConfig, ...]:
        """Those that depend on results: the most that there can be."""
        return self.searched + self.confirming

    @property
    def kinds(self) -> dict[str, TrainConfig]:
        """A trial of each kind, one with the most epochs, by the kind's key."""
        kinds: dict[str, TrainConfig] = {}
        for config in (*self.missing, *self.later):
            known = kinds.setdefault(key := kind_of(config), config)
            if config.epochs > known.epochs:
                kinds[key] = config
        return kinds


@dataclass(frozen=True)
class KindCost:
    """What the trials of one kind cost.

    Attributes:
        config: one of them, with the most epochs.
        timing: what was measured.
        trials: how many are missing.
        later: how many may come that depend on results.
        hours: of one trial's resource, a GPU or its cores, over all these trials.
    """

    config: TrainConfig
    timing: Timing
    trials: int
    later: int
    hours: float


@dataclass(frozen=True)
class Estimate:
    """What a study's trials to come cost.

    Attributes:
        kinds: by kind of trial.
        crew: where they go.
        hours: GPU hours of the missing trials; core hours where trials have no GPU.
        later_hours: likewise of those that depend on results, at most.
        wall_s: seconds until all is trained, without `start_s`: each trial on the first place that is free, in the
            plan's order, and those that confirm after all others.
        starts: how often Ray is started for it.
        record_bytes: of all records.
        checkpoint_bytes: of the checkpoints that are there at a time.
        scheduled: whether a scheduler may stop trials early.
    """

    kinds: tuple[KindCost, ...]
    crew: Crew
    hours: float
    later_hours: float
    wall_s: float
    starts: int
    record_bytes: int
    checkpoint_bytes: int
    scheduled: bool

    @property
    def unit(self) -> str:
        """What the hours are hours of."""
        return "GPU hours" if self.crew.gpus else "CPU-core hours"

    @property
    def trials(self) -> int:
        """How many are missing."""
        return sum(kind.trials for kind in self.kinds)

    @property
    def later(self) -> int:
        """How many may come that depend on results."""
        return sum(kind.later for kind in self.kinds)

    @property
    def start_s(self) -> float:
        """Seconds in which nothing trains yet."""
        return self.starts * self.crew.start_s

    @property
    def measured_s(self) -> float:
        """Seconds that the clock ran, over all kinds."""
        return sum(kind.timing.measured_s for kind in self.kinds)


def kind_of(config: TrainConfig) -> str:
    """The key of a trial's kind: trials of one kind take the same time, epoch for epoch."""
    fields = [getattr(config, name) for name in KIND_FIELDS]
    return json.dumps([config.arm, *fields, config.canonical().get("sources", {})])


def estimate(work: Work, timings: Mapping[str, Timing], crew: Crew) -> Estimate:
    """Add up what the trials to come cost.

    Args:
        work: the trials.
        timings: what one of each of their kinds was measured to take, by its key.
        crew: where they go.
    """

    def seconds(configs: Iterable[TrainConfig]) -> list[float]:
        return [timings[kind_of(config)].trial_s(config.epochs) for config in configs]

    def hours(configs: Iterable[TrainConfig]) -> float:
        return sum(seconds(configs)) * (crew.gpus or crew.cpus) / 3600

    everything = [*work.missing, *work.later]
    now, later = (Counter(map(kind_of, configs)) for configs in (work.missing, work.later))
    kinds = tuple(
        KindCost(config, timings[key], now[key], later[key], hours(c for c in everything if kind_of(c) == key))
        for key, config in work.kinds.items()
    )
    rounds = [part for part in (work.missing + work.searched, work.confirming) if part]
    of_each = [timings[kind_of(config)] for config in everything]
    largest = sorted((timing.checkpoint_bytes for timing in of_each), reverse=True)
    return Estimate(
        kinds=kinds,
        crew=crew,
        hours=hours(work.missing),
        later_hours=hours(work.later),
        wall_s=sum(makespan(seconds(part), crew.places) for part in rounds),
        starts=len(rounds),
        record_bytes=sum(timing.record_bytes for timing in of_each),
        checkpoint_bytes=sum(largest[: crew.places]),
        scheduled=work.scheduled,
    )


def makespan(seconds: Sequence[float], places: int) -> float:
    """When the last of some trials ends, each begun in their order on the first place that is free."""
    free = [0.0] * places
    for duration in seconds:
        heapq.heapreplace(free, free[0] + duration)
    return max(free)


def mean_timing(timings: Sequence[Timing]) -> Timing:
    """One kind's timing from several workers' at once."""
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
    """Refuse to train what takes more GPU hours than allowed.

    Raises:
        UserError: it does, or trials take no GPU hours at all.
    """
    total = cost.hours + cost.later_hours
    if not cost.crew.gpus:
        raise UserError(
            f"--max-gpu-hours {limit:g} counts GPU hours, but trials train on CPU cores here: {study} takes about "
            f"{figure(total)} CPU-core hours and no GPU; nothing was trained; leave --max-gpu-hours out to train it"
        )
    if total > limit:
        later = f", {cost.later} of which depend on results" if cost.later else ""
        raise UserError(
            f"{study} takes about {figure(total)} GPU hours by estimate ({cost.trials + cost.later} trials{later}), "
            f"but --max-gpu-hours is {limit:g}; nothing was trained; raise it, or train less with --set: fewer epochs "
            "or seeds; several trials on a GPU (--trials-per-gpu auto) may need fewer hours"
        )


def figure(value: float) -> str:
    """A number as exact as an estimate is: three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def kinds_of_trials(n: int) -> str:
    """So many kinds, in words."""
    return f"{n} kind{'' if n == 1 else 's'} of trials"
