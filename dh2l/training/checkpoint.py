"""A trial's checkpoint: written atomically, read back without unpickling code.

In a folder the one before is kept too, should the newest be damaged; in an object store the newest alone.
"""

import hashlib
import io
import warnings
from pathlib import Path
from typing import Any

import torch

from dh2l.io.files import AnyPath, read, write_atomically
from dh2l.models.pretrained import UNREADABLE

VERSION = 3
LARGEST = 1 << 34
"""Bytes of a checkpoint: a network of a billion parameters, its optimizer's state and both once more."""
_DIGEST_BYTES = (
    32  # SHA-256 of what follows: torch.load itself passes over flipped bits in a tensor
)


def save(folder: AnyPath, state: dict[str, Any]) -> None:
    """Make `state` the checkpoint in `folder`; whoever loads gets the old or the new one whole.

    Raises:
        OSError: it cannot be written; the one before is still there.
    """
    buffer = io.BytesIO()
    torch.save({"version": VERSION, **state}, buffer)
    content = buffer.getvalue()
    newest, previous = path_in(folder), previous_in(folder)
    if isinstance(newest, Path) and isinstance(previous, Path) and newest.exists():
        newest.replace(previous)
    write_atomically(newest, hashlib.sha256(content).digest() + content)


def load(folder: AnyPath, identity: str) -> dict[str, Any] | None:
    """The newest checkpoint in `folder` that can be read, or None where there is none of this trial.

    Warns:
        UserWarning: a checkpoint that is damaged, of another version or another trial; it is left out.
    """
    for path in (path_in(folder), previous_in(folder)):
        try:
            raw = read(path, LARGEST)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            reason = f"it cannot be read ({error.strerror})"
        else:
            content = raw[_DIGEST_BYTES:]
            if hashlib.sha256(content).digest() != raw[:_DIGEST_BYTES]:
                reason = "it is damaged"
            else:
                try:
                    state: Any = torch.load(
                        io.BytesIO(content), map_location="cpu", weights_only=True
                    )
                except UNREADABLE as error:
                    state, reason = (
                        None,
                        f"it holds more than tensors and numbers, or none ({type(error).__name__})",
                    )
                else:
                    reason = "it is of another version or another trial"
                if isinstance(state, dict) and (state.get("version"), state.get("identity")) == (
                    VERSION,
                    identity,
                ):
                    return state
        warnings.warn(
            f"the checkpoint {path} is left out: {reason}; the trial starts before it", stacklevel=2
        )
    return None


def path_in(folder: AnyPath) -> AnyPath:
    """The newest checkpoint's file."""
    return folder / "checkpoint.pt"


def previous_in(folder: AnyPath) -> AnyPath:
    """The file of the one before."""
    return folder / "previous.pt"
