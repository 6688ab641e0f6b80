"""Atomic writes and bounded reads of files and stored objects."""

import errno
import os
import re
import shutil
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias, Union
from uuid import uuid4

from dh2l.system.processes import is_running, machine_hash, own_start_time

if TYPE_CHECKING:
    from upath import UPath

AnyPath: TypeAlias = Union[Path, "UPath"]
"""A file or folder, or a name in an object store, which has a path's methods."""
ERRNO_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
"""What file systems answer that know no hard links."""
LARGEST = 1 << 28
"""Bytes of a file that `read` reads unless another bound is given: arrays of a trial have some
millions."""
OLD_S = 86_400.0
"""After this many seconds a temporary file is left over, whoever wrote it: a live writer needs
seconds."""
_MORE = 1 << 20
_TEMPORARY = re.compile(r"\..+~([^~]+)~(\d+)~(\d+)~[^~]+|\..+~[^~]+~\d+~[^~]+")
"""Machine, process and its birth in hundredths of seconds; as earlier versions named it, a host and
a process."""


def write_atomically(path: AnyPath, content: bytes, *, durable: bool = True) -> None:
    """Write a file so that readers find the old or the new content, even after a crash.

    Temporary files in this folder of writers that were killed on this machine are removed.

    Args:
        path: the file.
        content: all of it.
        durable: wait until it is on the disk; else a loss of power may lose it.

    Raises:
        OSError: the file cannot be written; the old content stays.
    """
    if not isinstance(path, Path):
        with _as_os_errors():
            path.write_bytes(content)  # an object appears whole
        return
    with _naming(path), _written(path, content, durable=durable) as temporary:
        temporary.replace(path)


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
    with _naming(path), _written(path, content, durable=durable) as temporary:
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in ERRNO_NO_HARD_LINKS:
                raise
            return _create_without_links(path, content)
    return True


def open_regular(path: Path, flags: int = os.O_RDONLY) -> BinaryIO:
    """Open a regular file, and neither a pipe, which may wait, nor a device, which may not end.

    Args:
        path: the file.
        flags: how `os.open` opens it: for reading, or for writing alone.

    Raises:
        OSError: it is not a regular file, or cannot be opened.
    """
    descriptor = os.open(path, flags | os.O_NONBLOCK, 0o666)
    try:
        kind = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(kind):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(kind):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        return os.fdopen(descriptor, "rb" if flags & os.O_ACCMODE == os.O_RDONLY else "wb")
    except BaseException:
        os.close(descriptor)
        raise


def read(path: AnyPath, largest: int = LARGEST) -> bytes:
    """Read the content of a file, within bounds of time and size.

    Args:
        path: the file.
        largest: the most bytes that it may have.

    Raises:
        OSError: it is not a regular file, has more bytes, or cannot be read.
    """
    if not isinstance(path, Path):
        (found,) = read_all([path], largest)
        if isinstance(found, OSError):
            raise found
        return found
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            content = file.read(size) if size <= largest else b""
            while size <= largest and (more := file.read(_MORE)):  # because it grew
                content += more
                size = len(content)
    except FileNotFoundError:
        if path.is_symlink():
            raise OSError(errno.ENOLINK, "it is a link to nothing", str(path)) from None
        raise
    except MemoryError:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), str(path)) from None
    if size > largest:
        raise _too_large(path, largest)
    return content


def read_all(paths: Sequence[AnyPath], largest: int = LARGEST) -> list[bytes | OSError]:
    """Read many files, from an object store several at a time; return content or error of each."""
    remote = [path for path in paths if not isinstance(path, Path)]
    if not remote:
        return [_read(path, largest) for path in paths]
    with _as_os_errors():
        found = remote[0].fs.cat_ranges(
            [path.path for path in remote], 0, largest + 1, on_error="return"
        )
    return [_checked(content, path, largest) for path, content in zip(remote, found, strict=True)]


