"""State of a trial in training, from epoch to epoch."""

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dh2l.config.batch_sizes import check_batches
from dh2l.config.binding import channel_statistics
from dh2l.config.train_config import TrainConfig
from dh2l.data import PreparedData
from dh2l.errors import Diverged
from dh2l.models.network import build_network
from dh2l.results import EpochResult, History, TrainResult
from dh2l.training.batches import Normalise, TrainBatches, make_splits
from dh2l.training.compile import CompiledFunction
from dh2l.training.diagnostics import Diagnostics
from dh2l.training.evaluation import SCORES, Evaluation, Evaluator, evaluation_interval
from dh2l.training.objective import Objective
from dh2l.training.optimizer import make_optimizer
from dh2l.training.schedule import learning_rates
from dh2l.training.step import CudaGraphStep, Step


class Training:
    """A trial in training: network, optimizer and history, which it can save and restore."""

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
        self.compiled = CompiledFunction(self.network.features) if config.compiled else None
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
        self.replayed = CudaGraphStep(self.step, device) if device.type == "cuda" else None
        self.history: History = {}
        self.epochs_done = 0
        self.predictions_last: Tensor | None = None
        self.predictions_best: Tensor | None = None
        self.log_probabilities: dict[str, Tensor] = {}
        self.attempts: list[dict[str, Any]] = []

    def start_attempt(self, environment: dict[str, Any]) -> None:
        """Note that this process trains from here, with its environment."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        if self.epochs_done < self.config.epochs:
            self.attempts.append(
                {
                    **environment,
                    "device": name,
                    "threads": torch.get_num_threads(),
                    "first_epoch": self.epochs_done + 1,
                    "seconds": 0.0,
                }
            )

    def epoch(self, epoch: int) -> EpochResult:
        """Train one epoch, evaluate the validation set, and the test set where that is due.

        Raises:
            Diverged: a number that is not of the test set is not finite.
        """
        started = time.perf_counter()
        metrics: dict[str, float | None] = self.train_epoch(epoch)
        trained = time.perf_counter() - started
        kept, evaluations = self._evaluate(epoch)
        if "validation" in evaluations:
            metrics |= evaluations["validation"].metrics("validation")
        metrics |= dict.fromkeys(f"test_{name}" for name in SCORES)
        if "test" in evaluations:
            metrics |= evaluations["test"].metrics("test")
        values, diagnostics = self.objective.values(), self.diagnostics.values()
        numbers = torch.stack([*values.values(), *diagnostics.values()]).tolist()
        metrics |= dict(zip(values, numbers, strict=False))
        self._check_finite(epoch, metrics)
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
        self._end_epoch(epoch, metrics, seconds)
        return EpochResult(epoch, metrics)

    def _evaluate(self, epoch: int) -> tuple[list[str], dict[str, Evaluation]]:
        """Evaluate the validation set, and the test set where that is due.

        Returns:
            What the epoch is kept as, ``last`` and ``best_validation``, and the evaluations by
                part.
        """
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
        if kept or (self.config.epochs - epoch) % self.evaluate_every == 0:
            evaluations["test"] = self.evaluate(
                self.network, self.splits.test, probabilities=bool(kept)
            )
        return kept, evaluations

    def _check_finite(self, epoch: int, metrics: Mapping[str, float | None]) -> None:
        """Raise Diverged if a metric is not finite.

        The test set decides nothing, not even whether a trial counts as diverged.
        """
        bad = [
            name.replace("_", " ")
            for name, value in metrics.items()
            if not (name.startswith("test_") or value is None or math.isfinite(value))
        ]
        if bad:
            raise Diverged(epoch, " and the ".join(bad), self.history)

    def _end_epoch(self, epoch: int, metrics: Mapping[str, float | None], seconds: float) -> None:
        """Add an epoch to the history and to the time of this process."""
        for name, value in metrics.items():
            self.history.setdefault(name, []).append(value)
        self.epochs_done = epoch
        self.attempts[-1]["seconds"] += seconds
        for name, fast in (("not_compiled", self.compiled), ("not_replayed", self.replayed)):
            if fast is not None and fast.problem:
                self.attempts[-1][name] = fast.problem

    def _is_best(self, accuracy: float) -> bool:
        """Return True if a validation accuracy is above those of all epochs before."""
        return all(
            past is not None and past < accuracy
            for past in self.history.get("validation_accuracy", [])
        )

    def _keep(self, which: str, evaluations: Mapping[str, Evaluation]) -> None:
        """Keep predictions and probabilities of an epoch, as the last or the best one."""
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
        """Make one pass of SGD; sums stay on the device until its end."""
        step, n = self.step, len(self.splits.train)
        self.begin_epoch(epoch)
        if self.replayed is None:
            for size in self.batches:
                step(size)
        else:
            with self.replayed.epoch():
                for size in self.batches:
                    self.replayed(size)
        first_bad = step.first_bad.tolist()
        earliest = min(first_bad)
        if earliest < step.NEVER:
            terms = zip(self.objective.terms, first_bad, strict=True)
            bad = [name for name, first in terms if first == earliest]
            raise Diverged(epoch, " and the ".join(bad), self.history)
        self.objective.end_epoch(n)
        means = (step.sums / n).tolist()
        return {
            "train_loss": sum(means),
            "train_cross_entropy": means[0],
            "train_accuracy": step.right.item() / n,
        }

    def state(self) -> dict[str, Any]:
        """Return everything that `restore` needs, in types that load without unpickling code."""
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
        self.predictions_last = state["predictions_last"]
        self.predictions_best = state["predictions_best"]
        self.log_probabilities = state["log_probabilities"]

    def result(self) -> TrainResult:
        """Collect the results of the finished trial."""
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
