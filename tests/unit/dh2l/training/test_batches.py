"""Batches: splits, order, augmentation, normalisation."""

from collections import Counter
from dataclasses import replace
from itertools import product

import numpy as np
import numpy.typing as npt
import pytest
import torch
from gpu_fixtures import needs_gpu
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_data import epoch_batches, tiny, tiny_config
from torch import Tensor

from dh2l.data import stratified_split
from dh2l.training.batches import (
    Normalise,
    Split,
    TrainBatches,
    crop_and_flip,
    make_splits,
    plain_batches,
)

CPU = torch.device("cpu")
Image = npt.NDArray[np.uint8]


def numbered(n: int) -> Split:
    """Images of 4 × 4 pixels that show their own number, out of a file twice as long."""
    images = (
        torch.arange(2 * n, dtype=torch.uint8)[:, None, None, None].expand(-1, 4, 4, 1).contiguous()
    )
    return Split.of(images, torch.arange(2 * n) * 10, torch.arange(2 * n)[::2])


def of_sizes(
    sizes: list[tuple[int, int]], channels: int, output: tuple[int, int]
) -> tuple[Split, list[Image]]:
    """Random images of these sizes as a part, in an order of its own, and as arrays."""
    rng = np.random.default_rng(0)
    images = [rng.integers(1, 256, (*size, channels), dtype=np.uint8) for size in sizes]
    area = np.array([height * width for height, width in sizes])
    split = Split(
        pixels=torch.from_numpy(np.concatenate([image.reshape(-1, channels) for image in images])),
        start=torch.from_numpy(area.cumsum() - area),
        size=torch.tensor(sizes),
        labels=torch.arange(len(sizes)) * 10,
        index=torch.arange(len(sizes)).flip(0),
        output=output,
    )
    return split, images


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4),
    output=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    channels=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_crop_and_flip_is_pad_cut_mirror_of_each_image(
    sizes: list[tuple[int, int]], output: tuple[int, int], channels: int, seed: int
) -> None:
    split, images = of_sizes(sizes, channels, output)
    rng, n, margin = np.random.default_rng(seed), 5, 8
    chosen = rng.integers(0, len(sizes), n)
    corner = rng.integers(-margin, margin, (n, 2))
    flip = rng.integers(0, 2, n).astype(np.bool_)
    found = crop_and_flip(
        split, torch.from_numpy(chosen), torch.from_numpy(corner), torch.from_numpy(flip)
    )
    assert found.dtype == torch.uint8
    for i in range(n):
        padded = np.pad(images[chosen[i]], ((margin, 2 * margin), (margin, 2 * margin), (0, 0)))
        row, column = corner[i] + margin
        crop = padded[row : row + output[0], column : column + output[1]]
        np.testing.assert_array_equal(found[i].numpy(), crop[:, ::-1] if flip[i] else crop)


SIZES = [(6, 9), (5, 5), (12, 5), (7, 8)]


def test_plain_batches_are_the_centres_of_images_of_many_sizes() -> None:
    split, images = of_sizes(SIZES, 3, (5, 4))
    found, labels = (torch.cat(parts) for parts in zip(*plain_batches(split, 3), strict=True))
    assert labels.tolist() == [30, 20, 10, 0]
    for crop, image in zip(found, reversed(images), strict=True):
        row, column = (image.shape[0] - 5) // 2, (image.shape[1] - 4) // 2
        np.testing.assert_array_equal(crop.numpy(), image[row : row + 5, column : column + 4])


def test_a_random_crop_of_an_image_without_padding_lies_in_it_and_reaches_every_corner() -> None:
    split, images = of_sizes([(6, 9)], 1, (5, 4))
    many = replace(split, index=torch.zeros(2000, dtype=torch.int64))
    ((found, _),) = epoch_batches(many, batch_size=2000, padding=0, flip=False, seed=0, epoch=1)
    crops = {
        images[0][row : row + 5, column : column + 4].tobytes(): (row, column)
        for row, column in product(range(2), range(6))
    }
    counts = Counter(crops[crop.numpy().tobytes()] for crop in found)
    assert len(counts) == 12
    assert all(abs(count - 2000 / 12) < 5 * (2000 / 12) ** 0.5 for count in counts.values())


