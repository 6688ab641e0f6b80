"""Number of trials per GPU, from measured throughput and memory.

As a program, `python -m study.execution.estimate.gpu_sharing`, the module is one of the measured
trials. It reads its task from the first line of stdin, as JSON with the keys of `SharingTask`. It
prints a line when it is warm, measures after the next line of stdin, and leaves no files.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from dh2l.config.train_config import TrainConfig
from dh2l.errors import UserError
from dh2l.io.files import AnyPath
from dh2l.plugins import Plugin
from study.execution.estimate.workload import multiplications_per_pixel
from study.execution.import_paths import python_module
from study.records.paths import place

MIN_SPEEDUP = 1.1
"""Minimum speedup at which doubling the trials pays off."""
MAX_MEMORY_FRACTION = 0.9
"""Fraction of the device's memory that trials may use together."""


@dataclass(frozen=True)
class Sample:
    """Measurement of trials side by side.

    Attributes:
        trials: number of trials.
        images_per_s: throughput of all trials together.
        memory: bytes of the device in use meanwhile, by these trials and by others.
        capacity: bytes of the device.
    """

    trials: int
    images_per_s: float
    memory: float
    capacity: float

    def __str__(self) -> str:
        return f"{self.trials}: {self.images_per_s:,.0f} images/s, {self.memory / 2**30:.1f} GiB"


def choose_trials_per_gpu(measure: Callable[[int], Sample], most: int) -> tuple[int, list[Sample]]:
    """Double the trials side by side as long as they fit and train faster together.

    Args:
        measure: measures a number of trials side by side. If it raises UserError for more than one
            trial, they do not fit.
        most: maximum number of trials.

    Returns:
        The number of trials that share the device, and the measurements.

    Raises:
        UserError: not even one trial can be measured.
    """
    samples = [measure(1)]
    while True:
        last = samples[-1]
        n = 2 * last.trials
        if n > most or last.memory / last.trials * n > MAX_MEMORY_FRACTION * last.capacity:
            break
        try:
            samples.append(measure(n))
        except UserError:  # they do not fit
            break
        if samples[-1].images_per_s < MIN_SPEEDUP * last.images_per_s:
            break
    best = max(sample.images_per_s for sample in samples)
    chosen = next(sample for sample in samples if sample.images_per_s * MIN_SPEEDUP >= best)
    return chosen.trials, samples


def heaviest(
    configs: list[TrainConfig], image_shape: Callable[[str], tuple[int, int, int]]
) -> TrainConfig:
    """Return the config with the most computation per step; of equals, one that is not in bf16.

    Args:
        configs: configs of the trials to come.
        image_shape: returns height, width and channels of a data set's images.
    """

    def weight(config: TrainConfig) -> tuple[float, bool]:
        height, width, _ = image_shape(config.dataset)
        images = min(config.batch_size, config.micro_batch or config.batch_size)
        pixels = images * height * width
        return pixels * multiplications_per_pixel(config.model), config.precision != "bf16"

    return max(configs, key=weight)


@dataclass(frozen=True)
class SharingTask:
    """A trial to train in several copies side by side.

    Attributes:
        config: config that is bound to its data.
        data: folder of prepared data sets.
        device: a torch device.
        threads: CPU threads of each copy.
        seconds: duration of the measurement.
        plugins: users' code that the config needs.
        tree: file of the class tree, if the config names one.
    """

    config: TrainConfig
    data: Path
    device: str = "cuda"
    threads: int = 1
    seconds: float = 5.0
    plugins: Sequence[Plugin] = ()
    tree: AnyPath = Path()

    def to_json(self) -> str:
        """Return the task as a line of JSON."""
        task = {
            "config": self.config.model_dump(mode="json"),
            "data": str(self.data),
            "tree": str(self.tree),
            "device": self.device,
            "threads": self.threads,
            "seconds": self.seconds,
            "plugins": [_plugin_fields(plugin) for plugin in self.plugins],
        }
        return json.dumps(task)


def _plugin_fields(plugin: Plugin) -> list[str | None]:
    text = None if plugin.text is None else plugin.text.decode("latin-1")
    return [plugin.name, text, plugin.hash]


