"""Manifests with the class trees of the data sets that shipped studies name, without images: plans
need no more.
"""

from functools import cache
from pathlib import Path

from data_fixtures import cars_classes, cub_classes
from study_fixtures import made_manifest

from dh2l.data import DATA_SETS, Manifest
from dh2l.data.sources.cars import body_type
from dh2l.data.sources.cub import super_class

Paths = tuple[tuple[str, ...], ...]

CIFAR10 = tuple(
    (name,)
    for name in (
        "airplane",
        "automobile",
        "bird",
        "cat",
        "deer",
        "dog",
        "frog",
        "horse",
        "ship",
        "truck",
    )
)


def cifar100_classes() -> Paths:
    """The 100 classes below their 20 coarse labels."""
    text = (Path(__file__).parent / "cifar100_classes.txt").read_text(encoding="utf-8")
    groups = dict(line.split(": ") for line in text.splitlines())
    return tuple(sorted((group, name) for group, names in groups.items() for name in names.split()))


@cache
def _classes(name: str) -> Paths:
    if name == "cifar10":
        return CIFAR10
    if name == "cifar100":
        return cifar100_classes()
    if name == "cub200":
        return tuple(sorted((super_class(label), label) for label in cub_classes()))
    if name == "cars":
        return tuple(sorted((body_type(label), label) for label in cars_classes()))
    images = DATA_SETS[name].read(None, Path(), print)  # one that comes with what is installed
    return tuple(sorted(images.paths))


@cache
def official_manifest(name: str) -> Manifest:
    """The manifest of a data set of that name and classes; of digits the images' one channel, else
    three.
    """
    side, channels = (
        (224, 3)
        if name in ("cub200", "cars")
        else (32, 3)
        if name.startswith("cifar")
        else (8, 1 if name == "digits" else 3)
    )
    update = {
        "image_shape": (side, side, channels),
        "mean": (0.5,) * channels,
        "std": (0.25,) * channels,
    }
    return made_manifest(name, _classes(name)).model_copy(update=update)
