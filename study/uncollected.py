"""Python's cyclic garbage collector, at rest while much is made that lasts."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Look for no garbage until the context ends: of reading ten thousand records that took two fifths.

    What is made meanwhile is held by the result and has no cycles; a collector would look through all of it again and
    again, the more the more there is. Also a decorator.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
