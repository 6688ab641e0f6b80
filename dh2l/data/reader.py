"""Prepared data sets on disk, mapped into memory.

`root/NAME/` holds a manifest and four arrays, or six where sizes differ. Reading imports neither
torch nor Pillow: the manifest alone has all that tables and configs need.
"""

import json
import re
import stat
from dataclasses import dataclass, replace
from difflib import SequenceMatcher, get_close_matches
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
from pydantic import ValidationError

from dh2l.data.images import Labels, Pixels
from dh2l.data.manifest import (
    LARGEST,
    MANIFEST,
    VERSION,
    Manifest,
    array_hash,
    data_hash,
    file_hash,
)
from dh2l.data.registry import DATA_SETS, NAME, check_name
from dh2l.errors import DataError, NotPreparedError, first_line
from dh2l.io import npz
from dh2l.io.files import read
from dh2l.tree import ClassTree

_FOLDER = re.compile(rf"(?P<name>{NAME})|\.(?P<aside>{NAME})\.old")


@dataclass(frozen=True)
class PreparedData:
    """A prepared data set, memory-mapped: processes that load the same one share its pages.

    Writing to an array changes this process's copy, never the file.

    Attributes:
        manifest: the description of the arrays.
        train_x: training images, ``(N, H, W, C)`` uint8.
        train_y: class indices, ``(N,)`` int64, ascending: images are sorted by class.
        test_x: like `train_x`.
        test_y: like `train_y`.
        train_size: height and width of each training image, ``(N, 2)`` int64, where the images are
            of many sizes. Then `train_x` holds the pixels of all images one after another, row by
            row, ``(P, C)``.
        test_size: like `train_size`.
    """

    manifest: Manifest
    train_x: Pixels
    train_y: Labels
    test_x: Pixels
    test_y: Labels
    train_size: Labels | None = None
    test_size: Labels | None = None

    def with_tree(self, tree: ClassTree) -> Self:
        """Return the same data under another class tree: `Manifest.with_tree`."""
        return replace(self, manifest=self.manifest.with_tree(tree))


def prepare_command(name: str) -> str:
    """Return the command that prepares the data set."""
    alone = name in DATA_SETS and DATA_SETS[name].downloads
    return f"dh2l-study data prepare {name}" + ("" if alone else " --from PATH")


def backup_path(name: str, root: Path) -> Path:
    """Return the path of the previous version while a new one replaces it, or after a kill then."""
    return root / f".{name}.old"


def read_manifest(name: str, root: Path) -> Manifest:
    """Read the manifest of a prepared data set; opens one small file.

    Raises:
        UserError: the name cannot be a data set's.
        NotPreparedError: there is no such data set.
        DataError: its manifest is damaged.
    """
    check_name(name)
    path = _folder(name, root) / MANIFEST
    try:
        text = read(path, LARGEST).decode("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        if (_folder(name, root) / MANIFEST).exists():  # a preparation swapped the folder just now
            return read_manifest(name, root)
        raise NotPreparedError(_not_prepared(name, root)) from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); {_again(name)}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} cannot be read ({error}); {_again(name)}") from error
    manifest = _parse(text, path, name)
    if manifest.name != name:
        raise DataError(
            f"{path} is the manifest of {manifest.name!r}, not of {name!r}; give the folder its "
            f"name back, or prepare {name!r} itself: {prepare_command(name)}"
        )
    return manifest


def _parse(text: str, path: Path, name: str) -> Manifest:
    """Parse a manifest.

    Raises:
        DataError: it is damaged, or of another version.
    """
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{path} is damaged: it is not JSON ({first_line(error)}); {_again(name)}"
        ) from error
    version = raw.get("version") if isinstance(raw, dict) else None
    if version != VERSION:
        raise DataError(
            f"{path} has version {version!r}, but this program reads {VERSION}; {_again(name)}"
        )
    try:
        return Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "manifest"
        raise DataError(f"{path} is damaged ({where}: {first['msg']}); {_again(name)}") from error


def load(name: str, root: Path) -> PreparedData:
    """Map a prepared data set into memory. Sizes, types and shapes are checked, contents not read.

    Raises:
        UserError: the name cannot be a data set's.
        DataError: the data set is not prepared, or a file is missing or not what the manifest says.
    """
    while True:
        manifest = read_manifest(name, root)
        try:
            data = _open(manifest, _folder(name, root))
        except DataError:
            if read_manifest(name, root) == manifest:
                raise
        else:
            if read_manifest(name, root) == manifest:
                return data
        # A preparation swapped the folder between the manifest and the arrays: read both anew.


def verify(name: str, root: Path) -> Manifest:
    """Read every byte of a prepared data set and compare all hashes with the manifest.

    Raises:
        UserError: the name cannot be a data set's.
        DataError: as `load`, or a file or the manifest was changed since.
    """
    data = load(name, root)
    manifest, folder = data.manifest, _folder(name, root)
    for file, record in manifest.files.items():
        try:
            found_hash = file_hash(folder / file)
        except OSError as error:
            raise DataError(
                f"{folder / file} cannot be read ({error.strerror}); {_again(name)}"
            ) from error
        if found_hash != record.sha256:
            raise DataError(
                f"{folder / file} was changed since it was prepared: other SHA-256; {_again(name)}"
            )
    arrays = {array: array_hash(getattr(data, array)) for array in manifest.arrays}
    found = data_hash(
        arrays, manifest.mean, manifest.std, manifest.flip, manifest.crop_padding, manifest.crop
    )
    if found != manifest.data_hash:
        raise DataError(
            f"{folder / MANIFEST} was changed since it was prepared: other hash; {_again(name)}"
        )
    return manifest


