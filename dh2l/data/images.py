"""Images of a data set as readers return them; the digits."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

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
        converted: images of which something was lost, by the rule in `dh2l.data.conversions.RULES`.
        skipped: files and folders of the system's own that were passed over.
    """

    source: str
    paths: tuple[tuple[str, ...], ...]
    train_x: Pixels
    train_y: Labels
    test_x: Pixels
    test_y: Labels
    converted: dict[str, int] = field(default_factory=dict)
    skipped: int = 0


@dataclass(frozen=True)
class ImageFiles:
    """A data set as listed: files of images of any size, to be decoded one by one.

    Attributes:
        source: what it was read from, in words.
        paths: one path per class.
        train: the files of each class's training images.
        test: like `train`.
        scratch: a folder that was made to read from; removed when the data set is prepared.
        upright: whether images are turned as their EXIF data say.
        skipped: files and folders of the system's own that were passed over.
    """

    source: str
    paths: tuple[tuple[str, ...], ...]
    train: tuple[tuple[Path, ...], ...]
    test: tuple[tuple[Path, ...], ...]
    scratch: Path | None = None
    upright: bool = True
    skipped: int = 0


_DIGIT_GROUPS = {"closed-loop": "0689", "open-curve": "235", "straight": "147"}


def read_digits(_source: Path | None, _downloads: Path, _report: Report) -> Images:
    """Read scikit-learn's 1,797 images of handwritten digits, 8 × 8 × 1, scaled to 0 … 255.

    The test set is the last fifth of each class in the file's order, rounded down: 355 images, 34
    to 36 of each class, which leaves 1,442 for training. The file goes writer by writer but does
    not name them, so most writers are in one of the two sets only; that none is in both cannot be
    promised.

    The groups go by the shape of the usual glyph: those with a closed loop (0, 6, 8, 9), those that
    are one open curve (2, 3, 5), and those of straight strokes (1, 4, 7).
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
