"""Pillow's images, converted to gray."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from otcxr_sk.images._errors import ImageReadError
from otcxr_sk.images._pixels import luma, to_float
from otcxr_sk.images._telling import tell

# Pixels converted at a time: a large color image as float32 would take gigabytes.
_AT_ONCE = 2**20

# Modes with colors or transparency, and a mode of plain channels to convert them to. Palettes may
# contain transparency.
_CONVERTED = {
    "La": "LA", "LA": "LA", "P": "RGBA", "PA": "RGBA", "RGBa": "RGBA", "RGBA": "RGBA",
    "RGB": "RGB", "RGBX": "RGB", "CMYK": "RGB", "YCbCr": "RGB", "HSV": "RGB",
}  # fmt: skip


class GrayImage(NamedTuple):
    """Gray pixels, and their original bits (8 or 16) if they span [0, 1], else 0."""

    pixels: NDArray[np.float32]
    bits: int


def canvas(
    height: int, width: int, orientation: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return an empty image, and a view of it as a file with this EXIF orientation stores it."""
    tell(stored_size=f"{height} x {width}")
    if 1 < orientation < 9:
        tell(orientation=f"EXIF {orientation}: turned upright")
    turned = 4 < orientation < 9
    upright = np.empty((width, height) if turned else (height, width), dtype=np.float32)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    stored = upright[::rows, ::columns]
    return upright, stored.T if turned else stored


def to_gray(image: Image.Image, orientation: int = 1) -> GrayImage:
    """Convert an image of any mode to gray.

    Parameters
    ----------
    image : PIL.Image.Image
    orientation : int, default=1
        That of EXIF, which is applied.

    Raises
    ------
    ImageReadError
        If the range of the pixels, or what they mean, is unknown.
    """
    image.load()
    if image.mode == "I":
        raise ImageReadError(
            "its pixels are signed or have 32 bits, so their range is unknown; "
            "save them as unsigned 16-bit integers or as floats in [0, 1]"
        )
    deep = image.mode.startswith("I;16")
    if image.mode not in ("1", "L", "F", *_CONVERTED) and not deep:
        raise ImageReadError(
            f"it is a PIL image of mode {image.mode!r}, which is not read; convert it to 'L' first"
        )
    upright, pixels = canvas(image.height, image.width, orientation)
    for rows, (band,) in in_bands(image):
        pixels[rows] = _gray_band(band)
    return GrayImage(upright, 16 if deep else 0 if image.mode == "F" else 8)


def in_bands(
    *images: Image.Image, pixels_wide: int | None = None
) -> Iterator[tuple[slice, list[Image.Image]]]:
    """Yield images of the same size from top to bottom: some rows, and that part of each image.

    `pixels_wide` is the width if Pillow does not know it.
    """
    width, height = images[0].size
    step = max(1, _AT_ONCE // (pixels_wide or width))
    for top in range(0, height, step):
        rows = slice(top, min(top + step, height))
        yield rows, [image.crop((0, rows.start, width, rows.stop)) for image in images]


def _gray_band(band: Image.Image) -> NDArray[np.float32]:
    mode = _CONVERTED.get(band.mode)
    if mode is None:
        return to_float(np.asarray(band))
    channels: NDArray[Any] = np.asarray(band.convert(mode))
    if mode == "LA":
        return to_float(channels[..., 0])
    return luma(to_float(channels[..., :3]), axis=-1)
