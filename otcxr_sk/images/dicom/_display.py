"""Map the pixels of a DICOM image to the grays that are to be displayed."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from otcxr_sk.images._pixels import luma
from otcxr_sk.images._telling import tell
from otcxr_sk.images.dicom._header import Header
from otcxr_sk.images.dicom._layout import Layout, Samples
from otcxr_sk.images.dicom._levels import find_levels
from otcxr_sk.images.dicom._seen import blocks
from otcxr_sk.images.dicom._steps import gray_table

# Largest difference, by float32 rounding, between a table and the line that replaces it.
_EXACT = 5e-7


# The numbers in a header may be of any size, and NumPy's settings those of another program.
@np.errstate(all="ignore")
def display_values(samples: Samples, layout: Layout, header: Header) -> NDArray[np.float32]:
    """Return the display values in [0, 1], where 0 is black.

    Parameters
    ----------
    samples : Samples
    layout : Layout
    header : Header

    Returns
    -------
    ndarray of shape (height, width), float32

    Raises
    ------
    ImageReadError
        If rescale, window, palette or lookup table are invalid or not supported.
    """
    levels = find_levels(samples, layout, header)
    if samples.color == "GRAY":
        table = gray_table(levels, layout.photometric, header)
    else:
        table = levels.values / (2**levels.bits - 1)
        tell(polarity=f"{layout.photometric}: as stored", color="luma")
    if samples.color == "RGB":
        return _luma_by_row(table.astype(np.float32), levels.codes)
    line = _clipped_line(levels.values, table)
    if line is None:
        return _apply_table(table, levels.codes)
    if levels.pixels is None:
        return _apply_table(_apply_line(*line, levels.values), levels.codes)
    # Arithmetic takes a third of the time of a lookup, and clipping a third of that.
    straight = _apply_line(*line, levels.values, clip=False)
    clip = bool(straight.min() < 0 or straight.max() > 1)
    return _apply_line(*line, levels.pixels, clip=clip)


def _clipped_line(
    levels: NDArray[Any], table: NDArray[Any]
) -> tuple[np.float32, np.float32] | None:
    """Return slope and offset of the line that equals `table` if clipped to [0, 1], or None.

    Most windows are such lines.
    """
    inside = np.flatnonzero((table > 0) & (table < 1))
    if len(inside) < 2:
        return None
    low, high = inside[levels[inside].argmin()], inside[levels[inside].argmax()]
    slope = (table[high] - table[low]) / max(levels[high] - levels[low], 1)
    line = np.float32(slope), np.float32(table[low] - slope * levels[low])
    return line if np.abs(_apply_line(*line, levels) - table).max() <= _EXACT else None


def _apply_line(
    slope: np.float32, offset: np.float32, values: NDArray[Any], *, clip: bool = True
) -> NDArray[np.float32]:
    shown = np.empty(values.shape, dtype=np.float32)
    for block in blocks(values):
        part = shown[block]
        np.copyto(part, values[block])
        part *= slope
        part += offset
        if clip:
            np.clip(part, 0, 1, out=part)
    return shown


def _apply_table(table: NDArray[Any], codes: NDArray[Any]) -> NDArray[np.float32]:
    table = table.astype(np.float32)
    shown = np.empty(codes.shape, dtype=np.float32)
    for block in blocks(codes):
        # No code is beyond the table. Clipping, unlike checking, needs no copy.
        np.take(table, codes[block], out=shown[block], mode="clip")
    return shown


def _luma_by_row(table: NDArray[np.float32], codes: NDArray[Any]) -> NDArray[np.float32]:
    shown = np.empty(codes.shape[:2], dtype=np.float32)
    for row, colors in enumerate(codes):
        shown[row] = luma(table[colors], axis=-1)
    return shown
