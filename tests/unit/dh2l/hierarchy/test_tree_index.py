"""The class tree as index tensors: groups of siblings, the blocks they are multiplied in, and what
a batch has seen.
"""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dh2l.hierarchy import tree_index as siblings
from dh2l.hierarchy.tree_index import SiblingBlock, TreeIndex
from dh2l.tree import ClassTree

trees = st.integers(1, 3).flatmap(
    lambda depth: st.lists(
        st.tuples(*[st.sampled_from("abcd")] * depth), min_size=1, max_size=12, unique=True
    ).map(ClassTree)
)


@given(trees, st.data())
def test_seen_masks_are_the_sets_of_names_on_the_labels_paths(
    tree: ClassTree, data: st.DataObject
) -> None:
    labels = data.draw(st.lists(st.integers(0, tree.n_classes - 1), max_size=8))
    index = TreeIndex(tree)
    seen = index.seen_nodes(index.seen_classes(torch.tensor(labels, dtype=torch.int64)))
    everyone = index.seen_nodes(None)
    for level in range(tree.depth + 1):
        names = {tree.paths[label][:level] for label in labels}
        assert {node for node, s in zip(tree.levels[level], seen[level], strict=True) if s} == names
        assert everyone[level].shape == seen[level].shape
        assert everyone[level].all()


@given(trees)
def test_groups_hold_every_node_once_under_its_parent(tree: ClassTree) -> None:
    for level in range(1, tree.depth + 1):
        groups = TreeIndex(tree).groups(level)
        nodes = []
        for parent, (members, filled) in enumerate(zip(groups.member, groups.filled, strict=True)):
            inside = members[filled].tolist()
            assert {tree.levels[level][node][:-1] for node in inside} == {
                tree.levels[level - 1][parent]
            }
            nodes += inside
        assert sorted(nodes) == list(range(tree.size(level)))


def heavy_tailed() -> ClassTree:
    """40 super-classes of 1 to 500 classes."""
    sizes = [1 + 499 * i**4 // 39**4 for i in range(40)]
    return ClassTree([(f"s{i}", f"c{j}") for i, size in enumerate(sizes) for j in range(size)])


@pytest.mark.parametrize("small", [0, siblings.SMALL_BLOCK])
def test_every_group_with_a_pair_stands_in_one_block_once(
    small: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(siblings, "SMALL_BLOCK", small)
    groups = TreeIndex(heavy_tailed()).groups(2)
    held = [
        tuple(members[filled].tolist())
        for block in groups.blocks
        for members, filled in zip(block.member, block.filled, strict=True)
    ]
    there = [tuple(m[f].tolist()) for m, f in zip(groups.member, groups.filled, strict=True)]
    assert sorted(held) == sorted(group for group in there if len(group) > 1)


def test_blocks_of_very_unequal_groups_waste_less_than_three_quarters_of_their_pairs() -> None:
    groups = TreeIndex(heavy_tailed()).groups(2)
    assert len(groups.blocks) > 1
    for block in groups.blocks:
        places, nodes = block.member.shape[1], block.filled.sum(dim=1)
        assert nodes.min() > places / 2


def test_small_trees_have_one_block_per_level_and_groups_without_pairs_none() -> None:
    tree = ClassTree([("a", "1"), ("a", "2"), ("b", "3"), ("c", "4"), ("c", "5"), ("c", "6")])
    (block,) = TreeIndex(tree).groups(2).blocks
    assert block.member.shape == (2, 3)
    assert TreeIndex(ClassTree([("a", "1"), ("b", "2")])).groups(2).blocks == []


def test_gathering_gives_each_row_the_gradient_of_its_place_and_rows_without_a_place_none() -> None:
    block = SiblingBlock([[3, 0], [2, 5, 1]], 6)
    rows = torch.arange(12.0).reshape(6, 2).requires_grad_()
    gathered = block.gather(rows)
    assert gathered[:, :, 0].tolist() == [[6, 0, 0], [4, 10, 2]]
    slopes = torch.arange(1.0, 7).reshape(2, 3, 1).expand(2, 3, 2) * block.filled[:, :, None]
    (found,) = torch.autograd.grad((gathered * slopes).sum(), rows)
    assert found[:, 0].tolist() == [2, 6, 4, 1, 0, 5]
