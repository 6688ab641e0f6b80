"""Training of one trial: a generator of per-epoch results that resumes as if never interrupted."""

import math
import os
import time
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dh2l import checkpoint
from dh2l.atomic import AnyPath
from dh2l.batches import Normalise, TrainBatches, make_splits
from dh2l.compiled import Compiled
from dh2l.config import TrainConfig
from dh2l.data import PreparedData
from dh2l.errors import Diverged, UserError
from dh2l.evaluation import Evaluator
from dh2l.network import build_network
from dh2l.objective import Objective
from dh2l.optimizer import learning_rate, make_optimizer
from dh2l.results import EpochResult, History, TrainResult
from dh2l.step import Replayed, Step
from dh2l.weights import channel_statistics, with_weights_hash

CHECKPOINT_SECONDS = 5.0
"""Least time between two checkpoints of a trial."""


@contextmanager
def arithmetic(config: TrainConfig, threads: int | None) -> Iterator[None]:
    """Set torch's process-wide switches as a config wants them, and put them back afterwards."""
    convolutions: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined] # set up when torch is imported
    products: Any = torch.backends.cuda.matmul
    before = (
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cudnn.benchmark,
        convolutions.fp32_precision,
        products.fp32_precision,
    )
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if threads is not None:
        torch.set_num_threads(threads)
    _only_deterministic(config.deterministic)
    torch.backends.cudnn.benchmark = not config.deterministic
    convolutions.fp32_precision = "tf32" if config.precision == "tf32" else "ieee"
    products.fp32_precision = "ieee"
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        _only_deterministic(before[1])
        torch.backends.cudnn.benchmark = before[2]
        convolutions.fp32_precision, products.fp32_precision = before[3], before[4]


def _only_deterministic(wanted: bool) -> None:
    """Torch's switch. Setting it imports torch's compiler, seconds of start-up, so it is set only to change it."""
    if torch.are_deterministic_algorithms_enabled() != wanted:
        torch.use_deterministic_algorithms(wanted)


def train(
    config: TrainConfig,
    data: PreparedData,
    *,
    device: str | None = None,
    threads: int | None = None,
    checkpoints: AnyPath | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    circumstances: dict[str, Any] | None = None,
) -> Generator[EpochResult, None, TrainResult]:
    """Train one trial, yielding one result per epoch and returning a `TrainResult`.

    Args:
        config: the trial; its hashes, where set, must be those of `data`.
        data: the prepared data set.
        device: a torch device; default: the GPU where there is one.
        threads: CPU threads; default: as torch is set.
        checkpoints: folder for the trial's checkpoint. Where it holds one, training goes on from
            there, with the same results as if it had never stopped: bit for bit on a CPU with the
            same number of threads, and on a GPU with `deterministic: true`.
        checkpoint_seconds: least time between two checkpoints; the last epoch always leaves one.
        circumstances: JSON values to keep with this process's entry among `TrainResult.attempts`.

    Raises:
        Diverged: a loss was not finite.
        UserError: config and data do not fit.
    """
    manifest = data.manifest
    if config.data_hash not in ("", manifest.data_hash) or config.tree_hash not in ("", manifest.tree_hash):
        raise UserError(f"the data set {config.dataset} was prepared anew since this trial was planned; plan again")
    config = with_weights_hash(config.bound(manifest))
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with arithmetic(config, threads):
        run = Training(config, data, where)
        if checkpoints and (state := checkpoint.load(checkpoints, config.identity)):
            run.restore(state)
        saved, saved_epoch = time.monotonic(), run.epochs_done
        run.start_attempt(circumstances or {})
        for epoch in range(run.epochs_done + 1, config.epochs + 1):
            result = run.epoch(epoch)
            if checkpoints and (epoch == config.epochs or time.monotonic() - saved >= checkpoint_seconds):
                saved, saved_epoch = _save(checkpoints, run), epoch
            try:
                yield result
            except GeneratorExit:
                if checkpoints and saved_epoch != epoch:  # who stops here may want to go on here
                    _save(checkpoints, run)
                raise
        return run.result()


def _save(folder: AnyPath, run: "Training") -> float:
    """Save a checkpoint; returns when. One that cannot be saved costs no trial: a later one may be."""
    try:
        checkpoint.save(folder, run.state())
    except OSError as error:
        warnings.warn(f"no checkpoint is saved in {folder} ({error.strerror}); training goes on", stacklevel=2)
    return time.monotonic()


