"""The class tree."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sphere_oracle import DEEP, FLAT, UNBALANCED

from dh2l.errors import UserError
from dh2l.tree import ClassTree

Paths = list[tuple[str, ...]]


@st.composite
def paths(draw: st.DrawFn) -> Paths:
    """Any set of paths of one length in any order; equal names may recur under different
    parents.
    """
    depth = draw(st.integers(1, 4))
    names = st.sampled_from(["a", "b", "c", "é", "a/b"])
    return draw(st.lists(st.tuples(*[names] * depth), min_size=1, max_size=12, unique=True))


@given(paths())
def test_classes_keep_their_order_and_levels_hold_each_node_once(given_paths: Paths) -> None:
    tree = ClassTree(given_paths)
    assert tree.depth == len(given_paths[0])
    assert tree.n_classes == len(given_paths)
    assert tree.paths == tree.levels[tree.depth] == tuple(given_paths)
    assert tree.classes == tuple(path[-1] for path in given_paths)
    assert tree.levels[0] == ((),)
    for level in range(tree.depth + 1):
        nodes = [path[:level] for path in given_paths]
        assert list(tree.levels[level]) == sorted(set(nodes), key=nodes.index)
        assert tree.size(level) == len(set(nodes))


@given(paths())
def test_a_nodes_parent_is_itself_without_its_last_name(given_paths: Paths) -> None:
    tree = ClassTree(given_paths)
    for level in range(1, tree.depth + 1):
        parents = tree.parents(level)
        assert parents.dtype == np.int64
        assert [tree.levels[level - 1][parent] for parent in parents] == [
            node[:-1] for node in tree.levels[level]
        ]
        assert set(parents) == set(range(tree.size(level - 1)))  # no inner node without children


@given(paths())
def test_ancestors_are_parents_of_parents(given_paths: Paths) -> None:
    tree = ClassTree(given_paths)
    position = tree.ancestors(tree.depth)
    assert position.tolist() == list(range(tree.n_classes))
    for level in range(tree.depth, 0, -1):
        position = tree.parents(level)[position]
        assert tree.ancestors(level - 1).tolist() == position.tolist()


@given(paths())
def test_lca_height_counts_the_levels_up_to_the_lowest_shared_node(given_paths: Paths) -> None:
    tree = ClassTree(given_paths)
    for i, a in enumerate(tree.paths):
        for j, b in enumerate(tree.paths):
            height = 0
            while a[: tree.depth - height] != b[: tree.depth - height]:
                height += 1
            assert tree.lca_height[i, j] == height


@given(paths())
def test_lca_height_is_an_ultrametric(given_paths: Paths) -> None:
    height = ClassTree(given_paths).lca_height
    assert (height == height.T).all()
    assert ((height == 0) == np.eye(len(height), dtype=np.bool_)).all()
    assert (height[:, :, None] <= np.maximum(height[:, None, :], height.T[None, :, :])).all()


@given(paths(), paths())
def test_equality_and_hash_go_by_the_paths_in_order(one: Paths, other: Paths) -> None:
    same, again, different = (
        ClassTree(one),
        ClassTree([list(path) for path in one]),
        ClassTree(other),
    )
    assert same == again
    assert hash(same) == hash(again)
    assert same.hash == again.hash
    assert (same == different) == (same.hash == different.hash) == (one == other)
    if len(one) > 1:
        assert ClassTree(one[::-1]).hash != same.hash


def test_names_that_would_run_together_do_not() -> None:
    assert (
        ClassTree([("a", "b/c")]).hash
        != ClassTree([("a/b", "c")]).hash
        != ClassTree([("a", "b", "c")]).hash
    )


def test_hashes_stay_what_they_are() -> None:
    """They stand in manifests and in every identity."""
    assert UNBALANCED.hash == "ca2220bbb0cd56cf64f7ac54d2cfe9f52a1b9973bf58998f3de01300da945bbf"


def test_a_tree_of_another_kind_is_not_equal() -> None:
    assert FLAT.paths != FLAT
    assert FLAT != UNBALANCED


def test_the_text_form_counts_the_nodes() -> None:
    assert repr(DEEP) == "ClassTree(3 → 6 → 11 nodes)"
    assert repr(FLAT) == "ClassTree(5 nodes)"


@pytest.mark.parametrize(
    ("given_paths", "sentence"),
    [
        ([], "no class; expected at least one"),
        (
            [("a", "b"), ("c",)],
            r"'a/b' is 2 levels deep and 'c' 1; expected .* Add the missing intermediate nodes",
        ),
        ([("a", "b"), ()], "is 2 levels deep and '' 0"),
        ([()], r"the path \[\] lacks a name; expected a name for every node"),
        ([("a", "")], r"the path \['a', ''\] lacks a name"),
        ([("", "a")], r"the path \['', 'a'\] lacks a name"),
        ([("a", "b"), ("c", "d"), ("a", "b")], "the class 'a/b' is given twice"),
        (["cat", "dog"], r"the path 'cat' is one name; .* Pass \('cat',\)"),
        ([("cat",), "dog"], r"the path 'dog' is one name"),
        ("cat", r"'cat' is one name; expected a list of paths"),
    ],
)
def test_what_is_no_tree_is_refused(given_paths: Paths, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        ClassTree(given_paths)
