"""Reader of Stanford Cars (Krause et al. 2013).

Its 196 classes are models of cars, whose super-classes are types of body.
"""

import csv
import io
import re
import shlex
import struct
import warnings
import zlib
from collections.abc import Iterator
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from dh2l.data.ignored_files import is_litter
from dh2l.data.images import ImageFiles, Report
from dh2l.data.sources.cub import part_of
from dh2l.data.sources.folders import list_folders
from dh2l.errors import DataError, first_line, unknown_name_message
from dh2l.io.files import read

N_CLASSES, N_GROUPS, N_TRAIN, N_TEST = 196, 9, 8_144, 8_041
LABELS = "cars_test_annos_withlabels.mat"
WHERE_CARS = (
    "the official page, ai.stanford.edu/~jkrause/cars/car_dataset.html, no longer has the files. "
    f"Copies of them are about: get cars_train/, cars_test/ and devkit/ with {LABELS} in it or "
    "beside it, or a copy with labels as folders, train/<class>/ and test/<class>/ (on Kaggle: "
    "Stanford Car Dataset by classes folder)"
)

_TYPES = {
    "Cab": "Pickup", "Convertible": "Convertible", "Coupe": "Coupe", "Hatchback": "Hatchback",
    "Minivan": "Minivan", "SUV": "SUV", "Sedan": "Sedan", "Van": "Van", "Wagon": "Wagon",
}  # fmt: skip
_SLASHED = "Ram C/V Cargo Van Minivan 2012"  # the one name that cannot be a folder's

_LARGEST = 20_000_000
"""Bytes of a list of labels, packed or not; the official ones have some hundred thousand."""
_COMPRESSED = 15  # the kind of an element of a MATLAB file
_UNREADABLE = (
    *(
        OSError,
        EOFError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
        MemoryError,
    ),
    *(RuntimeError, AssertionError, UnboundLocalError, struct.error, zlib.error),
)
"""Errors of SciPy on damaged MATLAB files. It makes arrays of them, and runs nothing."""

Groups = dict[str, list[Path]]


def read_cars(source: Path | None, _downloads: Path, report: Report) -> ImageFiles:
    """Read images in the official layout or in folders by class, complete or in part.

    Raises:
        DataError: files are missing, damaged or of other classes; the message says where to get
            them.
    """
    if source is None:
        raise DataError(f"cars needs its images: {WHERE_CARS}")
    folders = [folder for folder in _down_to(source, 2) if folder.is_dir()]
    meta = next(
        (folder / "cars_meta.mat" for folder in folders if (folder / "cars_meta.mat").is_file()),
        None,
    )
    labelled = next((f for f in folders if (f / "train").is_dir() and (f / "test").is_dir()), None)
    if meta is not None:
        name = "the official files of Stanford Cars"
        train, test = _official(source, folders, meta)
    elif labelled is not None:
        name = "Stanford Cars as folders"
        train, test = _by_folders(labelled)
    else:
        raise DataError(
            f"{source} holds no cars, neither cars_meta.mat nor train/ and test/: {WHERE_CARS}"
        )
    paths = {label: (body_type(label), label) for label in train}
    n_groups = len({group for group, _ in paths.values()})
    if (len(paths), n_groups) != (N_CLASSES, N_GROUPS):
        raise DataError(
            f"cars means {N_CLASSES} classes of {N_GROUPS} types, but {source} has {len(paths)} "
            f"classes of {n_groups}; prepare it as folders under another name"
        )
    n_train, n_test = (sum(map(len, found.values())) for found in (train, test))
    return ImageFiles(
        source=name + part_of(name, n_train, n_test, N_TRAIN, N_TEST, report),
        paths=tuple(paths.values()),
        train=tuple(tuple(train[label]) for label in paths),
        test=tuple(tuple(test[label]) for label in paths),
        upright=False,
    )


def body_type(name: str) -> str:
    """Return the last word of a class's name that is a type of body, or that of the table.

    Raises:
        DataError: a name without either.
    """
    words = [word for word in name.split() if word in _TYPES]
    if words:
        return _TYPES[words[-1]]
    if name not in _table():
        raise DataError(
            f"{name!r} says no type of car; {unknown_name_message('class', name, _table())}"
        )
    return _table()[name]


@cache
def _table() -> dict[str, str]:
    """Types of the classes whose names have none: `cars_types.csv`."""
    text = (resources.files("dh2l.data.sources") / "cars_types.csv").read_text(encoding="utf-8")
    return {row["class"]: row["type"] for row in csv.DictReader(text.splitlines())}


