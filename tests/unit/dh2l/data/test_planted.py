"""The planted data set: the same bytes everywhere, and a class tree that is there to be found."""

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from dh2l.data.images import Images
from dh2l.data.manifest import array_hash
from dh2l.data.sources.planted import CONTRAST, Planted, planted
from dh2l.errors import UserError
from dh2l.tree import ClassTree

A_TREE = (
    "must be one number ≥ 1 per level of the class tree, whose product, the number of classes, "
    "lies between 2 and "
    "1,000; for instance [4, 5]"
)
SMALL = Planted(branching=(2, 3), n_train=4, n_test=2)


def means(images: Images) -> npt.NDArray[np.float64]:
    """Mean test image of each class, less grey, ``(n_classes, H·W·C)``."""
    n = len(images.paths)
    rows = np.stack(
        [images.test_x[images.test_y == label].mean(axis=0).reshape(-1) for label in range(n)]
    )
    return rows - 128


def correlation_at(settings: Planted) -> dict[int, float]:
    """Height of the lowest common ancestor → mean correlation of two classes' mean images."""
    images = planted(settings)
    height = ClassTree(images.paths).lca_height
    cosines: npt.NDArray[np.float64] = np.asarray(np.corrcoef(means(images)))
    return {h: float(cosines[height == h].mean()) for h in range(1, len(settings.branching) + 1)}


def test_the_pixels_of_given_settings_never_change() -> None:
    images = planted(SMALL)
    pixels, labels = (images.train_x, images.test_x), (images.train_y, images.test_y)
    hashes = [*map(array_hash, pixels), *map(array_hash, labels)]
    digest = hashlib.sha256("".join(hashes).encode()).hexdigest()
    assert digest == "f6c0db67373ddb07567454cd1915b9a07490bc424dd3296c77715fc1a08674d7"


def test_labels_shapes_and_paths_are_those_asked_for() -> None:
    images = planted(SMALL)
    assert images.paths == (
        ("g0", "g0c0"),
        ("g0", "g0c1"),
        ("g0", "g0c2"),
        ("g1", "g1c0"),
        ("g1", "g1c1"),
        ("g1", "g1c2"),
    )
    assert images.train_x.shape == (24, 8, 8, 3)
    assert images.test_x.shape == (12, 8, 8, 3)
    assert images.train_x.dtype == images.test_x.dtype == np.dtype(np.uint8)
    assert images.train_y.tolist() == np.repeat(range(6), 4).tolist()
    assert images.test_y.tolist() == np.repeat(range(6), 2).tolist()
    assert images.train_y.dtype == images.test_y.dtype == np.dtype(np.int64)
    assert planted(Planted(branching=(2,), size=16, channels=1)).train_x.shape == (20, 16, 16, 1)


def test_names_sort_as_their_numbers_do_at_every_depth() -> None:
    paths = planted(Planted(branching=(2, 11, 2), n_train=1, n_test=1)).paths
    assert paths[0] == ("g0", "g0g00", "g0g00c0")
    assert paths[-1] == ("g1", "g1g10", "g1g10c1")
    assert list(paths) == sorted(paths)


def test_another_seed_gives_other_pixels_in_every_class() -> None:
    one, other = planted(SMALL), planted(SMALL.model_copy(update={"seed": 1}))
    assert (np.abs(means(one) - means(other)).mean(axis=1) > CONTRAST / 4).all()


def test_no_image_occurs_twice_and_none_of_the_test_set_in_training() -> None:
    images = planted(SMALL)
    every = [*images.train_x, *images.test_x]
    assert len({image.tobytes() for image in every}) == len(every)


def test_a_class_keeps_its_images_where_more_images_or_more_classes_are_asked_for() -> None:
    few = planted(SMALL)
    many = planted(Planted(branching=(3, 5), n_train=6, n_test=2))
    for label, path in enumerate(few.paths):
        other = many.paths.index(path)
        np.testing.assert_array_equal(
            few.train_x[few.train_y == label], many.train_x[many.train_y == other][:4]
        )
        np.testing.assert_array_equal(
            few.test_x[few.test_y == label], many.test_x[many.test_y == other]
        )


@pytest.mark.parametrize("branching", [(20, 5), (6, 4, 3), (4, 3, 3, 2)], ids=str)
def test_classes_correlate_as_the_levels_that_they_share_say(branching: tuple[int, ...]) -> None:
    """By 1 − (1 − share)^m for m shared levels, to within what few random patterns leave to
    chance.
    """
    found = correlation_at(
        Planted(branching=branching, n_train=1, n_test=50, share=0.5, noise=10.0, size=16)
    )
    depth = len(branching)
    for height, correlation in found.items():
        assert correlation == pytest.approx(1 - 0.5 ** (depth - height), abs=0.08)


def test_share_0_plants_no_hierarchy() -> None:
    settings = Planted(branching=(20, 5), n_train=1, n_test=50, share=0.0, noise=10.0, size=16)
    assert correlation_at(settings)[1] == pytest.approx(0, abs=0.08)


def test_without_noise_a_class_is_one_image_and_all_classes_differ() -> None:
    images = planted(Planted(branching=(4, 5), noise=0.0, n_train=3, n_test=2))
    for label in range(20):
        assert len({image.tobytes() for image in images.train_x[images.train_y == label]}) == 1
    for x, y in zip(images.test_x, images.test_y, strict=True):
        same = (images.train_x == x).all(axis=(1, 2, 3))
        assert set(images.train_y[same]) == {y}


@pytest.mark.parametrize("noise", [5.0, 20.0])
def test_noise_and_signal_have_the_stated_size_in_grey_levels(noise: float) -> None:
    images = planted(Planted(branching=(30,), n_train=1, n_test=100, noise=noise, size=16))
    centre = means(images)
    assert np.sqrt((centre**2).mean()) == pytest.approx(CONTRAST, rel=0.05)
    around = images.test_x.reshape(30, 100, -1).astype(float) - 128 - centre[:, None]
    assert around.std() == pytest.approx(noise, rel=0.05)


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        *(
            ({"branching": came}, f"branching is {came}, but {A_TREE}")
            for came in ([4, 0], [], [1], [-2, -3], [101, 10])
        ),
        ({"n_train": 0}, "n_train is 0; expected a number of at least 1"),
        ({"size": 7}, "size is 7; expected a number of at least 8"),
        ({"channels": 2}, "channels is 2, but must be 1 or 3"),
        ({"share": 1.0}, "share is 1.0; expected a number of at most 0.95"),
        ({"noise": -1.0}, "noise is -1.0; expected a number of at least 0"),
        ({"noise": float("nan")}, "noise is nan; expected a finite number"),
        ({"seed": -1}, "seed is -1; expected a number of at least 0"),
        ({"nois": 3.0}, "unknown key 'nois'; did you mean 'noise'?"),
        (
            {"branching": [10, 10], "n_train": 100, "size": 64},
            "15,000 images of 64×64×3 take 184,320,000 bytes, but at most 67,108,864 are made; "
            "lower n_train, n_test, size or branching",
        ),
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused_in_one_sentence(
    values: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError) as refused:
        Planted.parse(values)
    assert str(refused.value) == sentence


def test_a_list_from_a_file_and_a_tuple_are_the_same_branching() -> None:
    assert Planted.parse({"branching": [2, 3]}) == Planted(branching=(2, 3))
