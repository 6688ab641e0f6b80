"""Images/s of a trial's training epoch, against the loop most people copy and against a bare step.

    python benchmarks/throughput.py [--images 2048] [--batch-size 512] [--rounds 5] [--device cpu]

Three ways to train resnet-20 on the same random 32×32 images, in turn, round by round, so that a machine
whose speed drifts slows all of them alike:

- trial: this project's epoch, as `dh2l.trainer` runs it;
- common: a map-style dataset with torchvision's transforms, a DataLoader with workers, and `.item()` per batch;
- bare: forward, backward and optimizer step on one batch that is already there, the ceiling.
"""

import argparse
import statistics
import time
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

from dh2l.config import TrainConfig
from dh2l.data import PreparedData, load, prepare
from dh2l.trainer import Training


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


def common_epoch(network: nn.Module, optimizer: torch.optim.Optimizer, loader: DataLoader, device: str) -> None:  # type: ignore[type-arg]
    """One epoch of the loop most people copy."""
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


def timed(work: Callable[[], object], device: str) -> float:
    """Seconds that some work takes, its queue on the device emptied."""
    if device == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def random_data(folder: Path, n_images: int) -> PreparedData:
    """A data set of random images in ten classes, prepared as a user's own would be."""
    random = np.random.default_rng(0)
    for part, n in (("train", n_images), ("test", 10)):
        for i in range(n):
            target = folder / "images" / part / f"class{i % 10}"
            target.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(target / f"{i}.png")
    prepare("random", folder / "data", source=folder / "images")
    return load("random", folder / "data")


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        data = random_data(Path(folder), options.images)
        config = TrainConfig(dataset="random", protocol="paper", epochs=1, batch_size=options.batch_size)
        trial = Training(config.bound(data.manifest), data, torch.device(options.device))
        other = Training(config.bound(data.manifest), data, torch.device(options.device))
        loader = DataLoader(CommonDataset(data), batch_size=options.batch_size, shuffle=True, num_workers=2)
        batch = trial.normalise(torch.from_numpy(data.train_x[: options.batch_size]).to(options.device))
        labels = torch.from_numpy(data.train_y[: options.batch_size]).to(options.device)

        def bare_epoch() -> None:
            for _ in range(options.images // options.batch_size):
                functional.cross_entropy(trial.network(batch), labels).backward()  # type: ignore[no-untyped-call]
                trial.optimizer.step()
                trial.optimizer.zero_grad()

        ways: dict[str, Callable[[], object]] = {
            "trial": lambda: trial.train_epoch(1),
            "common": lambda: common_epoch(other.network, other.optimizer, loader, options.device),
            "bare": bare_epoch,
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(options.rounds + 1):
            for name, work in ways.items():
                elapsed = timed(work, options.device)
                if number:  # the first round warms up
                    seconds[name].append(elapsed)
    threads = torch.get_num_threads()
    print(f"resnet-20, batch {options.batch_size}, {options.device}, {threads} threads, torch {torch.__version__}")
    print("| way | images/s, median | trial against it, median of rounds |\n|---|---|---|")
    for name, times in seconds.items():
        ratios = [theirs / ours for theirs, ours in zip(times, seconds["trial"], strict=True)]
        print(f"| {name} | {options.images / statistics.median(times):.0f} | {statistics.median(ratios):.2f} |")


if __name__ == "__main__":
    main()
