"""Opening of image files, with every fault as a sentence."""

import os
import struct
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from dh2l.data.conversions import is_too_deep
from dh2l.errors import DataError
from dh2l.io.files import open_regular

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".ppm", ".tif", ".tiff"})
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "PPM", "TIFF")
_NAMED = 20
_LARGEST = 1_000_000_000  # bytes; the pixels that Pillow allows have less, however they are stored


@contextmanager
def opened(path: Path) -> "Iterator[Image.Image]":
    """Open an image; while it is in use, turn what Pillow raises into a DataError."""
    from PIL import Image, UnidentifiedImageError

    stream = _stream(path)
    try:
        with stream, Image.open(stream, formats=_FORMATS) as image:
            if is_too_deep(image):
                raise DataError(
                    f"{path} has values for which there is no rule (Pillow's mode {image.mode}); "
                    "expected 8 or 16 bits per value. Convert the images to 8 bits"
                )
            yield image
    except DataError:
        raise
    except UnidentifiedImageError as error:
        raise DataError(
            f"{path} is not an image, whatever its name says; replace or remove it"
        ) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(
            f"{path} has more pixels than Pillow allows, as a file made to exhaust memory would "
            f"({error}); make it smaller or remove it"
        ) from error
    # What Pillow's decoders raise on damaged files; SyntaxError is what they call a broken file
    # format.
    except (
        OSError,
        SyntaxError,
        ValueError,
        TypeError,
        LookupError,
        EOFError,
        ArithmeticError,
        AttributeError,
        AssertionError,
        RuntimeError,
        MemoryError,
        struct.error,
        zlib.error,
    ) as error:
        raise DataError(f"{path} cannot be decoded ({error}); replace or remove it") from error


def _stream(path: Path) -> BinaryIO:
    """Open an image's file within bounds of its size, because Pillow reads some files whole."""
    try:
        stream = open_regular(path)
        size = os.fstat(stream.fileno()).st_size
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing") from error
    except OSError as error:
        raise DataError(
            f"{path} cannot be read ({error.strerror}); replace or remove it"
        ) from error
    if size > _LARGEST:
        stream.close()
        raise DataError(
            f"{path} has {size:,} bytes; expected {_LARGEST:,} at most. Make it smaller, or "
            "remove it"
        )
    return stream


@contextmanager
def pixels_limited() -> Iterator[None]:
    """Make images with more pixels than Pillow allows errors inside the context.

    Between its limit and twice that Pillow only warns. The switch is the process's, so it is set
    around the threads that decode.
    """
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def each(files: Iterable[Path], function: Callable[[int, Path], None]) -> list[str]:
    """Call a function with number and path of each file; return messages on damaged ones."""
    damaged = []
    for i, file in enumerate(files):
        try:
            function(i, file)
        except DataError as error:
            damaged.append(str(error))
    return damaged


def refuse(damaged: Sequence[str], n_files: int) -> None:
    """Raise DataError for damaged images, if there are any: all of them, up to a number."""
    if len(damaged) == 1:
        raise DataError(damaged[0])
    if damaged:
        more = f"; and {len(damaged) - _NAMED:,} more" if len(damaged) > _NAMED else ""
        raise DataError(
            f"{len(damaged):,} of {n_files:,} images cannot be used: "
            f"{'; '.join(sorted(damaged)[:_NAMED])}{more}"
        )
