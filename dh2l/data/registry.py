"""Registry of named data sets: built-in ones and users'."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypedDict, Unpack, overload

from dh2l.data.images import ImageFiles, Images, Report, read_digits
from dh2l.data.sources.cars import WHERE_CARS, read_cars
from dh2l.data.sources.cifar import read_cifar
from dh2l.data.sources.cub import read_cub200
from dh2l.data.sources.planted import Planted, planted
from dh2l.errors import UserError

Reader = Callable[[Path | None, Path, Report], Images | ImageFiles]
"""A reader: called with what `--from` names or None, a folder for downloads, and what to call with
a line."""

RESERVED = frozenset({"downloads"})  # a folder of that name holds the archives
NAME = r"[a-z0-9][a-z0-9_-]{0,39}"


@dataclass(frozen=True)
class DataSet:
    """A data set with a registered name.

    Attributes:
        read: its reader.
        flip: whether training mirrors its images at random.
        crop_padding: pixels of zero padding around an image before training crops it at random.
        downloads: whether it can be prepared without `--from`.
        comes_with: the library that its images come with, where `--from` has no effect.
        where: in words, where its files can be found and what `--from` takes, where they cannot be
            downloaded.
        shorter_side: the length that the shorter side of its images is resized to, where they are
            of many sizes; else None.
        crop: side of the squares that are cut out of images of many sizes.
    """

    read: Reader
    flip: bool = True
    crop_padding: int = 0
    downloads: bool = False
    comes_with: str = ""
    where: str = ""
    shorter_side: int | None = None
    crop: int | None = None


DATA_SETS: dict[str, DataSet] = {}
"""The data sets by name."""


def check_name(name: str) -> None:
    """Raise UserError unless the name can be a data set's: it becomes a folder."""
    if not re.fullmatch(NAME, name):
        raise UserError(
            f"{name!r} cannot name a data set; a name has 1 to 40 characters out of a-z, 0-9, _ "
            "and -, the first a letter or digit"
        )
    if name in RESERVED:
        raise UserError(
            f"{name!r} cannot name a data set, as the folder of that name holds downloads"
        )


class Settings(TypedDict, total=False):
    """The fields of a `DataSet` but its reader."""

    flip: bool
    crop_padding: int
    downloads: bool
    comes_with: str
    where: str
    shorter_side: int | None
    crop: int | None


@overload
def register(name: str, read: Reader, **settings: Unpack[Settings]) -> Reader: ...
@overload
def register(
    name: str, read: None = None, **settings: Unpack[Settings]
) -> Callable[[Reader], Reader]: ...
def register(
    name: str, read: Reader | None = None, **settings: Unpack[Settings]
) -> Reader | Callable[[Reader], Reader]:
    """Give a data set a name, so that `prepare` can read it; also a decorator of its reader.

        @register("stars", flip=True, crop_padding=4)
        def read_stars(source, downloads, report):
            return Images(...)

    The fields are those of `DataSet`. A reader of images of many sizes returns `ImageFiles`, and
    its data set has a `shorter_side` and a `crop`. The same function may be registered again, as
    happens when its file is loaded anew.

    Raises:
        UserError: a name that is invalid or taken, or a crop that does not fit.
    """
    if read is None:
        return lambda function: register(name, function, **settings)
    dataset = DataSet(read, **settings)
    check_name(name)
    check_crop(dataset.shorter_side, dataset.crop)
    if name in DATA_SETS and _called(DATA_SETS[name].read) != _called(read):
        raise UserError(f"there is a data set {name!r} already; register yours under another name")
    DATA_SETS[name] = dataset
    return read


def check_crop(shorter_side: int | None, crop: int | None) -> None:
    """Raise UserError unless squares of that side fit into images with that shorter side."""
    if (shorter_side is None) != (crop is None):
        raise UserError("a shorter side and a crop go together: --shorter-side 256 --crop 224")
    if shorter_side is not None and crop is not None and not 1 <= crop <= shorter_side:
        raise UserError(
            f"the crop must be at least 1 pixel and at most the shorter side, {shorter_side}, but "
            f"is {crop}"
        )


def _called(read: Reader) -> tuple[object, object]:
    return getattr(read, "__module__", read), getattr(read, "__qualname__", read)


def register_planted(name: str, settings: Planted) -> None:
    """Give a planted hierarchy of these settings a name."""
    register(
        name,
        partial(_read_planted, settings),
        flip=False,
        crop_padding=1,
        downloads=True,
        comes_with="this project",
    )


def _read_planted(
    settings: Planted, _source: Path | None, _downloads: Path, _report: Report
) -> Images:
    return planted(settings)


register(
    "digits", read_digits, flip=False, crop_padding=1, downloads=True, comes_with="scikit-learn"
)
register_planted(
    "planted", Planted(branching=(20, 5), n_test=10)
)  # setting C of docs/explanation/planted-data.md
register("cifar10", partial(read_cifar, "cifar10"), crop_padding=4, downloads=True)
register("cifar100", partial(read_cifar, "cifar100"), crop_padding=4, downloads=True)
register("cub200", read_cub200, downloads=True, shorter_side=256, crop=224)
register("cars", read_cars, where=WHERE_CARS, shorter_side=256, crop=224)
