"""What the README shows works as it stands."""

import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import nn
from typer.main import get_command

from study.cli import app
from study.opening import open_study
from study.places import Places
from study.studyfile import StudyFile
from study.trial import drain, run_trial

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def code_blocks(language: str) -> list[str]:
    """The README's fenced blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_training_loop_trains_backbone_and_classifier() -> None:
    generator = torch.Generator().manual_seed(0)
    convolution = nn.Conv2d(3, 512, 3)
    backbone = nn.Sequential(convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    before = convolution.weight.detach().clone()
    loader = [(torch.randn(4, 3, 8, 8, generator=generator), torch.tensor([0, 1, 2, 3])) for _ in range(2)]
    (loop,) = code_blocks("python")
    names: dict[str, object] = {"backbone": backbone, "loader": loader}
    exec(loop, names)  # noqa: S102 the README's own example
    head = names["head"]
    assert isinstance(head, nn.Module)
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in head.parameters())
    assert not torch.equal(convolution.weight, before)


def test_the_study_it_shows_is_a_valid_study(tmp_path: Path) -> None:
    (text,) = code_blocks("yaml")
    path = tmp_path / "my_study.yaml"
    path.write_text(text, encoding="utf-8")
    assert [row.arms for row in StudyFile(path).study.rows] == [["baseline+l2"], ["E", "E+H0", "E+H"]]


def test_the_lines_for_a_notebook_give_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    places = Places.of(Path("results"), Path("data"))
    now = open_study("quickstart", None, places, note=print, warn=print, write=True)
    config = next(iter(now.plan.configs.values()))
    drain(run_trial(config, places, threads=1), lambda _: None, pytest.fail)
    (lines,) = [block for block in code_blocks("py") if "study.frame" in block]
    names: dict[str, pd.DataFrame] = {}
    exec(lines, names)  # noqa: S102 the README's own example
    assert len(names["cells"]) == 7
    assert len(names["curves"]) == config.epochs
    assert names["curves"]["validation_accuracy"].between(0, 100).all()


def test_every_command_it_names_exists() -> None:
    commands = set(re.findall(r"dh2l-study ([a-z]+)", README))
    known = set(getattr(get_command(app), "commands"))  # noqa: B009 Typer's group is a Click group at run time
    assert commands <= known
    assert known <= commands
