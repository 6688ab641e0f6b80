"""Work of the trials to come, by kind of trial."""

import json
from dataclasses import dataclass
from pathlib import Path

from dh2l.config.train_config import TrainConfig
from dh2l.data.manifest import Manifest
from dh2l.registry.entries import MODELS

KIND_FIELDS = (
    *("dataset", "data_hash", "tree_hash", "protocol"),
    *("validation_fraction", "crop_padding", "flip"),
    *("model", "shortcut", "batch_size", "micro_batch", "precision", "compiled", "deterministic"),
)
"""Config fields, beside the arm, on which the cost of an epoch depends.

Metrics and weights hardly affect it.
"""
TIMED_S = 3.0
"""Seconds of training, and of evaluation, for which a kind of trial is timed."""


def multiplications_per_pixel(name: str) -> float:
    """Return the approximate multiplications of a model's forward pass per pixel of an image.

    A user's model counts as resnet50.
    """
    model = MODELS[name]
    if model.build == MODELS["resnet20"].build:
        # A layer of a CIFAR network: 9·16² on all pixels, 9·32² on a quarter.
        return 2304.0 * model.depth
    return {"resnet18": 1.8e9 / 224**2}.get(name, 4.1e9 / 224**2)


def epoch_work(config: TrainConfig, manifest: Manifest) -> float:
    """Return the work of an epoch of a trial, in a unit for comparing trials."""
    height, width, _ = manifest.image_shape
    return manifest.n_train * height * width * multiplications_per_pixel(config.model)


def kind_of(config: TrainConfig) -> str:
    """Return the key of a trial's kind. An epoch takes the same time in all trials of a kind."""
    fields = [getattr(config, name) for name in KIND_FIELDS]
    return json.dumps([config.arm, *fields, config.canonical().get("sources", {})])


@dataclass(frozen=True)
class TimingTask:
    """A trial to time.

    Attributes:
        config: config of the trial, bound to its data.
        data: folder of prepared data sets.
        tree: paths of the classes in the tree that the config names; None if it names none.
        seconds: minimum seconds of training and of evaluation, unless all is done before.
        evaluate_every: epochs between two evaluations of the test set; None: as in a run.
    """

    config: TrainConfig
    data: Path
    tree: tuple[tuple[str, ...], ...] | None
    seconds: float = TIMED_S
    evaluate_every: int | None = None


@dataclass(frozen=True)
class Workload:
    """Trials to come, each list in the order of the run.

    Attributes:
        missing: trials that are known.
        searched: trials of candidates that a searcher may still try; one config stands for all
            candidates of a cell.
        confirming: trials that confirm choices still to be made, with such stand-ins too.
        scheduled: True if a scheduler may stop some trials early.
    """

    missing: tuple[TrainConfig, ...]
    searched: tuple[TrainConfig, ...] = ()
    confirming: tuple[TrainConfig, ...] = ()
    scheduled: bool = False

    @property
    def later(self) -> tuple[TrainConfig, ...]:
        """Largest set of trials that may follow, depending on results."""
        return self.searched + self.confirming

    @property
    def kinds(self) -> dict[str, TrainConfig]:
        """A trial with the most epochs of each kind, by the kind's key."""
        kinds: dict[str, TrainConfig] = {}
        for config in (*self.missing, *self.later):
            key = kind_of(config)
            known = kinds.setdefault(key, config)
            if config.epochs > known.epochs:
                kinds[key] = config
        return kinds