def test_batches_that_are_staged_are_the_same_and_lie_in_one_place() -> None:
    """As where pixels stay in the host's memory: a recorded step finds every batch where the first
    one lay.
    """
    split, _ = of_sizes(SIZES, 3, (5, 4))
    direct, staged = (
        TrainBatches(split, batch_size=3, padding=1, flip=True, seed=0, staged=staged)
        for staged in (False, True)
    )
    position, places = torch.zeros((), dtype=torch.int64), set()
    for epoch in (1, 2):
        position.zero_()
        for batches in (direct, staged):
            batches.begin(epoch)
        for size in staged:
            images, labels = staged.at(position, size)
            places.add((images.data_ptr(), labels.data_ptr()))
            assert all(map(torch.equal, (images, labels), direct.at(position, size)))
            position += size
        assert position == len(SIZES)
    assert len(places) == 1


@pytest.mark.gpu
@needs_gpu
def test_what_a_gpu_cannot_spare_stays_with_the_host_and_gives_the_same_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device, found = torch.device("cuda"), []
    for spared in (0.6, 0.0):
        monkeypatch.setattr("dh2l.training.batches.MAX_MEMORY_FRACTION", spared)
        split = make_splits(tiny_config(), tiny(), device).train
        assert split.pixels.device.type == ("cuda" if spared else "cpu")
        batches = epoch_batches(split, batch_size=8, padding=1, flip=True, seed=0, epoch=1)
        found.append([(images.cpu(), labels.cpu()) for images, labels in batches])
    for (images, labels), (others, other_labels) in zip(*found, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, other_labels)


def labels_in_order(
    split: Split, seed: int, epoch: int, *, batch_size: int = 4, padding: int = 1
) -> list[int]:
    batches = epoch_batches(
        split, batch_size=batch_size, padding=padding, flip=True, seed=seed, epoch=epoch
    )
    return [int(label) for _, labels in batches for label in labels]


def test_an_epoch_is_a_permutation_that_depends_on_seed_and_epoch_alone() -> None:
    split = numbered(11)
    orders = {
        (seed, epoch): labels_in_order(split, seed, epoch)
        for seed, epoch in product((0, 1), (1, 2, 3))
    }
    assert all(sorted(order) == [20 * i for i in range(11)] for order in orders.values())
    assert len({tuple(order) for order in orders.values()}) == len(orders)
    torch.manual_seed(123)
    for (seed, epoch), order in orders.items():
        assert labels_in_order(split, seed, epoch, batch_size=3) == order


def test_drawing_an_epoch_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    labels_in_order(numbered(11), 0, 1)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("batch_size", "sizes"), [(4, [4, 4, 3]), (11, [11]), (100, [11]), (5, [5, 5, 1])]
)
def test_the_last_partial_batch_is_kept(batch_size: int, sizes: list[int]) -> None:
    batches = epoch_batches(
        numbered(11), batch_size=batch_size, padding=0, flip=False, seed=0, epoch=1
    )
    assert [len(labels) for _, labels in batches] == sizes
    assert [len(labels) for _, labels in plain_batches(numbered(11), batch_size)] == sizes


def test_an_epoch_begun_again_lies_where_the_one_before_lay() -> None:
    """A recorded step reads the same memory in every epoch."""
    batches = TrainBatches(numbered(11), batch_size=4, padding=1, flip=True, seed=0)
    batches.begin(1)
    first, places = (
        batches.at(torch.tensor(0), 4),
        [t.data_ptr() for t in vars(batches).values() if torch.is_tensor(t)],
    )
    batches.begin(2)
    second = batches.at(torch.tensor(0), 4)
    assert places == [t.data_ptr() for t in vars(batches).values() if torch.is_tensor(t)]
    assert len(places) == 5
    assert not torch.equal(first[1], second[1])


