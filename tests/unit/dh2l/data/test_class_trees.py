"""Class trees read from YAML, and data sets under them."""

from pathlib import Path

import numpy as np
import pytest
from official import CIFAR10
from sphere_oracle import UNBALANCED
from tiny_data import prepared, tiny

from dh2l.data import read_tree, shipped_trees
from dh2l.errors import UserError
from dh2l.tree import ClassTree


def write(folder: Path, text: str) -> Path:
    file = folder / "tree.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_animals_and_vehicles_is_a_tree_over_cifar10_in_the_order_of_its_classes() -> None:
    assert list(shipped_trees()) == ["animals_vehicles", "cifar100_three_levels"]
    tree = read_tree("animals_vehicles", CIFAR10)
    assert tree.classes == tuple(name for (name,) in CIFAR10)
    vehicles = {"airplane", "automobile", "ship", "truck"}
    assert {path[0] for path in tree.paths if path[1] in vehicles} == {"vehicles"}
    assert {path[0] for path in tree.paths if path[1] not in vehicles} == {"animals"}


def test_a_tree_may_have_three_levels_and_names_that_yaml_would_read_as_numbers(
    tmp_path: Path,
) -> None:
    file = write(tmp_path, "digits:\n  round: [0, 008]\n  1.0: [~, no]\nletters:\n  a: [A]\n")
    classes = (("A",), ("no",), ("~",), ("008",), ("0",))
    assert read_tree(file, classes).paths == (
        ("letters", "a", "A"),
        ("digits", "1.0", "no"),
        ("digits", "1.0", "~"),
        ("digits", "round", "008"),
        ("digits", "round", "0"),
    )


def test_a_list_alone_is_a_tree_without_hierarchy(tmp_path: Path) -> None:
    assert read_tree(write(tmp_path, "[b, a]"), (("x", "a"), ("x", "b"))) == ClassTree(
        [("a",), ("b",)]
    )


def test_names_in_two_forms_of_unicode_are_one_name(tmp_path: Path) -> None:
    apart, joined = "e\u0301", "\xe9"
    for in_file, in_data in ((apart, joined), (joined, apart)):
        tree = read_tree(
            write(tmp_path, f"g{in_file}: [{in_file}, b]"), ((f"s{in_data}", in_data), ("s", "b"))
        )
        assert tree.paths == ((f"g{joined}", joined), (f"g{joined}", "b"))
    with pytest.raises(UserError) as refused:
        read_tree(write(tmp_path, f"{apart}: [a]\n{joined}: [b]"), (("a",), ("b",)))
    assert str(refused.value) == (
        f"{tmp_path}/tree.yaml: the group '\xe9' stands twice at its top, spelled 'e\\u0301' and "
        "'\\xe9' in Unicode; "
        "keep one"
    )


def test_data_of_an_earlier_time_whose_names_are_taken_apart_takes_a_tree() -> None:
    apart = ClassTree([("x", "e\u0301"), ("x", "b")])
    arrays = {"train_x": tiny().train_x[:4], "test_x": tiny().test_x[:2]}
    labels = {"train_y": np.array([0, 0, 1, 1]), "test_y": np.array([0, 1])}
    manifest = prepared(apart, arrays | labels).manifest
    assert manifest.with_tree(ClassTree([("y", "\xe9"), ("y", "b")])).classes == (
        ("y", "\xe9"),
        ("y", "b"),
    )


