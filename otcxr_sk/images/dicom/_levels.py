"""Tell the values of pixels from their codes: which bits of a word hold them, and their sign."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from otcxr_sk.images._errors import doubt
from otcxr_sk.images._telling import tell
from otcxr_sk.images.dicom._header import Header
from otcxr_sk.images.dicom._layout import Layout, Samples

# Share of the pixels with other bits than the stored ones from which on the user is told.
_MANY = 0.01


class Levels(NamedTuple):
    """The codes of pixels, and the values that they stand for.

    Attributes
    ----------
    codes : ndarray of shape (height, width) or (height, width, 3)
        Unsigned, 8 or 16 bits.
    values : ndarray of shape (n,), int32
        The value of each code from 0. Each step of the display depends on the value of a pixel
        alone, and mapping at most 2**16 values is cheaper than mapping millions of pixels.
    bits : int
        Bits of a value.
    signed : bool
        Whether values may be negative.
    pixels : ndarray or None
        The values of all pixels, if they are at hand without a table.
    """

    codes: NDArray[Any]
    values: NDArray[np.int32]
    bits: int
    signed: bool
    pixels: NDArray[Any] | None


def find_levels(samples: Samples, layout: Layout, header: Header) -> Levels:
    """Return the values of the pixels, without overlays in unused bits.

    High Bit and Bits Stored tell which bits hold a sample, after any codec; a stream of lower
    precision has no other bits. Where the samples themselves contradict High Bit, they decide.
    """
    dtype = samples.values.dtype
    # There are no negative colors.
    signed = layout.signed and layout.samples == 1
    codes = samples.values.view(dtype.str.replace("i", "u"))
    numbers = np.arange(int(codes.max()) + 1, dtype=f"u{dtype.itemsize}")
    bits = min(layout.stored, samples.bits)
    spare = samples.bits - bits
    shift = min(max(layout.highest + 1 - layout.stored, 0), spare)
    if spare and (shift or len(numbers) > 2**bits):
        shift = _checked_shift(codes, shift, bits, spare, signed, layout.highest, header)
    where = f"{bits} of {8 * dtype.itemsize} stored, high bit {shift + bits - 1}"
    tell(bits=where + ", signed" * signed)
    values = (numbers.astype(np.int32) >> shift) & (2**bits - 1)
    pixels = codes
    if signed:
        values = np.where(values >> (bits - 1), values - 2**bits, values)
        pixels = codes.view(dtype.str.replace("u", "i"))
        numbers = numbers.view(f"i{dtype.itemsize}")
    at_hand = pixels if np.array_equal(numbers, values) else None
    return Levels(codes, values, bits, signed, at_hand)


def _checked_shift(
    codes: NDArray[Any],
    shift: int,
    bits: int,
    spare: int,
    signed: bool,
    highest: int,
    header: Header,
) -> int:
    """Return by how many bits samples are shifted, and tell if it is not what High Bit says."""
    if header.has_embedded_overlays():
        return shift
    used = int(np.bitwise_or.reduce(codes, axis=None))
    if shift and used % 2**shift and _fits(codes, bits, signed):
        doubt(
            f"its High Bit is {highest}, but its samples are in the lowest {bits} bits, "
            "where they were read: check the image"
        )
        return 0
    if shift or _fits(codes, bits, signed):
        return shift
    if used % 2**spare == 0:
        doubt(
            f"its High Bit is {highest}, but its samples are in the highest {bits} bits, "
            "where they were read: check the image"
        )
        return spare
    padding = header.integer("PixelPaddingValue", 0) % 2**16
    beyond = np.count_nonzero((codes >= 2**bits) & (codes != padding))
    if beyond > _MANY * codes.size and not signed:
        doubt(
            f"its Bits Stored is {bits}, but {beyond} pixels use higher bits, which are ignored: "
            "check the image"
        )
    return 0


def _fits(codes: NDArray[Any], bits: int, signed: bool) -> bool:
    """Return whether all samples are numbers of so many bits."""
    if codes.max() < 2**bits:
        return True
    values = codes.view(codes.dtype.str.replace("u", "i"))
    half = 2 ** (bits - 1)
    return signed and bool(-half <= values.min() and values.max() < half)
