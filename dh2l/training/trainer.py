"""Training of one trial: a generator of per-epoch results that resumes as if never interrupted."""

import math
import os
import time
import warnings
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dh2l.config.batch_sizes import check_batches
from dh2l.config.binding import bind, channel_statistics
from dh2l.config.train_config import TrainConfig
from dh2l.data import PreparedData
from dh2l.errors import Diverged
from dh2l.io.files import AnyPath
from dh2l.models.network import build_network
from dh2l.results import EpochResult, History, TrainResult
from dh2l.training import checkpoint
from dh2l.training.batches import Normalise, TrainBatches, make_splits
from dh2l.training.compile import Compiled
from dh2l.training.diagnostics import Diagnostics
from dh2l.training.evaluation import SCORES, Evaluation, Evaluator, evaluation_interval
from dh2l.training.objective import Objective
from dh2l.training.optimizer import make_optimizer
from dh2l.training.schedule import learning_rates
from dh2l.training.step import Replayed, Step

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
    evaluate_every: int | None = None,
    best_test: bool = False,
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
        evaluate_every: epochs between two evaluations of the test set, counted back from the last epoch; default:
            `evaluation_interval`. Each new best validation epoch is evaluated too. No other number depends on it.
        best_test: evaluate the test set after every epoch, and start anew rather than from a checkpoint whose
            epochs were not all evaluated, so that the best epoch on the test set is known (D16).
        circumstances: JSON values to keep with this process's entry among `TrainResult.attempts`.

    Raises:
        Diverged: a loss was not finite.
        UserError: config and data do not fit.
    """
    config = bind(config, data.manifest)
    where = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    with arithmetic(config, threads):
        run = Training(config, data, where, evaluate_every=1 if best_test else evaluate_every)
        state = checkpoint.load(checkpoints, config.identity) if checkpoints else None
        if state and not (best_test and None in state["history"]["test_accuracy"]):
            run.restore(state)
        saved, saved_epoch = time.monotonic(), run.epochs_done
        run.start_attempt(circumstances or {})
        for epoch in range(run.epochs_done + 1, config.epochs + 1):
            result = run.epoch(epoch)
            if checkpoints and (
                epoch == config.epochs or time.monotonic() - saved >= checkpoint_seconds
            ):
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
        warnings.warn(
            f"no checkpoint is saved in {folder} ({error.strerror}); training goes on", stacklevel=2
        )
    return time.monotonic()


class Training:
    """A trial in training: network, optimizer and history, and how to save and restore them."""

    def __init__(
        self,
        config: TrainConfig,
        data: PreparedData,
        device: torch.device,
        *,
        evaluate_every: int | None = None,
    ) -> None:
        manifest = data.manifest
        self.evaluate_every = evaluate_every or evaluation_interval(config.epochs)
        self.config, self.device, self.tree = config, device, manifest.tree
        training_tree = config.training_tree(self.tree)
        self.splits = make_splits(config, data, device)
        check_batches(config, len(self.splits.train), manifest.image_shape)
        self.normalise = Normalise(*channel_statistics(config, manifest), device)
        self.evaluate = Evaluator(self.tree, self.normalise, device, config.precision)
        network = build_network(config, training_tree, manifest.image_shape)
        self.network = network.to(device).to(memory_format=torch.channels_last)
        self.objective = Objective(config, self.network, training_tree)
        self.diagnostics = Diagnostics(self.network, self.tree, training_tree)
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
        self.step = Step(
            self.objective, self.optimizer, self.normalise, self.batches, config.micro_batch
        )
        self.replayed = Replayed(self.step, device) if device.type == "cuda" else None
        self.history: History = {}
        self.epochs_done = 0
        self.predictions_last: Tensor | None = None
        self.predictions_best: Tensor | None = None
        self.log_probabilities: dict[str, Tensor] = {}
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
        """Train one epoch, evaluate the validation set, and the test set where that is due."""
        started = time.perf_counter()
        metrics: dict[str, float | None] = self.train_epoch(epoch)
        trained = time.perf_counter() - started
        kept: list[str] = []
        evaluations: dict[str, Evaluation] = {}
        if epoch == self.config.epochs:
            kept.append("last")
        if self.splits.validation is not None:
            evaluations["validation"] = self.evaluate(
                self.network, self.splits.validation, probabilities=True
            )
            if self._is_best(evaluations["validation"].accuracy):
                kept.append("best_validation")
            metrics |= evaluations["validation"].metrics("validation")
        metrics |= dict.fromkeys(f"test_{name}" for name in SCORES)
        if kept or (self.config.epochs - epoch) % self.evaluate_every == 0:
            evaluations["test"] = self.evaluate(
                self.network, self.splits.test, probabilities=bool(kept)
            )
            metrics |= evaluations["test"].metrics("test")
        values, diagnostics = self.objective.values(), self.diagnostics.values()
        numbers = torch.stack([*values.values(), *diagnostics.values()]).tolist()
        metrics |= dict(zip(values, numbers, strict=False))
        # The test set decides nothing, not even whether a trial counts as diverged.
        judged = {name: value for name, value in metrics.items() if not name.startswith("test_")}
        if bad := [
            name for name, value in judged.items() if value is not None and not math.isfinite(value)
        ]:
            raise Diverged(
                epoch, " and the ".join(name.replace("_", " ") for name in bad), self.history
            )
        seconds = time.perf_counter() - started
        metrics |= dict(zip(diagnostics, numbers[len(values) :], strict=True))
        metrics |= {
            "lr": learning_rates(self.config, epoch, len(self.batches.sizes))[-1],
            "images_per_s": len(self.splits.train) / trained,
            "seconds": seconds,
            "time": time.time(),
        }
        for name in kept:
            self._keep(name, evaluations)
        for name, value in metrics.items():
            self.history.setdefault(name, []).append(value)
        self.epochs_done = epoch
        self.attempts[-1]["seconds"] += seconds
        for name, fast in (("not_compiled", self.compiled), ("not_replayed", self.replayed)):
            if fast is not None and fast.problem:
                self.attempts[-1][name] = fast.problem
        return EpochResult(epoch, metrics)

    def _is_best(self, accuracy: float) -> bool:
        """Whether a validation accuracy is above those of all epochs before."""
        return all(
            past is not None and past < accuracy
            for past in self.history.get("validation_accuracy", [])
        )

    def _keep(self, which: str, evaluations: Mapping[str, Evaluation]) -> None:
        """Keep predictions and probabilities of the epoch that was evaluated, as the last or the best one."""
        predictions = evaluations["test"].predictions.to(torch.int32)
        if which == "last":
            self.predictions_last = predictions
        else:
            self.predictions_best = predictions
        for part, evaluation in evaluations.items():
            assert evaluation.log_probabilities is not None  # noqa: S101 they were asked for
            self.log_probabilities[f"{part}.{which}"] = evaluation.log_probabilities.cpu()

    def begin_epoch(self, epoch: int) -> None:
        """Prepare the batches and the learning rates of an epoch."""
        self.step.begin(epoch, learning_rates(self.config, epoch, len(self.batches.sizes)))

    def train_epoch(self, epoch: int) -> dict[str, float | None]:
        """One pass of SGD. Sums stay on the device until its end."""
        step, n = self.step, len(self.splits.train)
        self.begin_epoch(epoch)
        if self.replayed is None:
            for size in self.batches:
                step(size)
        else:
            with self.replayed.epoch():
                for size in self.batches:
                    self.replayed(size)
        bad = step.first_bad.tolist()
        if min(bad) < step.NEVER:
            guilty = [
                name
                for name, first in zip(self.objective.terms, bad, strict=True)
                if first == min(bad)
            ]
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
            "log_probabilities": self.log_probabilities,
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
        self.predictions_last, self.predictions_best = (
            state["predictions_last"],
            state["predictions_best"],
        )
        self.log_probabilities = state["log_probabilities"]

    def result(self) -> TrainResult:
        """What the finished trial leaves."""
        assert self.predictions_last is not None  # noqa: S101 at least one epoch has run
        best = self.predictions_best
        labels = {
            part: split.labels[split.index].cpu().numpy().astype(np.int64)
            for part, split in (("test", self.splits.test), ("validation", self.splits.validation))
            if split is not None
        }
        vectors = self.network.classifier.spheres().weight.detach()
        return TrainResult(
            history=self.history,
            predictions_last=self.predictions_last.numpy().astype(np.int64),
            predictions_best=None if best is None else best.numpy().astype(np.int64),
            labels=labels["test"],
            validation_labels=labels.get("validation"),
            log_probabilities={name: logs.numpy() for name, logs in self.log_probabilities.items()},
            vectors=vectors.float().cpu().numpy(),
            parameters=sum(parameter.numel() for parameter in self.network.parameters()),
            attempts=self.attempts,
            weights={name: value.cpu() for name, value in self.network.state_dict().items()},
        )
