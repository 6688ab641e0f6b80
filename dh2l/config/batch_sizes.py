"""Sizes of batches and of their parts, known before anything is loaded."""

import math
from functools import lru_cache

from dh2l.config.train_config import TrainConfig
from dh2l.data import Manifest
from dh2l.data.split import held_out, too_small
from dh2l.errors import DataError, UserError
from dh2l.registry.entries import MODELS

_TRIED = 1000


def batch_sizes(n: int, batch_size: int) -> list[int]:
    """Sizes of an epoch's batches; the last one holds what is left."""
    return [min(batch_size, n - start) for start in range(0, n, batch_size)]


def n_training_images(config: TrainConfig, manifest: Manifest) -> int | None:
    """Count the images that an epoch trains on.

    Returns:
        The count, or None where the manifest, of an earlier version, does not hold the class sizes.

    Raises:
        DataError: a class has too few images to be split; the message names it.
    """
    if config.protocol == "paper":
        return manifest.n_train
    if not manifest.train_sizes:
        return None
    if (smallest := min(manifest.train_sizes)) < 2:
        name = "/".join(manifest.classes[manifest.train_sizes.index(smallest)])
        raise DataError(
            f"{too_small(name, smallest)}. Add images to {manifest.name}, or set protocol: paper"
        )
    return manifest.n_train - _validated(manifest.train_sizes, config.validation_fraction)


@lru_cache(maxsize=16)
def _validated(sizes: tuple[int, ...], fraction: float) -> int:
    """Count the images held out of classes of these sizes."""
    return sum(held_out(n, fraction) for n in sizes)


def check_batches(config: TrainConfig, n: int, image_shape: tuple[int, ...]) -> None:
    """Refuse batches in which batch norm would see one value per channel.

    Batch norm raises where one image is left over and the network's last layers are one pixel
    large. A user's model is not checked, because the size of its last layers is unknown.

    Args:
        config: the trial's.
        n: the images that an epoch trains on.
        image_shape: height, width and channels of what the network is given.

    Raises:
        UserError: a batch is refused; the message names the nearest sizes that train.
    """
    stride = MODELS[config.model].stride
    if not stride or math.prod(math.ceil(side / stride) for side in image_shape[:2]) > 1:
        return
    if not _leaves_one(n, config.batch_size, config.micro_batch):
        return
    micro = config.micro_batch
    sizes = sorted(
        range(2, config.batch_size + _TRIED), key=lambda size: abs(size - config.batch_size)
    )
    remedies = [f"batch_size: {size}" for size in sizes if not _leaves_one(n, size, micro)][:1]
    if micro is not None:
        parts = sorted(range(2, micro + _TRIED), key=lambda size: abs(size - micro))
        remedies += [
            f"micro_batch: {part}" for part in parts if not _leaves_one(n, config.batch_size, part)
        ][:1]
    pieces = f"batches of {config.batch_size}" + ("" if micro is None else f", {micro} at a time,")
    raise UserError(
        f"{n:,} training images in {pieces} leave one image alone, of which batch norm in "
        f"{config.model} would see one value per channel; expected at least 2 images of "
        f"{image_shape[1]}×{image_shape[0]} pixels at a time. Set {' or '.join(remedies)}"
    )


def _leaves_one(n: int, batch_size: int, micro_batch: int | None) -> bool:
    """Return True if some batch, or some part of one, is a single image."""
    sizes = {min(batch_size, n), n % batch_size} - {0}
    if micro_batch is not None:
        sizes = {size if size <= micro_batch else size % micro_batch for size in sizes}
    return 1 in sizes