def side_by_side(task: SharingTask, n: int) -> Sample:
    """Train n copies of a trial at once, each in its own process, and measure them together.

    Raises:
        UserError: a process could not train; the message ends with the last line of its output.
    """
    with ExitStack() as stack:
        processes = [_start(stack, task) for _ in range(n)]
        for process in processes:  # each answers when it is warm
            _answer(process)
        for process in processes:
            assert process.stdin is not None  # noqa: S101 it was opened as a pipe
            process.stdin.write("go\n")
            process.stdin.flush()
        found = [_answer(process) for process in processes]
    used = [answer["used"] for answer in found]
    # A CPU process reports its own memory, a GPU process that of all processes on the GPU.
    memory = sum(used) if task.device == "cpu" else max(used)
    images_per_s = sum(answer["images_per_s"] for answer in found)
    return Sample(n, images_per_s, memory, found[0]["capacity"])


def _start(stack: ExitStack, task: SharingTask) -> "subprocess.Popen[str]":
    command, environment = python_module("study.execution.estimate.gpu_sharing")
    process = subprocess.Popen(  # noqa: S603 our own module
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment | {"OMP_NUM_THREADS": str(task.threads)},
    )
    stack.enter_context(process)  # waits for the process, after the kill below
    stack.callback(process.kill)
    assert process.stdin is not None  # noqa: S101 it was opened as a pipe
    # A command line would be too short, and readable by everybody.
    with suppress(BrokenPipeError):  # the process has ended, and its output has the reason
        process.stdin.write(f"{task.to_json()}\n")
        process.stdin.flush()
    return process


def _answer(process: "subprocess.Popen[str]") -> dict[str, Any]:
    assert process.stdout is not None  # noqa: S101 it was opened as a pipe
    assert process.stderr is not None  # noqa: S101 it was opened as a pipe
    line = process.stdout.readline()
    if not line:
        lines = process.stderr.read().strip().splitlines()
        reason = lines[-1] if lines else "the process ended"
        raise UserError(f"trials cannot be measured side by side: {reason}")
    answer: dict[str, Any] = json.loads(line)
    return answer


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _steps(training: Any) -> Iterator[int]:
    """Take training steps without end, yielding the number of images of each."""
    for epoch in cycle(range(1, training.config.epochs + 1)):
        training.begin_epoch(epoch)
        for size in training.batches:
            (training.replayed or training.step)(size)
            yield size


def _measure(task: dict[str, Any]) -> None:
    """Train until warm, print a line, and measure after the next line of stdin."""
    import torch

    from dh2l.training.allocator import retain_freed_memory
    from dh2l.training.numeric_settings import numeric_settings
    from dh2l.training.step import WARM_UP
    from dh2l.training.training_state import Training
    from study.execution.trial_data import load_trial_data

    _load_plugins(task["plugins"])
    config = TrainConfig.model_validate_json(json.dumps(task["config"]))
    device = torch.device(task["device"])
    on_gpu = device.type == "cuda"
    if on_gpu and not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU here")
    with retain_freed_memory(), numeric_settings(config, task["threads"]):
        data = load_trial_data(config, Path(task["data"]), place(task["tree"]))
        training = Training(config, data, device)
        steps = _steps(training)
        with training.replayed.epoch() if training.replayed else nullcontext():
            for _ in range(WARM_UP + 2 if on_gpu else 1):
                next(steps)
            training.step.right.item()
            _say({"ready": True})
            sys.stdin.readline()
            images_per_s = _throughput(training, steps, task["seconds"], 8 if on_gpu else 1)
        used, capacity = _memory(device)
        _say({"images_per_s": images_per_s, "used": used, "capacity": capacity})
        sys.stdin.readline()  # keeps its memory while the other processes are measured


def _load_plugins(fields: list[tuple[str, str | None, str]]) -> None:
    for name, text, hash_ in fields:
        Plugin(name, None if text is None else text.encode("latin-1"), hash_).load()


def _throughput(training: Any, steps: Iterator[int], seconds: float, stride: int) -> float:
    """Return the images per second of training for at least some seconds.

    Args:
        training: the training.
        steps: its steps, as numbers of images.
        seconds: minimum duration.
        stride: number of steps between two looks at the clock.
    """
    images = 0
    started = time.perf_counter()
    while True:
        elapsed = time.perf_counter() - started
        if elapsed >= seconds:
            return images / elapsed
        images += sum(islice(steps, stride))
        training.step.right.item()  # the host must not run ahead of the clock


def _memory(device: Any) -> tuple[int, int]:
    """Return the bytes in use and in total: of a GPU, or of this process and the machine."""
    import psutil
    import torch

    if device.type == "cuda":
        free, capacity = torch.cuda.mem_get_info(device)
        return capacity - free, capacity
    return psutil.Process().memory_info().rss, psutil.virtual_memory().total


if __name__ == "__main__":
    _measure(json.loads(sys.stdin.readline()))
