"""Readers of the data sets that have a name of their own: digits, CIFAR-10, CIFAR-100."""

import hashlib
import pickle
import tarfile
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dh2l.errors import DataError

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Report = Callable[[str], None]


@dataclass(frozen=True)
class Images:
    """A data set as read, in no particular order.

    Attributes:
        source: what it was read from, in words.
        paths: one path per class, in the order of the labels.
        train_x: ``(N, H, W, C)`` uint8.
        train_y: ``(N,)`` int64.
        test_x: like `train_x`.
        test_y: like `train_y`.
    """

    source: str
    paths: tuple[tuple[str, ...], ...]
    train_x: Pixels
    train_y: Labels
    test_x: Pixels
    test_y: Labels


@dataclass(frozen=True)
class BuiltIn:
    """A data set with a name of its own: its augmentation."""

    flip: bool
    crop_padding: int


@dataclass(frozen=True)
class Complete:
    """What a complete CIFAR data set has; `n_groups` is None where there is no hierarchy."""

    n_train: int
    n_test: int
    n_classes: int
    n_groups: int | None

    def __str__(self) -> str:
        groups = "" if self.n_groups is None else f" in {self.n_groups} groups"
        return f"{self.n_train:,} training and {self.n_test:,} test images of {self.n_classes} classes{groups}"


BUILT_IN = {
    "digits": BuiltIn(flip=False, crop_padding=1),
    "cifar10": BuiltIn(flip=True, crop_padding=4),
    "cifar100": BuiltIn(flip=True, crop_padding=4),
}
COMPLETE = {
    "cifar10": Complete(n_train=50_000, n_test=10_000, n_classes=10, n_groups=None),
    "cifar100": Complete(n_train=50_000, n_test=10_000, n_classes=100, n_groups=20),
}
CIFAR_SHAPE = (32, 32, 3)

_DIGIT_GROUPS = {"closed-loop": "0689", "open-curve": "235", "straight": "147"}
_LARGEST_MEMBER = 200_000_000  # the largest official file has 155 million bytes