class Training:
    """A trial in training: network, optimizer and history, and how to save and restore them."""

    def __init__(self, config: TrainConfig, data: PreparedData, device: torch.device) -> None:
        manifest = data.manifest
        self.config, self.device, self.tree = config, device, manifest.tree
        self.splits = make_splits(config, data, device)
        self.normalise = Normalise(*channel_statistics(config, manifest), device)
        self.evaluate = Evaluator(self.tree, self.normalise, device, config.precision)
        network = build_network(config, self.tree, manifest.image_shape)
        self.network = network.to(device).to(memory_format=torch.channels_last)
        self.objective = Objective(config, self.network, self.tree)
        self.compiled = Compiled(self.network.features) if config.compiled else None
        self.objective.features = self.compiled or self.network.features
        self.optimizer = make_optimizer(config, self.network)
        self.batches = TrainBatches(
            self.splits.train,
            batch_size=config.batch_size,
            padding=manifest.crop_padding if config.crop_padding is None else config.crop_padding,
            flip=manifest.flip if config.flip is None else config.flip,
            seed=config.seed,
        )
        self.step = Step(self.objective, self.optimizer, self.normalise, self.batches, config.micro_batch)
        self.replayed = Replayed(self.step, device) if device.type == "cuda" else None
        self.history: History = {}
        self.epochs_done = 0
        self.predictions_last: Tensor | None = None
        self.predictions_best: Tensor | None = None
        self.attempts: list[dict[str, Any]] = []

    def start_attempt(self, circumstances: dict[str, Any]) -> None:
        """Note that this process trains from here, and under what circumstances."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        if self.epochs_done < self.config.epochs:
            self.attempts.append(
                {
                    **circumstances,
                    "device": name,
                    "threads": torch.get_num_threads(),
                    "first_epoch": self.epochs_done + 1,
                    "seconds": 0.0,
                }
            )

    def epoch(self, epoch: int) -> EpochResult:
        """Train and evaluate one epoch."""
        started = time.perf_counter()
        rate = learning_rate(self.config, epoch)
        metrics: dict[str, float | None] = self.train_epoch(epoch, rate)
        trained = time.perf_counter() - started
        if self.splits.validation is not None:
            validation = self.evaluate(self.network, self.splits.validation)
            metrics |= validation.metrics("validation")
        test = self.evaluate(self.network, self.splits.test)
        metrics |= test.metrics("test")
        values = self.objective.values()
        if values:
            metrics |= dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))
        # The test set decides nothing, not even whether a trial counts as diverged.
        judged = {name: value for name, value in metrics.items() if not name.startswith("test_")}
        if bad := [name for name, value in judged.items() if value is not None and not math.isfinite(value)]:
            raise Diverged(epoch, " and the ".join(name.replace("_", " ") for name in bad), self.history)
        seconds = time.perf_counter() - started
        metrics |= {
            "lr": rate,
            "images_per_s": len(self.splits.train) / trained,
            "seconds": seconds,
            "time": time.time(),
        }
        self.predictions_last = test.predictions.to(torch.int32)
        if self.splits.validation is not None and all(
            past is not None and past < validation.accuracy for past in self.history.get("validation_accuracy", [])
        ):
            self.predictions_best = self.predictions_last
        for name, value in metrics.items():
            self.history.setdefault(name, []).append(value)
        self.epochs_done = epoch
        self.attempts[-1]["seconds"] += seconds
        for name, fast in (("not_compiled", self.compiled), ("not_replayed", self.replayed)):
            if fast is not None and fast.problem:
                self.attempts[-1][name] = fast.problem
        return EpochResult(epoch, metrics)

    def train_epoch(self, epoch: int, rate: float) -> dict[str, float | None]:
        """One pass of SGD. Sums stay on the device until its end."""
        step, n = self.step, len(self.splits.train)
        step.begin(epoch, rate)
        if self.replayed is None:
            for size in self.batches:
                step(size)
        else:
            with self.replayed.epoch():
                for size in self.batches:
                    self.replayed(size)
        bad = step.first_bad.tolist()
        if min(bad) < step.NEVER:
            guilty = [name for name, first in zip(self.objective.terms, bad, strict=True) if first == min(bad)]
            raise Diverged(epoch, " and the ".join(guilty), self.history)
        self.objective.end_epoch(n)
        means = (step.sums / n).tolist()
        return {
            "train_loss": sum(means),
            "train_cross_entropy": means[0],
            "train_accuracy": step.right.item() / n,
        }

    def state(self) -> dict[str, Any]:
        """Everything that `restore` needs, in types that load without unpickling code."""
        return {
            "identity": self.config.identity,
            "epochs_done": self.epochs_done,
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "history": self.history,
            "predictions_last": self.predictions_last,
            "predictions_best": self.predictions_best,
            "attempts": self.attempts,
            "objective": self.objective.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a saved state."""
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.objective.restore(state.get("objective", {}))
        self.epochs_done = state["epochs_done"]
        self.history, self.attempts = state["history"], state["attempts"]
        self.predictions_last, self.predictions_best = state["predictions_last"], state["predictions_best"]

    def result(self) -> TrainResult:
        """What the finished trial leaves."""
        assert self.predictions_last is not None  # noqa: S101 at least one epoch has run
        best, test = self.predictions_best, self.splits.test
        vectors = self.network.classifier.spheres().weight.detach()
        return TrainResult(
            history=self.history,
            predictions_last=self.predictions_last.numpy().astype(np.int64),
            predictions_best=None if best is None else best.numpy().astype(np.int64),
            labels=test.labels[test.index].cpu().numpy().astype(np.int64),
            vectors=vectors.float().cpu().numpy(),
            parameters=sum(parameter.numel() for parameter in self.network.parameters()),
            attempts=self.attempts,
        )
