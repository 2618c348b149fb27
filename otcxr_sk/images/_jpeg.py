"""The segments of JPEG streams, where libjpeg finds them, and how many scans there are."""

import re
from collections.abc import Iterator
from struct import unpack_from
from typing import NamedTuple

from otcxr_sk.images._errors import ImageReadError, require_size

SCAN, END_OF_IMAGE, _START = 0xDA, 0xD9, 0xD8
END = bytes([0xFF, END_OF_IMAGE])

# How pixels are coded, by the marker of the frame.
BASELINE, EXTENDED, PROGRESSIVE, LOSSLESS, JPEG_LS = 0xC0, 0xC1, 0xC2, 0xC3, 0xF7
ARITHMETIC, ARITHMETIC_PROGRESSIVE = 0xC9, 0xCA
# Between them are the markers of Huffman tables, extensions and arithmetic conditioning.
_FRAMES = {*range(0xC0, 0xD0), JPEG_LS} - {0xC4, 0xC8, 0xCC}

# What libjpeg takes for the start of a segment, in whatever comes before. There may be any number
# of restart markers among the pixels.
_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd8-\xfe])")

# Usual files have up to 18 scans and some hundred segments, and those in TIFF files a dozen.
MOST_SCANS, _MOST_SEGMENTS, MOST_IN_TIFF = 64, 10_000, 50


class Frame(NamedTuple):
    """How a stream codes its pixels, by its marker, and how many."""

    marker: int
    bits: int
    height: int
    width: int
    channels: int


def read_frame(marker: int, content: bytes) -> Frame | None:
    """Return the frame that a segment describes, or None if it describes none."""
    if marker not in _FRAMES or len(content) < 6:
        return None
    return Frame(marker, *unpack_from(">BHHB", content))


def segments(stream: bytes, at: int, most: int = _MOST_SEGMENTS) -> Iterator[tuple[int, int, int]]:
    """Yield marker, start and stop of each segment from `at` to the end of the image.

    A scan stops where its pixels start, and the last segment may stop beyond the stream. More than
    `most` are an error.
    """
    for _ in range(most):
        found = _MARKER.search(stream, at)
        if found is None:
            return
        marker, at = found[1][0], found.end()
        if marker not in (_START, END_OF_IMAGE):
            at += int.from_bytes(stream[at : at + 2])
        yield marker, found.start(), at
        if marker == END_OF_IMAGE:
            return
    raise ImageReadError(f"it is a JPEG of more than {most} parts, unlike an image; leave it out")


def require_few_scans(stream: bytes, at: int, frame: Frame, most: int = MOST_SCANS) -> None:
    """Raise an error for a stream that takes too long to decode, or too much memory.

    Each scan may take the time of a whole image, however few bytes it has.

    Parameters
    ----------
    stream : bytes
    at : int
        Where its first scan starts.
    frame : Frame
    most : int, default=64
        Scans that it may have.
    """
    scans = 0
    # The usual ones end with the first scan that has all channels, and are not searched for others.
    first = int.from_bytes(stream[at + 4 : at + 5])
    in_one = frame.marker in (BASELINE, EXTENDED, LOSSLESS) and first == frame.channels
    for marker, *_ in () if in_one else segments(stream, at):
        scans += marker == SCAN
        if scans > most:
            raise ImageReadError(
                f"it is a JPEG of more than {most} scans, each of which takes the time of "
                "an image; if it is genuine, save it as PNG"
            )
    cost: float = frame.channels
    if frame.marker not in (BASELINE, EXTENDED, LOSSLESS, JPEG_LS, PROGRESSIVE):
        # Of arithmetic coding, no byte is needed for many pixels.
        cost *= 3
    elif scans > 1 or frame.marker == PROGRESSIVE:
        # All frequencies are kept until the last scan.
        cost *= 1.5
    require_size(frame.height, frame.width, cost=cost + scans / 10 * (scans > 1))
