"""Conversion of any image to 8 bits of grey or RGB."""

from collections import Counter
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dh2l.wording import counted

if TYPE_CHECKING:
    from PIL import Image

    from dh2l.data.images import Pixels

Mode = Literal["L", "RGB"]

RULES = {
    "bit_depth": "16 bits per value: the upper 8 are kept",
    "transparency": "transparent pixels: laid on white",
    "orientation": "a rotation in its EXIF data: turned upright",
    "orientation_as_stored": "a rotation in its EXIF data: left as stored, as published numbers "
    "have it",
    "frames": "several frames: the first is kept",
    "cmyk": "CMYK colours: made RGB without a colour profile",
}
"""Conversions that lose something, by their name in a manifest, and the rule of each in words."""

_DARKEST = 4096  # of 65,536: the largest value of 12 bits
_EXIF_IN_PNG = frozenset({"exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"})
_ORIENTATION = 0x0112
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
)
"""What Pillow raises on EXIF data that are damaged; the image may be sound."""


def sentences(converted: "Counter[str] | dict[str, int]") -> list[str]:
    """Describe what was converted and how, a sentence for each rule."""
    return [
        f"{counted(n, 'image has', 'images have')} {RULES[name]}"
        for name, n in converted.items()
        if n
    ]


def upright_size(image: "Image.Image", upright: bool) -> tuple[int, int]:
    """Width and height that `plain` gives an image, which is not decoded for it."""
    width, height = image.size
    return (height, width) if upright and _turn(image) >= 5 else (width, height)


def plain(image: "Image.Image", mode: Mode, upright: bool, seen: "Counter[str]") -> "Image.Image":
    """Convert an image to 8 bits of grey or RGB, by `RULES`.

    Args:
        image: as opened.
        mode: the mode of the result.
        upright: whether it is turned as its EXIF data say.
        seen: counts the rules that were applied.

    Raises:
        ValueError: its values of 16 bits are so small that 8 bits would keep almost nothing of
            them.
    """
    applied = []
    if getattr(image, "is_animated", False):
        applied.append("frames")
    turn = _turn(image) if upright else 1
    if _orientation(image) != 1:
        applied.append("orientation" if upright else "orientation_as_stored")
    if is_deep(image):
        applied.append("bit_depth")
    image.load()
    if image.mode.startswith("I"):
        image = _upper_bits(image)
    if image.mode == "CMYK":
        applied.append("cmyk")
    if image.has_transparency_data:
        image, transparent = _on_white(image)
        applied += ["transparency"] if transparent else []
    seen.update(applied)
    return _turned(image.convert(mode), turn)


def is_deep(image: "Image.Image") -> bool:
    """Return True if an undecoded image has 16 bits per value, which Pillow may cut by itself."""
    words: list[Any] = []
    for tile in getattr(image, "tile", []):
        words += [tile[3]] if isinstance(tile[3], str) else list(tile[3] or ())
    of_16 = any(isinstance(word, str) and ";16" in word for word in words)
    brightest = (
        max((word for word in words if isinstance(word, int)), default=0)
        if image.format == "PPM"
        else 0
    )
    return image.mode.startswith("I") or of_16 or brightest > 255


def is_too_deep(image: "Image.Image") -> bool:
    """Return True if no rule covers an image's values: 32 bits, real numbers, or 12 of 16 bits."""
    in_16_bits = image.mode.startswith("I;16") or image.format in ("PNG", "PPM")
    packed = any(";12" in str(tile[3]) for tile in getattr(image, "tile", []))
    return packed or image.mode == "F" or (image.mode.startswith("I") and not in_16_bits)


def _upper_bits(image: "Image.Image") -> "Image.Image":
    from PIL import Image

    if "transparency" in image.info:
        raise ValueError(
            "it has 16 bits per value and a transparent grey, for which there is no rule"
        )
    values = np.asarray(image)
    if 0 < (largest := int(values.max())) < _DARKEST:
        raise ValueError(
            f"its values of 16 bits are {largest:,} at most, of which 8 bits would keep next to "
            "nothing: scale them up"
        )
    upper: Pixels = (values >> 8).astype(np.uint8)
    return Image.fromarray(upper)


def _on_white(image: "Image.Image") -> "tuple[Image.Image, bool]":
    """Lay an image on white; return it, and True if any white shows."""
    from PIL import Image

    layered = image.convert("RGBA")
    lowest, _ = layered.getchannel("A").getextrema()
    if lowest == 255:
        return layered, False
    return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered), True


def _orientation(image: "Image.Image") -> int:
    """Return an image's orientation by its EXIF data, 1 to 8, or 1, upright, without them."""
    if image.format == "PNG" and not _EXIF_IN_PNG & set(image.info):
        return 1  # Pillow would decode all of it to look behind the pixels
    try:
        found = image.getexif().get(_ORIENTATION)
    except _UNREADABLE:
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1


def _turn(image: "Image.Image") -> int:
    """Return the orientation that remains to be corrected; Pillow turns TIFF images by itself."""
    return 1 if image.format == "TIFF" else _orientation(image)


def _turned(image: "Image.Image", orientation: int) -> "Image.Image":
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(turns[orientation]) if orientation in turns else image
