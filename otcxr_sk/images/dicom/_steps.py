"""Turn the values of pixels into grays, step by step (PS3.3, C.11.1 and C.11.2)."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otcxr_sk.images._errors import ImageReadError, doubt
from otcxr_sk.images._pixels import luma
from otcxr_sk.images._telling import tell
from otcxr_sk.images.dicom._header import Header
from otcxr_sk.images.dicom._levels import Levels
from otcxr_sk.images.dicom._lookup import read_table
from otcxr_sk.images.dicom._seen import Seen

# Share of the pixels that is clipped at either end if there is no window.
_CLIPPED_SHARE = 0.005
_PERCENTILES = "none: the 0.5th to 99.5th percentile become 0 to 1"

# Share of the pixels in one gray that is nearly all, and share of one value that is not.
_NEARLY_ALL, _NOT_ALL = 0.999, 0.99

# A display has 256 grays. Pixels that differ by less than one of them look alike, and where they
# differ by more before a step, it is to blame. Less than a float32 tells apart is always one gray.
_ONE_GRAY, _SAME = 1 / 256, 1e-6

# Beyond it, differences may not be numbers any more.
_LARGEST = 1e100

# Steps that are tried in vain, each on all pixels, and windows or tables that are looked at.
_MOST_STEPS, _MOST_LISTED = 5, 20

_FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")

# What a step is called, and what it makes of each value.
_Step = tuple[str, NDArray[Any]]


def gray_table(levels: Levels, photometric: str, header: Header) -> NDArray[Any]:
    """Return the gray of each code, from 0 for black to 1.

    A step that leaves one gray of pixels that differ shows nothing: it is ignored, and the user is
    told.

    Raises
    ------
    ImageReadError
        If rescale, window or palette are invalid or not supported.
    """
    seen = Seen(levels.codes, _is_padding(levels, header))
    values: NDArray[Any] = levels.values
    if photometric == "PALETTE COLOR":
        steps = _palette_step(values, header)
    else:
        unchanged = "none", values
        name, values = _first_useful(_modality_steps(values, header), values, seen) or unchanged
        tell(modality_LUT=name)
        steps = _voi_steps(values, header)
    one_gray = _ONE_GRAY if seen.differ(levels.values, _ONE_GRAY * 2**levels.bits) else _SAME
    step = _first_useful(steps, values, seen, one_gray)
    name, shown = step or (_PERCENTILES, _stretch(values, seen.counts()))
    if (
        step is not None
        and seen.largest_share(np.rint(shown / one_gray)) >= _NEARLY_ALL
        and seen.largest_share(values) <= _NOT_ALL
    ):
        doubt("shown as its header says, nearly all of it is one gray: check its window")
    inverted = photometric == "MONOCHROME1"
    tell(VOI_LUT=name, polarity=f"{photometric}: {'inverted once' if inverted else 'as stored'}")
    return 1 - shown if inverted else shown


def _first_useful(
    steps: Iterable[_Step], values: NDArray[Any], seen: Seen, by: float = 0
) -> _Step | None:
    """Return the first step that does not leave one gray of pixels that differ.

    Results that differ by no more than `by` are one gray.
    """
    for name, result in islice(steps, _MOST_STEPS):
        if seen.differ(result, by) or not seen.differ(values):
            return name, result
        doubt(f"its {name} leaves one gray of pixels that differ, and was ignored")
    return None


def _is_padding(levels: Levels, header: Header) -> NDArray[np.bool_]:
    if not header.text("PixelPaddingValue"):
        return np.zeros(len(levels.values), dtype=bool)
    value = header.integer("PixelPaddingValue")
    ends = [value % 2**16, header.integer("PixelPaddingRangeLimit", value) % 2**16]
    if levels.signed:
        ends = [end - 2**16 if end >= 2**15 else end for end in ends]
    return (levels.values >= min(ends)) & (levels.values <= max(ends))


def _palette_step(values: NDArray[Any], header: Header) -> Iterator[_Step]:
    if "SegmentedRedPaletteColorLookupTableData" in header:
        # A few bytes of it may expand to any number of entries.
        raise ImageReadError("its palette is segmented; convert it to grayscale first")
    channels = []
    for color in ("Red", "Green", "Blue"):
        keyword = f"{color}PaletteColorLookupTable"
        table = read_table(header, f"{color.lower()} palette", keyword, values)
        if table is None:
            raise ImageReadError(f"it has no {color.lower()} palette; correct its header")
        channels.append(table.apply(values) / np.float32(2**table.bits - 1))
    yield "palette", luma(np.stack(channels, axis=-1).astype(np.float32), axis=-1)


def _modality_steps(values: NDArray[Any], header: Header) -> Iterator[_Step]:
    for item in header.items("ModalityLUTSequence")[:1]:
        table = read_table(item, "Modality LUT", "LUT", values)
        if table is not None:
            yield "Modality LUT", table.apply(values)
    slope, intercept = _rescale(header, "Slope"), _rescale(header, "Intercept")
    if slope is not None and intercept is not None:
        rescaled = values.astype(np.float64) * slope + intercept
        name = f"rescale (Rescale Slope {slope:g}, Rescale Intercept {intercept:g})"
        if np.abs(rescaled).max() <= _LARGEST:
            yield name, rescaled
        else:
            doubt(f"its {name} leads to numbers beyond any meaning, and was ignored")
    elif slope not in (None, 1):
        doubt("it has no Rescale Intercept, so that its Rescale Slope was ignored")
    elif intercept:
        doubt("it has no Rescale Slope, so that its Rescale Intercept was ignored")


def _rescale(header: Header, part: str) -> float | None:
    number = next(iter(header.numbers(f"Rescale{part}")), None)
    if number is not None and not np.isfinite(number):
        raise ImageReadError(
            f"its Rescale {part} is {header.quoted(f'Rescale{part}')}, not a finite number; "
            "correct its header"
        )
    return number


def _voi_steps(values: NDArray[Any], header: Header) -> Iterator[_Step]:
    for item in header.items("VOILUTSequence")[:_MOST_LISTED]:
        table = read_table(item, "VOI LUT", "LUT", values)
        if table is not None:
            yield "VOI LUT", table.apply(values) / (2**table.bits - 1)
    function = header.code("VOILUTFunction").replace(" ", "_") or "LINEAR"
    for center, width in _windows(header, 1 if function == "LINEAR" else 0):
        if function not in _FUNCTIONS:
            raise ImageReadError(
                f"its VOI LUT Function is {header.quoted('VOILUTFunction')}, not one of "
                f"{', '.join(_FUNCTIONS)}; correct its header"
            )
        name = f"window (Window Center {center:g}, Window Width {width:g}, {function})"
        yield name, _window(values, function, center, width)


def _windows(header: Header, narrowest: float) -> Iterator[tuple[float, float]]:
    pairs = zip(header.numbers("WindowCenter"), header.numbers("WindowWidth"), strict=False)
    for center, width in islice(pairs, _MOST_LISTED):
        if center is None or width is None or width < narrowest or not width:
            continue
        if np.isfinite(center) and np.isfinite(width):
            yield center, width
        else:
            doubt(
                f"its Window Center is {header.quoted('WindowCenter')} and its Window Width "
                f"{header.quoted('WindowWidth')}, which are not finite numbers and were ignored"
            )


def _window(
    values: NDArray[Any], function: str, center: float, width: float
) -> NDArray[np.float64]:
    """Apply a window (PS3.3, C.11.2.1.2.1 and C.11.2.1.3)."""
    values = values.astype(np.float64)
    if function == "SIGMOID":
        return 1 / (1 + np.exp(-4 * (values - center) / width))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    shown = np.clip((values - center) / width + 0.5, 0, 1)
    shown[values <= center - width / 2] = 0
    shown[values > center + width / 2] = 1
    return shown


def _stretch(values: NDArray[Any], counts: NDArray[Any]) -> NDArray[np.float64]:
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
    return np.clip((values.astype(np.float64) - low) / (float(high) - float(low)), 0, 1)
