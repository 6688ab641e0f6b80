"""Ready-made weights: their hash, how a backbone starts from them, and what images they were trained on.

Imports torch only to load them, so that planning can take their hash.
"""

import stat
import struct
from functools import cache
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING

from dh2l.config import TrainConfig
from dh2l.data import Manifest
from dh2l.data.manifest import file_hash
from dh2l.errors import UserError, first_line
from dh2l.names import MODELS

if TYPE_CHECKING:
    from torch import Tensor, nn

    Tensors = dict[str, Tensor]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Per channel, as values in [0, 1]: what torchvision's weights were trained on."""
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Likewise."""
_TORCHVISION = {"resnet18": "ResNet18_Weights.IMAGENET1K_V1", "resnet50": "ResNet50_Weights.IMAGENET1K_V1"}
UNREADABLE = (
    *(OSError, EOFError, RuntimeError, ValueError, LookupError, AttributeError, TypeError, AssertionError),
    *(ArithmeticError, MemoryError, ImportError, UnpicklingError, struct.error),
)
"""What unpickling meets where a file is damaged, or is none of torch's."""
_SHOWN = 3


def weights_hash(model: str, weights: str) -> str:
    """What a trial's identity keeps of its weights.

    Args:
        model: a key of `dh2l.names.MODELS`.
        weights: `imagenet`, or a file.

    Returns:
        Of named weights the first hexadecimal digits of their file's SHA-256, of a file's the first twelve.

    Raises:
        UserError: the model has no such weights, or there is no such file.
    """
    known = MODELS[model].weights
    if weights in known:
        return known[weights]
    names = sorted({name for other in MODELS.values() for name in other.weights})
    if weights in names:
        having = " and ".join(name for name, other in MODELS.items() if weights in other.weights)
        raise UserError(
            f"the model {model} has no weights {weights!r}: {having} have; choose one of these, or give a file of a "
            "state dict"
        )
    try:
        path = Path(weights).expanduser()
        status = path.stat()
        if stat.S_ISREG(status.st_mode):
            return _file_hash(path.resolve(), status.st_size, status.st_mtime_ns)
        reason = "it is no regular file"
    except (OSError, ValueError, RuntimeError) as error:  # no such file, a zero in its path, ~ of nobody
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
    """The config tied to its weights, so that its identity covers them.

    Raises:
        UserError: weights that are not there, or no longer those of the hash that the config carries.
    """
    if config.weights is None:
        return config.model_copy(update={"weights_hash": ""})
    found = weights_hash(config.model, config.weights)
    if config.weights_hash not in ("", found):
        raise UserError(
            f"the weights {config.weights} have changed since this trial was planned (hash {found} instead of "
            f"{config.weights_hash}); plan again, or put the file back"
        )
    return config.model_copy(update={"weights_hash": found})


def channel_statistics(config: TrainConfig, manifest: Manifest) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel that a config's images are normalised by.

    Raises:
        UserError: ImageNet's for images that have not three channels.
    """
    if config.channel_statistics == "data":
        return manifest.mean, manifest.std
    if (channels := manifest.image_shape[2]) != 3:
        raise UserError(
            f"ImageNet's statistics are of 3 channels, but the images of {config.dataset} have {channels}; "
            "set statistics: data"
        )
    return IMAGENET_MEAN, IMAGENET_STD


def load_weights(backbone: "nn.Module", config: TrainConfig) -> None:
    """Start a backbone from the weights of its config. A classifier's, named ``fc``, are left out.

    Raises:
        UserError: they cannot be had or read, do not fit, or are not those of the config's hash.
    """
    config = with_weights_hash(config)
    assert config.weights is not None  # noqa: S101 the caller sees to it
    given = _downloaded(config) if config.weights in MODELS[config.model].weights else _read(config.weights)
    own = backbone.state_dict()
    if not any(key.startswith("fc.") for key in own):
        given = {key: value for key, value in given.items() if not key.startswith("fc.")}
    # Old files lack batch norm's count of batches, which changes no number.
    missing = [key for key in own if key not in given and not key.endswith(".num_batches_tracked")]
    unexpected = [key for key in given if key not in own]
    misshapen = [
        f"{key} {tuple(value.shape)} instead of {tuple(own[key].shape)}"
        for key, value in given.items()
        if key in own and value.shape != own[key].shape
    ]
    findings = {"missing": missing, "unexpected": unexpected, "of another shape": misshapen}
    if any(findings.values()):
        raise UserError(
            f"the weights {config.weights} do not fit the model {config.model}: "
            + "; ".join(f"{finding}: {_few(keys)}" for finding, keys in findings.items() if keys)
        )
    backbone.load_state_dict(own | given)


def _few(keys: list[str]) -> str:
    left = len(keys) - _SHOWN
    return ", ".join(keys[:_SHOWN]) + (f" and {left} more" if left > 0 else "")


def _downloaded(config: TrainConfig) -> "Tensors":
    """Named weights by torchvision's mechanism, which keeps them in torch.hub's folder."""
    import torch
    import torchvision

    weights = torchvision.models.get_weight(_TORCHVISION[config.model])
    path = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    if path.exists() and not file_hash(path).startswith(config.weights_hash):  # torchvision looks at new files alone
        raise UserError(f"the file {path} is damaged or another than {weights.url}; delete it, and run again")
    try:
        state: Tensors = weights.get_state_dict(check_hash=True, progress=False, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"the ImageNet weights of {config.model} cannot be downloaded ({first_line(error)}); get {weights.url} "
            f"elsewhere and put it at {path}, where torch looks for it"
        ) from None
    return state


def _read(weights: str) -> "Tensors":
    """A file's state dict, bare or under a usual key, without the prefix of a parallel wrapper."""
    import torch

    try:
        content = torch.load(Path(weights).expanduser(), weights_only=True, map_location="cpu")
    except UNREADABLE:
        raise UserError(
            f"the weights {weights} cannot be read: damaged, or more than tensors, which is not loaded since it could "
            "run code; save a state dict by torch.save(model.state_dict(), PATH)"
        ) from None
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in content.items()
    ):
        raise UserError(
            f"the weights {weights} hold no state dict, neither bare nor under state_dict or model; save one by "
            "torch.save(model.state_dict(), PATH)"
        )
    wrapped = all(key.startswith("module.") for key in content)
    return {key.removeprefix("module.") if wrapped else key: value for key, value in content.items()}
