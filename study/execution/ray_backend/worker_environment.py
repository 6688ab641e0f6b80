"""Environment of Ray's workers: a private token, and no secret in Ray's logs."""

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from study.execution.ray_backend import _compat

TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
"""Environment variables that give Ray a token or its file."""
UV_VARIABLE = "RAY_ENABLE_UV_RUN_RUNTIME_ENV"
"""Environment variable that lets workers under `uv run` build their own environment."""


def forward_nothing() -> None:
    """Forward no environment variable to Ray Tune's workers.

    Tune forwards cloud keys, and Ray writes forwarded variables to logs that everybody can read.
    Workers of a local Ray inherit the driver's environment. The nodes of a cluster have their own
    credentials.
    """
    _compat.forward_no_variables()


def keep_environment() -> None:
    """Run workers in the driver's Python environment under `uv run`, unless the user overrides it.

    Ray would build the environment again for each worker, which takes minutes or never ends.
    """
    enabled = os.environ.get(UV_VARIABLE, "0").lower() in ("1", "true")
    _compat.set_uv_environments(enabled=enabled)


def private_token(*, make: bool) -> None:
    """Make the user's Ray token unreadable for others. Ray creates a file that everybody can read.

    Args:
        make: create a token if there is none.
    """
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token" or any(
        map(os.environ.get, TOKEN_VARIABLES)
    ):
        return
    with suppress(OSError, RuntimeError):  # no home, or not the user's: Ray reports it
        path = Path.home() / ".ray" / "auth_token"
        if make and not path.exists():
            _create_token(path)
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(0o600)


def _create_token(path: Path) -> None:
    """Write a new token atomically, because another driver may create or read one concurrently."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}~")
    try:
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(_compat.create_token())
        with suppress(FileExistsError):
            os.link(name, path)
    finally:
        os.unlink(name)
