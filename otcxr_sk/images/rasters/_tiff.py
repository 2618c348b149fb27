"""TIFF files."""

import re
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from otcxr_sk.images._errors import ImageReadError, doubt
from otcxr_sk.images._pillow import GrayImage, canvas
from otcxr_sk.images._pixels import luma, to_float
from otcxr_sk.images._telling import tell
from otcxr_sk.images.rasters._exif import ORIENTATION, orientation_in_xmp
from otcxr_sk.images.rasters._tags import Directory, directories
from otcxr_sk.images.rasters._tiff_layout import (
    CMYK,
    COLORS,
    PALETTE,
    WHITE_IS_ZERO,
    Layout,
    read_layout,
)
from otcxr_sk.images.rasters._tiff_pixels import blocks

_SUBTYPE, _OLD_SUBTYPE, _DESCRIPTION, _CHILDREN, _XMP, _DEPTH = 254, 255, 270, 330, 700, 32997
_REDUCED, _MASK, _OLD_REDUCED = 1, 4, 2

# ImageJ may store a stack as if it were one image.
_STACK = re.compile(rb"ImageJ=.*\nimages=(\d{1,9})", re.DOTALL)


def decode_tiff(content: bytes) -> GrayImage:
    """Decode the content of a TIFF file that contains one image, and possibly previews of it."""
    tags = _only_image(content)
    layout = read_layout(tags)
    tell(
        bits=f"{layout.bits}, float" if layout.kind == "f" else layout.bits,
        polarity="0 is white: inverted" if layout.photometric == WHITE_IS_ZERO else "as stored",
    )
    turn = 0
    with suppress(ImageReadError):
        turn = tags.number(ORIENTATION, 0)
    turn = turn or orientation_in_xmp(_metadata(tags, _XMP))
    upright, pixels = canvas(layout.height, layout.width, turn)
    for top, left, samples in blocks(content, layout):
        rows, columns = samples.shape[:2]
        pixels[top : top + rows, left : left + columns] = _gray(samples, layout)
    if layout.kind == "f" and layout.photometric == WHITE_IS_ZERO:
        # NaN is not in this range either.
        if not (pixels.min() >= 0 and pixels.max() <= 1):
            raise ImageReadError(
                "it is a TIFF of floats in which 0 is white, but it is not known what is black, "
                "since some are not in [0, 1]; save it with 0 as black"
            )
        np.subtract(1, pixels, out=pixels)
    bits = 0 if layout.kind == "f" else 8 if layout.bits <= 8 else 16
    return GrayImage(upright, bits)


def _metadata(tags: Directory, tag: int) -> bytes:
    """Return the values of a tag, or nothing if they are not in the file."""
    # The pixels do not depend on whether metadata are intact.
    with suppress(ImageReadError):
        return tags.content(tag)
    return b""


def _all_directories(content: bytes) -> list[Directory]:
    found: list[Directory] = []
    try:
        # What came before an error is kept.
        found.extend(directories(content))
    except ImageReadError:
        if not found:
            raise
        doubt(
            "its header says that more follows its first image, which is not there: check that it "
            "is whole"
        )
    return found


def _only_image(content: bytes) -> Directory:
    found = _all_directories(content)
    if not found:
        raise ImageReadError("it is a TIFF without an image; leave it out")
    whole = [
        tags
        for tags in found
        if not tags.number(_SUBTYPE, 0) & (_REDUCED | _MASK)
        and tags.number(_OLD_SUBTYPE, 1) != _OLD_REDUCED
    ]
    if not whole and len(found[0].numbers(_CHILDREN)):
        raise ImageReadError(
            "it is a TIFF with a preview in the place of the image, as raw photographs are; save "
            "it as a standard TIFF or PNG"
        )
    images = whole or found
    count = len(images)
    if count == 1:
        stack = _STACK.match(_metadata(images[0], _DESCRIPTION))
        count = max(images[0].number(_DEPTH, 1), int(stack[1]) if stack else 1)
    if count > 1:
        raise ImageReadError(f"it contains {count} images; save each as a separate file")
    return images[0]


def _gray(samples: NDArray[Any], layout: Layout) -> NDArray[np.float32]:
    n_colors = min(COLORS[layout.photometric], layout.channels)
    colors = samples[..., :n_colors]
    if layout.photometric == PALETTE:
        palette = luma(to_float(layout.palette.astype(np.uint8)), axis=-1)
        return palette[colors[..., 0]]
    if layout.photometric == CMYK:
        inks = (colors >> (layout.bits - 8)).astype(np.uint8)
        image = Image.frombytes("CMYK", inks.shape[1::-1], inks.tobytes())
        return luma(to_float(np.asarray(image.convert("RGB"))), axis=-1)
    inverted = layout.photometric == WHITE_IS_ZERO and layout.kind == "u"
    if inverted and layout.bits <= 8:
        colors = 2**layout.bits - 1 - colors
    scaled = _scaled(colors, layout)
    if layout.premultiplied and layout.channels > n_colors:
        alpha = _scaled(samples[..., n_colors : n_colors + 1], layout)
        with np.errstate(over="ignore"):
            divided = np.minimum(scaled / np.where(alpha > 0, alpha, 1), 1)
        # What is transparent should be black. If it is not, it was not multiplied.
        scaled = np.where(alpha > 0, divided, scaled)
    gray = luma(scaled, axis=-1)
    return 1 - gray if inverted and layout.bits > 8 else gray


def _scaled(samples: NDArray[Any], layout: Layout) -> NDArray[np.float32]:
    if layout.kind == "f":
        return to_float(samples)
    floats = samples.astype(np.float32)
    limit = 2**layout.bits - 1
    floats /= np.float32(limit)
    tell(scaling=f"divided by {limit}")
    return floats
