"""Mangled files, and the contract of every reader."""

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from dh2l.errors import UserError


def cases(n: int) -> settings:
    """That many, the same in every run."""
    return settings(
        max_examples=n,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )


Edit = tuple[float, int, bytes]
EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 12), st.binary(max_size=12)), min_size=1, max_size=4
)


def mangled(content: bytes, edits: list[Edit]) -> bytes:
    """The content with parts of it, each at a fraction of its length, replaced."""
    for place, length, instead in edits:
        at = int(place * len(content))
        content = content[:at] + instead + content[at + length :]
    return content


def sentence_or_value(read: Callable[[], Any]) -> Any:
    """Return the value of a reader, or None for a sentence."""
    try:
        return read()
    except UserError:
        return None
