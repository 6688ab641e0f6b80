"""YAML that a user wrote, looked at before it is loaded: nothing in it can take unbounded time, stack or memory."""

import os
import stat
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

from dh2l.errors import UserError

LARGEST = 1_000_000
"""Bytes of a file; the shipped ones have some thousands."""
DEEPEST = 40
"""Collections inside one another."""
MOST = 100_000
"""Values, those that an alias repeats counted each time: nine lines of aliases of aliases are a billion."""
LONGEST_NUMBER = 100
"""Characters of a number; Python takes quadratic time to read one, and no field has so long a one."""

UNREADABLE = (YAMLError, ValueError, TypeError, ArithmeticError, LookupError, AttributeError, RecursionError)
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
        with open(path, "rb", opener=_without_waiting) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise UserError(f"{path} is not a regular file, so it cannot be {what}")
            content = file.read(LARGEST + 1)
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        if len(content) <= LARGEST:
            raise UserError(f"{path} is not a text file in UTF-8, so it cannot be {what}") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except UserError:
        raise
    except ValueError:  # a zero in it
        raise UserError(f"{str(path)!r} cannot be the path of a file") from None
    if len(content) > LARGEST:
        raise UserError(f"{path} has more than {LARGEST:,} bytes, so it cannot be {what}")
    return text


def is_file(path: Path) -> bool:
    """Whether there is a file at a path that somebody wrote, which may be one that no file can have."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or with a zero in it
        return False


def _without_waiting(path: str, flags: int) -> int:
    """Opens a file; of a pipe that nobody writes to it does not wait for a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def check_bounded(text: str) -> None:
    """Refuse YAML that is too deep or too much, or repeats itself without end, before anything is made of it.

    Raises:
        YAMLError: it is, with the place; or it is no YAML.
    """
    sizes: dict[str, int] = {}
    open_collections: list[tuple[str | None, int]] = []
    n = 0
    for event in YAML(typ="safe", pure=True).parse(text):
        if isinstance(event, AliasEvent):
            if event.anchor not in sizes:
                raise _problem(f"*{event.anchor} repeats itself, or what is not there", event.start_mark)
            n += sizes[event.anchor]
        elif isinstance(event, NodeEvent):
            n += 1
            if isinstance(event, CollectionStartEvent):
                open_collections.append((event.anchor, n))
            elif event.anchor:
                sizes[event.anchor] = 1
            if len(open_collections) > DEEPEST:
                raise _problem(f"it is more than {DEEPEST} lists and mappings deep", event.start_mark)
        elif isinstance(event, CollectionEndEvent):
            anchor, before = open_collections.pop()
            if anchor:
                sizes[anchor] = n - before + 1
        if n > MOST:
            raise _problem(f"it has more than {MOST:,} values, aliases counted each time", event.start_mark)
        if isinstance(event, ScalarEvent) and _is_long_number(event):
            raise _problem(f"a number has more than {LONGEST_NUMBER} characters", event.start_mark)


def _is_long_number(event: ScalarEvent) -> bool:
    """Whether a scalar is written plainly, or tagged, and may be a number so long that it cannot be meant."""
    written = str(event.value).strip("+-").replace("_", "")
    return len(written) > LONGEST_NUMBER and written[:1].isdigit() and " " not in written


def _problem(sentence: str, mark: StreamMark | None) -> MarkedYAMLError:
    return MarkedYAMLError(problem=sentence, problem_mark=mark)


def load(text: str, kind: str) -> Any:
    """The value of a YAML text: plain Python values alone, for no tag makes anything else.

    Args:
        text: the text.
        kind: `safe`, or `base`, which leaves every scalar a string.

    Raises:
        YAMLError: it is too much or no YAML; or another of `UNREADABLE`.
    """
    check_bounded(text)
    return YAML(typ=kind, pure=True).load(text)
