"""Batches of augmented images, made on the device that trains."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dh2l.config import TrainConfig
from dh2l.data import PreparedData, stratified_split


def derived_seed(purpose: str, *numbers: int) -> int:
    """A 63-bit seed for one purpose: streams of different purposes or numbers are independent."""
    digest = hashlib.sha256(":".join([purpose, *map(str, numbers)]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(purpose: str, *numbers: int) -> torch.Generator:
    """A CPU generator seeded by `derived_seed`: the same stream whatever the device that trains."""
    return torch.Generator().manual_seed(derived_seed(purpose, *numbers))


@dataclass(frozen=True)
class Split:
    """Images and labels of one part of the data, on the device.

    Attributes:
        images: all images of the file that the part is taken from, uint8 ``(M, H, W, C)``.
        labels: their class indices, int64 ``(M,)``.
        index: which of them belong to this part, int64 ``(N,)``.
    """

    images: Tensor
    labels: Tensor
    index: Tensor

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True)
class Splits:
    """The parts of a data set under a config's protocol; `validation` is None under `paper`."""

    train: Split
    validation: Split | None
    test: Split


def make_splits(config: TrainConfig, data: PreparedData, device: torch.device) -> Splits:
    """Split `data` by the config's protocol and data seed, and put it on `device` once, as uint8."""
    if config.protocol == "validated":
        train, validation = stratified_split(data.train_y, config.validation_fraction, config.data_seed)
    else:
        train, validation = np.arange(len(data.train_y)), None

    def on_device(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(device)

    images, labels = on_device(data.train_x), on_device(data.train_y)
    test_labels = on_device(data.test_y)
    return Splits(
        train=Split(images, labels, on_device(train)),
        validation=None if validation is None else Split(images, labels, on_device(validation)),
        test=Split(on_device(data.test_x), test_labels, torch.arange(len(test_labels), device=device)),
    )


class Normalise:
    """uint8 ``(B, H, W, C)`` images to normalised float32 ``(B, C, H, W)``, channels last in memory."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> None:
        deviation = torch.tensor(std).clamp_min(1e-6)
        self.scale = (1 / (255 * deviation)).to(device)
        self.shift = (-torch.tensor(mean) / deviation).to(device)

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise one batch."""
        return torch.addcmul(self.shift, images.float(), self.scale).permute(0, 3, 1, 2)


def crop_and_flip(images: Tensor, index: Tensor, offset: Tensor, flip: Tensor, padding: int) -> Tensor:
    """Random crops of zero-padded images, some mirrored: all of a batch in one gather (D15).

    Args:
        images: uint8 ``(M, H, W, C)``.
        index: which images, int64 ``(B,)``.
        offset: upper left corner of each crop in the padded image, int64 ``(B, 2)`` in [0, 2·padding].
        flip: which crops are mirrored, bool ``(B,)``.
        padding: zeros around the image, in pixels.

    Returns:
        uint8 ``(B, H, W, C)``.
    """
    height, width = images.shape[1:3]
    rows = torch.arange(height, device=images.device) + offset[:, :1] - padding
    columns = torch.arange(width, device=images.device).expand(len(index), -1)
    columns = torch.where(flip[:, None], width - 1 - columns, columns) + offset[:, 1:] - padding
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    crops = images[index[:, None, None], rows.clamp(0, height - 1)[:, :, None], columns.clamp(0, width - 1)[:, None, :]]
    return crops * inside[..., None]


class TrainBatches:
    """One epoch after the other of augmented uint8 batches, each made where it is asked for.

    Order and augmentation depend on the seed and the epoch alone, so a resumed epoch is the same epoch. They are
    drawn for a whole epoch at once and moved to the device together, always to the same place there.

    Args:
        split: what is trained on.
        batch_size: images per batch; the last one of an epoch holds what is left.
        padding: of the random crops, in pixels; 0: no crop.
        flip: mirror half of the images.
        seed: of the trial.
    """

    def __init__(self, split: Split, *, batch_size: int, padding: int, flip: bool, seed: int) -> None:
        n, device = len(split), split.images.device
        self._split, self._padding, self._flip, self._seed = split, padding, flip, seed
        self.sizes = [min(batch_size, n - start) for start in range(0, n, batch_size)]
        self._index = torch.empty_like(split.index)
        self._offset = torch.zeros(n, 2, dtype=torch.int64, device=device)
        self._mirrored = torch.zeros(n, dtype=torch.bool, device=device)
        self._ahead = torch.arange(batch_size, device=device)

    def begin(self, epoch: int) -> None:
        """Draw an epoch's order, crops and flips."""
        n, random = len(self._split), generator("epoch", self._seed, epoch)
        order = torch.randperm(n, generator=random).to(self._index.device)
        self._index.copy_(self._split.index[order])
        self._offset.copy_(torch.randint(2 * self._padding + 1, (n, 2), generator=random))
        self._mirrored.copy_(torch.rand(n, generator=random) < (0.5 if self._flip else 0.0))

    def at(self, position: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """The batch of `size` images from a place in the epoch on: uint8 ``(B, H, W, C)``, labels ``(B,)``.

        `position` is a scalar tensor on the device: nothing but it differs from one batch to the next.
        """
        rows = self._ahead[:size] + position
        chosen = self._index[rows]
        if self._padding or self._flip:
            images = crop_and_flip(self._split.images, chosen, self._offset[rows], self._mirrored[rows], self._padding)
        else:
            images = self._split.images[chosen]
        return images, self._split.labels[chosen]


def plain_batches(split: Split, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The part's images in order, not augmented, with their labels."""
    for chosen in torch.split(split.index, batch_size):
        yield split.images[chosen], split.labels[chosen]
