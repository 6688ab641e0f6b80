"""YAML 1.2 for study files: `1e-3` is a number, `no` a string, a doubled key an error; all with their place."""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from dh2l import yamlfile
from dh2l.errors import UserError, first_line
from dh2l.explain import Location


class Document:
    """A parsed YAML file that knows where each of its values stands.

    Attributes:
        path: the file.
        values: its plain values.
    """

    def __init__(self, path: Path) -> None:
        """Read and parse.

        Raises:
            UserError: unreadable, not YAML, or not a mapping; with the place.
        """
        self.path = path
        text = yamlfile.read_text(path, "a study")
        try:
            self.values: Any = yamlfile.load(text, "safe")
            self._root: Node | None = YAML(typ="rt", pure=True).compose(text)
        except DuplicateKeyError as error:
            mark = error.problem_mark
            key = str(error.problem).partition('"')[2].partition('"')[0]
            place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
            raise UserError(f"{place}: the key {key!r} stands twice in the same mapping; keep one") from None
        except MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
            problem = str(error.problem or error.context or "it cannot be parsed").splitlines()[0]
            raise UserError(f"{place}: this is not valid YAML: {problem}") from None
        except yamlfile.UNREADABLE as error:
            raise UserError(f"{path}: this is not valid YAML: {first_line(error)}") from None
        if not isinstance(self.values, dict):
            raise UserError(f"{path}: a study file is a mapping of keys such as rows and seeds, but this is not one")

    def place(self, location: Location) -> str:
        """``file:line:column`` of the value at a location such as ``("rows", 2, "set", "metric")``.

        Where the location is not in the file, the place of its nearest ancestor.
        """
        node = self._root
        mark = node.start_mark if node is not None else None
        for part in location:
            if isinstance(node, MappingNode):
                entry = next(((k, v) for k, v in node.value if k.value == str(part)), None)
                if entry is None:
                    break
                mark, node = entry[0].start_mark, entry[1]
            elif isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
                node = node.value[part]
                mark = node.start_mark
            else:
                break
        return f"{self.path}:{mark.line + 1}:{mark.column + 1}" if mark is not None else str(self.path)


def parse_value(text: str) -> Any:
    """A YAML 1.2 value from the command line, e.g. ``0.1``, ``[0, 1]`` or ``cosine``.

    Raises:
        UserError: not valid YAML.
    """
    try:
        return yamlfile.load(text, "safe")
    except yamlfile.UNREADABLE:
        raise UserError(f"{text[:100]!r} is not a valid YAML value") from None
