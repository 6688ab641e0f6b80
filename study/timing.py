"""What one trial costs, timed in the process that would train it: a few steps and evaluations, not the trial."""

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from dh2l import checkpoint
from dh2l.batches import Split
from dh2l.data import load
from dh2l.memory import freed_memory_kept
from dh2l.optimizer import learning_rate
from dh2l.results import History, TrainResult
from dh2l.step import WARM_UP
from dh2l.trainer import CHECKPOINT_SECONDS, Training, arithmetic
from dh2l.tree import ClassTree
from study import provenance
from study.cost import Task, Timing
from study.filing import arrays_of, finished_record
from study.records import RecordStore

WARM_UP_STEPS = WARM_UP + 2
"""Steps before the clock starts: on a GPU, enough that those after it are replayed."""
EVALUATION_STEP = 1000
"""Images of the evaluation that warms up, and tells how many the clock has time for."""


class TimedTrial:
    """A trial set up and warm, which trains for the clock and leaves nothing."""

    def __init__(self, task: Task, *, device: str, threads: int) -> None:
        self._task, self._config, self._threads = task, task.config, threads
        data = load(self._config.dataset, task.data)
        if task.tree is not None:
            data = data.with_tree(ClassTree(task.tree))
        started = time.perf_counter()
        with self._circumstances():
            self._training = Training(self._config, data, torch.device(device))
            steps = self._steps()
            self._run(steps, most=1)
            self._once = time.perf_counter() - started
            self._run(steps, most=WARM_UP_STEPS - 1)
            self._evaluated(self._training.splits.test, EVALUATION_STEP)

    def measure(self) -> Timing:
        """Train, evaluate, save and file against the clock; call it while the trials beside it do the same."""
        training, seconds = self._training, self._task.seconds
        parts = [part for part in (training.splits.validation, training.splits.test) if part is not None]
        whole = time.perf_counter()
        with self._circumstances():
            images, train_s = self._run(self._steps(), seconds=seconds)
            trial_image_s = self._evaluated(parts[-1], EVALUATION_STEP) / min(EVALUATION_STEP, len(parts[-1]))
            most = max(EVALUATION_STEP, int(seconds / len(parts) / trial_image_s))
            evaluation_s = sum(self._evaluated(part, most) * len(part) / min(most, len(part)) for part in parts)
            started = time.perf_counter()
            names = list(training.objective.values())
            values_s = time.perf_counter() - started
            with tempfile.TemporaryDirectory(prefix="dh2l-estimate-") as folder:
                checkpoint_s, checkpoint_bytes = self._checkpoint(Path(folder))
                record_s, record_bytes = self._record(Path(folder), names)
        n, sizes = len(training.splits.train), training.batches.sizes
        epoch_s = train_s / images * n + evaluation_s + values_s
        return Timing(
            once_s=self._once + record_s + checkpoint_s,
            epoch_s=epoch_s + checkpoint_s * epoch_s / max(epoch_s, CHECKPOINT_SECONDS),
            steps=len(sizes),
            evaluated=sum(map(len, parts)),
            record_bytes=record_bytes,
            checkpoint_bytes=checkpoint_bytes,
            measured_s=time.perf_counter() - whole,
        )

    @contextmanager
    def _circumstances(self) -> Iterator[None]:
        with freed_memory_kept(), arithmetic(self._config, self._threads):
            yield

    def _steps(self) -> Iterator[tuple[int, bool]]:
        """Steps without end: the images of each, and whether it is its epoch's last."""
        training, epoch = self._training, 0
        while True:
            epoch = epoch % self._config.epochs + 1
            training.step.begin(epoch, learning_rate(self._config, epoch))
            left = len(training.batches.sizes)
            for size in training.batches:
                (training.replayed or training.step)(size)
                left -= 1
                yield size, not left

    def _run(
        self, steps: Iterator[tuple[int, bool]], *, most: int | None = None, seconds: float = 0.0
    ) -> tuple[int, float]:
        """Take a number of steps, or steps for some seconds: then of whole epochs where one fits.

        Returns:
            The images, and the seconds that they took.
        """
        training = self._training
        stride = 1 if training.device.type == "cpu" else 8
        images, taken, whole = 0, 0, (0, 0.0)
        started = time.perf_counter()
        with training.replayed.epoch() if training.replayed else nullcontext():
            for size, last in steps:
                images, taken = images + size, taken + 1
                if last or taken == most or taken % stride == 0:
                    training.step.right.item()  # the host must not run ahead of the clock
                    elapsed = time.perf_counter() - started
                    if last:
                        whole = images, elapsed
                    if taken == most or (most is None and elapsed >= seconds):
                        break
        return whole if most is None and whole[0] else (images, elapsed)

    def _evaluated(self, part: Split, most: int) -> float:
        """Seconds that evaluating a part's first images takes."""
        started = time.perf_counter()
        self._training.evaluate(self._training.network, replace(part, index=part.index[:most]))
        return time.perf_counter() - started

    def _checkpoint(self, folder: Path) -> tuple[float, int]:
        """Seconds and bytes of a checkpoint."""
        started = time.perf_counter()
        checkpoint.save(folder, self._training.state())
        return time.perf_counter() - started, checkpoint.path_in(folder).stat().st_size

    def _record(self, folder: Path, names: list[str]) -> tuple[float, int]:
        """Seconds and bytes of filing a record of all epochs whose numbers compress as badly as numbers can."""
        training, config = self._training, self._config
        n_classes, test = training.tree.n_classes, training.splits.test
        random = np.random.default_rng(0)
        scored = ("loss", "accuracy", "super_accuracy", "mistake_severity")
        judged = [part for part in ("validation", "test") if part == "test" or training.splits.validation is not None]
        metrics = ["train_loss", "train_cross_entropy", "train_accuracy", "lr", "images_per_s", "seconds", "time"]
        metrics += [f"{part}_{score}" for part in judged for score in scored] + names
        history: History = {name: list(random.random(config.epochs)) for name in metrics}
        predictions = [random.integers(0, n_classes, len(test)) for _ in judged]
        vectors = training.network.classifier.spheres().weight.detach().float().cpu().numpy()
        attempt = {**provenance.circumstances(), "device": str(training.device), "threads": 1, "first_epoch": 1}
        result = TrainResult(
            history=history,
            predictions_last=predictions[0],
            predictions_best=predictions[1] if len(predictions) > 1 else None,
            labels=test.labels[test.index].cpu().numpy(),
            vectors=vectors,
            parameters=sum(parameter.numel() for parameter in training.network.parameters()),
            attempts=[attempt | {"seconds": 0.0}],
        )
        started = time.perf_counter()
        store = RecordStore(folder / "trials")
        store.write(finished_record(config, datetime.now(UTC), result), arrays_of(history, result))
        taken = time.perf_counter() - started
        return taken, sum(path.stat().st_size for path in store.folder.iterdir())
