"""Bounded reader of users' YAML, with source positions.

A text is checked before it is loaded, so that it cannot take unbounded time, stack or memory.
"""

import errno
import math
import os
import re
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, StreamMark, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    CollectionStartEvent,
    Event,
    NodeEvent,
    ScalarEvent,
)
from ruamel.yaml.reader import ReaderError

from dh2l.errors import UserError, first_line, unknown_name_message
from dh2l.io.files import read

LARGEST = 1_000_000
"""Bytes of a file; the shipped ones have some thousands."""
DEEPEST = 40
"""Collections inside one another."""
MOST = 100_000
"""Values, those that an alias repeats counted each time: nine lines of aliases of aliases are a
billion."""
LONGEST_NUMBER = 100
"""Characters of a number; Python takes quadratic time to read one, and no field has so long a
one."""

SUFFIXES = (".yaml", ".yml")
"""Of files of YAML."""
WIDTH = 100
"""Characters of a line that a message shows."""
_NUMBER = re.compile(
    r"[-+]?(0x[0-9a-f]+|0o[0-7]+|0b[01]+|[0-9]+|([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(e[-+]?[0-9]+)?)"
)

UNREADABLE = (
    YAMLError,
    ValueError,
    TypeError,
    ArithmeticError,
    LookupError,
    AttributeError,
    RecursionError,
)
"""What the parser raises on what is no YAML: some of it by accident."""


def read_text(path: Path, what: str) -> str:
    """Read a small text file.

    Args:
        path: the file.
        what: its kind, for the message.

    Raises:
        UserError: it is not a regular file in UTF-8, is too large, or cannot be read.
    """
    try:
        return read(path, LARGEST).decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a text file in UTF-8, so it cannot be {what}") from None
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EFBIG):
            raise UserError(
                f"{path} {str(error.strerror).removeprefix('it ')}, so it cannot be {what}"
            ) from None
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:  # a zero in it
        raise UserError(f"{str(path)!r} cannot be the path of a file") from None


