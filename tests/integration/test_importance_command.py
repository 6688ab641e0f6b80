"""The command `importance` on a study that was run."""

import json
import random
from pathlib import Path

import pytest
from study_fixtures import (
    CommandLine,
    done,
    places_in,
)

from dh2l.config.train_config import TrainConfig
from study.records.store import RecordStore

GRID = """\
title: A grid
config: {dataset: digits, epochs: 2, metric: cosine}
columns: [{name: digits}]
rows: [{arm: baseline+l2, search: {lr: {grid: [0.1]}}}, {arm: E+H, set: {lambda_l: 0.1}}]
seeds: [0, 1]
search:
  lambda_e: {grid: [0.1, 1, 10]}
  centres: {grid: [learned, parent]}
  centre_scale: {grid: [0.2, 0.3, 0.4, 0.5], when: {centres: parent}}
"""
"""E+H has fifteen candidates: three with learned centres, twelve with a node's own vectors as
centres."""


def test_the_command_shows_what_matters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shell = CommandLine(monkeypatch, capsys, places_in(tmp_path))
    source = random.Random(0)  # noqa: S311 not secret
    path = tmp_path / "grid.yaml"
    path.write_text(
        GRID.replace("grid: [0.1, 1, 10]", "grid: [0.1, 0.2, 0.4, 0.8, 1, 2, 4, 8]"),
        encoding="utf-8",
    )
    _, planned_json, _ = shell("plan", path, "--json")
    store = RecordStore(shell.places.trials)
    configs = {config.identity: config for config in _configs(path, shell)}
    for trial in json.loads(planned_json)["trials"]:
        config = configs[trial["identity"]]
        store.write(done(config, 90, 40 + 5 * config.lambda_e + source.random()))
    code, text, error = shell("importance", path)
    assert (code, error) == (0, "")
    assert text.startswith(
        "grid: the fields' shares of what explains the scores (fANOVA). They sum to 1 also where "
        "noise"
    )
    assert "0.1 to 0.2: 4" in text
    assert "learned: 8" in text
    assert shell.mistake("importance", "planted").startswith("planted has nothing searched so far")


def _configs(path: Path, shell: CommandLine) -> list[TrainConfig]:
    from study.state.load import open_study

    return list(
        open_study(str(path), None, shell.places, note=print, warn=print).plan.choosing.values()
    )
