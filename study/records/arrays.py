"""Arrays beside records: compressed files, named and verified by their hash."""

import hashlib
import io
from collections.abc import Collection, Mapping
from contextlib import suppress

import numpy as np

from dh2l.errors import UserError, first_line
from dh2l.io import npz
from dh2l.io.files import AnyPath, read
from study.records.record import Record


def arrays_path(record: Record, path: AnyPath) -> AnyPath:
    """Return the path of a record's arrays: beside its file, named by their content.

    Two writers therefore never write the same file.
    """
    return path.with_name(f"{path.stem}.{(record.arrays_sha256 or '')[:12]}.npz")


def has_arrays(record: Record, path: AnyPath, packed: Collection[AnyPath]) -> bool:
    """Return True if a record has no arrays, or their file exists.

    The name that version 1 used counts too.
    """
    return (
        record.arrays_sha256 is None
        or arrays_path(record, path) in packed
        or path.with_suffix(".npz") in packed
    )


def read_arrays(record: Record, path: AnyPath) -> dict[str, np.ndarray]:
    """Read the arrays beside a record's file: per-epoch history, predictions, class vectors.

    Raises:
        UserError: they are missing or not those that the record was written with.
    """
    return read_packed(arrays_file(record, path), record.arrays_sha256, "arrays")


def arrays_file(record: Record, path: AnyPath) -> AnyPath:
    """Return the file of a record's arrays, under the name of version 1 where only that exists."""
    packed_path = arrays_path(record, path)
    with suppress(OSError):
        if not packed_path.exists():
            return path.with_suffix(".npz")
    return packed_path


def pack(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Compress arrays into the content of an .npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def read_packed(path: AnyPath, sha256: str | None, kind: str) -> dict[str, np.ndarray]:
    """Read a file of arrays and verify its hash.

    Raises:
        UserError: it is missing, damaged, or not readable.
    """
    packed = read_verified(path, sha256, kind)
    try:
        return npz.read(packed)
    except npz.UNREADABLE as error:
        raise UserError(
            f"the {kind} {path} fit their record, but cannot be read ({first_line(error)})"
        ) from None


def read_verified(path: AnyPath, sha256: str | None, kind: str) -> bytes:
    """Read a file and verify its hash; raise UserError if it is missing or damaged."""
    try:
        packed = read(path)
    except OSError as error:
        raise UserError(f"the {kind} {path} cannot be read ({error.strerror})") from None
    if hashlib.sha256(packed).hexdigest() != sha256:
        raise UserError(f"the {kind} {path} are damaged: they are not those of their record")
    return packed
