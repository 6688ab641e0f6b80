"""Shuffled class trees: wrong groups to train by, while everything is measured by the data set's
own tree.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sphere_oracle import DEEP, FLAT, UNBALANCED
from study_fixtures import CommandLine, write_study
from tiny_data import EH, E, tiny, tiny_config

from dh2l.config.binding import bind
from dh2l.config.train_config import TrainConfig
from dh2l.errors import UserError
from dh2l.tree import ClassTree

PAIRED = ClassTree([(group, f"{group}{i}") for group in "abc" for i in range(3)])


@pytest.mark.parametrize("tree", [PAIRED, DEEP])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_shuffled_tree_has_the_same_shape_and_other_groups(tree: ClassTree, seed: int) -> None:
    shuffled = tree.shuffled(seed)
    assert shuffled.classes == tree.classes
    for level in range(tree.depth):
        assert set(shuffled.levels[level]) == set(tree.levels[level])
        sizes = [sorted(Counter(t.ancestors(level).tolist()).values()) for t in (shuffled, tree)]
        assert sizes[0] == sizes[1]
    assert not np.array_equal(shuffled.lca_height, tree.lca_height)


def test_the_permutation_is_fixed_by_its_seed() -> None:
    """Written out, so that another version that draws differently is noticed."""
    assert [path[0] for path in PAIRED.shuffled(0).paths] == list("cbaacbacb")
    assert PAIRED.shuffled(0) == PAIRED.shuffled(0)
    assert len({PAIRED.shuffled(seed).hash for seed in range(5)}) == 5


def test_classes_of_one_name_are_named_by_their_paths() -> None:
    tree = ClassTree([("a", "x"), ("a", "y"), ("b", "x"), ("b", "z")])
    names = {shuffled.classes for seed in range(20) if (shuffled := _shuffled(tree, seed))}
    assert names == {("a/x", "y", "b/x", "z")}
    assert (
        tiny(tree)
        .manifest.with_tree(next(t for s in range(20) if (t := _shuffled(tree, s))))
        .tree.n_classes
        == 4
    )


def _shuffled(tree: ClassTree, seed: int) -> ClassTree | None:
    try:
        return tree.shuffled(seed)
    except UserError:
        return None


def test_a_tree_that_shuffling_cannot_change_is_refused() -> None:
    with pytest.raises(
        UserError, match="tree_seed 0 groups the classes as the data set's own tree does"
    ):
        FLAT.shuffled(0)
    pairs = ClassTree([("a", "1"), ("a", "2"), ("b", "3"), ("b", "4")])
    assert {_shuffled(pairs, seed) is None for seed in range(20)} == {True, False}


def bound(**values: Any) -> TrainConfig:
    return bind(tiny_config(**values), tiny().manifest)


def test_the_hash_of_the_shuffled_tree_is_part_of_the_identity() -> None:
    own, shuffled = bound(**EH), bound(**EH, tree="shuffled")
    assert own.tree_hash == tiny().manifest.tree_hash
    assert shuffled.tree_hash == UNBALANCED.shuffled(0).hash
    assert (
        len({own.identity, shuffled.identity, bound(**EH, tree="shuffled", tree_seed=1).identity})
        == 3
    )
    assert bound(**EH, tree_seed=1).identity == own.identity


@pytest.mark.parametrize("values", [{}, E])
def test_a_plain_classifier_trains_by_no_tree(values: dict[str, Any]) -> None:
    """Its trials are shared with a study that does not shuffle."""
    assert bound(**values, tree="shuffled").identity == bound(**values).identity


STUDY = """
title: a wrong tree
config: {dataset: digits, epochs: 1, batch_size: 256}
columns: [{name: digits, set: {model: resnet20}}]
rows:
  - {arm: E+H, metric: cosine, set: {lambda_e: 0.1, lambda_l: 0.1}}
  - {arm: E+H, metric: cosine, name: shuffled, set: {lambda_e: 0.1, lambda_l: 0.1, tree: shuffled}}
seeds: [0]
"""


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ("{arm: baseline+l2, set: {tree: shuffled}}", "tree has no effect"),
        (
            "{arm: E+H, name: third, metric: cosine, set: {lambda_e: 0.1, lambda_l: 0.1, "
            "tree_seed: 3}}",
            "tree_seed has no effect",
        ),
        (
            "{arm: E+H, name: third, metric: cosine, set: {lambda_e: 0.1, lambda_l: 0.1, tree: "
            "shufled}}",
            "did you mean 'shuffled'",
        ),
    ],
)
def test_a_tree_without_effect_or_misspelled_is_a_mistake(
    row: str, sentence: str, tmp_path: Path, digits: Path, cli: CommandLine
) -> None:
    file = write_study(tmp_path, STUDY.replace("seeds:", f"  - {row}\nseeds:"), "wrong")
    code, _, error = cli("plan", file, "--results", tmp_path / "results", "--data", digits)
    assert code == 2
    assert sentence in error
