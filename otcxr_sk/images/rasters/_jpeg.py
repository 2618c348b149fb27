"""JPEG files, and JPEG streams in TIFF files."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from otcxr_sk.images._errors import ImageReadError, damaged
from otcxr_sk.images._jpeg import (
    ARITHMETIC,
    ARITHMETIC_PROGRESSIVE,
    BASELINE,
    END_OF_IMAGE,
    EXTENDED,
    JPEG_LS,
    LOSSLESS,
    MOST_IN_TIFF,
    MOST_SCANS,
    PROGRESSIVE,
    SCAN,
    Frame,
    read_frame,
    require_few_scans,
    segments,
)
from otcxr_sk.images._jpeg_whole import CORNER, decode_whole
from otcxr_sk.images._pillow import GrayImage, in_bands, to_gray
from otcxr_sk.images._telling import tell
from otcxr_sk.images.rasters._exif import orientation
from otcxr_sk.images.rasters._tags import require_inside

_READ = {BASELINE, EXTENDED, PROGRESSIVE, LOSSLESS, ARITHMETIC, ARITHMETIC_PROGRESSIVE}

_METADATA = {*range(0xE0, 0xF0), 0xFE}

_MODES = {1: ("L", "L"), 3: ("RGB", "RGB"), 4: ("CMYK", "CMYK;I")}

# Pixels on a side by which a stream in a TIFF file may exceed its strip or tile.
_FILLED_UP = 16

_NONE = Frame(0, 0, 0, 0, 0)


@dataclass
class _Header:
    """What comes before the pixels of a stream."""

    frame: Frame = _NONE
    adobe: bool = False
    exif: bytes = b""
    xmp: bytes = b""
    # Tables and the like, without metadata.
    tables: bytes = b""
    # Where the first scan starts.
    scan: int = 0


def decode_jpeg(content: bytes) -> GrayImage:
    """Decode the content of a JPEG file; what follows its first image is ignored."""
    header = _parse(content)
    tell(bits=header.frame.bits)
    _require_readable(content, header)
    return to_gray(_decode(content, header), orientation(header.exif, header.xmp))


def shared_tables(tables: bytes, *, ycbcr: bool) -> bytes:
    """Return what the streams of a TIFF file lack, given tables that it keeps elsewhere."""
    header = _parse(tables + bytes([0xFF, SCAN])) if tables else _Header()
    # In the absence of other metadata, this decides whether colors are transformed.
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([ycbcr])
    return adobe + header.tables


def decode_stream(
    stream: bytes, shared: bytes, shape: tuple[int, int], most_scans: int
) -> Image.Image:
    """Decode a stream of a TIFF file for a strip or tile of this height and width.

    Four channels come inverted, as Adobe's files have them.
    """
    header = _parse(stream, MOST_IN_TIFF)
    header.adobe = True
    height, width = header.frame.height, header.frame.width
    if height > shape[0] + _FILLED_UP or width > shape[1] + _FILLED_UP:
        raise damaged(
            f"it is damaged: a part of {shape[0]} x {shape[1]} pixels has {height} x {width}"
        )
    _require_readable(stream, header, most_scans)
    start = b"\xff\xd8" + shared + header.tables
    stream, header.scan = start + stream[header.scan :], len(start)
    return _decode(stream, header)


def _parse(stream: bytes, *most: int) -> _Header:
    header = _Header()
    tables: list[bytes] = []
    for marker, start, stop in segments(stream, 2, *most):
        if marker in (SCAN, END_OF_IMAGE):
            header.scan = start if marker == SCAN else 0
            header.tables = b"".join(tables)
            return header
        require_inside(stream, stop)
        data = stream[start + 4 : stop]
        if marker not in _METADATA:
            tables.append(stream[start:stop])
        if frame := read_frame(marker, data):
            header.frame = frame
        elif marker == 0xE1 and data.startswith(b"Exif\0\0"):
            header.exif = header.exif or data
        elif marker == 0xE1 and data.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
            header.xmp = data
        elif marker == 0xEE and data.startswith(b"Adobe"):
            header.adobe = True
    raise damaged("it is cut short: it ends before its pixels")


def _decode(stream: bytes, header: _Header) -> Image.Image:
    frame = header.frame
    mode, unpacker = _MODES[frame.channels]

    def decode(stream: bytes) -> Image.Image:
        # Only pixels are left to the decoder: Pillow's reader of files would obey settings of the
        # whole process, and stumble over metadata.
        image = Image.new(mode, (frame.width, frame.height), None)
        image.frombytes(stream, "jpeg", unpacker, "")
        return image

    return decode_whole(stream, header.scan, frame, decode, _corner, _are_equal)


def _corner(image: Image.Image) -> NDArray[Any]:
    left, top = (max(0, side - CORNER) for side in image.size)
    return np.asarray(image.crop((left, top, *image.size)).convert("L"))


def _are_equal(one: Image.Image, other: Image.Image) -> bool:
    return all(
        np.array_equal(np.asarray(part), np.asarray(same))
        for _, (part, same) in in_bands(one, other)
    )


def _require_readable(stream: bytes, header: _Header, most_scans: int = MOST_SCANS) -> None:
    frame = header.frame
    if not header.scan or frame == _NONE:
        raise damaged("it is damaged or cut short: it contains no pixels")
    if frame.marker == JPEG_LS:
        what = "compressed by JPEG-LS"
    elif frame.marker not in _READ:
        what = "hierarchical, or lossless with arithmetic coding"
    elif frame.bits != 8:
        what = f"of {frame.bits} bits"
    elif frame.channels not in _MODES or (frame.channels > 1 and frame.marker == LOSSLESS):
        what = f"of {frame.channels} channels"
    elif frame.channels == 4 and not header.adobe:
        what = "of four channels that does not say which colors they are"
    else:
        require_few_scans(stream, header.scan, frame, most_scans)
        return
    raise ImageReadError(f"it is a JPEG {what}, which is not read; save it as gray PNG")
