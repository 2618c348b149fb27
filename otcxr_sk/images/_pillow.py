"""Images decoded by Pillow, converted to gray."""

from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from otcxr_sk.images._errors import ImageReadError, require_size
from otcxr_sk.images._pixels import luma, to_float

_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262

# Pixels converted at a time: a large color image as float32 would take gigabytes.
_AT_ONCE = 2**20


class GrayImage(NamedTuple):
    """Gray pixels, and their original bits (8 or 16) if they span [0, 1], else 0."""

    pixels: NDArray[np.float32]
    bits: int


def decode(encoded: bytes, kind: str) -> GrayImage:
    """Decode the content of a file in the given Pillow format."""
    with Image.open(BytesIO(encoded), formats=[kind]) as image:
        require_size(image.height, image.width)
        # An MPO, as phones write it, is a JPEG with previews after the image.
        pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        if pages > 1:
            raise ImageReadError(f"it contains {pages} images; save each as a separate file")
        return to_gray(image, getattr(image, "tag_v2", None))


def to_gray(image: Image.Image, tags: Any = None) -> GrayImage:
    """Convert an image of any mode to gray, and apply its EXIF orientation.

    Parameters
    ----------
    image : PIL.Image.Image
        Changed in place.
    tags : mapping of int to value, default=None
        TIFF tags, for bits per sample and photometric interpretation.

    Raises
    ------
    ImageReadError
        If the range of the pixels is unknown.
    """
    tags = tags or {}
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode == "I":
        raise ImageReadError(
            "its pixels are signed or have 32 bits, so their range is unknown; "
            "save them as unsigned 16-bit integers or as floats in [0, 1]"
        )
    pixels = np.empty((image.height, image.width), dtype=np.float32)
    rows = max(1, _AT_ONCE // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        pixels[top : top + rows] = _gray_strip(strip, tags)
    bits = {"F": 0}.get(image.mode, 16 if image.mode.startswith("I;16") else 8)
    return GrayImage(pixels, bits)


def _gray_strip(image: Image.Image, tags: Any) -> NDArray[np.float32]:
    if image.mode in ("1", "L", "F"):
        return to_float(np.asarray(image))
    if image.mode == "LA":
        return to_float(np.asarray(image.getchannel("L")))
    if image.mode.startswith("I;16"):
        bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
        gray = np.asarray(image).astype(np.float32) / np.float32(2**bits - 1)
        # Pillow itself inverts a TIFF in which 0 is white, except with 16 bits.
        return 1 - gray if tags.get(_PHOTOMETRIC) == 0 else gray
    # RGBA first, since a palette may contain transparency.
    color = image.convert("RGBA" if image.mode in ("P", "PA", "RGBA") else "RGB")
    return luma(to_float(np.asarray(color)[..., :3]), axis=-1)
