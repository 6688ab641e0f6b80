"""Batches of augmented images, made on the device that trains."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from dh2l.config.batch_sizes import batch_sizes
from dh2l.config.train_config import TrainConfig
from dh2l.data import PreparedData, stratified_split
from dh2l.seeding import generator

MAX_MEMORY_FRACTION = 0.6
"""Part of a device's free memory that the pixels of a data set may take."""


@dataclass(frozen=True)
class Split:
    """Images and labels of one part of the data.

    Images of one size and of many sizes have the same layout, and take one path. The pixels are
    where batches are cut from them: on the device that trains, or in the host's memory where they
    are too many for it. Everything else except `index` and `labels` is there too.

    Attributes:
        pixels: of all images of the file that the part is taken from, row by row, uint8 ``(P, C)``.
        start: position of each image's first pixel, int64 ``(M,)``.
        size: of each image, height and width, int64 ``(M, 2)``.
        labels: class indices, int64 ``(M,)``; on the device that trains, as is `index`.
        index: positions of the images that belong to this part, int64 ``(N,)``.
        output: height and width of what is cut out of each, the images that the network is given.
    """

    pixels: Tensor
    start: Tensor
    size: Tensor
    labels: Tensor
    index: Tensor
    output: tuple[int, int]

    @classmethod
    def of(cls, images: Tensor, labels: Tensor, index: Tensor) -> Self:
        """Make a part of images of one size, uint8 ``(M, H, W, C)``."""
        n, height, width, channels = images.shape
        size = torch.tensor([height, width], device=images.device).expand(n, 2)
        start = torch.arange(n, device=images.device) * (height * width)
        return cls(images.reshape(-1, channels), start, size, labels, index, (height, width))

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True)
class Splits:
    """The parts of a data set under a config's protocol; `validation` is None under `paper`."""

    train: Split
    validation: Split | None
    test: Split


def make_splits(config: TrainConfig, data: PreparedData, device: torch.device) -> Splits:
    """Split `data` by the config's protocol and data seed; move pixels to `device` if they fit."""
    if config.protocol == "validated":
        names = ["/".join(path) for path in data.manifest.classes]
        train, validation = stratified_split(
            data.train_y, config.validation_fraction, config.data_seed, names
        )
    else:
        train, validation = np.arange(len(data.train_y)), None
    home = (
        device if _fits(data.train_x.nbytes + data.test_x.nbytes, device) else torch.device("cpu")
    )
    height, width, channels = data.manifest.image_shape

    def whole(x: np.ndarray, y: np.ndarray, sizes: np.ndarray | None) -> Split:
        size = np.broadcast_to(np.array([[height, width]]), (len(y), 2)) if sizes is None else sizes
        area = size.prod(axis=1)
        return Split(
            pixels=torch.from_numpy(x.reshape(-1, channels)).to(home),
            start=torch.from_numpy(area.cumsum() - area).to(home),
            size=torch.from_numpy(np.array(size)).to(home),
            labels=torch.from_numpy(y).to(device),
            index=torch.arange(len(y), device=device),
            output=(height, width),
        )

    everything = whole(data.train_x, data.train_y, data.train_size)

    def part(index: np.ndarray) -> Split:
        return replace(everything, index=torch.from_numpy(index).to(device))

    return Splits(
        train=part(train),
        validation=None if validation is None else part(validation),
        test=whole(data.test_x, data.test_y, data.test_size),
    )


def _fits(n_bytes: int, device: torch.device) -> bool:
    """Return True if a device has room for the memory; the host always maps its files."""
    return (
        device.type != "cuda" or n_bytes <= MAX_MEMORY_FRACTION * torch.cuda.mem_get_info(device)[0]
    )


class Normalise(nn.Module):
    """Map uint8 ``(B, H, W, C)`` to normalised float32 ``(B, C, H, W)``, channels last."""

    scale: Tensor
    shift: Tensor

    def __init__(
        self, mean: tuple[float, ...], std: tuple[float, ...], device: torch.device
    ) -> None:
        super().__init__()
        deviation = torch.tensor(std).clamp_min(1e-6)
        self.register_buffer("scale", (1 / (255 * deviation)).to(device), persistent=False)
        self.register_buffer(
            "shift", (-torch.tensor(mean) / deviation).to(device), persistent=False
        )

    def forward(self, images: Tensor) -> Tensor:
        """Normalise one batch."""
        return torch.addcmul(self.shift, images.float(), self.scale).permute(0, 3, 1, 2)


