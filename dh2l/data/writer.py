"""Writer of a data set's folder: one at a time, versions replaced atomically."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from dh2l.data.ignored_files import is_litter
from dh2l.data.images import Report
from dh2l.data.manifest import ARRAYS, MANIFEST, SIZES, FileRecord, Manifest, file_hash
from dh2l.data.ragged_array import Array, RaggedArray
from dh2l.data.reader import backup_path
from dh2l.errors import DataError
from dh2l.io.locks import Lock

LONGEST_WAIT_S = 6 * 3600.0
"""The longest wait for another preparation: millions of images take hours."""


@contextmanager
def locked(name: str, root: Path, report: Report) -> Iterator[None]:
    """Exclude other preparations of the name inside the context."""
    with ExitStack() as stack:
        try:
            root.mkdir(parents=True, exist_ok=True)
            stack.enter_context(
                Lock(root / f".{name}.lock", f"preparation of {name}", LONGEST_WAIT_S, report)
            )
        except OSError as error:
            raise DataError(
                f"{root} cannot be written ({error.strerror}); name another folder"
            ) from error
        yield


def check_replaceable(folder: Path) -> None:
    """Refuse to replace files that no preparation wrote: they may be the user's only copy."""
    if not folder.exists():
        return
    own = {MANIFEST, *(f"{array}.npy" for array in (*ARRAYS, *SIZES))}
    foreign = None
    if folder.is_dir():
        foreign = sorted(
            path.name
            for path in folder.iterdir()
            if path.name not in own and not is_litter(path.name)
        )
    if foreign is None or foreign:
        what = f"{folder / foreign[0]} is" if foreign else f"{folder} is a file and"
        raise DataError(
            f"{what} not part of a prepared data set, and {folder} would be replaced; "
            "move it, or prepare under another name or in another folder"
        )


def recover_interrupted(name: str, root: Path) -> None:
    """Undo what a killed preparation left: restore the old version if no new one arrived."""
    old = backup_path(name, root)
    if (old / MANIFEST).exists() and not (root / name).exists():
        old.rename(root / name)
    _remove(old)
    _remove(_incoming(name, root))


def parts_folder(name: str, root: Path) -> Path:
    """Return the folder of decoded images until the data set is written."""
    return root / f".{name}.parts"


def _incoming(name: str, root: Path) -> Path:
    return root / f".{name}.new"


def _remove(folder: Path) -> None:
    if folder.exists():
        (folder / MANIFEST).unlink(
            missing_ok=True
        )  # first, so that no half of a data set is ever read
        shutil.rmtree(folder)


def write(manifest: Manifest, arrays: Mapping[str, Array], root: Path) -> Manifest:
    """Write a data set; returns its manifest with the files' sizes and hashes.

    Raises:
        DataError: the folder cannot be written.
    """
    try:
        return _write(manifest, arrays, root)
    except OSError as error:
        shutil.rmtree(
            _incoming(manifest.name, root), ignore_errors=True
        )  # a full disk should not stay full
        raise DataError(f"{root / manifest.name} cannot be written ({error.strerror})") from error


def _write(manifest: Manifest, arrays: Mapping[str, Array], root: Path) -> Manifest:
    new, old, folder = (
        _incoming(manifest.name, root),
        backup_path(manifest.name, root),
        root / manifest.name,
    )
    new.mkdir()
    records: dict[str, FileRecord] = {}
    for name, array in arrays.items():
        file = f"{name}.npy"
        with (new / file).open("wb") as stream:
            if isinstance(array, RaggedArray):
                array.write(stream)
            else:
                np.lib.format.write_array(stream, array, allow_pickle=False)
            stream.flush()
            os.fsync(stream.fileno())
        records[file] = FileRecord(bytes=(new / file).stat().st_size, sha256=file_hash(new / file))
    manifest = manifest.model_copy(update={"files": records})
    with (new / MANIFEST).open("w", encoding="utf-8") as text:
        json.dump(manifest.model_dump(mode="json"), text, indent=1, ensure_ascii=False)
        text.flush()
        os.fsync(text.fileno())
    _sync_folder(new)
    # A folder cannot be replaced in one step. Between the two renames readers take the old one, put
    # aside.
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    _sync_folder(root)
    _remove(old)
    return manifest


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
