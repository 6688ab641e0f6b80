"""Reader of CUB200-2011 (Wah et al. 2011).

Its classes are 200 birds, whose super-classes are the last words of their names.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from dh2l.data.images import ImageFiles, Report
from dh2l.data.sources.archives import download, unpack
from dh2l.errors import DataError
from dh2l.io.files import read

FOLDER = "CUB_200_2011"
URL = "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz"
MD5 = "97eceeb196236b17998738112f37df78"
N_CLASSES, N_GROUPS, N_TRAIN, N_TEST = 200, 70, 5_994, 5_794

_LARGEST_LIST = 20_000_000  # bytes; the largest official one has less than a million
_LISTS = ("classes.txt", "images.txt", "image_class_labels.txt", "train_test_split.txt")
_WANTED = re.compile(rf"{FOLDER}/(images/[^/]+/[^/]+|{'|'.join(map(re.escape, _LISTS))})")
_IMAGE = re.compile(r"[^/\0]+/[^/\0]+")
_LAYOUTS = (
    f"the official archive {FOLDER}.tgz, the folder that it unpacks to, or the folder that holds "
    "either"
)


def read_cub200(source: Path | None, downloads: Path, report: Report) -> ImageFiles:
    """Read the images that the official lists name, complete or a part with lists cut to fit.

    Raises:
        DataError: it could not be downloaded, or the lists are missing, damaged or of other
            classes.
    """
    if source is None:
        source = download("cub200", URL, MD5, downloads / f"{FOLDER}.tgz", _LAYOUTS, report)
    folder, scratch = _folder(source, downloads, report)
    if not (folder / "images").is_dir():
        raise DataError(
            f"{folder} has the lists of cub200, but no folder images/; unpack all of {FOLDER}.tgz "
            "there"
        )
    classes = _column(folder / "classes.txt")
    paths = {number: (super_class(name), name) for number, name in classes.items()}
    _check_classes(paths, folder)
    train, test = _list_parts(folder, classes)
    name = "the official files of CUB-200-2011"
    return ImageFiles(
        source=name + part_of(name, _count(train), _count(test), N_TRAIN, N_TEST, report),
        paths=tuple(paths.values()),
        train=tuple(map(tuple, train.values())),
        test=tuple(map(tuple, test.values())),
        scratch=scratch,
        upright=False,
    )


def _check_classes(paths: dict[str, tuple[str, str]], folder: Path) -> None:
    """Refuse a list of other classes than the official ones."""
    n_groups = len({group for group, _ in paths.values()})
    if (len(paths), n_groups) != (N_CLASSES, N_GROUPS):
        raise DataError(
            f"cub200 means {N_CLASSES} classes whose names end with {N_GROUPS} words, but "
            f"{folder / 'classes.txt'} has {len(paths)} classes with {n_groups}; unpack "
            f"{FOLDER}.tgz again, or prepare it as folders under another name"
        )


def _list_parts(
    folder: Path, classes: dict[str, str]
) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """Read the lists of training and test images, by the number of their class.

    Raises:
        DataError: the lists are damaged, disagree, or leave a class without images.
    """
    files, labels, in_training = (_column(folder / name) for name in _LISTS[1:])
    if list(files) != list(labels) or list(files) != list(in_training):
        raise DataError(
            f"images.txt, image_class_labels.txt and train_test_split.txt in {folder} do not list "
            f"the same images in the same order ({len(files):,}, {len(labels):,} and "
            f"{len(in_training):,}); unpack {FOLDER}.tgz again"
        )
    train: dict[str, list[Path]] = {number: [] for number in classes}
    test: dict[str, list[Path]] = {number: [] for number in classes}
    for image, file in files.items():
        if not _IMAGE.fullmatch(file) or ".." in file.split("/"):
            raise DataError(
                f"images.txt in {folder} names {file!r}, but an image is CLASS/FILE; unpack "
                f"{FOLDER}.tgz again"
            )
        if labels[image] not in classes or in_training[image] not in ("0", "1"):
            raise DataError(
                f"the image {image} in {folder} has the class {labels[image]!r} and the split "
                f"{in_training[image]!r}, but classes.txt has no such class or the split is not "
                f"0 or 1; unpack {FOLDER}.tgz again"
            )
        part = train if in_training[image] == "1" else test
        part[labels[image]].append(folder / "images" / file)
    for name, found in (("training", train), ("test", test)):
        empty = [classes[number] for number, images in found.items() if not images]
        if empty:
            raise DataError(
                f"the lists in {folder} name no {name} image of {empty[0]}, but every class needs "
                "one"
            )
    return train, test


def super_class(name: str) -> str:
    """Return the last word of a class's name: `001.Black_footed_Albatross` is an Albatross."""
    return name.partition(".")[2].rpartition("_")[2]


def part_of(
    name: str, n_train: int, n_test: int, all_train: int, all_test: int, report: Report
) -> str:
    """Describe and report an incomplete source, as an addition to its name; "" if complete."""
    if (n_train, n_test) == (all_train, all_test):
        return ""
    report(
        f"this is a part of {name}: {n_train:,} training and {n_test:,} test images, not "
        f"{all_train:,} and {all_test:,}"
    )
    return f", a part of them: {n_train:,} training and {n_test:,} test images"


def _count(found: dict[str, list[Path]]) -> int:
    return sum(map(len, found.values()))


def _folder(source: Path, downloads: Path, report: Report) -> tuple[Path, Path | None]:
    """Return the folder with the lists, and the one to be removed after unpacking, if any."""
    for folder in (source, source / FOLDER):
        if (folder / "images.txt").is_file():
            return folder, None
    archive = source if source.is_file() else source / f"{FOLDER}.tgz"
    if not archive.is_file():
        raise DataError(f"{source} holds no cub200; --from takes {_LAYOUTS}")
    scratch = downloads / "cub200.unpacked"
    unpack(archive, scratch, _WANTED, report)
    return scratch / FOLDER, scratch


def _column(file: Path) -> dict[str, str]:
    """Read a list of the archive: lines of a number and a value."""
    try:
        lines = [
            line for line in read(file, _LARGEST_LIST).decode("utf-8").splitlines() if line.strip()
        ]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(
            f"{file} is missing or cannot be read ({reason}); unpack all of {FOLDER}.tgz again"
        ) from error
    column = dict(_entry(file, line.split(maxsplit=1)) for line in lines)
    if len(column) != len(lines):
        raise DataError(f"{file} has the same number twice; unpack {FOLDER}.tgz again")
    return column


def _entry(file: Path, words: Sequence[str]) -> tuple[str, str]:
    if len(words) != 2 or not words[0].isdecimal():
        raise DataError(
            f"{file} has the line {' '.join(words)!r}, but a line is a number and a value"
        )
    return words[0], words[1].strip()
