"""Rules shared by files and arrays: how integers become [0, 1], how colour becomes gray."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def to_float(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Copy of `pixels` as float32, with integers of 8 and 16 bits scaled by their bit depth.

    Booleans and unsigned integers of 8 and 16 bits are mapped to [0, 1], signed ones divided by
    the largest value of their type (uint8 / 255, uint16 / 65535, int8 / 127, int16 / 32767).
    Floats are taken as they are, and so are integers of 32 and 64 bits: those are what NumPy and
    pandas make of any whole number, and so their type says nothing about the range.
    """
    # A float64 beyond float32 becomes infinite, which callers report as such.
    with np.errstate(over="ignore"):
        floats = np.array(pixels, dtype=np.float32, order="C")
    if pixels.dtype.kind in "iu" and pixels.dtype.itemsize <= 2:
        floats /= np.float32(np.iinfo(pixels.dtype).max)
    return floats


def luma(colour: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """Gray of red, green and blue along `axis` (ITU-R BT.601: 0.299 R + 0.587 G + 0.114 B)."""
    red, green, blue = np.moveaxis(colour, axis, 0)
    # Written around green, so that R = G = B gives that very value, without rounding.
    return green + np.float32(0.299) * (red - green) + np.float32(0.114) * (blue - green)