def with_train_sizes(manifest: Manifest, root: Path) -> Manifest:
    """Return a manifest with the sizes of its classes.

    Manifests of an earlier version lack them; then they are counted, if the labels are there.
    """
    if manifest.train_sizes:
        return manifest
    try:
        labels = load(manifest.name, root).train_y
    except DataError:
        return manifest
    if not 0 <= labels.min(initial=0) <= labels.max(initial=0) < len(manifest.classes):
        return manifest  # they are damaged, and whoever reads them whole will say so
    sizes = np.bincount(labels, minlength=len(manifest.classes)).tolist()
    return Manifest.model_validate(manifest.model_dump() | {"train_sizes": sizes})


def prepared(root: Path) -> list[Manifest]:
    """Manifests of all data sets prepared under root, by name.

    Raises:
        DataError: a manifest is damaged.
    """
    return [read_manifest(name, root) for name in _names(root)]


def _folder(name: str, root: Path) -> Path:
    """Return the data set's folder; between the two renames of a swap, the previous version's."""
    folder = root / name
    if not folder.exists() and (backup_path(name, root) / MANIFEST).exists():
        return backup_path(name, root)
    return folder


def _names(root: Path) -> list[str]:
    found = (_FOLDER.fullmatch(path.parent.name) for path in root.glob(f"*/{MANIFEST}"))
    return sorted({match["name"] or match["aside"] for match in found if match})


def _again(name: str) -> str:
    return f"prepare the data set again: {prepare_command(name)}"


def _not_prepared(name: str, root: Path) -> str:
    names = _names(root)
    names.sort(key=lambda other: -SequenceMatcher(None, name, other).ratio())
    near = [] if name in DATA_SETS else get_close_matches(name, {*names, *DATA_SETS}, n=1)
    return (
        f"the data set {name!r} is not prepared under {root}"
        + (f" (prepared there: {', '.join(names)})" if names else " (nothing is)")
        + (f"; did you mean {near[0]!r}? If not, type: " if near else "; type: ")
        + prepare_command(name)
    )


def _open(manifest: Manifest, folder: Path) -> PreparedData:
    """Map the arrays of a data set, and check them against its manifest."""
    train_x, train_y, train_size = _map_part(manifest, folder, "train", manifest.n_train)
    test_x, test_y, test_size = _map_part(manifest, folder, "test", manifest.n_test)
    return PreparedData(manifest, train_x, train_y, test_x, test_y, train_size, test_size)


def _map_part(
    manifest: Manifest, folder: Path, part: str, n: int
) -> tuple[Pixels, Labels, Labels | None]:
    """Map pixels, labels and, where they differ, sizes of the n images of a part."""
    labels = _map(manifest, folder / f"{part}_y.npy", np.int64, (n,)).view(np.int64)
    pixels = folder / f"{part}_x.npy"
    if manifest.stored == "fixed":
        images = _map(manifest, pixels, np.uint8, (n, *manifest.image_shape))
        return images.view(np.uint8), labels, None
    sizes = _map(manifest, folder / f"{part}_size.npy", np.int64, (n, 2)).view(np.int64)
    if (sizes < manifest.image_shape[:2]).any():
        raise DataError(
            f"{folder / part}_size.npy holds images smaller than the crop; {_again(manifest.name)}"
        )
    n_pixels = int(sizes.prod(axis=1).sum())
    images = _map(manifest, pixels, np.uint8, (n_pixels, manifest.image_shape[2]))
    return images.view(np.uint8), labels, sizes


def _map(
    manifest: Manifest, path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]
) -> npt.NDArray[np.generic]:
    """Map one array into memory.

    Raises:
        DataError: the file is missing, or is not what the manifest says.
    """
    again = _again(manifest.name)
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(
            f"{path} is missing or cannot be read ({error.strerror}); {again}"
        ) from error
    if not stat.S_ISREG(status.st_mode):
        raise DataError(f"{path} cannot be read (it is not a regular file); {again}")
    expected = manifest.files[path.name].bytes
    if status.st_size != expected:
        raise DataError(
            f"{path} has {status.st_size:,} bytes, but its manifest says {expected:,}; {again}"
        )
    try:
        # Copy on write: pages stay shared, and torch.from_numpy does not warn of a read-only array.
        mapped = np.lib.format.open_memmap(path, mode="c")
    except npz.UNREADABLE as error:
        raise DataError(f"{path} is not a valid .npy file ({error}); {again}") from error
    if mapped.dtype != dtype or mapped.shape != shape or not mapped.flags.c_contiguous:
        raise DataError(
            f"{path} holds {mapped.dtype} {mapped.shape}, but its manifest says "
            f"{np.dtype(dtype)} {shape}; {again}"
        )
    return mapped
