"""Files, and objects in a store, that are written whole or not at all."""

import errno
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import psutil

if TYPE_CHECKING:
    from upath import UPath

AnyPath: TypeAlias = Union[Path, "UPath"]
"""A file or folder, or a name in an object store, which has a path's methods."""
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""What file systems answer that know no hard links."""


def write_atomically(path: AnyPath, content: bytes, *, durable: bool = True) -> None:
    """Write a file so that whoever reads it finds the old or the new content, whole, even after a crash.

    What writers into this folder left behind that were killed on this host is removed.

    Args:
        path: the file.
        content: all of it.
        durable: wait until it is on the disk; else a loss of power may cost it.

    Raises:
        OSError: it cannot be written; what stood there stands.
    """
    if not isinstance(path, Path):
        with _as_os_errors():
            path.write_bytes(content)  # an object appears whole
        return
    temporary = _written(path, content, durable=durable)
    try:
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def create_atomically(path: AnyPath, content: bytes, *, durable: bool = True) -> bool:
    """As `write_atomically`, but whatever stands there already stays: of several writers one wins.

    Returns:
        Whether this content stands there now.

    Raises:
        OSError: it cannot be written.
    """
    if not isinstance(path, Path):
        try:
            with _as_os_errors():
                path.fs.pipe_file(path.path, content, mode="create")
        except FileExistsError:
            return False
        return True
    temporary = _written(path, content, durable=durable)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        return _create_without_links(path, content)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def read(path: AnyPath) -> bytes:
    """A file's content.

    Raises:
        OSError: it cannot be read.
    """
    with _as_os_errors():
        return path.read_bytes()


def read_all(paths: Sequence[AnyPath]) -> list[bytes | OSError]:
    """The content of many files, or why it cannot be read; from an object store many at a time."""
    remote = [path for path in paths if not isinstance(path, Path)]
    if not remote:
        return [_read(path) for path in paths]
    names = [path.path for path in remote]
    with _as_os_errors():
        found: Any = remote[0].fs.cat(names, on_error="return") if len(names) > 1 else {names[0]: _read(remote[0])}
    return [found[n] if isinstance(found[n], bytes) else _os_error(found[n]) for n in names]


def files(folder: AnyPath, pattern: str) -> list[AnyPath]:
    """What a pattern finds in a folder, sorted; nothing where there is no folder.

    Raises:
        OSError: the store cannot be asked.
    """
    with _as_os_errors():
        found: list[AnyPath] = [*folder.glob(pattern)]
    return sorted(found, key=str)


def remove_folder(folder: AnyPath) -> None:
    """Remove a folder and all below it; one that is not there or cannot be removed is no error."""
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
        return
    with suppress(OSError), _as_os_errors():
        folder.fs.rm(folder.path, recursive=True)


def _read(path: AnyPath) -> bytes | OSError:
    try:
        return read(path)
    except OSError as error:
        return error


@contextmanager
def _as_os_errors() -> Iterator[None]:
    """Whatever an object store's client raises, as an OSError."""
    try:
        yield
    except Exception as error:
        raise _os_error(error) from error


def _os_error(error: Exception) -> OSError:
    """An OSError that says in words what went wrong."""
    if isinstance(error, OSError) and error.strerror:
        return error
    line = (str(error).splitlines() or [""])[0][:300]
    if isinstance(error, FileNotFoundError | FileExistsError):
        return type(error)(errno.ENOENT if isinstance(error, FileNotFoundError) else errno.EEXIST, line)
    return OSError(errno.EIO, f"{type(error).__name__}: {line}")


def _written(path: Path, content: bytes, *, durable: bool) -> Path:
    """A temporary file beside a path, with the content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left(path.parent)
    beginning = f".{path.name[:80]}~{socket.gethostname()}~{os.getpid()}~"
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=beginning)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.chmod(0o644)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        raise
    return temporary


def _create_without_links(path: Path, content: bytes) -> bool:
    try:
        with path.open("xb") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


@lru_cache(maxsize=256)
def _remove_left(folder: Path) -> None:
    """Remove what killed writers left; once in the life of a process, for a folder may hold thousands of files."""
    left = re.compile(rf"\..+~{re.escape(socket.gethostname())}~(\d+)~[^~]+")
    with os.scandir(folder) as entries:
        for entry in entries:
            if (found := left.fullmatch(entry.name)) and not psutil.pid_exists(int(found[1])):
                Path(entry).unlink(missing_ok=True)