def _down_to(folder: Path, depth: int) -> Iterator[Path]:
    """Yield a folder and those in it, the nearest first."""
    level = [folder]
    for _ in range(depth + 1):
        yield from level
        level = [entry for parent in level for entry in _inside(parent)]


def _inside(folder: Path) -> list[Path]:
    try:
        return sorted(
            entry for entry in folder.iterdir() if entry.is_dir() and not is_litter(entry.name)
        )
    except OSError as error:
        raise DataError(f"{folder} cannot be read ({error.strerror})") from error


def _by_folders(folder: Path) -> tuple[Groups, Groups]:
    """Labels given as folders, which cannot have the slash of one class's name."""
    listed = list_folders(folder)
    as_folder = re.compile(re.escape(_SLASHED).replace("/", ".?"))
    names = [_SLASHED if as_folder.fullmatch(path[-1]) else path[-1] for path in listed.paths]
    train, test = (
        {name: list(files) for name, files in zip(names, part, strict=True)}
        for part in (listed.train, listed.test)
    )
    return train, test


def _official(source: Path, folders: list[Path], meta: Path) -> tuple[Groups, Groups]:
    """Labels given in MATLAB's files."""
    names = [str(name) for name in _matlab(meta, "class_names")]
    labels = next(
        (file for folder in folders for file in sorted(folder.glob(f"{Path(LABELS).stem}*.mat"))),
        None,
    )
    if labels is None:
        raise DataError(
            f"the labels of the test images are missing below {source}: the devkit's "
            f"cars_test_annos.mat has none. They come in a file of their own, {LABELS}, which was "
            f"published beside the devkit; put it into {meta.parent} and type: dh2l-study data "
            f"prepare cars --from {shlex.quote(str(source))}"
        )
    parts = []
    for part, annotations in (("train", meta.parent / "cars_train_annos.mat"), ("test", labels)):
        images = _images(source, folders, f"cars_{part}")
        found: Groups = {name: [] for name in names}
        for row in _matlab(annotations, "annotations"):
            try:
                label, file = int(row["class"]), str(row["fname"])
            except (ValueError, TypeError, LookupError, ArithmeticError) as error:
                raise DataError(
                    f"{annotations} has no class or fname for each image; get it again"
                ) from error
            if not 1 <= label <= len(names):
                raise DataError(
                    f"{annotations} gives {file} the class {label}, but {meta} has {len(names)}"
                )
            found[names[label - 1]].append(images / Path(file).name)
        if empty := [name for name, files in found.items() if not files]:
            raise DataError(
                f"{annotations} names no image of {empty[0]!r}, but every class needs one"
            )
        parts.append(found)
    return parts[0], parts[1]


def _images(source: Path, folders: list[Path], name: str) -> Path:
    """Return the folder of that name with images; some copies nest it in one of the same name."""
    found = [folder for folder in folders if folder.name == name]
    if not found:
        raise DataError(f"{source} has no folder {name}/ with images; {WHERE_CARS}")
    return found[-1]


def _matlab(file: Path, variable: str) -> Any:
    """Return a vector of a MATLAB file."""
    import numpy as np
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError, MatReadWarning

    try:
        content = read(file, _LARGEST)
        _check_unpacked(content)
        with warnings.catch_warnings():
            warnings.simplefilter("error", MatReadWarning)
            return np.atleast_1d(
                loadmat(io.BytesIO(content), squeeze_me=True, variable_names=[variable])[variable]
            )
    except (MatReadError, MatReadWarning, *_UNREADABLE) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise DataError(
            f"{file} is missing or no MATLAB file with {variable} ({reason}); get it again"
        ) from error


def _check_unpacked(content: bytes) -> None:
    """Refuse a MATLAB file whose compressed elements would fill memory.

    Raises:
        ValueError: they would; or another of `_UNREADABLE`.
    """
    order, place, room = (">" if content[126:128] == b"MI" else "<"), 128, _LARGEST
    while place + 8 <= len(content):
        kind, size = struct.unpack_from(f"{order}II", content, place)
        element = content[place + 8 : place + 8 + size]
        if kind == _COMPRESSED:
            room -= len(zlib.decompressobj().decompress(element, room + 1))
            if room < 0:
                raise ValueError(f"its elements have more than {_LARGEST:,} bytes")
        place += 8 + size
