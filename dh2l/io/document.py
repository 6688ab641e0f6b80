"""YAML 1.2 documents with the source locations of their values."""

from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from dh2l.errors import UserError
from dh2l.io import yaml
from dh2l.io.validation import Location

Scalars = Literal["safe", "base"]
"""Scalars of a document: `safe` resolves numbers and booleans; `base` keeps strings only."""


class Document:
    """A parsed YAML file with the source location of each value.

    In YAML 1.2, `1e-3` is a number and `no` a string.

    Attributes:
        path: the file.
        values: its plain values.
    """

    def __init__(self, path: Path, role: str, scalars: Scalars = "safe") -> None:
        """Read and parse a file.

        Args:
            path: the file.
            role: the purpose of the file in messages, e.g. `a study`.
            scalars: the kind of scalars.

        Raises:
            UserError: the file cannot be read, is not YAML or has a duplicate key.
        """
        self.path = path
        self._text, self._scalars = yaml.read_text(path, role), scalars
        try:
            self.values: Any = yaml.load(self._text, scalars)
        except DuplicateKeyError as error:
            position = _position(path, error.problem_mark)
            key = str(error.problem).partition('"')[2].partition('"')[0]
            raise UserError(
                f"{position}: duplicate key {key!r} in one mapping; remove one"
            ) from None
        except yaml.UNREADABLE as error:
            raise UserError(yaml.error_message(path, self._text, error)) from None

    @cached_property
    def _root(self) -> Node | None:
        root: Node | None = YAML(typ=self._scalars, pure=True).compose(self._text)
        return root

    def source_location(self, location: Location) -> str:
        """Return ``file:line:column`` of the value at a location.

        If the file does not contain the location, return that of its nearest ancestor.

        Args:
            location: keys and indices, such as ``("rows", 2, "set", "metric")``.
        """
        node = self._root
        mark = node.start_mark if node is not None else None
        for part in location:
            child = _child(node, part)
            if child is None:
                break
            mark, node = child
        return _position(self.path, mark)


def _child(node: Node | None, part: int | str) -> tuple[Any, Node] | None:
    """Return the mark and the node of an entry of a mapping or list; None if there is none."""
    if isinstance(node, MappingNode):
        return next(((k.start_mark, v) for k, v in node.value if k.value == str(part)), None)
    if isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
        return node.value[part].start_mark, node.value[part]
    return None


def _position(path: Path, mark: Any) -> str:
    return str(path) if mark is None else f"{path}:{mark.line + 1}:{mark.column + 1}"


def parse_value(text: str) -> Any:
    """Parse a YAML 1.2 value of the command line, e.g. ``0.1``, ``[0, 1]`` or ``cosine``.

    Raises:
        UserError: not valid YAML.
    """
    try:
        return yaml.load(text, "safe")
    except yaml.BeyondError as error:
        raise UserError(str(error.problem)) from None
    except yaml.UNREADABLE:
        raise UserError(f"{text[:100]!r} is not a valid YAML value") from None
