"""YAML that a user wrote, looked at before it is loaded: nothing in it can take unbounded time, stack or memory."""

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
"""Values, those that an alias repeats counted each time: nine lines of aliases of aliases are a billion."""
LONGEST_NUMBER = 100
"""Characters of a number; Python takes quadratic time to read one, and no field has so long a one."""

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
    """The text of a small file.

    Args:
        path: the file.
        what: what it is to be, for the message.

    Raises:
        UserError: it is no regular file in UTF-8, too large, or cannot be read.
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
    """Whether there is a file at a path that somebody wrote, which may be one that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or with a zero in it
        return False


def not_found_message(kind: str, name: str, known: Iterable[str], folder: Path) -> str:
    """Sentence for a name that is neither known nor a file: of a path with the nearest files, else the nearest names.

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
        return f"the {kind} {name!r}: no such file, nor its folder; expected a YAML file. Correct the path"
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
    """Refuse YAML that is too deep or too much, or repeats itself without end, before anything is made of it.

    Args:
        text: the text.
        numbers: whether what reads as a number will be one, and so has to fit.

    Raises:
        YAMLError: it is, with the place; or it is no YAML.
    """
    sizes: dict[str, int] = {}
    open_collections: list[tuple[str | None, int]] = []
    n = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        if isinstance(event, AliasEvent):
            if event.anchor not in sizes:
                raise _problem(
                    f"*{event.anchor} repeats itself, or what is not there", event.start_mark
                )
            n += sizes[event.anchor]
        elif isinstance(event, NodeEvent):
            n += 1
            if isinstance(event, CollectionStartEvent):
                open_collections.append((event.anchor, n))
            elif event.anchor:
                sizes[event.anchor] = 1
            if len(open_collections) > DEEPEST:
                raise _problem(
                    f"it is more than {DEEPEST} lists and mappings deep", event.start_mark
                )
        elif isinstance(event, CollectionEndEvent):
            anchor, before = open_collections.pop()
            if anchor:
                sizes[anchor] = n - before + 1
        if n > MOST:
            raise _problem(
                f"it has more than {MOST:,} values, aliases counted each time", event.start_mark
            )
        if isinstance(event, ScalarEvent) and _is_long_number(event):
            raise _problem(f"a number has more than {LONGEST_NUMBER} characters", event.start_mark)
        if numbers and isinstance(event, ScalarEvent):
            _check_number(event)


def _is_long_number(event: ScalarEvent) -> bool:
    """Whether a scalar is written plainly, or tagged, and may be a number so long that it cannot be meant."""
    written = str(event.value).strip("+-").replace("_", "")
    return len(written) > LONGEST_NUMBER and written[:1].isdigit() and " " not in written


def _problem(sentence: str, mark: StreamMark | None) -> MarkedYAMLError:
    return MarkedYAMLError(problem=sentence, problem_mark=mark)


class BeyondError(MarkedYAMLError):
    """A number that is written well, and that no field can hold."""


def _check_number(event: ScalarEvent) -> None:
    """Refuse a number that reading would round to infinity or to zero, or that needs more than 64 bits.

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
            said = f"{written} has more than 64 bits; expected a whole number from -2^63 to 2^63 - 1. Write a smaller one"
            raise BeyondError(problem=said, problem_mark=event.start_mark)
        return
    value = float(text)
    largest = f"{sys.float_info.max:.2g}"
    if math.isinf(value):
        said = f"{written} is beyond the largest number, {largest}; expected a finite number. Write a smaller one"
        raise BeyondError(problem=said, problem_mark=event.start_mark)
    if value == 0 and any(digit in "123456789" for digit in text.partition("e")[0]):
        said = f"{written} is so small that it is read as 0; expected 0 or a larger number. Write 0 where that is meant"
        raise BeyondError(problem=said, problem_mark=event.start_mark)


def error_message(path: Path, text: str, error: Exception) -> str:
    """What is wrong with a YAML file: the place, the problem, and the line with a caret under the place."""
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
    """A line with a caret under one of its columns, on two lines."""
    lines = text.split("\n")
    while number and (number >= len(lines) or not lines[number].strip()):  # at the end of the file
        number, column = number - 1, len(lines[min(number, len(lines)) - 1])
    line = "".join(letter if letter.isprintable() else " " for letter in lines[number])
    begin = max(0, column - WIDTH // 2)
    return f"\n  {line[begin : begin + WIDTH]}\n  {' ' * (column - begin)}^"


def load(text: str, kind: str) -> Any:
    """The value of a YAML text: plain Python values alone, for no tag makes anything else.

    Args:
        text: the text.
        kind: `safe`, or `base`, which leaves every scalar a string.

    Raises:
        YAMLError: it is too much or no YAML; or another of `UNREADABLE`.
    """
    check_bounded(text, numbers=kind == "safe")
    return YAML(typ=kind, pure=True).load(text)
