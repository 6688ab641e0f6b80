"""Preparation of a data set: read it from a source, put it into canonical order, write it at one stroke."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from dh2l.data.canonical import canonical, statistics
from dh2l.data.folders import read_folders
from dh2l.data.manifest import ARRAYS, FILES, MANIFEST, FileRecord, Manifest, array_hash, data_hash, file_hash
from dh2l.data.sources import (
    BUILT_IN,
    CIFAR_SHAPE,
    COMPLETE,
    Complete,
    Images,
    Labels,
    Pixels,
    Report,
    cifar_files,
    cifar_layouts,
    download_cifar,
    read_cifar,
    read_digits,
)
from dh2l.data.store import aside, check_name, verify
from dh2l.errors import DataError, UserError, unknown_name
from dh2l.tree import ClassTree


def ignore(_message: str) -> None:
    """A report that goes nowhere."""


def prepare(
    name: str,
    root: Path,
    *,
    source: Path | None = None,
    size: int | None = None,
    flip: bool | None = None,
    crop_padding: int | None = None,
    report: Report = ignore,
) -> Manifest:
    """Prepare a data set into `root/NAME/`, for `load`.

    Canonical order, so that the same images give the same arrays and hash whatever they came from: classes
    are sorted by their paths, and the images of a class by their pixel bytes.

    The folder appears complete or not at all, and a reader of an earlier version keeps it. A preparation
    that is killed leaves nothing that is read; the next one of the same name clears up. Of two at a time,
    one waits. Where the same data is prepared already, intact, it is kept.

    Args:
        name: `digits`, `cifar10`, `cifar100`, or a name of your own for image folders: up to 40 of
            a-z, 0-9, _ and -.
        root: the folder of all prepared data sets.
        source: for CIFAR, torchvision's files (a folder or the official archive) or image folders, None to
            download into `root/downloads`; for your own data, a folder with `train/` and `test/`, in each
            `<class>/<image>` or `<super-class>/<class>/<image>` or deeper.
        size: of your own images: resize them to size × size.
        flip: mirror at random in training; default: the data set's, True for your own.
        crop_padding: pixels of padding before the random crop; default: the data set's, for your own an
            eighth of the shorter side.
        report: called with a line on each step.

    Returns:
        The manifest of what now lies there.

    Raises:
        UserError: a name or argument that cannot be.
        DataError: the source is missing, damaged or not what the name says; or `root` cannot be written.
    """
    check_name(name)
    _check_arguments(name, source, size, crop_padding)
    with _locked(name, root, report):
        _check_replaceable(root / name)
        _clear_up(name, root)
        images = _read(name, root, source, size, report)
        manifest, arrays = _normalise(name, images, flip, crop_padding)
        try:
            kept = verify(name, root) if (root / name / MANIFEST).exists() else None
        except DataError:
            kept = None  # damaged: replaced below
        if kept and (kept.data_hash, kept.tree_hash) == (manifest.data_hash, manifest.tree_hash):
            report(f"{name} was prepared already from the same data; kept")
            return kept
        report(f"writing {root / name}")
        try:
            return _write(manifest, arrays, root)
        except OSError as error:
            shutil.rmtree(_incoming(name, root), ignore_errors=True)  # a full disk should not stay full
            raise DataError(f"{root / name} cannot be written ({error.strerror})") from error


@contextmanager
def _locked(name: str, root: Path, report: Report) -> Iterator[None]:
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / f".{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            report(f"waiting for another preparation of {name}")
            lock.acquire()
    except OSError as error:
        raise DataError(f"{root} cannot be written ({error.strerror}); name another folder") from error
    try:
        yield
    finally:
        lock.release()


def _check_arguments(name: str, source: Path | None, size: int | None, crop_padding: int | None) -> None:
    if name == "digits" and source is not None:
        raise UserError("digits comes with scikit-learn and takes no --from; give your own data another name")
    if name not in BUILT_IN and source is None:
        raise UserError(
            f"{name!r} can be a data set of your own, but then needs its images: "
            f"dh2l-study data prepare {name} --from PATH ({unknown_name('data set', name, BUILT_IN)})"
        )
    if size is not None and name in BUILT_IN:
        raise UserError(f"{name} has images of one size and takes no --size; give your own data another name")
    if size is not None and size < 1:
        raise UserError(f"the size of images must be at least 1 pixel, but is {size}")
    if crop_padding is not None and crop_padding < 0:
        raise UserError(f"the crop padding must not be negative, but is {crop_padding}")
    if source is not None and not source.exists():
        raise DataError(f"{source} does not exist; --from takes a folder (or, for CIFAR, the archive)")


def _read(name: str, root: Path, source: Path | None, size: int | None, report: Report) -> Images:
    if name == "digits":
        return read_digits()
    if name not in COMPLETE:
        if source is None or not source.is_dir():
            raise DataError(f"{source} is not a folder; --from takes a folder with train/ and test/ in it")
        return read_folders(source, size=size, resizable=True, report=report)
    if source is None:
        files: Path | None = download_cifar(name, root / "downloads", report)
    else:
        files = cifar_files(name, source)
    if files is not None:
        report(f"reading {files}")
        images = read_cifar(name, files)
    elif source is not None and (source / "train").is_dir() and (source / "test").is_dir():
        images = read_folders(source, size=None, resizable=False, report=report)
        if name == "cifar10":  # the paper gives it no hierarchy; folders may have one
            images = replace(images, paths=tuple(path[-1:] for path in images.paths))
    else:
        raise DataError(f"{source} holds no {name}; --from takes {cifar_layouts(name)}")
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
            f"{name} means the complete data set ({complete}, 32×32×3, {depth} deep); what was given has "
            f"{found}, {as_text}, {tree.depth} deep; prepare it under another name"
        )


def _normalise(
    name: str, images: Images, flip: bool | None, crop_padding: int | None
) -> tuple[Manifest, dict[str, Pixels | Labels]]:
    """Canonical order, statistics and hashes; the manifest's files are filled in when they are written."""
    order = sorted(range(len(images.paths)), key=images.paths.__getitem__)
    tree = ClassTree([images.paths[label] for label in order])
    train_x, train_y = canonical(images.train_x, images.train_y, order)
    test_x, test_y = canonical(images.test_x, images.test_y, order)
    mean, std = statistics(train_x)
    if min(std) == 0:
        raise DataError(
            f"channel {std.index(0.0)} has the same value in all pixels of all training images, "
            "so they cannot be normalised"
        )
    height, width, channels = train_x.shape[1:]
    default = BUILT_IN.get(name)
    if flip is None:
        flip = default.flip if default else True
    if crop_padding is None:
        crop_padding = default.crop_padding if default else min(height, width) // 8
    arrays: dict[str, Pixels | Labels] = dict(zip(ARRAYS, (train_x, train_y, test_x, test_y), strict=True))
    manifest = Manifest(
        name=name,
        source=images.source,
        classes=tree.paths,
        image_shape=(height, width, channels),
        n_train=len(train_y),
        n_test=len(test_y),
        mean=mean,
        std=std,
        flip=flip,
        crop_padding=crop_padding,
        files={file: FileRecord(bytes=0, sha256="") for file in FILES},
        data_hash=data_hash({key: array_hash(array) for key, array in arrays.items()}, mean, std, flip, crop_padding),
        tree_hash=tree.hash,
    )
    return manifest, arrays


