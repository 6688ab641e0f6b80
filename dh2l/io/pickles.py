"""Reader of pickled data that runs none of the code they name.

It admits Python's own values and NumPy's arrays of bytes. CIFAR's official files are such pickles,
made by Python 2.
"""

import io
import pickle
import pickletools
from typing import Any

import numpy as np
import numpy.typing as npt

from dh2l.errors import DataError, first_line

_UNREADABLE = (
    *(pickle.UnpicklingError, EOFError, ValueError, TypeError, LookupError, AttributeError),
    *(ArithmeticError, ImportError, MemoryError, RecursionError),
)
"""What unpickling meets in what is no such pickle."""


def unpickled(content: bytes, what: str) -> dict[str, Any]:
    """Return the mapping in a pickle: Python's own values, text as Latin-1, and arrays of bytes.

    Args:
        content: the pickle.
        what: its name in messages.

    Raises:
        DataError: it is damaged, or names anything else, which could be code to run.
    """
    try:
        _check_places(content)
        found = _Reader(io.BytesIO(content), encoding="latin1").load()
        return {
            str(key): value.values if isinstance(value, _Array) else value
            for key, value in found.items()
        }
    except _UNREADABLE as error:
        raise DataError(
            f"{what} is no pickle of plain values and arrays ({first_line(error)}); get it again"
        ) from error


def _check_places(content: bytes) -> None:
    """Refuse a pickle with memo indices far beyond their count, which would need a long list."""
    for n, (operation, number, _) in enumerate(pickletools.genops(content)):
        if (
            operation.name in ("PUT", "LONG_BINPUT")
            and isinstance(number, int)
            and not 0 <= number <= n
        ):
            raise pickle.UnpicklingError(f"a value is kept under the number {number:,}")
        if operation.name in (
            "LONG4",
            "BYTEARRAY8",
            "NEXT_BUFFER",
            "PERSID",
            "BINPERSID",
            "EXT1",
            "EXT2",
            "EXT4",
        ):
            raise pickle.UnpicklingError(f"it uses {operation.name}")


class _Reader(pickle.Unpickler):
    """Unpickler that admits arrays of bytes, and replaces each name that builds them by ours."""

    def find_class(self, module: str, name: str) -> Any:
        """Return our replacement for a name."""
        if (module, name) not in _STANDING_FOR:
            raise pickle.UnpicklingError(f"it names {module[:100]}.{name[:100]}")
        return _STANDING_FOR[module, name]


class _Encoded:
    """Bytes in a pickle of Python 2, as Python 3 writes them: text, and its encoding."""

    def __new__(cls, text: str, encoding: str = "latin1") -> bytes:  # type: ignore[misc] # a function
        if encoding != "latin1":
            raise pickle.UnpicklingError(f"bytes are encoded as {str(encoding)[:100]!r}")
        return text.encode("latin1")

    def __setstate__(self, state: Any) -> None:
        """Refuse a state, because a function has none."""
        raise pickle.UnpicklingError("a function is given a state")


class _Bytes:
    """The type of an array's elements."""

    def __init__(self, code: str, *_: Any) -> None:
        if code != "u1":
            raise pickle.UnpicklingError(f"an array has elements of the type {str(code)[:100]!r}")

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like: a byte has none."""


class _Array:
    """An array that is being read: made empty, then given its state."""

    values: npt.NDArray[np.uint8] | None = None

    def __init__(self, *_: Any) -> None:
        """Start without a size."""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, in_columns, content = state
        if not isinstance(kind, _Bytes):
            raise pickle.UnpicklingError("an array has no type")
        flat = np.frombuffer(
            content.encode("latin1") if isinstance(content, str) else content, dtype=np.uint8
        )
        if any(size < 0 for size in shape):
            raise pickle.UnpicklingError(f"an array has the shape {shape}")
        self.values = flat.reshape(shape, order="F" if in_columns else "C")


_STANDING_FOR = {
    ("_codecs", "encode"): _Encoded,
    ("numpy", "dtype"): _Bytes,
    ("numpy", "ndarray"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
}
