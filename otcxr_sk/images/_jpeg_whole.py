"""Decode JPEG streams that have all of their pixels, and no others.

Where a stream ends early, libjpeg goes on with gray, or, in lossless coding, with the difference
from the pixels beside that it has reached. If there is noise, it goes on with that, at once or
after the restart marker that comes next, but the pixels before stay the same.
"""

import re
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from otcxr_sk.images._errors import damaged
from otcxr_sk.images._jpeg import (
    ARITHMETIC,
    ARITHMETIC_PROGRESSIVE,
    END,
    LOSSLESS,
    PROGRESSIVE,
    Frame,
)

Pixels = TypeVar("Pixels")

# Rows and columns at the lower right that are looked at.
CORNER = 9

IN_SEVERAL_SCANS = {PROGRESSIVE, ARITHMETIC_PROGRESSIVE}
_ARITHMETIC = {ARITHMETIC, ARITHMETIC_PROGRESSIVE}

# Many bytes of pixels are 0xFF, of which `bytes.find` is slow to find the right one.
_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
_SCAN, _END = re.compile(rb"\xff\xda"), re.compile(rb"\xff\xd9")
_NOISE = np.random.default_rng(0).integers(0, 255, 99, dtype=np.uint8).tobytes()

# Of the pixel that is predicted, from those to the left, above, and above the left, by the number
# of the predictor.
_PREDICTORS: dict[int, Callable[..., NDArray[np.int64]]] = {
    1: lambda left, above, corner: left,
    2: lambda left, above, corner: above,
    3: lambda left, above, corner: corner,
    4: lambda left, above, corner: left + above - corner,
    5: lambda left, above, corner: left + ((above - corner) >> 1),
    6: lambda left, above, corner: above + ((left - corner) >> 1),
    7: lambda left, above, corner: (left + above) >> 1,
}


def decode_whole(
    stream: bytes,
    scan: int,
    frame: Frame,
    decode: Callable[[bytes], Pixels],
    corner: Callable[[Pixels], NDArray[Any]],
    equal: Callable[[Pixels, Pixels], bool],
    it_is: str = "it is",
) -> Pixels:
    """Decode a stream, whose end mark may be missing, but no pixel.

    Parameters
    ----------
    stream : bytes
    scan : int
        Where its first scan starts.
    frame : Frame
    decode : callable
        Returns the pixels of a stream with an end mark.
    corner : callable
        Returns gray or the first channel of the last `CORNER` rows and columns of pixels.
    equal : callable
        Returns whether two images have the same pixels.
    it_is : str, default="it is"
        How messages begin.

    Raises
    ------
    ImageReadError
        The stream is cut short.
    """
    coded, ended = without_end(stream, scan)
    if not ended and frame.marker in IN_SEVERAL_SCANS | _ARITHMETIC:
        raise damaged(f"{it_is} cut short: its end is missing")
    try:
        pixels = decode(coded + END)
    except ValueError as error:
        if ended:
            raise
        raise damaged(f"{it_is} cut short: its end is missing") from error
    if not _has_all_scans(coded, scan, frame):
        raise damaged(f"{it_is} cut short: some of its scans are missing")
    if ended and not _may_be_filled_up(coded, scan, frame, corner(pixels)):
        return pixels
    restarts = [0xD0 - 1, *(marker[0] for marker in _RESTART.findall(coded, scan))]
    # A zero ends what looks like a marker that is cut.
    noise = b"\0" * coded.endswith(b"\xff") + _NOISE
    noise += bytes([0xFF, 0xD0 + (restarts[-1] + 1) % 8]) + _NOISE
    try:
        whole = equal(pixels, decode(coded + noise + END))
    except ValueError:
        whole = False
    if not whole:
        raise damaged(f"{it_is} cut short: its lower part is missing")
    return pixels


def without_end(stream: bytes, scan: int) -> tuple[bytes, bool]:
    """Return a stream up to its end mark, and whether it has one."""
    end = _END.search(stream, scan)
    if end:
        return stream[: end.start()], True
    # Zeros fill up the last block of a disk, except for one that is part of a coded 255.
    coded = stream.rstrip(b"\0")
    return coded + b"\0" * coded.endswith(b"\xff"), False


def _has_all_scans(coded: bytes, scan: int, frame: Frame) -> bool:
    """Return whether scans bring all bits of all 64 frequencies of every channel."""
    of_some = frame.marker in IN_SEVERAL_SCANS
    if not of_some and coded[scan + 4 : scan + 5] == bytes([frame.channels]):
        return True
    complete: dict[int, set[int]] = {}
    for found in _SCAN.finditer(coded, scan):
        # Length and number of channels, two bytes for each, and what this scan brings of them.
        at = found.start() + 4
        count = int.from_bytes(coded[at : at + 1])
        names = coded[at + 1 : at + 1 + 2 * count : 2]
        brought = coded[at + 1 + 2 * count : at + 4 + 2 * count]
        if len(brought) == 3 and (brought[2] % 16 == 0 or not of_some):
            # Where it brings all frequencies, some programs say that it brings none.
            frequencies = range(brought[0], brought[1] + 1) if of_some else range(64)
            for name in names:
                complete.setdefault(name, set()).update(frequencies)
    whole = [frequencies >= set(range(64)) for frequencies in complete.values()]
    return len(whole) >= frame.channels and all(whole)


def _may_be_filled_up(coded: bytes, scan: int, frame: Frame, corner: NDArray[Any]) -> bool:
    """Return whether the last pixels look like those with which libjpeg goes on."""
    if frame.marker in _ARITHMETIC:
        # No noise shows whether they are.
        return False
    if frame.marker == PROGRESSIVE or frame.channels == 4:
        # What is missing is fine detail, or the gray differs.
        return True
    corner = corner.astype(np.int64)
    if frame.marker != LOSSLESS:
        # Colors may come in from the blocks beside, but they do not change the luma by much.
        block = corner[-((frame.height - 1) % 8 + 1) :, -((frame.width - 1) % 8 + 1) :]
        return bool(np.abs(block - (1 << (frame.bits - 1))).max() <= 2)
    count = coded[scan + 4]
    predictor, shift = coded[scan + 5 + 2 * count], coded[scan + 7 + 2 * count] % 16
    if predictor not in _PREDICTORS or shift or min(corner.shape) < 2:
        return True
    predicted = _PREDICTORS[predictor](corner[-1, :-1], corner[-2, 1:], corner[-2, :-1])
    return bool(np.ptp(corner[-1, 1:] - predicted) == 0)
