"""Trials per hour side by side, on one GPU or several cores."""

from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.frame import (
    Detail,
    Measured,
    Row,
    at_least,
    compared,
    figure,
    measured_device,
    not_measured,
)
from benchmarks.throughput import config_of, prepare_random
from dh2l.config.train_config import TrainConfig
from dh2l.data import load
from dh2l.system.cores import usable_cores
from study.execution.estimate.gpu_sharing import (
    Sample,
    SharingTask,
    choose_trials_per_gpu,
    side_by_side,
)

BOUND_CPU = "operations: both ways keep all cores busy"
BOUND_GPU = (
    "the GPU's time: kernels of several processes take turns, so only what a trial leaves idle can "
    "be gained"
)


def measure(quick: bool) -> Measured:
    """Measure the row of the GPU where there is one, else of the CPU."""
    rounds, seconds = (1, 1.0) if quick else (2, 4.0)
    with TemporaryDirectory() as place:
        folder = Path(place)
        prepare_random(folder, 2048)
        config = config_of(load("random", folder))
        if measured_device() == "cuda":
            task = SharingTask(config, folder, seconds=seconds)
            n, samples = choose_trials_per_gpu(lambda k: side_by_side(task, k), usable_cores())
            rows, details = [_on_gpu(n, samples)], [_tried(samples)]
        else:
            absent = not_measured(
                "trials/hour on one GPU, side by side", "one at a time", "no GPU", aim=at_least(3)
            )
            rows, details = [_on_cpu(config, folder, rounds, seconds), absent], []
    notes = [
        "Training steps of resnet-20 at batch 512, each trial in a process of its own, measured "
        "while all train."
    ]
    return Measured(rows, details=details, notes=notes)


def _on_gpu(n: int, samples: list[Sample]) -> Row:
    together, alone = (
        next(s.images_per_s for s in samples if s.trials == trials) for trials in (n, 1)
    )
    name = f"trials/hour on one GPU, {n} side by side"
    unit = "images/s"
    return compared(
        name, "one at a time", [together], [alone], unit=unit, aim=at_least(3), bound=BOUND_GPU
    )


def _tried(samples: list[Sample]) -> Detail:
    header = ("trials side by side", "images/s together", "memory")
    shown = [
        (str(s.trials), figure(s.images_per_s), figure(s.memory / 2**30, "GiB")) for s in samples
    ]
    return Detail("Trials side by side on one GPU", header, shown)


def _on_cpu(config: TrainConfig, folder: Path, rounds: int, seconds: float) -> Row:
    cores = min(usable_cores(), 8)
    single = SharingTask(config, folder, device="cpu", threads=1, seconds=seconds)
    threaded = SharingTask(config, folder, device="cpu", threads=cores, seconds=seconds)
    pairs = [(side_by_side(single, cores), side_by_side(threaded, 1)) for _ in range(rounds)]
    together, alone = ([pair[i].images_per_s for pair in pairs] for i in (0, 1))
    name, against = (
        f"trials/hour, {cores} side by side with one thread each",
        f"one at a time, {cores} threads",
    )
    return compared(name, against, together, alone, unit="images/s", bound=BOUND_CPU)
