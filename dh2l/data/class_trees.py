"""Class trees that a user writes in YAML.

They are nested mappings, with lists of class names at the lowest level:

    animals: [bird, cat, deer, dog, frog, horse]
    vehicles: [airplane, automobile, ship, truck]
"""

import os
from collections import Counter
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

from dh2l.errors import UserError, unknown_name_message
from dh2l.io import yaml as yamlfile
from dh2l.io.document import Document
from dh2l.tree import ClassTree, normalise_name

_NAMED = 10

ClassPath = tuple[str, ...]


def shipped_trees() -> dict[str, Path]:
    """Return the trees that come with the library, by name."""
    files = (Path(str(entry)) for entry in (resources.files("dh2l.data") / "trees").iterdir())
    return {file.stem: file for file in sorted(files) if file.suffix == ".yaml"}


def read_tree(name: str | Path, classes: tuple[ClassPath, ...]) -> ClassTree:
    """Read a class tree over a data set's classes, in the data set's own order.

    A class is named by its own name, or by its whole path with `/`, as it must be where its name is
    not unique.

    Args:
        name: a YAML file, or the name of a tree that comes with the library.
        classes: the data set's, as `Manifest.classes` has them.

    Raises:
        UserError: no such tree; not YAML, or not nested mappings with lists of names; a class that
            is missing, repeated or unknown; or classes at different depths.
    """
    shipped = shipped_trees()
    file = shipped.get(str(name), Path(os.path.expanduser(name)))
    if not yamlfile.is_file(file):
        raise UserError(yamlfile.not_found_message("class tree", str(name), shipped, Path()))
    found = list(_leaves(_values(file), (), file))
    names = _names(classes)
    known: dict[str, int] = {}
    for index, class_names in enumerate(names):
        known |= dict.fromkeys(class_names, index)
    paths: dict[int, ClassPath] = {}
    for path in found:
        if path[-1] not in known:
            raise UserError(f"{file}: {_unknown(path[-1], classes, known)}")
        index = known[path[-1]]
        if index in paths:
            raise UserError(
                f"{file}: the class {path[-1]!r} stands twice, under {_place(paths[index])} "
                f"and {_place(path)}; keep one"
            )
        paths[index] = path
    if missing := [names[index][0] for index in range(len(classes)) if index not in paths]:
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        raise UserError(
            f"{file}: {len(missing)} of {len(classes)} classes are missing: "
            f"{', '.join(missing[:_NAMED])}{more}"
        )
    try:
        return ClassTree([paths[index] for index in range(len(classes))])
    except UserError as error:
        raise UserError(f"{file}: {error}") from None


def _names(classes: tuple[ClassPath, ...]) -> list[ClassPath]:
    """Return the names of each class, the shortest first, in a spelling that look-alikes share."""
    plain = [tuple(map(normalise_name, path)) for path in classes]
    n_of = Counter(path[-1] for path in plain)
    return [
        ((path[-1],) if n_of[path[-1]] == 1 else ()) + (("/".join(path),) if len(path) > 1 else ())
        for path in plain
    ]


def _unknown(name: str, classes: tuple[ClassPath, ...], known: dict[str, int]) -> str:
    if alike := ["/".join(path) for path in classes if normalise_name(path[-1]) == name]:
        return (
            f"{len(alike)} classes are called {name!r}; name each by its path: {', '.join(alike)}"
        )
    return unknown_name_message("class", name, known)


def _place(path: ClassPath) -> str:
    return repr("/".join(path[:-1])) if len(path) > 1 else "the root"


def _values(file: Path) -> object:
    """Return the mappings and lists of a file.

    Every scalar is a string, because `7` and `no` are names of classes.
    """
    return Document(file, "a class tree", scalars="base").values


def _leaves(node: object, path: ClassPath, file: Path) -> Iterator[ClassPath]:
    """Yield the path of each class below a node."""
    where = f"under {'/'.join(path)!r}" if path else "at its top"
    if isinstance(node, dict) and node:
        seen: dict[str, str] = {}
        for key, below in node.items():
            if not isinstance(key, str) or not key:
                raise UserError(f"{file}: the name of every group {where} must be a word")
            name = normalise_name(key)
            if name in seen:
                raise UserError(
                    f"{file}: the group {name!r} stands twice {where}, spelled {seen[name]!a} and "
                    f"{key!a} in Unicode; keep one"
                )
            seen[name] = key
            yield from _leaves(below, (*path, name), file)
    elif isinstance(node, list) and node:
        for name in node:
            if not isinstance(name, str) or not name:
                raise UserError(
                    f"{file}: the list {where} must hold names of classes alone, but has "
                    f"{str(name)[:100]}"
                )
            yield (*path, normalise_name(name))
    else:
        raise UserError(
            f"{file}: {where} there must be groups with what is in them, or a list of names of "
            "classes, but there is " + (repr(node) if node and isinstance(node, str) else "nothing")
        )
