"""Trials/hour with trials side by side against one at a time: on a GPU that they share, and on the CPU's cores."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.frame import Detail, Measured, Row, at_least, compared, figure, not_measured
from benchmarks.throughput import config_of, prepare_random
from dh2l.data import load
from study.packing import Sample, choose, side_by_side

BOUND_CPU = "operations: both ways keep all cores busy"
BOUND_GPU = "operations of the GPU; one trial's small kernels leave most of it idle"


def measure(quick: bool) -> Measured:
    """The row of the CPU, and of the GPU where there is one."""
    cores = min(os.cpu_count() or 1, 8)
    rounds, seconds = (1, 1.0) if quick else (2, 4.0)
    details = []
    with TemporaryDirectory() as place:
        folder = Path(place)
        prepare_random(folder, 2048)
        config = config_of(load("random", folder))
        pairs = [
            (
                side_by_side(cores, config, folder, device="cpu", threads=1, seconds=seconds),
                side_by_side(1, config, folder, device="cpu", threads=cores, seconds=seconds),
            )
            for _ in range(rounds)
        ]
        name = f"trials/hour, {cores} side by side with one thread each"
        rows = [_row(name, f"one at a time, {cores} threads", pairs)]
        if torch.cuda.is_available():
            n, samples = choose(lambda k: side_by_side(k, config, folder, seconds=seconds), os.cpu_count() or 1)
            best = next(sample for sample in samples if sample.trials == n)
            rows.append(
                compared(
                    f"trials/hour on one GPU, {n} side by side", "one at a time",
                    [best.images_per_s], [samples[0].images_per_s], unit="images/s", aim=at_least(3), bound=BOUND_GPU,
                )
            )  # fmt: skip
            header = ("trials side by side", "images/s together", "memory")
            shown = [(str(s.trials), figure(s.images_per_s), figure(s.memory / 2**30, "GiB")) for s in samples]
            details.append(Detail("Trials side by side on one GPU", header, shown))
        else:
            rows.append(
                not_measured("trials/hour on one GPU, side by side", "one at a time", "no GPU", aim=at_least(3))
            )
    notes = ["Training steps of resnet-20 at batch 512, each trial in a process of its own, measured while all train."]
    return Measured(rows, details=details, notes=notes)


def _row(measured: str, against: str, pairs: list[tuple[Sample, Sample]]) -> Row:
    together, alone = ([pair[i].images_per_s for pair in pairs] for i in (0, 1))
    return compared(measured, against, together, alone, unit="images/s", bound=BOUND_CPU)
