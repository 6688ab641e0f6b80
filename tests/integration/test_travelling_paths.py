"""Paths that travel to workers: resolved once, a study file's from its folder, an option's from the
working folder.
"""

import subprocess
from pathlib import Path
from typing import Any

import pytest
from study_fixtures import planned, write_study

from dh2l import plugins
from dh2l.config.train_config import TrainConfig
from dh2l.errors import UserError
from study.execution.import_paths import python_module

STUDY = """\
title: Weights and a tree
config: {dataset: made, batch_size: 8}
columns: [{name: made}]
rows: [{arm: baseline+l2}]
seeds: [0]
"""
WITH = {"weights": ("weights.pt", "0"), "tree": ("tree.yaml", "{one: [a/0], two: [a/1, b/2]}")}
"""Fields that name a file, each with a file's name and content."""


def only(folder: Path, text: str, overrides: dict[str, Any] | None = None) -> TrainConfig:
    (config,) = planned(folder, text, overrides=overrides).choosing.values()
    return config


def with_field(field: str, name: str) -> str:
    return STUDY.replace("batch_size: 8", f"batch_size: 8, {field}: {name}")


@pytest.fixture(params=WITH)
def field(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A field that names a file, which lies beside the study; the working folder is another, with
    another such file.
    """
    name, content = WITH[request.param]
    for folder in ("studies", "working"):
        (tmp_path / folder).mkdir()
    (tmp_path / "studies" / name).write_text(content, encoding="utf-8")
    (tmp_path / "working" / name).write_text(
        content.replace("0", "1").replace("1, b", "0, b"), encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path / "working")
    return str(request.param)


def kept(config: TrainConfig, field: str) -> str:
    return str(getattr(config, f"{field}_hash"))


def test_a_study_files_path_is_from_its_folder_and_an_options_from_the_working_folder(
    field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, studies = WITH[field][0], tmp_path / "studies"
    of_file = only(studies, with_field(field, name))
    of_option = only(studies, STUDY, {field: name})
    assert kept(of_file, field) != kept(of_option, field)
    assert of_file.identity == only(studies, with_field(field, str(studies / name))).identity
    assert of_option.identity == only(studies, with_field(field, f"../working/{name}")).identity
    monkeypatch.chdir(tmp_path)
    assert of_file == only(studies, with_field(field, name))
    with pytest.raises(UserError, match=f"^--set {field}: .*{tmp_path / name}"):
        only(studies, STUDY, {field: name})


def test_a_path_of_a_study_that_is_extended_is_from_that_ones_folder(
    field: str, tmp_path: Path
) -> None:
    name, studies = WITH[field][0], tmp_path / "studies"
    write_study(studies, with_field(field, name), "base")
    extended = only(tmp_path / "working", "title: Extended\nextends: ../studies/base.yaml\n")
    assert extended == only(studies, with_field(field, name))


def test_a_path_below_the_home_is_found_there(
    field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, studies = WITH[field][0], tmp_path / "studies"
    monkeypatch.setenv("HOME", str(studies))
    assert (
        only(tmp_path, with_field(field, f"~/{name}")).identity
        == only(studies, with_field(field, name)).identity
    )
    with pytest.raises(UserError, match=r"small\.yaml:2:.*is not the path of a file"):
        only(tmp_path, with_field(field, "~nobody-of-this-name/file"))


def test_a_trial_takes_its_weights_from_an_absolute_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "weights.pt").touch()
    monkeypatch.chdir(tmp_path.parent)
    assert only(tmp_path, with_field("weights", "weights.pt")).weights == str(
        tmp_path / "weights.pt"
    )
    assert (
        only(tmp_path, with_field("weights", "imagenet, model: resnet18, statistics: data")).weights
        == "imagenet"
    )


@pytest.mark.usefixtures("forgotten")
def test_a_plugin_keeps_the_absolute_path_of_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.py").write_text("X = 1\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert plugins.load("mine.py").name == str(tmp_path / "mine.py")


def test_a_module_of_ours_is_not_a_users_file_in_the_working_folder(tmp_path: Path) -> None:
    (tmp_path / "study.py").write_text("raise SystemExit('a user file ran')\n", encoding="utf-8")
    command, environment = python_module("study.execution.import_paths")
    ended = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, "")
