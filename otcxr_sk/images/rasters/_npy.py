"""NPY files."""

import math
import os
import re
from typing import BinaryIO

import numpy as np

from otcxr_sk._npy import SIGNATURE, read_header
from otcxr_sk.images._errors import ImageReadError, damaged, require_size
from otcxr_sk.images._pillow import GrayImage
from otcxr_sk.images._pixels import channel_axis, luma, to_float
from otcxr_sk.images._telling import tell

# Pixels converted at a time.
_AT_ONCE = 2**20

_NUMBERS = re.compile(
    r"[<>|=]?(b1|\?|[ui][1248]|f(2|4|8|16))|bool|u?int(8|16|32|64)|float(16|32|64)"
)
_OTHERS = {"O": "Python objects", "c": "complex numbers", "U": "text", "S": "text", "M": "dates"}


def read_npy(file: BinaryIO) -> GrayImage:
    """Read an open NPY file from its start."""
    try:
        _, shape, by_columns, numbers = read_header(file)
    except ValueError as error:
        raise damaged("it is damaged: its header does not describe an array") from error
    if _NUMBERS.fullmatch(numbers) is None:
        what = _OTHERS.get(numbers.lstrip("<>|=")[:1], "raw bytes or a table")
        raise ImageReadError(f"it is an NPY file of {what}; save it as an array of real numbers")
    dtype = np.dtype(numbers)
    tell(stored_size=" x ".join(map(str, shape)), bits=f"{8 * dtype.itemsize} ({dtype.name})")
    axis = channel_axis(shape)
    channels = 1 if axis is None else shape[axis]
    height, width = (length for place, length in enumerate(shape) if place != axis)
    # The bytes of a pixel and of its float32, relative to those of one with 8 bits.
    require_size(height, width, cost=max(channels, (channels * dtype.itemsize + 4) / 5))
    wanted = math.prod(shape) * dtype.itemsize
    # A header can claim any size.
    there = os.fstat(file.fileno()).st_size - file.tell()
    if there < wanted:
        raise damaged(f"it is cut short: it contains {there} bytes of pixels instead of {wanted}")
    array = np.frombuffer(file.read(wanted), dtype)
    if file.read(len(SIGNATURE)) == SIGNATURE:
        raise ImageReadError("it contains several arrays; save each as a separate file")
    array = array.reshape(shape[::-1]).T if by_columns else array.reshape(shape)
    # As (height, width, channels).
    array = array[..., np.newaxis] if axis is None else np.moveaxis(array, axis, -1)
    pixels = np.empty((height, width), dtype=np.float32)
    step = max(1, _AT_ONCE // width)
    for top in range(0, height, step):
        pixels[top : top + step] = luma(to_float(array[top : top + step]), axis=-1)
    unit = dtype.kind in "bu" and dtype.itemsize <= 2
    return GrayImage(pixels, 8 * dtype.itemsize if unit else 0)
