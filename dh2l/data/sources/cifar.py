"""Reader of CIFAR-10 and CIFAR-100: torchvision's files, their archive, or image folders."""

import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dh2l.data.images import Images, Labels, Pixels, Report
from dh2l.data.sources.archives import download, members
from dh2l.data.sources.folders import read_folders
from dh2l.errors import DataError
from dh2l.io.files import read
from dh2l.io.pickles import unpickled
from dh2l.tree import ClassTree


@dataclass(frozen=True)
class Complete:
    """Sizes of a complete CIFAR data set; `n_groups` is None without hierarchy."""

    n_train: int
    n_test: int
    n_classes: int
    n_groups: int | None

    def __str__(self) -> str:
        groups = "" if self.n_groups is None else f" in {self.n_groups} groups"
        images = f"{self.n_train:,} training and {self.n_test:,} test images"
        return f"{images} of {self.n_classes} classes{groups}"


COMPLETE = {
    "cifar10": Complete(n_train=50_000, n_test=10_000, n_classes=10, n_groups=None),
    "cifar100": Complete(n_train=50_000, n_test=10_000, n_classes=100, n_groups=20),
}
CIFAR_SHAPE = (32, 32, 3)


_LARGEST_MEMBER = 200_000_000  # the largest official file has 155 million bytes


def read_cifar(name: str, source: Path | None, downloads: Path, report: Report) -> Images:
    """Read CIFAR-10 or CIFAR-100, complete.

    Args:
        name: `cifar10` or `cifar100`.
        source: torchvision's files (a folder of them or the official archive) or image folders;
            None: download.
        downloads: folder for the archive.
        report: called with a line on each step.

    Raises:
        DataError: it could not be downloaded, or the source is not complete.
    """
    table = _table(name)
    if source is None:
        files: Path | None = download(
            name, table.url, table.tgz_md5, downloads / str(table.filename), _layouts(name), report
        )
    else:
        files = _files(name, source)
    if files is not None:
        report(f"reading {files}")
        images = _read(name, files)
    elif source is not None and (source / "train").is_dir() and (source / "test").is_dir():
        images = read_folders(source, size=None, resizable=False, report=report)
        if name == "cifar10":  # the paper gives it no hierarchy; folders may have one
            images = replace(images, paths=tuple(path[-1:] for path in images.paths))
    else:
        raise DataError(f"{source} holds no {name}; --from takes {_layouts(name)}")
    _check_complete(name, images)
    return images


def _check_complete(name: str, images: Images) -> None:
    tree, shape = ClassTree(images.paths), images.train_x.shape[1:]
    complete = COMPLETE[name]
    n_groups = tree.size(1) if tree.depth > 1 else None
    found = Complete(len(images.train_y), len(images.test_y), tree.n_classes, n_groups)
    depth = 1 if complete.n_groups is None else 2
    if found != complete or shape != CIFAR_SHAPE or tree.depth != depth:
        as_text = "×".join(map(str, shape))
        raise DataError(
            f"{name} means the complete data set ({complete}, 32×32×3, {depth} deep); what was "
            f"given has {found}, {as_text}, {tree.depth} deep; prepare it under another name"
        )


def _files(name: str, source: Path) -> Path | None:
    """Return the folder or archive of torchvision's files at source, or None."""
    table = _table(name)
    if source.is_file():
        return source
    for folder in (source / table.base_folder, source):
        if any((folder / file).is_file() for file in _sums(table)):
            return folder
    archive = source / table.filename
    return archive if archive.is_file() else None


def _layouts(name: str) -> str:
    """In words, what CIFAR can be read from."""
    table = _table(name)
    return (
        f"the archive {table.filename}, a folder that contains torchvision's {table.base_folder}/, "
        "or a folder of image folders, train/<super-class>/<class>/ and test/<super-class>/<class>/"
    )


def _read(name: str, files: Path) -> Images:
    """Read torchvision's files; each MD5 is compared with torchvision's table before unpickling."""
    table = _table(name)
    contents = _archived(files, table) if files.is_file() else _foldered(files, table)
    opened: dict[str, Any] = {}
    for file, md5 in _sums(table).items():
        if hashlib.md5(contents[file], usedforsecurity=False).hexdigest() != md5:
            raise DataError(
                f"the file {file} in {files} is not the official one (other MD5 checksum); "
                "download it again"
            )
        opened[file] = unpickled(contents.pop(file), f"{file} in {files}")
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
        group = dict(
            zip(
                _labels(train, fine).tolist(), _labels(train, "coarse_labels").tolist(), strict=True
            )
        )
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
            contents[file] = read(folder / file, _LARGEST_MEMBER)
        except OSError as error:
            raise DataError(
                f"{folder / file} is missing or cannot be read ({error.strerror}); unpack all of "
                f"{table.filename} again"
            ) from error
    return contents


def _archived(archive: Path, table: Any) -> dict[str, bytes]:
    """Return the named members' bytes; nothing is extracted, so no path is written."""
    wanted = {f"{table.base_folder}/{file}": file for file in _sums(table)}
    names = re.compile("|".join(map(re.escape, wanted)))
    contents = {
        wanted[member.name]: member.content for member in members(archive, names, _LARGEST_MEMBER)
    }
    for member_name, file in wanted.items():
        if file not in contents:
            raise DataError(
                f"{archive} has no usable member {member_name}; download {table.filename} again"
            )
    return contents


def _pixels(batches: list[dict[str, Any]]) -> Pixels:
    rows: Pixels = np.concatenate([batch["data"] for batch in batches])
    height, width, channels = CIFAR_SHAPE
    return np.ascontiguousarray(rows.reshape(-1, channels, height, width).transpose(0, 2, 3, 1))


def _labels(batches: list[dict[str, Any]], key: str) -> Labels:
    return np.array([label for batch in batches for label in batch[key]], dtype=np.int64)
