"""Images of which 8 bits of grey or RGB lose something: the rule of each, and its count in the
manifest.
"""

import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from data_fixtures import random_split, write_folders
from PIL import Image
from study_fixtures import CommandLine

from dh2l.data import load, prepare, read_manifest
from dh2l.data.manifest import MANIFEST, Manifest
from dh2l.data.sources.cub import read_cub200
from dh2l.errors import DataError

TRAIN, TEST = random_split(3, seed=0), random_split(2, seed=1)
RANDOM = np.random.default_rng(3)
COLOURS = RANDOM.integers(0, 256, (8, 8, 3), dtype=np.uint8)
Picture = Image.Image


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_folders(tmp_path / "images", TRAIN, TEST)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def saved(image: Picture, kind: str, **words: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **words)
    return buffer.getvalue()


def png_of_16_bits(values: np.ndarray) -> bytes:
    """A PNG file of 16 bits RGB, which Pillow cannot write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


DEEP = RANDOM.integers(0, 65536, (8, 8, 3), dtype=np.uint16)
GREY = DEEP[..., 0]
TRANSPARENT = np.dstack(
    [COLOURS, np.where(np.arange(64).reshape(8, 8) < 32, 0, 255).astype(np.uint8)]
)
ON_WHITE = np.where(TRANSPARENT[..., 3:] == 0, 255, COLOURS).astype(np.uint8)
SEVERAL = [Image.fromarray(COLOURS), Image.new("RGB", (8, 8), "red")]

CASES = {
    "16 bits of colour": (png_of_16_bits(DEEP), (DEEP >> 8).astype(np.uint8), "bit_depth"),
    "16 bits of grey": (
        saved(Image.fromarray(GREY), "PNG"),
        np.repeat((GREY >> 8).astype(np.uint8)[..., None], 3, axis=2),
        "bit_depth",
    ),
    "transparent": (saved(Image.fromarray(TRANSPARENT), "PNG"), ON_WHITE, "transparency"),
    "a transparent colour": (
        saved(Image.fromarray(COLOURS), "PNG", transparency=tuple(COLOURS[0, 0].tolist())),
        np.where((COLOURS[0, 0] == COLOURS).all(axis=2, keepdims=True), 255, COLOURS).astype(
            np.uint8
        ),
        "transparency",
    ),
    "opaque with a channel for transparency": (
        saved(Image.fromarray(COLOURS).convert("RGBA"), "PNG"),
        COLOURS,
        None,
    ),
    "several frames": (
        saved(SEVERAL[0], "PNG", save_all=True, append_images=SEVERAL[1:]),
        COLOURS,
        "frames",
    ),
    "turned": (
        saved(Image.fromarray(COLOURS), "PNG", exif=turned(6)),
        np.rot90(COLOURS, -1),
        "orientation",
    ),
    "turned and mirrored": (
        saved(Image.fromarray(COLOURS), "WEBP", exif=turned(5), lossless=True),
        COLOURS.transpose(1, 0, 2),
        "orientation",
    ),
    "upright by its EXIF data": (
        saved(Image.fromarray(COLOURS), "PNG", exif=turned(1)),
        COLOURS,
        None,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_an_image_becomes_8_bits_by_a_rule_that_the_manifest_counts(
    case: str, images: Path, tmp_path: Path
) -> None:
    content, expected, rule = CASES[case]
    (images / "train" / "fish" / "cod" / "000.png").write_bytes(content)
    said: list[str] = []
    manifest = prepare("own", tmp_path / "data", source=images, report=said.append)
    assert manifest.converted == ({} if rule is None else {rule: 1})
    assert read_manifest("own", tmp_path / "data") == manifest
    assert [line.partition(" has ")[0] for line in said if " has " in line] == ["1 image"] * (
        rule is not None
    )
    found = [image.tobytes() for image in load("own", tmp_path / "data").train_x[:3]]
    assert np.ascontiguousarray(expected).tobytes() in found


def test_images_of_many_sizes_are_turned_and_counted_alike_also_by_what_was_decoded_before(
    tmp_path: Path,
) -> None:
    images = write_folders(tmp_path / "images", TRAIN, TEST)
    wide = RANDOM.integers(0, 256, (8, 12, 3), dtype=np.uint8)
    photo = saved(Image.fromarray(wide), "PNG", exif=turned(8))
    (images / "test" / "fish" / "cod" / "000.png").write_bytes(photo)
    damaged = images / "train" / "trees" / "oak" / "002.png"
    sound = damaged.read_bytes()
    damaged.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"oak/002\.png is not an image"):
        prepare("own", tmp_path / "data", source=images, shorter_side=8, crop=8)
    damaged.write_bytes(sound)
    said: list[str] = []
    manifest = prepare(
        "own", tmp_path / "data", source=images, shorter_side=8, crop=8, report=said.append
    )
    assert said[0] == "12 of 15 images were decoded by an earlier preparation"
    assert manifest.converted == {"orientation": 1}
    sizes = load("own", tmp_path / "data").test_size
    assert sizes is not None
    assert [12, 8] in sizes.tolist()


def test_official_images_are_left_as_stored(tmp_path: Path) -> None:
    from data_fixtures import write_cub

    base = write_cub(tmp_path)
    assert not read_cub200(base, tmp_path, lambda _: None).upright
    photo = next((base / "images").rglob("*.jpg"))
    with Image.open(photo) as image:
        size = image.size
        photo.write_bytes(saved(image.resize((size[0] + 9, size[1])), "JPEG", exif=turned(6)))
    manifest = prepare("cub200", tmp_path / "data", source=base, shorter_side=12, crop=8)
    assert manifest.converted == {"orientation_as_stored": 1}


def test_greyscale_images_of_16_bits_stay_greyscale(tmp_path: Path) -> None:
    images = write_folders(
        tmp_path / "i", *(random_split(2, seed, shape=(8, 8, 1)) for seed in (0, 1))
    )
    (images / "train" / "fish" / "cod" / "000.png").write_bytes(saved(Image.fromarray(GREY), "PNG"))
    assert prepare("own", tmp_path / "data", source=images).image_shape == (8, 8, 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            np.full((8, 8), 4095, dtype=np.uint16),
            r"values of 16 bits are 4,095 at most, of which 8 bits would keep",
        ),
        (
            np.full((8, 8), 0.5, dtype=np.float32),
            r"no rule \(Pillow's mode F\); expected 8 or 16 bits per value",
        ),
        (
            np.full((8, 8), 70_000, dtype=np.int32),
            r"no rule \(Pillow's mode I\); expected 8 or 16 bits per value",
        ),
    ],
)
def test_values_of_which_8_bits_would_keep_next_to_nothing_are_refused(
    values: np.ndarray, message: str, images: Path, tmp_path: Path
) -> None:
    file = images / "train" / "fish" / "cod" / "deep.tif"
    file.write_bytes(saved(Image.fromarray(values), "TIFF"))
    with pytest.raises(DataError, match=message) as refused:
        prepare("own", tmp_path / "data", source=images)
    assert str(file) in str(refused.value)


def damaged_exif(images: Path) -> None:
    file = images / "train" / "fish" / "cod" / "000.png"
    file.with_suffix(".jpg").write_bytes(
        saved(Image.fromarray(COLOURS), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff")
    )


def unreadable_tag(images: Path) -> None:
    file = images / "train" / "fish" / "cod" / "000.png"
    exif = Image.Exif()
    exif[0x0112] = 77
    file.write_bytes(saved(Image.fromarray(COLOURS), "PNG", exif=exif))


@pytest.mark.parametrize("damage", [damaged_exif, unreadable_tag])
def test_an_image_with_damaged_exif_data_is_taken_as_upright(
    damage: Callable[[Path], None], images: Path, tmp_path: Path
) -> None:
    damage(images)
    assert prepare("own", tmp_path / "data", source=images).converted == {}


def test_a_manifest_of_an_earlier_time_is_read_and_completed_by_the_next_preparation(
    images: Path, tmp_path: Path
) -> None:
    now = prepare("own", tmp_path / "data", source=images)
    file = tmp_path / "data" / "own" / MANIFEST
    earlier = json.loads(file.read_text())
    for field in ("train_sizes", "converted", "skipped"):
        del earlier[field]
    file.write_text(json.dumps(earlier))
    before = read_manifest("own", tmp_path / "data")
    assert (before.train_sizes, before.converted, before.skipped) == ((), {}, 0)
    assert (before.data_hash, before.tree_hash) == (now.data_hash, now.tree_hash)
    assert (
        prepare("own", tmp_path / "data", source=images)
        == now
        == read_manifest("own", tmp_path / "data")
    )


def test_sizes_of_classes_that_are_not_those_of_the_images_are_refused(
    images: Path, tmp_path: Path
) -> None:
    manifest = prepare("own", tmp_path / "data", source=images)
    assert manifest.train_sizes == (3, 3, 3)
    with pytest.raises(ValueError, match="train_sizes must be one number per class"):
        Manifest.model_validate(manifest.model_dump() | {"train_sizes": (3, 3, 4)})


def test_the_list_of_data_sets_says_what_was_converted(
    images: Path, tmp_path: Path, cli: CommandLine
) -> None:
    (images / "train" / "fish" / "cod" / "000.png").write_bytes(CASES["turned"][0])
    words = ("--from", images, "--data", tmp_path / "data")
    code, out, err = cli("data", "prepare", "own", *words, placed=False)
    assert code == 0, err
    assert "1 image has a rotation in its EXIF data: turned upright" in out
    assert (
        ", converted: 1 by orientation\n"
        in cli("data", "list", "--data", tmp_path / "data", placed=False)[1]
    )
