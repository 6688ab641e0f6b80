"""A trial's one checkpoint: written atomically, read back without unpickling code."""

import hashlib
import io
import warnings
from pathlib import Path
from typing import Any

import torch

from dh2l.atomic import write_atomically
from dh2l.weights import UNREADABLE

VERSION = 2
_DIGEST_BYTES = 32  # SHA-256 of what follows: torch.load itself passes over flipped bits in a tensor


def save(folder: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint in `folder` by `state`; whoever reads sees the old or the new one whole."""
    buffer = io.BytesIO()
    torch.save({"version": VERSION, **state}, buffer)
    content = buffer.getvalue()
    write_atomically(path_in(folder), hashlib.sha256(content).digest() + content)


def load(folder: Path, identity: str) -> dict[str, Any] | None:
    """The checkpoint in `folder`, or None where there is none of this trial that can be read.

    Warns:
        UserWarning: a checkpoint that is damaged, of another version or another trial; it is left out.
    """
    path = path_in(folder)
    if not path.exists():
        return None
    try:
        raw = path.read_bytes()
    except OSError as error:
        reason = f"it cannot be read ({error.strerror})"
    else:
        content = raw[_DIGEST_BYTES:]
        if hashlib.sha256(content).digest() != raw[:_DIGEST_BYTES]:
            reason = "it is damaged"
        else:
            try:
                state: Any = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            except UNREADABLE as error:
                state, reason = None, f"it holds more than tensors and numbers, or none ({type(error).__name__})"
            else:
                reason = "it is of another version or another trial"
            if isinstance(state, dict) and (state.get("version"), state.get("identity")) == (VERSION, identity):
                return state
    warnings.warn(f"the checkpoint {path} is left out: {reason}; the trial starts anew", stacklevel=2)
    return None


def path_in(folder: Path) -> Path:
    """The checkpoint's file."""
    return folder / "checkpoint.pt"