def read_digits() -> Images:
    """Scikit-learn's 1,797 images of handwritten digits, 8 × 8 × 1; values 0 … 16 become 0 … 255.

    The test set is the last fifth of each class in the file's order, rounded down: 355 images, 34 to 36 of
    each class, which leaves 1,442 for training. The file goes writer by writer but does not name them, so
    most writers are in one of the two sets only; that none is in both cannot be promised.

    The groups go by the shape of the usual glyph: those with a closed loop (0, 6, 8, 9), those that are one
    open curve (2, 3, 5), and those of straight strokes (1, 4, 7).
    """
    from sklearn.datasets import load_digits

    values, target = load_digits(return_X_y=True)
    x = np.rint(values * 255 / 16).astype(np.uint8).reshape(-1, 8, 8, 1)
    y = target.astype(np.int64)
    is_test = np.zeros(len(y), dtype=np.bool_)
    for digit in range(10):
        index = np.flatnonzero(y == digit)
        is_test[index[len(index) - len(index) // 5 :]] = True
    group = {digit: name for name, digits in _DIGIT_GROUPS.items() for digit in digits}
    return Images(
        source="scikit-learn",
        paths=tuple((group[str(digit)], str(digit)) for digit in range(10)),
        train_x=x[~is_test],
        train_y=y[~is_test],
        test_x=x[is_test],
        test_y=y[is_test],
    )


def cifar_files(name: str, source: Path) -> Path | None:
    """Folder of torchvision's files or the archive of them at source; None where it holds neither."""
    table = _table(name)
    if source.is_file():
        return source
    for folder in (source / table.base_folder, source):
        if any((folder / file).is_file() for file in _sums(table)):
            return folder
    archive = source / table.filename
    return archive if archive.is_file() else None


def download_cifar(name: str, folder: Path, report: Report) -> Path:
    """Download the official archive into folder, unless it is there; returns the archive.

    Raises:
        DataError: it could not be downloaded.
    """
    from torchvision.datasets.utils import download_url

    table = _table(name)
    report(f"downloading {table.url}, unless it is there already")
    try:
        download_url(table.url, str(folder), table.filename, table.tgz_md5)
    except (OSError, RuntimeError, HTTPException) as error:
        raise DataError(
            f"{name} could not be downloaded from {table.url} ({error}); "
            f"get it another way and type: dh2l-study data prepare {name} --from PATH, "
            f"where PATH is {cifar_layouts(name)}"
        ) from error
    return folder / str(table.filename)


def cifar_layouts(name: str) -> str:
    """In words, what CIFAR can be read from."""
    table = _table(name)
    return (
        f"the archive {table.filename}, a folder that contains torchvision's {table.base_folder}/, "
        "or a folder of image folders, train/<super-class>/<class>/ and test/<super-class>/<class>/"
    )


def read_cifar(name: str, files: Path) -> Images:
    """CIFAR-10 or CIFAR-100 from torchvision's files: a folder of them, or the official archive.

    Every file's MD5 is compared with torchvision's table before it is unpickled.

    Raises:
        DataError: a file is missing or not the official one.
    """
    table = _table(name)
    contents = _archived(files, table) if files.is_file() else _foldered(files, table)
    opened: dict[str, Any] = {}
    for file, md5 in _sums(table).items():
        if hashlib.md5(contents[file], usedforsecurity=False).hexdigest() != md5:
            raise DataError(
                f"the file {file} in {files} is not the official one (other MD5 checksum); download it again"
            )
        with warnings.catch_warnings():
            # The files are older than NumPy 2.4, which warns of how they spell a dtype.
            warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
            opened[file] = pickle.loads(contents.pop(file), encoding="latin1")  # noqa: S301  verified above
    meta = opened[table.meta["filename"]]
    train = [opened[file] for file, _ in table.train_list]
    test = [opened[file] for file, _ in table.test_list]
    fine = "labels" if name == "cifar10" else "fine_labels"
    classes: list[str] = meta[table.meta["key"]]
    paths: tuple[tuple[str, ...], ...]
    if name == "cifar10":
        paths = tuple((label,) for label in classes)
    else:
        groups: list[str] = meta["coarse_label_names"]
        group = dict(zip(_labels(train, fine).tolist(), _labels(train, "coarse_labels").tolist(), strict=True))
        paths = tuple((groups[group[i]], label) for i, label in enumerate(classes))
    return Images(
        source="torchvision files",
        paths=paths,
        train_x=_pixels(train),
        train_y=_labels(train, fine),
        test_x=_pixels(test),
        test_y=_labels(test, fine),
    )


def _table(name: str) -> Any:
    from torchvision import datasets

    return {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]


def _sums(table: Any) -> dict[str, str]:
    """MD5 of each file that is read, as torchvision publishes them."""
    sums = {str(file): str(md5) for file, md5 in [*table.train_list, *table.test_list]}
    return {**sums, str(table.meta["filename"]): str(table.meta["md5"])}


def _foldered(folder: Path, table: Any) -> dict[str, bytes]:
    contents = {}
    for file in _sums(table):
        try:
            contents[file] = (folder / file).read_bytes()
        except OSError as error:
            raise DataError(
                f"{folder / file} is missing or cannot be read ({error.strerror}); unpack all of {table.filename} again"
            ) from error
    return contents


def _archived(archive: Path, table: Any) -> dict[str, bytes]:
    """The named members' bytes; nothing is extracted, so no path of the archive is ever written."""
    wanted = {f"{table.base_folder}/{file}": file for file in _sums(table)}
    contents: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                stream = tar.extractfile(member) if member.isfile() and member.name in wanted else None
                if stream is not None and member.size <= _LARGEST_MEMBER:
                    contents[wanted[member.name]] = stream.read()
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise DataError(
            f"{archive} cannot be read as a .tar.gz archive ({error}); download {table.filename} again"
        ) from error
    for member_name, file in wanted.items():
        if file not in contents:
            raise DataError(f"{archive} has no usable member {member_name}; download {table.filename} again")
    return contents


def _pixels(batches: list[dict[str, Any]]) -> Pixels:
    rows: Pixels = np.concatenate([batch["data"] for batch in batches])
    height, width, channels = CIFAR_SHAPE
    return np.ascontiguousarray(rows.reshape(-1, channels, height, width).transpose(0, 2, 3, 1))


def _labels(batches: list[dict[str, Any]], key: str) -> Labels:
    return np.array([label for batch in batches for label in batch[key]], dtype=np.int64)
