"""Pretrained weights, and their loading into a backbone."""

import os
import struct
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import BinaryIO

import torch
from torch import Tensor, nn

from dh2l.config.binding import with_weights_hash
from dh2l.config.train_config import TrainConfig
from dh2l.data.manifest import file_hash
from dh2l.data.sources.archives import silence_bounded
from dh2l.errors import UserError, first_line
from dh2l.io.files import open_regular
from dh2l.registry.entries import MODELS

Tensors = dict[str, Tensor]

_TORCHVISION = {
    "resnet18": "ResNet18_Weights.IMAGENET1K_V1",
    "resnet50": "ResNet50_Weights.IMAGENET1K_V1",
}
UNREADABLE = (
    *(
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
        LookupError,
        AttributeError,
        TypeError,
        AssertionError,
    ),
    *(ArithmeticError, MemoryError, ImportError, UnpicklingError, struct.error, zipfile.BadZipFile),
)
"""What unpickling meets where a file is damaged, or is none of torch's."""
_PARALLEL, _COMPILED = "module.", "_orig_mod."
_SHOWN = 3


def load_weights(backbone: nn.Module, config: TrainConfig) -> None:
    """Start a backbone from the weights of its config. A classifier's, named ``fc``, are left out.

    Raises:
        UserError: they cannot be had or read, do not fit, or are not those of the config's hash.
    """
    config = with_weights_hash(config)
    assert config.weights is not None  # noqa: S101 the caller sees to it
    given = (
        _downloaded(config)
        if config.weights in MODELS[config.model].weights
        else _read(config.weights)
    )
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


def _downloaded(config: TrainConfig) -> Tensors:
    """Named weights by torchvision's mechanism, which keeps them in torch.hub's folder."""
    import torchvision

    weights = torchvision.models.get_weight(_TORCHVISION[config.model])
    path = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    try:  # torchvision looks at new files alone
        damaged = path.exists() and not file_hash(path).startswith(config.weights_hash)
    except OSError:
        damaged = True
    if damaged:
        raise UserError(
            f"the file {path} is damaged or another than {weights.url}; delete it, and run again"
        )
    try:
        with silence_bounded():
            state: Tensors = weights.get_state_dict(
                check_hash=True, progress=False, weights_only=True, map_location="cpu"
            )
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"the ImageNet weights of {config.model} cannot be downloaded ({first_line(error)}); "
            f"get {weights.url} elsewhere and put it at {path}, where torch looks for it"
        ) from None
    return state


def _read(weights: str) -> Tensors:
    """Read a file's state dict, bare or under a usual key, without the prefixes of wrappers."""
    try:
        with open_regular(Path(weights).expanduser()) as file:
            _check_unpacked(file)
            content = torch.load(file, weights_only=True, map_location="cpu")
    except UNREADABLE:
        raise UserError(
            f"the weights {weights} cannot be read: damaged, or more than tensors, which is not "
            "loaded since it could run code; save a state dict by torch.save(model.state_dict(), "
            "PATH)"
        ) from None
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in content.items()
    ):
        raise UserError(
            f"the weights {weights} hold no state dict, neither bare nor under state_dict or "
            "model; save one by torch.save(model.state_dict(), PATH)"
        )
    return _unwrapped(content)


def _check_unpacked(file: BinaryIO) -> None:
    """Refuse an archive that would be larger when it is unpacked: torch packs nothing.

    Raises:
        ValueError: it would; or another of `UNREADABLE`.
    """
    size = file.seek(0, os.SEEK_END)
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if sum(member.file_size for member in archive.infolist()) > size:
                raise ValueError("it is packed")
    file.seek(0)


def _unwrapped(state: Tensors) -> Tensors:
    """Return the state dict under the network's own keys.

    `torch.compile` puts a prefix before the keys of whatever module it was given, a parallel
    wrapper before all keys.
    """
    plain = {key.replace(_COMPILED, ""): value for key, value in state.items()}
    if all(key.startswith(_PARALLEL) for key in plain):
        plain = {key.removeprefix(_PARALLEL): value for key, value in plain.items()}
    return plain if len(plain) == len(state) else state
