"""Files of several arrays, read within bounds and without unpickling."""

import io
import struct
import zipfile
import zlib
from pathlib import Path
from tokenize import TokenError

import numpy as np
import numpy.typing as npt

from dh2l.io.files import open_regular

LARGEST = 2_000_000_000
"""Bytes of all arrays of a file together, unpacked."""

UNREADABLE = (
    *(
        OSError,
        EOFError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
        SyntaxError,
    ),
    *(MemoryError, RuntimeError, TokenError, zipfile.BadZipFile, zlib.error, struct.error),
)
"""What reading meets in a damaged file: of an archive, of what packs it, of an array's head."""


def read(content: bytes | Path) -> dict[str, npt.NDArray[np.generic]]:
    """Return the arrays of an .npz file, by name.

    Raises:
        ValueError: an array is larger than it may be; or another of `UNREADABLE`.
    """
    with io.BytesIO(content) if isinstance(content, bytes) else open_regular(content) as file:
        with zipfile.ZipFile(file) as archive:
            if (size := sum(member.file_size for member in archive.infolist())) > LARGEST:
                raise ValueError(f"its arrays would have {size:,} bytes")
        file.seek(0)
        arrays = np.load(file, allow_pickle=False)
        return {name: np.asarray(arrays[name]) for name in arrays.files}
