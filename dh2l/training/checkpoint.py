"""Checkpoints of a trial: written atomically, read without unpickling code.

In a folder the one before is kept too, in case the newest is damaged; in an object store only the
newest.
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
"""Bytes of a checkpoint: a network of a billion parameters, its optimizer's state and both once
more."""
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
    """Load the newest readable checkpoint of a trial in `folder`, or None without one.

    Warns:
        UserWarning: a checkpoint that is damaged, of another version or another trial; it is left
            out.
    """
    for path in (path_in(folder), previous_in(folder)):
        try:
            return _load(path, identity)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            reason = f"it cannot be read ({error.strerror})"
        except _Unusable as error:
            reason = str(error)
        warnings.warn(
            f"the checkpoint {path} is left out: {reason}; the trial starts before it", stacklevel=2
        )
    return None


class _Unusable(Exception):
    """A checkpoint that must not be used."""


def _load(path: AnyPath, identity: str) -> dict[str, Any]:
    """Load one checkpoint.

    Raises:
        _Unusable: it is damaged, or of another version or trial.
        OSError: it cannot be read.
    """
    raw = read(path, LARGEST)
    content = raw[_DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != raw[:_DIGEST_BYTES]:
        raise _Unusable("it is damaged")
    try:
        state: Any = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        kind = type(error).__name__
        raise _Unusable(f"it holds more than tensors and numbers, or none ({kind})") from error
    known = isinstance(state, dict) and (state.get("version"), state.get("identity"))
    if known != (VERSION, identity):
        raise _Unusable("it is of another version or another trial")
    loaded: dict[str, Any] = state
    return loaded


def path_in(folder: AnyPath) -> AnyPath:
    """Return the path of the newest checkpoint."""
    return folder / "checkpoint.pt"


def previous_in(folder: AnyPath) -> AnyPath:
    """Return the path of the checkpoint before."""
    return folder / "previous.pt"