@pytest.mark.parametrize(("padding", "flip"), [(0, False), (0, True), (1, False), (3, True)])
def test_an_image_keeps_its_label(padding: int, flip: bool) -> None:
    for images, labels in epoch_batches(
        numbered(11), batch_size=4, padding=padding, flip=flip, seed=0, epoch=1
    ):
        assert torch.equal(images.amax(dim=(1, 2, 3)).long() * 10, labels)


def test_plain_batches_are_the_parts_images_in_order() -> None:
    split = numbered(5)
    images, labels = (torch.cat(parts) for parts in zip(*plain_batches(split, 2), strict=True))
    assert torch.equal(images, split.pixels.reshape(-1, 4, 4, 1)[::2])
    assert labels.tolist() == [0, 20, 40, 60, 80]


def test_crops_and_mirrors_occur_equally_often() -> None:
    """Padding 1 gives nine places, mirrored or not, each with probability 1/18."""
    image = torch.arange(1, 10, dtype=torch.uint8).reshape(1, 3, 3, 1)
    n = 9000
    split = Split.of(
        image.expand(n, -1, -1, -1), torch.zeros(n, dtype=torch.int64), torch.arange(n)
    )
    ((images, _),) = epoch_batches(split, batch_size=n, padding=1, flip=True, seed=0, epoch=1)
    counts = Counter(tuple(row) for row in images.reshape(n, 9).tolist())
    assert len(counts) == 18
    assert all(abs(count - n / 18) < 5 * (n / 18) ** 0.5 for count in counts.values())


def test_without_flip_and_padding_images_are_untouched() -> None:
    rows = (
        torch.arange(40 * 9, dtype=torch.int64).remainder(251).to(torch.uint8).reshape(40, 3, 3, 1)
    )
    split = Split.of(rows, torch.arange(40), torch.arange(40))
    for images, labels in epoch_batches(
        split, batch_size=16, padding=0, flip=False, seed=0, epoch=1
    ):
        assert torch.equal(images, rows[labels])
    for images, labels in epoch_batches(
        split, batch_size=16, padding=0, flip=True, seed=0, epoch=1
    ):
        mirrored = rows[labels].flip(2)
        assert all(
            torch.equal(image, a) or torch.equal(image, b)
            for image, a, b in zip(images, rows[labels], mirrored, strict=True)
        )


@pytest.mark.parametrize("channels", [1, 3])
def test_normalise_subtracts_the_mean_and_divides_by_the_deviation(channels: int) -> None:
    mean, std = (0.1, 0.5, 0.9)[:channels], (0.2, 0.05, 0.7)[:channels]
    x = np.random.default_rng(0).integers(0, 256, (4, 5, 6, channels), dtype=np.uint8)
    found: Tensor = Normalise(mean, std, CPU)(torch.from_numpy(x))
    expected = ((x / 255 - np.array(mean)) / np.array(std)).transpose(0, 3, 1, 2)
    assert found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=2e-5)


def test_the_validated_protocol_holds_the_stratified_split_out() -> None:
    data = tiny()
    splits = make_splits(tiny_config(validation_fraction=0.4, data_seed=3), data, CPU)
    train, validation = stratified_split(data.train_y, 0.4, 3)
    assert splits.validation is not None
    assert splits.train.index.tolist() == train.tolist()
    assert splits.validation.index.tolist() == validation.tolist()
    assert len(splits.train) + len(splits.validation) == len(data.train_y)
    assert splits.test.index.tolist() == list(range(len(data.test_y)))
    np.testing.assert_array_equal(splits.test.pixels.numpy(), data.test_x.reshape(-1, 3))
    np.testing.assert_array_equal(splits.validation.labels.numpy(), data.train_y)


def test_the_paper_protocol_trains_on_everything() -> None:
    splits = make_splits(tiny_config(protocol="paper"), tiny(), CPU)
    assert splits.validation is None
    assert splits.train.index.tolist() == list(range(len(tiny().train_y)))
