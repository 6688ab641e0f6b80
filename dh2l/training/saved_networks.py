"""Trained networks as files of plain tensors, and back."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dh2l.config.binding import channel_statistics
from dh2l.config.train_config import TrainConfig
from dh2l.data import Manifest
from dh2l.errors import UserError, first_line
from dh2l.io.files import AnyPath, read, write_atomically
from dh2l.models.network import Network, build_network
from dh2l.models.pretrained import UNREADABLE
from dh2l.results import WEIGHTS_FILE
from dh2l.training.batches import Normalise
from dh2l.training.checkpoint import LARGEST
from dh2l.tree import ClassTree

FORMAT = 1


class TrainedNetwork(nn.Module):
    """A trained network with the normalisation of its images.

    Attributes:
        network: the network, in evaluation mode.
        normalise: makes the network's input of images.
        config: the trial that trained it.
        identity: the trial's.
        classes: one path of names per class, in the order of the logits.
        image_shape: height, width and channels of the images.
    """

    def __init__(
        self,
        network: Network,
        normalise: Normalise,
        config: TrainConfig,
        identity: str,
        classes: tuple[tuple[str, ...], ...],
        image_shape: tuple[int, int, int],
    ) -> None:
        super().__init__()
        self.network, self.normalise = network, normalise
        self.config, self.identity, self.classes, self.image_shape = (
            config,
            identity,
            classes,
            image_shape,
        )
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits ``(N, n_classes)`` of uint8 images ``(N, height, width, channels)``.

        The values are from 0 to 255. The network computes in bfloat16 where its trial did; the
        logits are float32.

        Raises:
            UserError: images of another type or shape.
        """
        if (
            images.dtype != torch.uint8
            or images.dim() != 4
            or tuple(images.shape[1:]) != self.image_shape
        ):
            raise UserError(
                f"images: {images.dtype} of shape {tuple(images.shape)}; expected torch.uint8 of "
                f"shape (N, {', '.join(map(str, self.image_shape))}). Pass images as they are "
                "stored, not normalised"
            )
        with torch.autocast(
            images.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"
        ):
            logits: Tensor = self.network(self.normalise(images))
        return logits.float()


def path_in(folder: AnyPath) -> AnyPath:
    """Locate the file of a trained network in the folder of its trial's checkpoint."""
    return folder / WEIGHTS_FILE


def save_network(
    folder: AnyPath, state_dict: Mapping[str, Tensor], config: TrainConfig, manifest: Manifest
) -> None:
    """Write the weights of a finished trial, with all that `load_network` needs.

    The file is a dictionary that ``torch.load(path, weights_only=True)`` reads: `state_dict`,
    `config`, `identity`, `epoch` (always the last one), `classes`, `tree` (paths of the class tree
    that the classifier is built on), `image_shape`, `mean` and `std` (per channel, of values in
    [0, 1]).

    Args:
        folder: the folder of the trial's checkpoint.
        state_dict: the network's parameters and buffers after the last epoch, by name.
        config: the trial, bound to its data.
        manifest: the data set's.

    Raises:
        OSError: it cannot be written.
    """
    mean, std = channel_statistics(config, manifest)
    content = {
        "format": FORMAT,
        "identity": config.identity,
        "epoch": config.epochs,
        "config": config.model_dump(mode="json"),
        "classes": [list(path) for path in manifest.classes],
        "tree": [list(path) for path in config.training_tree(manifest.tree).paths],
        "image_shape": list(manifest.image_shape),
        "mean": list(mean),
        "std": list(std),
        "state_dict": dict(state_dict),
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path_in(folder), buffer.getvalue())


def load_network(path: AnyPath | str) -> TrainedNetwork:
    """Read a trained network, ready to evaluate on the CPU; no code in the file runs.

    Models that a plugin registers need that plugin imported before.

    Args:
        path: a file that `run --keep` left, ``weights.pt``.

    Raises:
        UserError: there is no such file, or it is not a trained network of this project.
    """
    path = Path(path).expanduser() if isinstance(path, str) else path
    try:
        content: Any = torch.load(
            io.BytesIO(read(path, LARGEST)), map_location="cpu", weights_only=True
        )
        if content["format"] != FORMAT:
            raise UserError(
                f"{path}: a trained network of format {content['format']}; expected {FORMAT}"
            )
        config = TrainConfig.model_validate(
            {**content["config"], "weights": None, "weights_hash": ""}, strict=False
        )
        height, width, channels = content["image_shape"]
        network = build_network(config, ClassTree(content["tree"]), (height, width, channels))
        network.load_state_dict(content["state_dict"])
        return TrainedNetwork(
            network.to(memory_format=torch.channels_last),
            Normalise(tuple(content["mean"]), tuple(content["std"]), torch.device("cpu")),
            config,
            content["identity"],
            tuple(tuple(names) for names in content["classes"]),
            (height, width, channels),
        )
    except OSError as error:
        raise UserError(f"the network {path} cannot be read ({error.strerror})") from None
    except UserError:
        raise
    except UNREADABLE as error:
        raise UserError(
            f"{path}: not a trained network ({first_line(error)}); expected weights.pt of `run "
            "--keep`"
        ) from None
