"""Timing of one trial from a few steps and evaluations."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from dh2l.data import load
from dh2l.results import History, TrainResult
from dh2l.training import checkpoint
from dh2l.training.allocator import retain_freed_memory
from dh2l.training.batches import Split
from dh2l.training.numeric_settings import numeric_settings
from dh2l.training.step import WARM_UP
from dh2l.training.trainer import CHECKPOINT_SECONDS
from dh2l.training.training_state import Training
from dh2l.tree import ClassTree
from study.execution.estimate.cost import Timing
from study.execution.estimate.workload import TimingTask
from study.records import provenance
from study.records.build import arrays_of, finished_record, probabilities_of
from study.records.store import RecordStore

WARM_UP_STEPS = WARM_UP + 2
"""Steps before the measurement. On a GPU, later steps are replays of a CUDA graph."""
EVALUATION_STEP = 1000
"""Images of the warm-up evaluation, from which the size of the timed one follows."""


class TimedTrial:
    """Trial that is set up and warm, and trains for a measurement without leaving files."""

    def __init__(self, task: TimingTask, *, device: str, threads: int) -> None:
        self._task, self._config, self._threads = task, task.config, threads
        data = load(self._config.dataset, task.data)
        if task.tree is not None:
            data = data.with_tree(ClassTree(task.tree))
        started = time.perf_counter()
        with self._circumstances():
            self._training = Training(
                self._config, data, torch.device(device), evaluate_every=task.evaluate_every
            )
            steps = self._steps()
            self._run(steps, most=1)
            self._once = time.perf_counter() - started
            self._run(steps, most=WARM_UP_STEPS - 1)
            self._evaluated(self._training.splits.test, EVALUATION_STEP)

    def measure(self) -> Timing:
        """Time training, evaluation, checkpoint and record, while other trials do the same."""
        training = self._training
        whole = time.perf_counter()
        with self._circumstances():
            images, train_s = self._run(self._steps(), seconds=self._task.seconds)
            evaluation_s = self._evaluation()
            started = time.perf_counter()
            names = [*training.objective.values(), *training.diagnostics.values()]
            values_s = time.perf_counter() - started
            with tempfile.TemporaryDirectory(prefix="dh2l-estimate-") as folder:
                checkpoint_s, checkpoint_bytes = self._checkpoint(Path(folder))
                record_s, record_bytes = self._record(Path(folder), names)
        epoch_s = train_s / images * len(training.splits.train) + evaluation_s + values_s
        return Timing(
            once_s=self._once + record_s + checkpoint_s,
            epoch_s=epoch_s + checkpoint_s * epoch_s / max(epoch_s, CHECKPOINT_SECONDS),
            steps=len(training.batches.sizes),
            evaluated=sum(map(len, self._evaluated_splits())),
            record_bytes=record_bytes,
            checkpoint_bytes=checkpoint_bytes,
            measured_s=time.perf_counter() - whole,
        )

    def _evaluated_splits(self) -> list[Split]:
        """Return the validation split, if there is one, and the test split."""
        splits = self._training.splits
        return [split for split in (splits.validation, splits.test) if split is not None]

    def _evaluation(self) -> float:
        """Return the seconds of the evaluations of an epoch.

        The test set is not evaluated after every epoch.
        """
        splits = self._evaluated_splits()
        test = splits[-1]
        images = min(EVALUATION_STEP, len(test))
        image_s = self._evaluated(test, EVALUATION_STEP) / images
        most = max(EVALUATION_STEP, int(self._task.seconds / len(splits) / image_s))
        seconds = [
            self._evaluated(split, most) * len(split) / min(most, len(split)) for split in splits
        ]
        return sum(seconds[:-1]) + seconds[-1] / self._training.evaluate_every

    @contextmanager
    def _circumstances(self) -> Iterator[None]:
        with retain_freed_memory(), numeric_settings(self._config, self._threads):
            yield

    def _steps(self) -> Iterator[tuple[int, bool]]:
        """Take steps without end. Yield the images of each, and True if it ends an epoch."""
        training = self._training
        epoch = 0
        while True:
            epoch = epoch % self._config.epochs + 1
            training.begin_epoch(epoch)
            left = len(training.batches.sizes)
            for size in training.batches:
                (training.replayed or training.step)(size)
                left -= 1
                yield size, not left

    def _run(
        self, steps: Iterator[tuple[int, bool]], *, most: int | None = None, seconds: float = 0.0
    ) -> tuple[int, float]:
        """Take a number of steps, or steps for some seconds, in whole epochs if one fits.

        Returns:
            The number of images and the seconds that they took.
        """
        training = self._training
        stride = 1 if training.device.type == "cpu" else 8
        images, taken = 0, 0
        whole = (0, 0.0)
        started = time.perf_counter()
        with training.replayed.epoch() if training.replayed else nullcontext():
            for size, last in steps:
                images += size
                taken += 1
                if last or taken == most or taken % stride == 0:
                    training.step.right.item()  # the host must not run ahead of the clock
                    elapsed = time.perf_counter() - started
                    if last:
                        whole = images, elapsed
                    if taken == most or (most is None and elapsed >= seconds):
                        break
        if most is None and whole[0]:
            return whole
        return images, elapsed

    def _evaluated(self, part: Split, most: int) -> float:
        """Return the seconds to evaluate the first images of a split."""
        started = time.perf_counter()
        self._training.evaluate(self._training.network, replace(part, index=part.index[:most]))
        return time.perf_counter() - started

    def _checkpoint(self, folder: Path) -> tuple[float, int]:
        """Return the seconds and bytes of a checkpoint."""
        started = time.perf_counter()
        checkpoint.save(folder, self._training.state())
        return time.perf_counter() - started, checkpoint.path_in(folder).stat().st_size

    def _record(self, folder: Path, names: list[str]) -> tuple[float, int]:
        """Return the seconds and bytes of a full record with random, incompressible numbers."""
        result = self._random_result(names)
        started = time.perf_counter()
        store = RecordStore(folder / "trials")
        record = finished_record(self._config, datetime.now(UTC), result, self._training.tree)
        store.write(record, arrays_of(result.history, result), probabilities_of(result))
        taken = time.perf_counter() - started
        files = (*store.folder.iterdir(), *store.probabilities.iterdir())
        return taken, sum(path.stat().st_size for path in files)

    def _random_result(self, names: list[str]) -> TrainResult:
        training, config = self._training, self._config
        n_classes, test = training.tree.n_classes, training.splits.test
        random = np.random.default_rng(0)
        scores = ("loss", "accuracy", "super_accuracy", "mistake_severity")
        evaluated = ["test"] if training.splits.validation is None else ["validation", "test"]
        metrics = [
            *("train_loss", "train_cross_entropy", "train_accuracy"),
            *("lr", "images_per_s", "seconds", "time"),
        ]
        for part in evaluated:
            metrics += [f"{part}_{score}" for score in scores]
        metrics += names
        history: History = {name: list(random.random(config.epochs)) for name in metrics}
        predictions = [random.integers(0, n_classes, len(test)) for _ in evaluated]
        splits = {"test": test, "validation": training.splits.validation}
        log_probabilities = {}
        for part, split in splits.items():
            for which in ("last", "best_validation"):
                if split is not None:
                    values = -random.random((len(split), n_classes)).astype(np.float16)
                    log_probabilities[f"{part}.{which}"] = values
        vectors = training.network.classifier.spheres().weight.detach().float().cpu().numpy()
        attempt = {
            **provenance.circumstances(),
            "device": str(training.device),
            "threads": 1,
            "first_epoch": 1,
        }
        return TrainResult(
            history=history,
            predictions_last=predictions[0],
            predictions_best=predictions[1] if len(predictions) > 1 else None,
            labels=test.labels[test.index].cpu().numpy(),
            validation_labels=None,
            log_probabilities=log_probabilities,
            vectors=vectors,
            parameters=sum(parameter.numel() for parameter in training.network.parameters()),
            attempts=[attempt | {"seconds": 0.0}],
        )