def list_files(folder: AnyPath, pattern: str) -> list[AnyPath]:
    """List the paths in a folder that match a pattern, sorted; none where there is no folder.

    Raises:
        OSError: the store cannot be reached.
    """
    with _as_os_errors():
        found: list[AnyPath] = [*folder.glob(pattern)]
    return sorted(found, key=str)


def move(path: AnyPath, target: AnyPath) -> None:
    """Move a file, or a link as such; atomically within a file system.

    Raises:
        OSError: it cannot be moved; a FileNotFoundError if it is gone.
    """
    if not isinstance(path, Path):
        with _as_os_errors():
            path.fs.mv(path.path, target.path)  # type: ignore[union-attr] # both are of one store
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(path, str(target))


def remove_folder(folder: AnyPath) -> None:
    """Remove a folder and all below it; ignore one that is missing or cannot be removed."""
    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
        return
    with suppress(OSError), _as_os_errors():
        folder.fs.rm(folder.path, recursive=True)


def _read(path: AnyPath, largest: int) -> bytes | OSError:
    try:
        return read(path, largest)
    except OSError as error:
        return error


def _checked(content: bytes | Exception, path: AnyPath, largest: int) -> bytes | OSError:
    """Return the content that an object store gave for a path, or an error if it is too large."""
    if isinstance(content, Exception):
        return _os_error(content)
    return content if len(content) <= largest else _too_large(path, largest)


def _too_large(path: AnyPath, largest: int) -> OSError:
    return OSError(errno.EFBIG, f"it has more than {largest:,} bytes", str(path))


@contextmanager
def _as_os_errors() -> Iterator[None]:
    """Whatever an object store's client raises, as an OSError."""
    try:
        yield
    except Exception as error:
        raise _os_error(error) from error


def _os_error(error: Exception) -> OSError:
    """Return an OSError that describes in words what went wrong."""
    if isinstance(error, OSError) and error.strerror:
        return error
    line = (str(error).splitlines() or [""])[0][:300]
    if isinstance(error, FileNotFoundError | FileExistsError):
        return type(error)(
            errno.ENOENT if isinstance(error, FileNotFoundError) else errno.EEXIST, line
        )
    return OSError(errno.EIO, f"{type(error).__name__}: {line}")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let errors of a temporary file name the file that it is for."""
    try:
        yield
    except OSError as error:
        if error.errno is None or Path(error.filename or path) in path.parents:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def _written(path: Path, content: bytes, *, durable: bool) -> Iterator[Path]:
    """Yield a temporary file beside a path with the content, and remove it at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_left(path.parent)
    pid = os.getpid()
    owner = f"{machine_hash()}~{pid}~{own_start_time(pid) * 100:.0f}"
    temporary = path.with_name(f".{path.name[:80]}~{owner}~{uuid4().hex[:8]}")
    try:
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _create_without_links(path: Path, content: bytes) -> bool:
    try:
        with path.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            mine = os.fstat(file.fileno())
        return os.path.samestat(mine, path.stat())
    except (FileExistsError, FileNotFoundError):  # or whoever met a half of it has moved it away
        return False


@lru_cache(maxsize=256)
def _remove_left(folder: Path) -> None:
    """Remove temporary files of killed writers.

    A process does so once for a folder, because one may hold thousands of files.
    """
    with os.scandir(folder) as entries:
        for entry in entries:
            if (found := _TEMPORARY.fullmatch(entry.name)) and _is_left(entry, found):
                Path(entry).unlink(missing_ok=True)


def _is_left(entry: os.DirEntry[str], name: re.Match[str]) -> bool:
    """Return True if the writer of a temporary file is dead: certain if it ran on this machine."""
    if name[1] == machine_hash():
        return not is_running(int(name[2]), int(name[3]) / 100)
    try:
        return time.time() - entry.stat(follow_symlinks=False).st_mtime > OLD_S
    except FileNotFoundError:
        return False
