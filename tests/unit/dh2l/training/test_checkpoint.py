"""The checkpoint: atomic, whole or left out, and read without unpickling code."""

import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from upath import UPath

from dh2l.training import checkpoint

STATE: dict[str, Any] = {
    "identity": "mine",
    "epochs_done": 3,
    "network": {"w": torch.arange(24.0).reshape(2, 3, 2, 2).to(memory_format=torch.channels_last)},
    "history": {"loss": [0.1, None, 1 / 3]},
    "predictions": torch.tensor([1, 2], dtype=torch.int32),
    "none": None,
}


def test_what_is_saved_comes_back_with_its_types_and_memory_format(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "new" / "folder", STATE)
    state = checkpoint.load(tmp_path / "new" / "folder", "mine")
    assert state is not None
    assert {name: state[name] for name in ("epochs_done", "history", "none")} == {
        "epochs_done": 3,
        "history": {"loss": [0.1, None, 1 / 3]},
        "none": None,
    }
    assert torch.equal(state["network"]["w"], STATE["network"]["w"])
    assert state["network"]["w"].is_contiguous(memory_format=torch.channels_last)
    assert state["predictions"].dtype == torch.int32


def test_no_checkpoint_is_no_news(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path, "mine") is None
    assert checkpoint.load(tmp_path / "missing", "mine") is None


def test_the_newest_checkpoint_is_loaded_and_the_one_before_is_all_that_is_kept_beside(
    tmp_path: Path,
) -> None:
    checkpoint.save(tmp_path, STATE)
    checkpoint.save(tmp_path, {**STATE, "epochs_done": 4})
    state = checkpoint.load(tmp_path, "mine")
    assert state is not None
    assert state["epochs_done"] == 4
    checkpoint.save(tmp_path, {**STATE, "epochs_done": 5})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "previous.pt"]


def test_a_failed_save_keeps_the_checkpoint_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(tmp_path, STATE)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(tmp_path, {**STATE, "epochs_done": 4})
    state = checkpoint.load(tmp_path, "mine")
    assert state is not None
    assert state["epochs_done"] == 3
    assert [path.name for path in tmp_path.iterdir()] == ["previous.pt"]


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    for epochs in (3, 4):
        checkpoint.save(tmp_path, {**STATE, "epochs_done": epochs})
    checkpoint.path_in(tmp_path).write_bytes(b"half")
    with pytest.warns(UserWarning, match=r"checkpoint\.pt is left out: it is damaged"):
        state = checkpoint.load(tmp_path, "mine")
    assert state is not None
    assert state["epochs_done"] == 3


def test_in_an_object_store_the_newest_alone_is_kept() -> None:
    folder = UPath("memory://checkpoints")
    assert checkpoint.load(folder, "mine") is None
    for epochs in (3, 4):
        checkpoint.save(folder, {**STATE, "epochs_done": epochs})
    state = checkpoint.load(folder, "mine")
    assert state is not None
    assert state["epochs_done"] == 4
    assert [path.name for path in folder.iterdir()] == ["checkpoint.pt"]


def assert_left_out(folder: Path, reason: str) -> None:
    with pytest.warns(
        UserWarning, match=rf"checkpoint\.pt is left out: {reason}; the trial starts before it"
    ):
        assert checkpoint.load(folder, "mine") is None


def test_any_damage_is_noticed(tmp_path: Path) -> None:
    """Cut anywhere, or with any byte changed, the pixels of a tensor among them."""
    checkpoint.save(tmp_path, STATE)
    path = checkpoint.path_in(tmp_path)
    whole = path.read_bytes()
    rng = random.Random(0)  # noqa: S311 no secret
    cut = [
        whole[:length]
        for length in (0, 1, 31, 32, 33, len(whole) - 1, *rng.sample(range(len(whole)), 20))
    ]
    changed = []
    for place in (0, 32, len(whole) - 1, *rng.sample(range(len(whole)), 60)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.randrange(8)
        changed.append(bytes(damaged))
    for content in (*cut, *changed, whole + b"\0"):
        path.write_bytes(content)
        assert_left_out(tmp_path, "it is damaged")
    path.write_bytes(whole)
    assert checkpoint.load(tmp_path, "mine") is not None


def test_a_foreign_file_is_left_out(tmp_path: Path) -> None:
    for content in (b"hello", pickle.dumps({"version": 1, "identity": "mine"}), bytes(100)):
        checkpoint.path_in(tmp_path).write_bytes(content)
        assert_left_out(tmp_path, "it is damaged")


def test_a_file_that_cannot_be_opened_is_left_out(tmp_path: Path) -> None:
    checkpoint.path_in(tmp_path).mkdir()
    assert_left_out(tmp_path, r"it cannot be read \(Is a directory\)")


def test_another_trials_checkpoint_is_left_out(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, {**STATE, "identity": "yours"})
    assert_left_out(tmp_path, "it is of another version or another trial")


def test_another_versions_checkpoint_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "VERSION", checkpoint.VERSION + 1)
    checkpoint.save(tmp_path, STATE)
    monkeypatch.undo()
    assert_left_out(tmp_path, "it is of another version or another trial")


NEVER = Path("/tmp/never")  # noqa: S108 never made


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (NEVER,))


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    """Even one that this module wrote: objects other than plain types and tensors are refused."""
    checkpoint.save(tmp_path, {**STATE, "evil": Evil()})
    assert_left_out(
        tmp_path, r"it holds more than tensors and numbers, or none \(UnpicklingError\)"
    )
    assert not NEVER.exists()
