"""How many trials share a GPU, from measured throughput and memory of training steps side by side.

    python -m study.packing '{"config": …, "data": …, "device": …, "threads": …, "seconds": …, "plugins": …}'

is one of those trials: it trains without leaving anything, says that it is ready, and measures when told to.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

from dh2l.atomic import AnyPath
from dh2l.config import TrainConfig
from dh2l.errors import UserError
from dh2l.plugins import Plugin
from study.cost import per_pixel
from study.places import place

WORTH = 1.1
"""Twice the trials must train at least this much faster together, or there is no use in more."""
SPARE = 0.9
"""Share of the device's memory that trials may take together."""


@dataclass(frozen=True)
class Sample:
    """Some trials, measured side by side.

    Attributes:
        trials: how many.
        images_per_s: of all of them together.
        memory: bytes of the device that are taken meanwhile: theirs, and whatever others take.
        capacity: bytes that the device has.
    """

    trials: int
    images_per_s: float
    memory: float
    capacity: float

    def __str__(self) -> str:
        return f"{self.trials}: {self.images_per_s:,.0f} images/s, {self.memory / 2**30:.1f} GiB"


def choose(measure: Callable[[int], Sample], most: int) -> tuple[int, list[Sample]]:
    """Double the trials side by side for as long as they fit and train faster together.

    Args:
        measure: measures a number of trials side by side; more than one that raise UserError count as not fitting.
        most: never try more.

    Returns:
        How many trials share the device, and what was measured.

    Raises:
        UserError: not even one can be measured.
    """
    samples = [measure(1)]
    while (n := 2 * samples[-1].trials) <= most:
        last = samples[-1]
        if last.memory / last.trials * n > SPARE * last.capacity:
            break
        try:
            samples.append(measure(n))
        except UserError:  # they do not fit after all
            break
        if samples[-1].images_per_s < WORTH * last.images_per_s:
            break
    best = max(sample.images_per_s for sample in samples)
    return next(s.trials for s in samples if s.images_per_s * WORTH >= best), samples


def heaviest(configs: list[TrainConfig], image_shape: Callable[[str], tuple[int, int, int]]) -> TrainConfig:
    """Of a plan's configs the one whose steps compute most at a time; of equals, one that is not in bf16.

    Args:
        configs: what will be trained.
        image_shape: height, width and channels of a data set's images, by its name.
    """

    def weight(config: TrainConfig) -> tuple[float, bool]:
        height, width, _ = image_shape(config.dataset)
        images = min(config.batch_size, config.micro_batch or config.batch_size)
        return images * height * width * per_pixel(config.model), config.precision != "bf16"

    return max(configs, key=weight)


def side_by_side(
    n: int,
    config: TrainConfig,
    data: Path,
    *,
    device: str = "cuda",
    threads: int = 1,
    seconds: float = 5.0,
    plugins: Sequence[Plugin] = (),
    tree: AnyPath = Path(),
) -> Sample:
    """Train n copies of a config at once, each in a process of its own, and measure them together.

    Args:
        n: how many.
        config: bound to its data.
        data: the folder of prepared data sets.
        tree: the file of the class tree that the config names, if it names one.
        device: a torch device.
        threads: CPU threads of each.
        seconds: how long to measure.
        plugins: users' code that the config needs.

    Raises:
        UserError: a process could not train; the message ends with what it said.
    """
    what = {
        "config": config.model_dump(mode="json"),
        "data": str(data),
        "tree": str(tree),
        "device": device,
        "threads": threads,
        "seconds": seconds,
        "plugins": [[p.name, None if p.text is None else p.text.decode("latin-1"), p.hash] for p in plugins],
    }
    with ExitStack() as stack:
        processes = [_start(stack, json.dumps(what)) for _ in range(n)]
        for process in processes:  # each says so when it is warm
            _answer(process)
        for process in processes:
            assert process.stdin is not None  # noqa: S101 it was opened as a pipe
            process.stdin.write("go\n")
            process.stdin.flush()
        found = [_answer(process) for process in processes]
    used = [f["used"] for f in found]  # of a GPU everybody's, of a CPU's memory one's own
    memory = sum(used) if device == "cpu" else max(used)
    return Sample(n, sum(f["images_per_s"] for f in found), memory, found[0]["capacity"])


def _start(stack: ExitStack, what: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen(  # noqa: S603 our own module
        [sys.executable, "-m", "study.packing", what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": str(json.loads(what)["threads"])},
    )
    stack.enter_context(process)  # waits for it, after the kill: the last to come is the first to leave
    stack.callback(process.kill)
    return process


def _answer(process: "subprocess.Popen[str]") -> dict[str, Any]:
    assert process.stdout is not None and process.stderr is not None  # noqa: S101, PT018 they were opened as pipes
    line = process.stdout.readline()
    if not line:
        lines = process.stderr.read().strip().splitlines()
        raise UserError(f"trials cannot be measured side by side: {lines[-1] if lines else 'the process ended'}")
    answer: dict[str, Any] = json.loads(line)
    return answer


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _steps(training: Any) -> Iterator[int]:
    """Training steps without end, as images each."""
    for epoch in count(1):
        training.step.begin(epoch, training.config.lr)
        for size in training.batches:
            (training.replayed or training.step)(size)
            yield size


def _measure(what: dict[str, Any]) -> None:
    """One of the trials: trains until warm, says so, and measures when told to."""
    import psutil
    import torch

    from dh2l.memory import freed_memory_kept
    from dh2l.step import WARM_UP
    from dh2l.trainer import Training, arithmetic
    from study.prepared import data_of

    for name, text, hash_ in what["plugins"]:
        Plugin(name, None if text is None else text.encode("latin-1"), hash_).load()
    config, device = TrainConfig.model_validate_json(json.dumps(what["config"])), torch.device(what["device"])
    on_gpu = device.type == "cuda"
    if on_gpu and not torch.cuda.is_available():
        raise SystemExit("torch sees no GPU here")
    with freed_memory_kept(), arithmetic(config, what["threads"]):
        training = Training(config, data_of(config, Path(what["data"]), place(what["tree"])), device)
        steps = _steps(training)
        with training.replayed.epoch() if training.replayed else nullcontext():
            for _ in range(WARM_UP + 2 if on_gpu else 1):
                next(steps)
            training.step.right.item()
            _say({"ready": True})
            sys.stdin.readline()
            images, started = 0, time.perf_counter()
            while (elapsed := time.perf_counter() - started) < what["seconds"]:
                images += sum(islice(steps, 8 if on_gpu else 1))
                training.step.right.item()  # the host must not run ahead of the clock
        free, capacity = torch.cuda.mem_get_info(device) if on_gpu else (0, psutil.virtual_memory().total)
        used = capacity - free if on_gpu else psutil.Process().memory_info().rss
        _say({"images_per_s": images / elapsed, "used": used, "capacity": capacity})
        sys.stdin.readline()  # the others' memory is measured with this one's still taken


if __name__ == "__main__":
    _measure(json.loads(sys.argv[1]))