def crop_and_flip(
    split: Split, chosen: Tensor, corner: Tensor, mirrored: Tensor | None = None
) -> Tensor:
    """Crop images, mirror some, and fill with zeros beyond an image's edge, in one gather (D15).

    Args:
        split: the source of the images, with the crops' height H and width W.
        chosen: positions of the images, int64 ``(B,)``.
        corner: row and column of each crop's upper left corner in its image, int64 ``(B, 2)``; may
            be negative.
        mirrored: which crops are mirrored, bool ``(B,)``; None: none is.

    Returns:
        uint8 ``(B, H, W, C)``.
    """
    (height, width), device = split.output, split.pixels.device
    start, size = split.start[chosen], split.size[chosen]
    rows = torch.arange(height, device=device) + corner[:, :1]
    columns = torch.arange(width, device=device).expand(len(chosen), -1)
    if mirrored is not None:
        columns = torch.where(mirrored[:, None], width - 1 - columns, columns)
    columns = columns + corner[:, 1:]
    outside = ((rows < 0) | (rows >= size[:, :1]))[:, :, None] | (
        (columns < 0) | (columns >= size[:, 1:])
    )[:, None, :]
    rows = rows.clamp(min=0).minimum(size[:, :1] - 1) * size[:, 1:] + start[:, None]
    columns = columns.clamp(min=0).minimum(size[:, 1:] - 1)
    pixels = split.pixels.index_select(0, (rows[:, :, None] + columns[:, None, :]).view(-1))
    return pixels.view(len(chosen), height, width, -1).masked_fill_(outside[..., None], 0)


class TrainBatches:
    """Augmented uint8 batches of one epoch after the other, each made when it is needed.

    Order and augmentation depend on the seed and the epoch alone, so a resumed epoch is the same
    epoch. They are drawn for a whole epoch at once and moved to the pixels together, always to the
    same address there. A crop's corner is uniform over all positions in the padded image.

        batches.begin(epoch)
        for size in batches:
            images, labels = batches.at(position, size)

    Args:
        split: the images to train on.
        batch_size: images per batch; the last one of an epoch holds what is left.
        padding: zeros around an image before it is cropped, in pixels.
        flip: mirror half of the images.
        seed: of the trial.
        staged: whether each batch is cut as it comes up in the iteration and copied to one address
            on the device, where `at` finds it. Default: where the pixels are not on the device that
            trains.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        padding: int,
        flip: bool,
        seed: int,
        staged: bool | None = None,
    ) -> None:
        n, home, device = len(split), split.pixels.device, split.labels.device
        self._split, self._padding, self._flip, self._seed = split, padding, flip, seed
        self.sizes = batch_sizes(n, batch_size)
        self._own = split.index.to(home)
        self._index = torch.empty_like(self._own)
        self._corner = torch.zeros(n, 2, dtype=torch.int64, device=home)
        self._mirrored = torch.zeros(n, dtype=torch.bool, device=home)
        self._ahead = torch.arange(batch_size, device=home)
        self._stage: tuple[Tensor, Tensor] | None = None
        if home != device if staged is None else staged:
            images = torch.zeros(
                batch_size, *split.output, split.pixels.shape[1], dtype=torch.uint8, device=device
            )
            self._stage = images, torch.zeros(batch_size, dtype=torch.int64, device=device)

    def begin(self, epoch: int) -> None:
        """Draw an epoch's order, crops and flips."""
        n, random = len(self._split), generator("epoch", self._seed, epoch)
        order = torch.randperm(n, generator=random).to(self._own.device)
        self._index.copy_(self._own[order])
        # A fraction of the corner's room in units of 2⁻³¹: integers, so that every device finds the
        # same corner.
        fraction = torch.randint(1 << 31, (n, 2), generator=random).to(self._own.device)
        output = torch.tensor(self._split.output, device=self._own.device)
        room = self._split.size[self._index] + 2 * self._padding - output
        self._corner.copy_(((fraction * (room + 1)) >> 31) - self._padding)
        self._mirrored.copy_(torch.rand(n, generator=random) < (0.5 if self._flip else 0.0))

    def __iter__(self) -> Iterator[int]:
        """Yield the sizes of an epoch's batches; a staged batch is copied before its size."""
        start = 0
        for size in self.sizes:
            if self._stage is not None:
                for place, batch in zip(
                    self._stage, self._cut(self._ahead[:size] + start), strict=True
                ):
                    place[:size].copy_(batch)
            yield size
            start += size

    def at(self, position: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Return the batch of `size` images from a position in the epoch: uint8 ``(B, H, W, C)``.

        Its labels ``(B,)`` follow. `position` is a scalar tensor on the device: nothing else
        differs from one batch to the next.
        """
        if self._stage is not None:
            images, labels = self._stage
            return images[:size], labels[:size]
        return self._cut(self._ahead[:size] + position)

    def _cut(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        chosen = self._index[rows]
        images = crop_and_flip(self._split, chosen, self._corner[rows], self._mirrored[rows])
        return images, self._split.labels[chosen.to(self._split.labels.device)]


def plain_batches(split: Split, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the centres of the part's images in order, on the device, with their labels."""
    home, device = split.pixels.device, split.labels.device
    output = torch.tensor(split.output, device=home)
    for chosen in torch.split(split.index, batch_size):
        there = chosen.to(home)
        corner = (split.size[there] - output) // 2
        yield crop_and_flip(split, there, corner).to(device), split.labels[chosen]
