"""Trials that train by a shuffled tree, against their data set's own tree."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sphere_oracle import UNBALANCED
from study_fixtures import CommandLine, write_study
from tiny_data import EH, H0, TIMES, E, H, numbers, run, tiny, tiny_config
from torch.nn import functional

from dh2l.training.training_state import Training
from dh2l.tree import ClassTree
from study.records.paths import Places

CPU = torch.device("cpu")


def test_a_shuffled_tree_changes_training_and_not_how_it_is_measured() -> None:
    """The same predictions are judged by the own tree, and the network's groups are those of the
    shuffled one.
    """
    config = tiny_config(**EH, tree="shuffled")
    _, result = run(config)
    assert numbers(result) != numbers(run(tiny_config(**EH))[1])
    ancestors = UNBALANCED.ancestors(1)
    agreed = ancestors[result.predictions_last] == ancestors[result.labels]
    assert result.history["test_super_accuracy"][-1] == pytest.approx(agreed.mean())
    assert UNBALANCED.shuffled(0) == Training(config, tiny(), CPU).network.classifier.tree


def mean_cosine(vectors: torch.Tensor, tree: ClassTree) -> float:
    """R_p by loops: mean over super-classes of the mean cosine of two of their classes."""
    groups: dict[int, list[int]] = {}
    for index, group in enumerate(tree.ancestors(tree.depth - 1)):
        groups.setdefault(int(group), []).append(index)
    means = [
        np.mean(
            [functional.cosine_similarity(vectors[i], vectors[j], dim=0).item() for i, j in pairs]
        )
        for members in groups.values()
        if (pairs := list(itertools.combinations(members, 2)))
    ]
    return float(np.mean(means))


@pytest.mark.parametrize(
    "values", [{}, E, H0, EH, {**H, "metric": "cosine"}], ids=["plain", "E", "H0", "E+H", "H"]
)
def test_every_arm_reports_r_p_by_the_own_tree_under_the_cosine(values: dict[str, Any]) -> None:
    _, result = run(tiny_config(**values))
    found = {name: history[-1] for name, history in result.history.items()}
    vectors = torch.from_numpy(result.vectors)
    assert found["cosine_r_p_2"] == pytest.approx(mean_cosine(vectors, UNBALANCED), abs=1e-5)
    pairs = list(itertools.combinations(range(len(vectors)), 2))
    every = np.mean(
        [functional.cosine_similarity(vectors[i], vectors[j], dim=0).item() for i, j in pairs]
    )
    assert found["cosine_energy_classifier"] == pytest.approx(every, abs=1e-5)
    assert found["cosine_energy_conv"] is not None
    assert ("cosine_r_c_2" in found) == ("classifier" in values)
    assert not any(name.startswith("shuffled_") for name in found)
    if values.get("metric") == "cosine":
        assert found["cosine_r_p_2"] == found["r_p_2"]
        assert found["cosine_r_c_2"] == found["r_c_2"]


def test_under_a_shuffled_tree_both_groupings_are_reported() -> None:
    _, result = run(tiny_config(**H, tree="shuffled"))
    found = {name: history[-1] for name, history in result.history.items()}
    vectors = torch.from_numpy(result.vectors)
    assert found["cosine_r_p_2"] == pytest.approx(mean_cosine(vectors, UNBALANCED), abs=1e-5)
    assert found["shuffled_r_p_2"] == pytest.approx(
        mean_cosine(vectors, UNBALANCED.shuffled(0)), abs=1e-5
    )
    assert found["cosine_r_p_2"] != pytest.approx(found["shuffled_r_p_2"], abs=1e-3)
    assert "shuffled_r_c_2" in found
    assert "cosine_r_c_2" not in found


def test_diagnostics_change_no_number_of_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    _, with_them = run(tiny_config(**EH))
    monkeypatch.setattr("dh2l.training.diagnostics.Diagnostics.values", lambda _: {})
    _, without = run(tiny_config(**EH))
    assert np.array_equal(with_them.vectors, without.vectors)
    for name in set(without.history) - set(TIMES):
        assert with_them.history[name] == without.history[name]


STUDY = """
title: a wrong tree
config: {dataset: digits, epochs: 1, batch_size: 256}
columns: [{name: digits, set: {model: resnet20}}]
rows:
  - {arm: E+H, metric: cosine, set: {lambda_e: 0.1, lambda_l: 0.1}}
  - {arm: E+H, metric: cosine, name: shuffled, set: {lambda_e: 0.1, lambda_l: 0.1, tree: shuffled}}
seeds: [0]
"""


def test_a_study_with_a_shuffled_row_runs_renders_and_replays(
    tmp_path: Path, digits: Path, cli: CommandLine
) -> None:
    file, results = write_study(tmp_path, STUDY, "wrong"), tmp_path / "results"
    code, _, error = cli("run", file, "--shard", "1/1", "--results", results, "--data", digits)
    assert (code, error) == (0, "")
    records = sorted(path.stem for path in Places.of(results, digits).trials.glob("*.json"))
    assert len(records) == 2
    code, printed, error = cli("table", file, "--results", results, "--data", digits)
    assert (code, error) == (0, "")
    assert "shuffled" in printed
    for identity in records:
        code, printed, _ = cli("replay", identity, "--results", results, "--data", digits)
        assert code == 0, printed
