"""Images per second, against a common loop and a bare step.

Resnet-20 at batch 512 on 32×32 images. Three ways train on the same random images, in turn:

- trial: this project's epoch as `dh2l.training.trainer` runs it, in a worker's environment;
- bare: forward, backward and optimizer step on one batch that is already there: the ceiling;
- common: a map-style dataset with torchvision's transforms, a DataLoader with two workers, and
  `.item()` per batch, in its own process, because the allocator is a setting of its process.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from benchmarks.frame import (
    Detail,
    Measured,
    Row,
    at_least,
    compared,
    figure,
    measured_device,
    not_measured,
    paired,
)
from benchmarks.processes import ROOT, environment
from dh2l.config.binding import bind
from dh2l.config.train_config import TrainConfig
from dh2l.data import PreparedData, load, prepare
from dh2l.models.network import build_network
from dh2l.training.allocator import retain_freed_memory
from dh2l.training.batches import plain_batches
from dh2l.training.numeric_settings import numeric_settings
from dh2l.training.step import WARM_UP
from dh2l.training.training_state import Training

BATCH = 512
OPERATIONS_SHOWN = 9


def prepare_random(folder: Path, n_images: int, n_test: int = 200) -> None:
    """Prepare random images of CIFAR's shape, 100 classes in 20 super-classes."""
    random = np.random.default_rng(0)
    for part, n in (("train", n_images), ("test", n_test)):
        for i in range(n):
            target = folder / "images" / part / f"super{i % 100 // 5}" / f"class{i % 100}"
            target.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(
                target / f"{i}.png"
            )
    prepare("random", folder, source=folder / "images")


def config_of(data: PreparedData, precision: str = "fp32") -> TrainConfig:
    """Return a baseline trial on the random images."""
    values = {"dataset": "random", "protocol": "paper", "batch_size": BATCH, "precision": precision}
    return bind(TrainConfig.parse(values), data.manifest)


class CommonDataset(Dataset[tuple[torch.Tensor, int]]):
    """Images one by one through PIL and torchvision's transforms."""

    def __init__(self, data: PreparedData) -> None:
        self.images, self.labels = data.train_x, data.train_y
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(data.manifest.mean, data.manifest.std),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.images[i])), int(self.labels[i])


def serve_common(folder: Path, device: str) -> None:
    """Train an epoch of the common loop for every line of input, and answer each with a line."""
    torch.set_num_threads(1)
    data = load("random", folder)
    config = config_of(data)
    network: nn.Module = build_network(config, data.manifest.tree, data.manifest.image_shape).to(
        device
    )
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    loader = DataLoader(CommonDataset(data), batch_size=BATCH, shuffle=True, num_workers=2)
    for _ in sys.stdin:
        network.train()
        loss_sum, right = 0.0, 0
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            optimizer.zero_grad()
            logits = network(images)
            loss = functional.cross_entropy(logits, labels)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            loss_sum += loss.item() * len(labels)
            right += (logits.argmax(dim=1) == labels).sum().item()
        print(json.dumps({"loss": loss_sum, "right": right}), flush=True)


def measure(quick: bool) -> Measured:
    """Measure the rows of the GPU where there is one, else of the CPU."""
    device = measured_device()
    n_images = BATCH * (1 if quick else 2) * (1 if device == "cpu" else 24)
    with TemporaryDirectory() as folder:
        prepare_random(Path(folder), n_images)
        rows, detail = _on(device, Path(folder), rounds=1 if quick else 6)
    if device == "cpu":
        rows += [
            not_measured(f"images/s of a trial, cuda, {precision}", against, "no GPU", aim=aim)
            for precision in ("fp32", "bf16")
            for against, aim in (("the common loop", at_least(5)), ("a bare step", at_least(0.9)))
        ]
    notes = [
        "Random images of 32×32×3, 100 classes; one CPU thread for every way, as a trial has, and "
        "two loader "
        "processes more for the common loop; evaluation is not part of it.",
        "The bare step uses this project's network, layout, optimizer and allocator: it is the "
        "ceiling of the "
        "trial, not of the hardware. Convolutions' share of the trial is in the profile.",
    ]
    return Measured(rows, details=[detail], notes=notes)


def _on(device: str, folder: Path, rounds: int) -> tuple[list[Row], Detail]:
    """Compare the ways on one device, and profile the trial."""
    data, where = load("random", folder), torch.device(device)
    words = [sys.executable, "-m", "benchmarks.throughput", str(folder), device]
    common = subprocess.Popen(  # noqa: S603 our own words
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment()
    )
    with common, retain_freed_memory(), numeric_settings(config_of(data), 1):
        trial, low = (
            Training(config_of(data, precision), data, where) for precision in ("fp32", "bf16")
        )
        bare = Training(config_of(data), data, where)
        images, labels = next(plain_batches(bare.splits.train, BATCH))
        batch = bare.normalise(images)

        def wait() -> None:
            if device == "cuda":
                torch.cuda.synchronize()

        def bare_step(_size: int) -> None:
            bare.optimizer.zero_grad(set_to_none=True)
            functional.cross_entropy(bare.network(batch), labels).backward()  # type: ignore[no-untyped-call]
            bare.optimizer.step()

        def bare_epoch() -> None:
            for _ in range(len(data.train_y) // BATCH):
                bare_step(BATCH)
            wait()

        def common_epoch() -> None:
            assert common.stdin is not None  # noqa: S101 opened as pipes
            assert common.stdout is not None  # noqa: S101
            common.stdin.write("epoch\n")
            common.stdin.flush()
            if not common.stdout.readline():
                raise RuntimeError("the common loop ended")

        ways: dict[str, Callable[[], object]] = {
            "trial": lambda: trial.train_epoch(1),
            "bf16": lambda: low.train_epoch(1),
            "bare": bare_epoch,
            "common": common_epoch,
        }
        seconds = paired(ways, rounds, warm_up=1 if device == "cpu" else WARM_UP)
        common.terminate()
        detail = _profile(trial, device)
    rates = {name: [len(data.train_y) / s for s in found] for name, found in seconds.items()}
    name = f"images/s of a trial, {device}, fp32"
    convolutions = "operations of the convolutions; the rest streams activations through memory"
    return [
        compared(
            name, "the common loop", rates["trial"], rates["common"], unit="images/s",
            aim=at_least(1.6 if device == "cpu" else 5),
            bound="of the common loop: page faults and PIL on a CPU, one image after the other",
        ),
        compared(
            name, "a bare step", rates["trial"], rates["bare"],
            unit="images/s", aim=at_least(0.9), bound=convolutions
        ),
        compared(
            f"images/s of a trial, {device}, bf16", "the same trial in fp32",
            rates["bf16"], rates["trial"],
            unit="images/s", bound="operations of convolutions, bytes of everything else",
        ),
    ], detail  # fmt: skip


def _profile(trial: Training, device: str) -> Detail:
    """Tabulate an epoch's time by operation."""
    with torch.profiler.profile() as profile:
        trial.train_epoch(2)
    on_cpu = device == "cpu"
    times = {
        event.key: event.self_cpu_time_total if on_cpu else event.self_device_time_total
        for event in profile.key_averages()
    }
    total = sum(times.values())
    top = sorted(times, key=times.__getitem__, reverse=True)[:OPERATIONS_SHOWN]
    shares = [(name, figure(100 * times[name] / total, "%")) for name in top]
    title = f"Profile of a trial's epoch, {device}: time of each operation itself"
    return Detail(title, ("operation", "share"), shares)


if __name__ == "__main__":
    serve_common(Path(sys.argv[1]), sys.argv[2])
