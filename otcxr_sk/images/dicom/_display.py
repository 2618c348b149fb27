"""Map the stored values of a DICOM image to display values, as the standard defines them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, apply_windowing

from otcxr_sk.images._errors import ImageReadError
from otcxr_sk.images._pixels import luma

# Share of the pixels that is clipped at either end if there is no window.
_CLIPPED_SHARE = 0.005

# Largest difference, by float32 rounding, between a table and the line that replaces it.
_EXACT = 5e-7

# Pixels to map at a time, so that intermediate results, such as 64-bit indices, stay in the cache.
_BLOCK = 2**17


def display_values(
    stored: NDArray[Any], photometric: str, dataset: Dataset, *, decoded: bool
) -> NDArray[np.float32]:
    """Return the display values in [0, 1], where 0 is black.

    Parameters
    ----------
    stored : ndarray of shape (height, width) or (height, width, 3)
        8 or 16 bits, as `stored_values` returns them.
    photometric : str
        Photometric Interpretation of `stored`.
    dataset : Dataset
        The header.
    decoded : bool
        Whether `stored` comes from a codec, which puts values into the lowest bits.

    Returns
    -------
    ndarray of shape (height, width), float32

    Raises
    ------
    ImageReadError
        If rescale, window, palette or lookup table are invalid or not supported.
    """
    # The Y of YBR_FULL is luma.
    values = stored[..., 0] if photometric.startswith("YBR") else stored
    codes = values.view(values.dtype.str.replace("i", "u"))
    # Each step depends on the value of a pixel alone, and mapping at most 2**16 values is cheaper
    # than mapping millions of pixels.
    numbers = np.arange(int(codes.max()) + 1, dtype=codes.dtype.newbyteorder("="))
    levels = _levels(numbers, dataset, 0 if decoded else _unused_low_bits(dataset))
    if photometric == "RGB":
        table = (levels / (2**dataset.BitsStored - 1)).astype(np.float32)
        return _luma_by_row(table, codes)
    if photometric == "PALETTE COLOR":
        return _apply_table(_palette_table(levels, dataset), codes)
    if photometric.startswith("YBR"):
        table = levels / (2**dataset.BitsStored - 1)
    else:
        table = _gray_table(levels, codes, dataset)
        table = 1 - table if photometric == "MONOCHROME1" else table
    line = _clipped_line(levels, table)
    if line is None:
        return _apply_table(table, codes)
    if np.array_equal(numbers.view(numbers.dtype.str.replace("u", values.dtype.kind)), levels):
        # Arithmetic takes a third of the time of a lookup, and clipping a third of that.
        straight = _apply_line(*line, levels, clip=False)
        return _apply_line(*line, values, clip=bool(straight.min() < 0 or straight.max() > 1))
    return _apply_table(_apply_line(*line, levels), codes)


def _unused_low_bits(dataset: Dataset) -> int:
    highest: int = dataset.get("HighBit", dataset.BitsStored - 1)
    return min(max(highest + 1 - dataset.BitsStored, 0), dataset.BitsAllocated - dataset.BitsStored)


def _levels(codes: NDArray[Any], dataset: Dataset, shift: int) -> NDArray[np.int32]:
    """Return the values that codes stand for, without overlays in unused bits."""
    bits = dataset.BitsStored
    values = (codes.astype(np.int32) >> shift) & (2**bits - 1)
    if dataset.PixelRepresentation == 1:
        values = np.where(values >> (bits - 1), values - 2**bits, values)
    return values


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
    for block in _blocks(values):
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
    for block in _blocks(codes):
        # No code is beyond the table. Clipping, unlike checking, needs no copy.
        np.take(table, codes[block], out=shown[block], mode="clip")
    return shown


def _blocks(array: NDArray[Any]) -> Iterator[slice]:
    rows = max(1, _BLOCK * len(array) // array.size)
    return (slice(start, start + rows) for start in range(0, len(array), rows))


def _luma_by_row(table: NDArray[np.float32], codes: NDArray[Any]) -> NDArray[np.float32]:
    shown = np.empty(codes.shape[:2], dtype=np.float32)
    for row, colors in enumerate(codes):
        shown[row] = luma(table[colors], axis=-1)
    return shown


def _gray_table(levels: NDArray[Any], codes: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    shown = _to_unit_range(levels, codes, dataset)
    if not np.isfinite(shown).all():
        raise ImageReadError("its rescale or window values are not finite; correct its header")
    return np.clip(shown, 0, 1)


def _palette_table(levels: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    if "SegmentedRedPaletteColorLookupTableData" in dataset:
        # A few bytes of it may expand to any number of entries.
        raise ImageReadError("its palette is segmented; convert it to grayscale first")
    if not dataset.original_encoding[1]:
        # pydicom assumes that tables are little-endian.
        for color in ("Red", "Green", "Blue"):
            element = dataset[f"{color}PaletteColorLookupTableData"]
            if len(element.value) == 2 * (
                dataset[f"{color}PaletteColorLookupTableDescriptor"][0] or 2**16
            ):
                element.value = np.frombuffer(element.value, ">u2").astype("<u2").tobytes()
    colors = apply_color_lut(levels, dataset)
    return luma(colors / np.float32(np.iinfo(colors.dtype).max), axis=-1)


def _to_unit_range(levels: NDArray[Any], codes: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    """Apply modality LUT and VOI LUT to `levels`, and divide by the range of the VOI output."""
    if dataset.get("ModalityLUTSequence"):
        _allow_any_depth(dataset.ModalityLUTSequence[0])
    values = apply_modality_lut(levels, dataset)
    if dataset.get("VOILUTSequence"):
        table = dataset.VOILUTSequence[0]
        entries, first = table.LUTDescriptor[:2]
        depth = _allow_any_depth(table)
        inside = np.clip(np.rint(values), first, first + (entries or 2**16) - 1)
        return apply_voi_lut(inside.astype(np.int32), dataset) / (2**depth - 1)
    window = _first_window(dataset)
    if window is not None:
        return apply_windowing(values, window) / 255
    counts = _count(codes, len(levels))
    return _stretch(values, _without_padding(levels, counts, dataset))


def _count(codes: NDArray[Any], n_codes: int) -> NDArray[np.int64]:
    counts = np.zeros(n_codes, dtype=np.int64)
    for block in _blocks(codes):
        counts += np.bincount(codes[block].ravel(), minlength=n_codes)
    return counts


def _allow_any_depth(table: Dataset) -> int:
    """Make pydicom look up a table as 16 bits, and return the bits that its entries really use.

    pydicom does not support modality LUTs of 10 or 12 bits, and wraps indices above 255 if the
    entries of a VOI LUT have 8.
    """
    entries, first, depth = table.LUTDescriptor
    if not 8 <= depth <= 16:
        raise ImageReadError(f"its lookup table has entries of {depth} bits; correct its header")
    table.LUTDescriptor = [entries, first, 16]
    return depth


def _first_window(dataset: Dataset) -> Dataset | None:
    """Return the first window in `dataset`, with output from 0 to 255, or None without one."""

    def first(keyword: str) -> float:
        value = dataset.get(keyword)
        if isinstance(value, pydicom.multival.MultiValue):
            value = value[0] if value else None
        return np.nan if value in (None, "") else float(value)

    window = Dataset()
    window.PhotometricInterpretation = "MONOCHROME2"
    window.PixelRepresentation = 0
    window.BitsStored = 8
    window.VOILUTFunction = str(dataset.get("VOILUTFunction") or "LINEAR").strip()
    window.WindowCenter, window.WindowWidth = first("WindowCenter"), first("WindowWidth")
    narrowest = 1 if window.VOILUTFunction == "LINEAR" else np.finfo(np.float32).tiny
    finite = np.isfinite([window.WindowCenter, window.WindowWidth]).all()
    return window if finite and window.WindowWidth >= narrowest else None


def _without_padding(levels: NDArray[Any], counts: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    """Return the number of pixels per level without padding, or with it if all are padding."""
    padding = dataset.get("PixelPaddingValue")
    if padding is None:
        return counts
    limit = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted((padding, padding if limit is None else limit))
    kept = np.where((levels >= low) & (levels <= high), 0, counts)
    return kept if kept.any() else counts


def _stretch(values: NDArray[Any], counts: NDArray[Any]) -> NDArray[Any]:
    """Map the 0.5th to 99.5th percentile of `values`, which occur `counts` times, to [0, 1]."""
    order = np.argsort(values, kind="stable")
    order = order[counts[order] > 0]
    clipped = _CLIPPED_SHARE * counts.sum()
    low = values[order[np.argmax(np.cumsum(counts[order]) > clipped)]]
    high = values[order[::-1][np.argmax(np.cumsum(counts[order[::-1]]) > clipped)]]
    if low == high:
        low, high = values[order[0]], values[order[-1]]
    if low == high:
        return np.zeros(len(values))
    return (values.astype(np.float64) - low) / (float(high) - float(low))
