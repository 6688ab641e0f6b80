"""Binding of a config to its data set and weights."""

import stat
from functools import cache
from pathlib import Path
from typing import NamedTuple

from dh2l.config.train_config import TrainConfig
from dh2l.data import Manifest
from dh2l.data.manifest import file_hash
from dh2l.errors import UserError, first_line
from dh2l.registry.entries import MODELS
from dh2l.tree import ClassTree

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean per channel, of values in [0, 1], under which torchvision's weights were trained."""
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation per channel of the same images."""
SHUFFLES_REFUSED = 1000
"""Number of values of `tree_seed`, from 0, whose shuffled trees no file may repeat."""
_LARGEST = 1 << 34  # bytes; a ResNet-50 has a hundred million


class HashMismatch(NamedTuple):
    """A hash that a bound config carries and its data set does not have.

    Attributes:
        what: "hash" of the data, or "class tree".
        found: the hash of the data set.
        expected: the hash in the config.
    """

    what: str
    found: str
    expected: str


def find_hash_mismatch(config: TrainConfig, manifest: Manifest) -> HashMismatch | None:
    """Compare the hashes of a config with those of a data set.

    Returns:
        The first that differs; None if the config may be bound to the data set.
    """
    if config.data_hash not in ("", manifest.data_hash):
        return HashMismatch("hash", manifest.data_hash, config.data_hash)
    if config.tree_hash:
        found = config.training_tree(manifest.tree).hash
        if config.tree_hash != found:
            return HashMismatch("class tree", found, config.tree_hash)
    return None


def bind(
    config: TrainConfig, manifest: Manifest, *, weights_hash: str | None = None
) -> TrainConfig:
    """Bind a config to a prepared data set and to its weights, so that its identity covers them.

    A config that is bound already is checked against both.

    Args:
        config: the config.
        manifest: the manifest of the data set, under the class tree that the config names.
        weights_hash: the hash of the weights where it is known; by default they are read.

    Raises:
        UserError: the class tree does not fit the config, the data or the weights do not have the
            hash that the config carries, or the weights cannot be read.
    """
    if config.hierarchical:
        config.level_weights(manifest.tree.depth)
    if find_hash_mismatch(config, manifest) is not None:
        raise UserError(
            f"the data set {config.dataset} was prepared anew since this trial was planned; "
            "plan again"
        )
    bound = config.model_copy(
        update={
            "data_hash": manifest.data_hash,
            "tree_hash": config.training_tree(manifest.tree).hash,
            "flip": None if config.flip == manifest.flip else config.flip,
            "crop_padding": None
            if config.crop_padding == manifest.crop_padding
            else config.crop_padding,
        }
    )
    if weights_hash is None:
        return with_weights_hash(bound)
    return bound.model_copy(update={"weights_hash": weights_hash})


def check_tree_file(config: TrainConfig, own: ClassTree, tree: ClassTree) -> None:
    """Refuse a file with a shuffled tree of the data set, whose trials `tree: shuffled` names.

    Both have the same identity, but a trial of the file is measured by the file's tree.

    Args:
        config: the config that names the file.
        own: the data set's own class tree.
        tree: the class tree in the file.

    Raises:
        UserError: the file has the tree of a `tree_seed` below `SHUFFLES_REFUSED`, and the trial
            trains by it.
    """
    if tree.hash == own.hash or not config.hierarchical:
        return
    seed = own.shuffle_seed(tree, (config.tree_seed, *range(SHUFFLES_REFUSED)))
    if seed is None:
        return
    expected = "tree: shuffled" if seed == 0 else f"tree: shuffled and tree_seed: {seed}"
    raise UserError(
        f"tree {config.tree!r}: this is the class tree of {config.dataset}, shuffled; expected "
        f"{expected}, which measures by the data set's own tree. Use {expected}"
    )


def weights_by_name() -> set[str]:
    """Return the names of the weights that some model has; all others are files."""
    return {name for model in MODELS.values() for name in model.weights}


def weights_hash(model: str, weights: str) -> str:
    """Hash weights for the identity of a trial.

    Args:
        model: a key of `dh2l.registry.entries.MODELS`.
        weights: `imagenet`, or a file.

    Returns:
        The first hexadecimal digits of the SHA-256 of their file: twelve, or as many as named
        weights declare.

    Raises:
        UserError: the model does not have such weights, or the file cannot be read.
    """
    known = MODELS[model].weights
    if weights in known:
        return known[weights]
    if weights in weights_by_name():
        having = " and ".join(name for name, other in MODELS.items() if weights in other.weights)
        raise UserError(
            f"the model {model} has no weights {weights!r}: {having} have; choose one of these, or "
            "give a file of a state dict"
        )
    try:
        path = Path(weights).expanduser()
        status = path.stat()
        reason = "it is no regular file"
        if stat.S_ISREG(status.st_mode) and status.st_size > _LARGEST:
            reason = f"it has {status.st_size:,} bytes, more than {_LARGEST:,}"
        elif stat.S_ISREG(status.st_mode):
            return _file_hash(path.resolve(), status.st_size, status.st_mtime_ns)
    except (
        OSError,
        ValueError,
        RuntimeError,
    ) as error:  # no such file, a zero in its path, ~ of nobody
        reason = (error.strerror if isinstance(error, OSError) else None) or first_line(error)
    raise UserError(
        f"the weights {weights!r} cannot be read ({reason}); give "
        + "".join(f"{name}, or " for name in known)
        + "the path of a state dict that torch.save wrote"
    )


@cache
def _file_hash(path: Path, size: int, mtime: int) -> str:  # noqa: ARG001 another size or time is another file
    return file_hash(path)[:12]


def with_weights_hash(config: TrainConfig) -> TrainConfig:
    """Bind a config to its weights, so that its identity covers them.

    Raises:
        UserError: the weights are missing, or do not have the hash that the config carries.
    """
    if config.weights is None:
        return config.model_copy(update={"weights_hash": ""})
    found = weights_hash(config.model, config.weights)
    if config.weights_hash not in ("", found):
        raise UserError(
            f"the weights {config.weights} have changed since this trial was planned (hash {found} "
            f"instead of {config.weights_hash}); plan again, or put the file back"
        )
    return config.model_copy(update={"weights_hash": found})


def channel_statistics(
    config: TrainConfig, manifest: Manifest
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the mean and standard deviation per channel by which a config's images are normalised.

    Raises:
        UserError: the config asks for ImageNet's, but the images do not have three channels.
    """
    if config.channel_statistics == "data":
        return manifest.mean, manifest.std
    if (channels := manifest.image_shape[2]) != 3:
        raise UserError(
            f"ImageNet's statistics are of 3 channels, but the images of {config.dataset} have "
            f"{channels}; set statistics: data"
        )
    return IMAGENET_MEAN, IMAGENET_STD