def test_a_name_that_several_classes_have_is_given_with_its_path(tmp_path: Path) -> None:
    classes = (("sea", "bass"), ("music", "bass"), ("sea", "cod"))
    with pytest.raises(UserError) as error:
        read_tree(write(tmp_path, "all: [bass, cod]"), classes)
    assert str(error.value) == (
        f"{tmp_path}/tree.yaml: 2 classes are called 'bass'; name each by its path: sea/bass, "
        "music/bass"
    )
    found = read_tree(write(tmp_path, "all: [music/bass, sea/cod, sea/bass]"), classes)
    assert found.paths == (("all", "sea/bass"), ("all", "music/bass"), ("all", "sea/cod"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [cat, dog]\nb: [cow]", "1 of 4 classes are missing: fox"),
        (
            "a: [cat, dog]\nb: [cow, fox, cat]",
            "the class 'cat' stands twice, under 'a' and 'b'; keep one",
        ),
        ("a: [cat, dog]\nb: [cow, foxx]", "unknown class 'foxx'; did you mean 'fox'?"),
        (
            "a: [cat, dog]\nb: {c: [cow, fox]}",
            "a class tree: 'a/cat' is 2 levels deep and 'b/c/cow' 3; expected all classes at the "
            "same "
            "depth. Add the missing intermediate nodes",
        ),
        (
            "a: cat\nb: [dog, cow, fox]",
            "under 'a' there must be groups with what is in them, or a list of names of classes, "
            "but there is 'cat'",
        ),
        (
            "a: []\nb: [dog, cow, fox]",
            "under 'a' there must be groups with what is in them, or a list of names of classes, "
            "but there is nothing",
        ),
        (
            "",
            "at its top there must be groups with what is in them, or a list of names of classes, "
            "but there is nothing",
        ),
        ("a: [cat, [dog]]", "the list under 'a' must hold names of classes alone, but has ['dog']"),
        ("[a]: [cat]", "the name of every group at its top must be a word"),
    ],
)
def test_what_is_wrong_with_a_tree_is_said(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read_tree(write(tmp_path, text), (("cat",), ("dog",), ("cow",), ("fox",)))
    assert str(error.value) == f"{tmp_path}/tree.yaml: {message}"


def test_many_missing_classes_are_counted(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"11 of 12 classes are missing: c1, .*, c10 and 1 more$"):
        read_tree(write(tmp_path, "a: [c0]"), tuple((f"c{i}",) for i in range(12)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [cat\n", "tree.yaml:2:1: this is not valid YAML: "),
        (
            "a: [cat]\na: [dog]\n",
            "tree.yaml:2:1: duplicate key 'a' in one mapping; remove one",
        ),
    ],
)
def test_what_is_no_yaml_is_said_with_its_place(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read_tree(write(tmp_path, text), (("cat",),))
    assert message in str(error.value)


def test_a_tree_that_is_neither_shipped_nor_a_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read_tree("animals_vehicle", CIFAR10)
    assert str(error.value) == (
        "unknown class tree 'animals_vehicle'; did you mean 'animals_vehicles'? (or give the path "
        "of a YAML file)"
    )
    (tmp_path / "tree.yaml").write_bytes(b"\xff")
    with pytest.raises(UserError, match="is not a text file in UTF-8"):
        read_tree(tmp_path / "tree.yaml", CIFAR10)


def test_a_data_set_under_another_tree_is_the_same_data() -> None:
    data = tiny()
    classes = data.manifest.classes
    flat = ClassTree([(path[-1],) for path in classes])
    assert data.manifest.tree == UNBALANCED
    under = data.with_tree(flat)
    assert under.train_x is data.train_x
    assert (under.manifest.tree, under.manifest.tree_hash) == (flat, flat.hash)
    assert (under.manifest.data_hash, under.manifest.classes) == (
        data.manifest.data_hash,
        flat.paths,
    )
    assert data.manifest.tree == UNBALANCED
    assert under.with_tree(UNBALANCED).manifest == data.manifest


def test_a_tree_of_other_classes_is_refused() -> None:
    manifest = tiny().manifest
    names = [path[-1] for path in manifest.classes]
    with pytest.raises(UserError, match="must keep the order of the data set's classes"):
        manifest.with_tree(ClassTree([(name,) for name in reversed(names)]))
    with pytest.raises(
        UserError, match=rf"the tree has {len(names) - 1} classes, but tiny {len(names)}"
    ):
        manifest.with_tree(ClassTree([(name,) for name in names[:-1]]))