def is_file(path: Path) -> bool:
    """Return True if a path names a file; False also for a path that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or with a zero in it
        return False


def not_found_message(kind: str, name: str, known: Iterable[str], folder: Path) -> str:
    """Describe a name that is neither known nor a file, with the nearest files or names.

    Args:
        kind: of the file, e.g. `study`.
        name: the name, or a path from the folder.
        known: the names that need no file.
        folder: where relative paths start.
    """
    path = folder / name
    if path.suffix not in SUFFIXES and os.sep not in name:
        return f"{unknown_name_message(kind, name, known)} (or give the path of a YAML file)"
    if _is_folder(path):
        return f"the {kind} {name!r} is a folder; expected a YAML file. Give a file in it"
    if not _is_folder(path.parent):
        missing = f"the {kind} {name!r}: no such file, nor its folder"
        return f"{missing}; expected a YAML file. Correct the path"
    beside = {
        str(Path(name).with_name(file.name)): file
        for file in path.parent.iterdir()
        if file.suffix in SUFFIXES
    }
    stems = {Path(other).stem: other for other in beside} | {word: word for word in known}
    near = [stems[word] for word in get_close_matches(path.stem, stems, n=3)]
    hint = "did you mean " + " or ".join(map(repr, near)) + "?" if near else "correct the path"
    return f"the {kind} {name!r}: no such file; expected a YAML file; {hint}"


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def check_bounded(text: str, *, numbers: bool) -> None:
    """Refuse YAML that is too deep, too large, or repeats itself without end, before it is loaded.

    Args:
        text: the text.
        numbers: whether text that reads as a number will become one, and must fit.

    Raises:
        YAMLError: it is refused, or is not YAML; the error has the place.
    """
    size = _Size()
    for event in YAML(typ="safe", pure=True).parse(text):
        size.count(event)
        if isinstance(event, ScalarEvent):
            if _is_long_number(event):
                problem = f"a number has more than {LONGEST_NUMBER} characters"
                raise _problem(problem, event.start_mark)
            if numbers:
                _check_number(event)


class _Size:
    """Values and depth of a YAML text so far, what aliases repeat counted each time."""

    def __init__(self) -> None:
        self._values = 0
        self._of_anchor: dict[str, int] = {}
        self._open: list[tuple[str | None, int]] = []

    def count(self, event: Event) -> None:
        """Count an event of the parser.

        Raises:
            YAMLError: the text is too deep, too large, or repeats itself, with the place.
        """
        if isinstance(event, AliasEvent):
            self._repeat(event)
        elif isinstance(event, NodeEvent):
            self._begin(event)
        elif isinstance(event, CollectionEndEvent):
            anchor, before = self._open.pop()
            if anchor:
                self._of_anchor[anchor] = self._values - before + 1
        if self._values > MOST:
            problem = f"it has more than {MOST:,} values, aliases counted each time"
            raise _problem(problem, event.start_mark)

    def _repeat(self, event: AliasEvent) -> None:
        """Count what an alias repeats; an open collection has no size yet."""
        if event.anchor not in self._of_anchor:
            problem = f"*{event.anchor} repeats itself, or what is not there"
            raise _problem(problem, event.start_mark)
        self._values += self._of_anchor[event.anchor]

    def _begin(self, event: NodeEvent) -> None:
        """Count a scalar, or open a collection."""
        self._values += 1
        if isinstance(event, CollectionStartEvent):
            self._open.append((event.anchor, self._values))
        elif event.anchor:
            self._of_anchor[event.anchor] = 1
        if len(self._open) > DEEPEST:
            problem = f"it is more than {DEEPEST} lists and mappings deep"
            raise _problem(problem, event.start_mark)


def _is_long_number(event: ScalarEvent) -> bool:
    """Return True for a plain or tagged scalar that may be a number of absurd length."""
    written = str(event.value).strip("+-").replace("_", "")
    return len(written) > LONGEST_NUMBER and written[:1].isdigit() and " " not in written


def _problem(sentence: str, mark: StreamMark | None) -> MarkedYAMLError:
    return MarkedYAMLError(problem=sentence, problem_mark=mark)


class BeyondError(MarkedYAMLError):
    """A valid number that no field can hold."""


def _check_number(event: ScalarEvent) -> None:
    """Refuse a number that reading rounds to infinity or to zero, or that needs more than 64 bits.

    Raises:
        BeyondError: it is one, with its place.
    """
    written = str(event.value)
    text = written.replace("_", "").lower()
    if not event.implicit[0] or not _NUMBER.fullmatch(text):
        return
    if text.lstrip("+-").isdigit() or text.lstrip("+-")[:2] in ("0x", "0o", "0b"):
        base = 10 if text.lstrip("+-").isdigit() else 0
        if not -(2**63) <= int(text, base) < 2**63:
            said = (
                f"{written} has more than 64 bits; expected a whole number from -2^63 to 2^63 - 1. "
                "Write a smaller one"
            )
            raise BeyondError(problem=said, problem_mark=event.start_mark)
        return
    value = float(text)
    largest = f"{sys.float_info.max:.2g}"
    if math.isinf(value):
        said = (
            f"{written} is beyond the largest number, {largest}; expected a finite number. "
            "Write a smaller one"
        )
        raise BeyondError(problem=said, problem_mark=event.start_mark)
    if value == 0 and any(digit in "123456789" for digit in text.partition("e")[0]):
        said = (
            f"{written} is so small that it is read as 0; expected 0 or a larger number. "
            "Write 0 where that is meant"
        )
        raise BeyondError(problem=said, problem_mark=event.start_mark)


def error_message(path: Path, text: str, error: Exception) -> str:
    """Describe a fault in a YAML file: the place, the problem, and the line with a caret."""
    where = _where(text, error)
    if where is None:
        return f"{path}: this is not valid YAML: {first_line(error)}"
    if isinstance(error, ReaderError):
        problem = f"{error.reason}, but it has {chr(int(error.character))!r}"
    else:
        said = [getattr(error, name, None) for name in ("problem", "context")]
        problem = first_line(
            ValueError(next((word for word in said if word), "it cannot be parsed"))
        )
    kind = "" if isinstance(error, BeyondError) else "this is not valid YAML: "
    return f"{path}:{where[0] + 1}:{where[1] + 1}: {kind}{problem}{_excerpt(text, *where)}"


def _where(text: str, error: Exception) -> tuple[int, int] | None:
    """Line and column of what an error is about, from 0; None where it does not say."""
    if isinstance(error, ReaderError):
        before = text[: error.position]
        return before.count("\n"), len(before) - before.rfind("\n") - 1
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    return None if mark is None else (mark.line, mark.column)


def _excerpt(text: str, number: int, column: int) -> str:
    """Return a line and, below it, a caret under one of its columns."""
    lines = text.split("\n")
    while number and (number >= len(lines) or not lines[number].strip()):  # at the end of the file
        number, column = number - 1, len(lines[min(number, len(lines)) - 1])
    line = "".join(letter if letter.isprintable() else " " for letter in lines[number])
    begin = max(0, column - WIDTH // 2)
    return f"\n  {line[begin : begin + WIDTH]}\n  {' ' * (column - begin)}^"


def load(text: str, kind: str) -> Any:
    """Load a YAML text as plain Python values; tags create nothing else.

    Args:
        text: the text.
        kind: `safe`, or `base`, which leaves every scalar a string.

    Raises:
        YAMLError: the text is too large or not YAML; or another of `UNREADABLE`.
    """
    check_bounded(text, numbers=kind == "safe")
    return YAML(typ=kind, pure=True).load(text)