def _check_replaceable(folder: Path) -> None:
    """Refuse to replace what no preparation wrote: it might be the user's only copy of the images."""
    if not folder.exists():
        return
    foreign = sorted({path.name for path in folder.iterdir()} - {MANIFEST, *FILES}) if folder.is_dir() else None
    if foreign is None or foreign:
        what = f"{folder / foreign[0]} is" if foreign else f"{folder} is a file and"
        raise DataError(
            f"{what} not part of a prepared data set, and {folder} would be replaced; "
            "move it, or prepare under another name or in another folder"
        )


def _clear_up(name: str, root: Path) -> None:
    """Undo what a killed preparation left: bring the old version back if the new one did not arrive."""
    old = aside(name, root)
    if (old / MANIFEST).exists() and not (root / name).exists():
        old.rename(root / name)
    _remove(old)
    _remove(_incoming(name, root))


def _incoming(name: str, root: Path) -> Path:
    return root / f".{name}.new"


def _remove(folder: Path) -> None:
    if folder.exists():
        (folder / MANIFEST).unlink(missing_ok=True)  # first, so that no half of a data set is ever read
        shutil.rmtree(folder)


def _write(manifest: Manifest, arrays: dict[str, Pixels | Labels], root: Path) -> Manifest:
    new, old, folder = _incoming(manifest.name, root), aside(manifest.name, root), root / manifest.name
    new.mkdir()
    records: dict[str, FileRecord] = {}
    for array, file in zip(ARRAYS, FILES, strict=True):
        with (new / file).open("wb") as stream:
            np.lib.format.write_array(stream, arrays[array], allow_pickle=False)
            stream.flush()
            os.fsync(stream.fileno())
        records[file] = FileRecord(bytes=(new / file).stat().st_size, sha256=file_hash(new / file))
    manifest = manifest.model_copy(update={"files": records})
    with (new / MANIFEST).open("w", encoding="utf-8") as text:
        json.dump(manifest.model_dump(mode="json"), text, indent=1, ensure_ascii=False)
        text.flush()
        os.fsync(text.fileno())
    _sync_folder(new)
    # A folder cannot be replaced in one step. Between the two renames readers take the old one, put aside.
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
