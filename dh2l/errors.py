"""Errors of the library.

Dh2lError
├── UserError        something the user wrote or gave is wrong; the message is one clear sentence
│   └── DataError    ... and it is the data: which file, and why
└── Diverged         training met a number that is not finite
"""

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Any


class Dh2lError(Exception):
    """Root of every error that this library raises on purpose."""


class UserError(Dh2lError, ValueError):
    """A mistake of the user's. The message says what came, what was expected and what to do."""


class DataError(UserError):
    """A data set that is missing, damaged or not what its name says. The message names the file."""


class Diverged(Dh2lError):
    """Training met a loss that is not finite.

    Attributes:
        epoch: the epoch, counted from 1, in which it happened.
        term: the term or terms of the loss that were not finite first, e.g. ``"energy"``.
        history: the metrics of the epochs before it, by name.
    """

    def __init__(self, epoch: int, term: str, history: dict[str, list[float | None]]) -> None:
        super().__init__(f"the {term} became non-finite in epoch {epoch}")
        self.epoch = epoch
        self.term = term
        self.history = history


def unknown_name(kind: str, name: object, known: Iterable[str]) -> str:
    """Sentence for a name that is not in a registry, with the nearest names or all of them.

    >>> unknown_name("metric", "cosin", ["cosine", "angular2"])
    "unknown metric 'cosin'; did you mean 'cosine'?"
    """
    names = sorted(known)
    by_lower = {n.lower(): n for n in names}
    near = [by_lower[n] for n in get_close_matches(str(name).lower(), by_lower, n=3, cutoff=0.6)]
    hint = "did you mean " + " or ".join(repr(n) for n in near) + "?" if near else "known: " + ", ".join(names)
    return f"unknown {kind} {str(name)!r}; {hint}"


def of_users(what: str, function: Callable[..., Any], *values: Any, **settings: Any) -> Any:
    """What a user's function gives; what it raises becomes a sentence that names it.

    Raises:
        UserError: it raised.
    """
    try:
        return function(*values, **settings)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{what} raised {type(error).__name__}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """The first line of what an error says; its type's name where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
