"""Synthetic data set whose class tree is planted in its pixels.

    images = planted(Planted(branching=(4, 5), noise=30))       # 4 super-classes of 5 classes

Every node of the tree below the root has a pattern, a smooth random field. The image of a class is
grey plus the patterns on its path, from its super-class down to itself, plus its own smooth random
field, the noise. Size, depth and difficulty are settings. All arithmetic is in integers on the raw
output of PCG64, which NumPy promises not to change, so the pixels are the same on every machine.
"""

import math
from itertools import product
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from dh2l.data.images import Images, Labels, Pixels
from dh2l.io.validation import validate

GREY = 128
CONTRAST = 32
"""Root mean square of what the patterns of a class add to grey, in grey levels, but for their
chance correlations."""
MOST_CLASSES = 1000
MOST_BYTES = 1 << 26
"""Of all pixels, training and test."""

Node = tuple[int, ...]
Integers = npt.NDArray[np.int64]
Branches = Annotated[
    tuple[int, ...], BeforeValidator(lambda v: tuple(v) if isinstance(v, list) else v)
]

_BINOMIAL = (1, 4, 6, 4, 1)
_UNIT = 209 * sum(
    w * w for w in _BINOMIAL
)  # standard deviation of a field; 209 is that of a sum of eight bytes
_THOUSAND = 1000  # fractions are counted in thousandths


class Planted(BaseModel):
    """Settings of a planted data set."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    branching: Branches = (4, 5)
    """Children of every node, level by level from the root: `(4, 5)` are 4 super-classes of 5
    classes each, `(20,)` are 20 classes without hierarchy. Up to 1,000 classes."""
    n_train: int = Field(default=10, ge=1, le=10_000)
    """Training images per class; 2 or more where some are held out for validation."""
    n_test: int = Field(default=50, ge=1, le=10_000)
    """Test images per class."""
    size: int = Field(default=8, ge=8, le=64)
    """Height and width in pixels. Patterns and noise keep their grain, about 4 pixels, whatever the
    size."""
    channels: Literal[1, 3] = 3
    """1 for greyscale, 3 for colour."""
    share: float = Field(default=0.5, ge=0, le=0.95)
    """Part of a class's signal, as variance, that is its super-class's; in a deeper tree each
    level's part of what the levels above it leave. Classes that share m levels correlate by about 1
    − (1 − share)^m; 0: no hierarchy."""
    noise: float = Field(default=20.0, ge=0, le=100)
    """Standard deviation of an image's own field, in grey levels of 256; the signal's is 32."""
    seed: int = Field(default=0, ge=0)
    """Seed of patterns and noise, independent of a trial's."""

    @classmethod
    def parse(cls, values: dict[str, Any]) -> Self:
        """Validate plain values, e.g. from a file.

        Raises:
            UserError: one sentence per mistake, with the nearest valid names.
        """
        return validate(cls, values)

    @field_validator("branching")
    @classmethod
    def _a_tree(cls, branching: Node) -> Node:
        n = math.prod(branching)
        if min(branching, default=0) < 1 or not 2 <= n <= MOST_CLASSES:
            raise ValueError(
                f"branching is {list(branching)}, but must be one number ≥ 1 per level of the "
                "class tree, whose product, the number of classes, lies between 2 and "
                f"{MOST_CLASSES:,}; for instance [4, 5]"
            )
        return branching

    @model_validator(mode="after")
    def _fits_into_memory(self) -> Self:
        n = math.prod(self.branching) * (self.n_train + self.n_test)
        if (n_bytes := n * self.size**2 * self.channels) > MOST_BYTES:
            raise ValueError(
                f"{n:,} images of {self.size}×{self.size}×{self.channels} take {n_bytes:,} bytes, "
                f"but at most {MOST_BYTES:,} are made; lower n_train, n_test, size or branching"
            )
        return self


def planted(settings: Planted) -> Images:
    """Make the data set, class by class, with paths such as ``("g0", "g0c3")``.

    Paths of deeper trees are such as ``("g1", "g1g0", "g1g0c4")``. A class's first images stay the
    same when more are asked for.
    """
    nodes = list(product(*map(range, settings.branching)))
    signals = {node: _signal(settings, node) for node in nodes}

    def part(key: int, n: int) -> tuple[Pixels, Labels]:
        images = [_noisy(settings, signals[node], (key, *node), n) for node in nodes]
        return np.concatenate(images), np.repeat(np.arange(len(nodes), dtype=np.int64), n)

    train_x, train_y = part(1, settings.n_train)
    test_x, test_y = part(2, settings.n_test)
    paths = tuple(_path(node, settings.branching) for node in nodes)
    return Images("planted hierarchy", paths, train_x, train_y, test_x, test_y)


def _path(node: Node, branching: Node) -> tuple[str, ...]:
    """Return the names of a class and its ancestors, sorted alphabetically as their numbers are."""
    width = [len(str(n - 1)) for n in branching]
    letters = "g" * (len(node) - 1) + "c"
    steps = [f"{letter}{i:0{w}}" for letter, i, w in zip(letters, node, width, strict=True)]
    return tuple("".join(steps[: level + 1]) for level in range(len(steps)))


def _signal(settings: Planted, node: Node) -> Integers:
    """Sum of the patterns on a class's path, ``(H, W, C)``, in thousandths of a grey level."""
    total = np.zeros((settings.size, settings.size, settings.channels), dtype=np.int64)
    left = 1.0
    for level in range(1, len(node) + 1):
        variance = left * settings.share if level < len(node) else left
        left -= variance
        pattern = _fields(settings, (0, *node[:level]), 1)[0]
        length = math.isqrt(int((pattern * pattern).sum()) // pattern.size)
        total += pattern * round(math.sqrt(variance) * CONTRAST * _THOUSAND) // length
    return total


def _noisy(settings: Planted, signal: Integers, stream: Node, n: int) -> Pixels:
    """Images of a class, ``(n, H, W, C)``."""
    noise = _fields(settings, stream, n) * round(settings.noise * _THOUSAND) // _UNIT
    grey = GREY + (signal + noise + _THOUSAND // 2) // _THOUSAND
    return grey.clip(0, 255).astype(np.uint8)


def _fields(settings: Planted, stream: Node, n: int) -> Integers:
    """Draw smooth random fields ``(n, H, W, C)`` of standard deviation `_UNIT`, nearly normal.

    They are periodic. A pixel is a sum of eight random bytes less its mean, blurred along both axes
    by binomial weights.
    """
    shape = (n, settings.size, settings.size, settings.channels)
    raw = np.random.PCG64(np.random.SeedSequence(settings.seed, spawn_key=stream)).random_raw(
        math.prod(shape)
    )
    field: Integers = raw.view(np.uint8).reshape(*shape, 8).sum(axis=-1, dtype=np.int64) - 4 * 255
    for axis in (1, 2):
        field = sum(
            (
                weight * np.roll(field, shift, axis)
                for shift, weight in enumerate(_BINOMIAL, start=-2)
            ),
            start=np.zeros_like(field),
        )
    return field
