"""Environment of Ray's workers: a private token, and the driver's Python environment."""

import os
import stat
from pathlib import Path

import pytest
from ray._private import ray_constants

from study.execution.ray_backend.worker_environment import (
    UV_VARIABLE,
    keep_environment,
    private_token,
)


@pytest.mark.parametrize(("given", "made"), [(None, False), ("0", False), ("1", True)])
def test_uv_makes_environments_only_on_request(
    given: str | None, made: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_constants, UV_VARIABLE, not made)
    monkeypatch.delenv(UV_VARIABLE, raising=False)
    if given is not None:
        monkeypatch.setenv(UV_VARIABLE, given)
    keep_environment()
    assert getattr(ray_constants, UV_VARIABLE) is made


@pytest.mark.parametrize("before", [None, "kept"])
def test_only_the_user_can_read_the_token(
    before: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    token = tmp_path / ".ray" / "auth_token"
    if before is not None:
        token.parent.mkdir()
        token.write_text(before, encoding="ascii")
        token.chmod(0o644)
    private_token(make=True)
    made = token.read_text(encoding="ascii")
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    assert made == before if before else len(made) == 64
    private_token(make=True)
    assert token.read_text(encoding="ascii") == made
    assert os.listdir(token.parent) == ["auth_token"]


@pytest.mark.parametrize(
    "variables", [{"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_TOKEN": "a-users-own"}, {}]
)
def test_no_token_is_made_if_unused_or_without_a_home(
    variables: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "file"
    home.touch()
    monkeypatch.setenv("HOME", str(home if not variables else tmp_path))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    private_token(make=True)
    assert os.listdir(tmp_path) == ["file"]
