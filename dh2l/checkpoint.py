"""A trial's one checkpoint: written atomically, read back without unpickling code."""

import os
import tempfile
import warnings
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

VERSION = 1


def save(folder: Path, state: dict[str, Any]) -> None:
    """Replace the checkpoint in `folder` by `state`; whoever reads sees the old or the new one whole."""
    folder.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=folder, prefix=".checkpoint-")
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save({"version": VERSION, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path_in(folder))
    finally:
        Path(temporary).unlink(missing_ok=True)


def load(folder: Path, identity: str) -> dict[str, Any] | None:
    """The checkpoint in `folder`, or None where there is none of this trial that can be read.

    Warns:
        UserWarning: a checkpoint that is damaged, of another version or another trial; it is left out.
    """
    path = path_in(folder)
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if state["version"] == VERSION and state["identity"] == identity:
            return state
        reason = "it is of another version or another trial"
    except (OSError, EOFError, RuntimeError, KeyError, TypeError, ValueError, UnpicklingError) as error:
        reason = f"it cannot be read ({type(error).__name__})"
    warnings.warn(f"the checkpoint {path} is left out: {reason}; the trial starts anew", stacklevel=2)
    return None


def path_in(folder: Path) -> Path:
    """The checkpoint's file."""
    return folder / "checkpoint.pt"
