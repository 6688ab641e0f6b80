"""Official archives: downloaded, and unpacked where their files must be read one by one."""

import os
import re
import tarfile
import time
import zlib
from http.client import HTTPException
from pathlib import Path

from dh2l.data.sources import Report
from dh2l.errors import DataError

REPORT_SECONDS = 3.0
"""Time between two lines on the progress of something long."""


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

    report(f"downloading {url}, unless it is there already")
    try:
        download_url(url, str(archive.parent), archive.name, md5)
    except (OSError, RuntimeError, HTTPException) as error:
        raise DataError(
            f"{name} could not be downloaded from {url} ({error}); "
            f"get it another way and type: dh2l-study data prepare {name} --from PATH, "
            f"where PATH is {layouts}"
        ) from error
    return archive


def unpack(archive: Path, folder: Path, wanted: re.Pattern[str], report: Report) -> None:
    """Unpack the files of a .tar.gz archive whose whole name matches `wanted`, with their times.

    What lies in the folder already, of the same size, is kept: an unpacking that was killed goes on.

    Raises:
        DataError: the archive is damaged, or the folder cannot be written.
    """
    report(f"unpacking {archive}")
    n, said = 0, time.monotonic()
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                if not wanted.fullmatch(member.name) or ".." in member.name.split("/"):
                    continue
                stream = tar.extractfile(member) if member.isfile() else None
                if stream is not None:
                    _keep(folder / member.name, stream.read(), member.mtime)
                    n += 1
                if time.monotonic() - said >= REPORT_SECONDS:
                    report(f"unpacked {n:,} files")
                    said = time.monotonic()
    except DataError:
        raise
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise DataError(
            f"{archive} cannot be read as a .tar.gz archive ({error}); download {archive.name} again"
        ) from error


def _keep(file: Path, content: bytes, mtime: float) -> None:
    try:
        if file.exists() and file.stat().st_size == len(content):
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        os.utime(file, (mtime, mtime))
    except OSError as error:
        raise DataError(f"{file} cannot be written ({error.strerror})") from error
