"""Official archives: downloaded, and unpacked where their files must be read one by one."""

import math
import os
import re
import socket
import struct
import tarfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple, Self

from dh2l.data.images import Report
from dh2l.errors import DataError, first_line
from dh2l.io.files import open_regular

REPORT_SECONDS = 3.0
"""Time between two lines on the progress of something long."""
_LARGEST_UNPACKED = 100_000_000  # an image; the largest official one has less than a million bytes
_LARGEST_ARCHIVE = 20_000_000_000  # unpacked; the largest official one has a tenth
_LARGEST_HEAD = 1_000_000
_PATIENCE_S = 60.0
_LENGTHENING = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME,
                tarfile.GNUTYPE_LONGLINK)  # fmt: skip
_LATEST = 2**32  # of a time that every file system takes
_UNREADABLE = (
    *(OSError, EOFError, tarfile.TarError, zlib.error, struct.error),
    *(ValueError, TypeError, LookupError, ArithmeticError, MemoryError, RecursionError),
)
"""What reading an archive meets where it is damaged, or made to do harm."""


def download(name: str, url: str, md5: str, archive: Path, layouts: str, report: Report) -> Path:
    """Download an archive, unless it is there; returns it.

    Args:
        name: the data set's.
        url: the official address.
        md5: the archive's checksum.
        archive: where it is to lie.
        layouts: what `--from` takes, in words.
        report: called with a line.

    Raises:
        DataError: it could not be downloaded; the message says what else to do.
    """
    from torchvision.datasets.utils import download_url

    if archive.exists() and not archive.is_file():
        raise DataError(
            f"{archive} is not a regular file, so {url} cannot be downloaded to it; remove it"
        )
    report(f"downloading {url}, unless it is there already")
    try:
        with silence_bounded():
            download_url(url, str(archive.parent), archive.name, md5)
    except (OSError, RuntimeError, HTTPException) as error:
        raise DataError(
            f"{name} could not be downloaded from {url} ({error}); get it another way and type: "
            f"dh2l-study data prepare {name} --from PATH, where PATH is {layouts}"
        ) from error
    return archive


@contextmanager
def silence_bounded() -> Iterator[None]:
    """Fail inside the context when a server is silent for a minute.

    The setting is the process's.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE_S)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def unpack(archive: Path, folder: Path, wanted: re.Pattern[str], report: Report) -> None:
    """Unpack the files of a .tar.gz archive whose whole name matches `wanted`, with their times.

    Files of the same size in the folder are kept, so that a killed unpacking goes on.

    Raises:
        DataError: the archive is damaged, or the folder cannot be written.
    """
    report(f"unpacking {archive}")
    said = time.monotonic()
    for n, member in enumerate(members(archive, wanted, _LARGEST_UNPACKED), start=1):
        _keep(folder / member.name, member.content, member.mtime)
        if time.monotonic() - said >= REPORT_SECONDS:
            report(f"unpacked {n:,} files")
            said = time.monotonic()


class Member(NamedTuple):
    """A file in an archive, in memory."""

    name: str
    content: bytes
    mtime: float


def members(archive: Path, wanted: re.Pattern[str], largest: int) -> Iterator[Member]:
    """Yield the files of a .tar.gz archive whose whole name matches `wanted`.

    Links, devices and paths that lead outside the archive are left out.

    Args:
        archive: the archive.
        wanted: names, from the archive's top.
        largest: bytes that one of them may have.

    Raises:
        DataError: the archive is damaged, or declares a larger file.
    """
    try:
        with (
            open_regular(archive) as file,
            tarfile.open(fileobj=file, mode="r:gz", tarinfo=_Head) as tar,
        ):
            for head in tar:
                if head.offset_data + head.size > _LARGEST_ARCHIVE:
                    raise DataError(
                        f"{archive} would have more than {_LARGEST_ARCHIVE:,} bytes, unpacked; "
                        f"download {archive.name} again"
                    )
                if (
                    not head.isfile()
                    or not wanted.fullmatch(head.name)
                    or {"", ".", ".."} & {*head.name.split("/")}
                ):
                    continue
                if head.size > largest:
                    raise DataError(
                        f"{archive} says that {head.name} has {head.size:,} bytes, but a file in "
                        f"it has {largest:,} at most; download {archive.name} again"
                    )
                stream = tar.extractfile(head)
                assert stream is not None  # noqa: S101 it is a file
                content = stream.read()
                if len(content) < head.size:
                    raise EOFError(f"it ends within {head.name}")
                yield Member(head.name, content, head.mtime)
    except DataError:
        raise
    except _UNREADABLE as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise DataError(
            f"{archive} cannot be read as a .tar.gz archive ({reason}); download {archive.name} "
            "again"
        ) from error


class _Head(tarfile.TarInfo):
    """Header of a file in an archive; extensions of it, which are read whole, are bounded."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        head = super().frombuf(buf, encoding, errors)
        if head.size < 0 or (head.type in _LENGTHENING and head.size > _LARGEST_HEAD):
            raise tarfile.HeaderError(f"a header of {head.size:,} bytes")
        return head


def _keep(file: Path, content: bytes, mtime: float) -> None:
    try:
        if file.exists() and file.stat().st_size == len(content):
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        if math.isfinite(mtime) and 0 <= mtime < _LATEST:
            os.utime(file, (mtime, mtime))
    except OSError as error:
        raise DataError(f"{file} cannot be written ({error.strerror})") from error
