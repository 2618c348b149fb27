"""JPEG files, and JPEG streams in TIFF files."""

import re
from dataclasses import dataclass
from struct import unpack_from

import numpy as np
from PIL import Image

from otcxr_sk.images._errors import ImageReadError, damaged
from otcxr_sk.images._jpeg import (
    END_OF_IMAGE,
    FRAMES,
    MOST_IN_TIFF,
    MOST_SCANS,
    SCAN,
    require_few_scans,
    segments,
)
from otcxr_sk.images._pillow import GrayImage, in_bands, to_gray
from otcxr_sk.images.rasters._exif import orientation
from otcxr_sk.images.rasters._tags import require_inside

# How pixels are coded, by the marker of the frame.
_BASELINE, _EXTENDED, _PROGRESSIVE, _LOSSLESS = 0xC0, 0xC1, 0xC2, 0xC3
_ARITHMETIC = {0xC9, 0xCA}
_IN_SEVERAL_SCANS = {_PROGRESSIVE, 0xCA}
_READ = {_BASELINE, _EXTENDED, _PROGRESSIVE, _LOSSLESS, *_ARITHMETIC}
_JPEG_LS = 0xF7

_METADATA = {*range(0xE0, 0xF0), 0xFE}
_END = bytes([0xFF, END_OF_IMAGE])

_MODES = {1: ("L", "L"), 3: ("RGB", "RGB"), 4: ("CMYK", "CMYK;I")}

_RESTART = re.compile(rb"\xff([\xd0-\xd7])")
_NOISE = np.random.default_rng(0).integers(0, 255, 99, dtype=np.uint8).tobytes()

# Pixels on a side by which a stream in a TIFF file may exceed its strip or tile.
_FILLED_UP = 16


@dataclass
class _Header:
    """What comes before the pixels of a stream."""

    frame: int = 0
    bits: int = 0
    height: int = 0
    width: int = 0
    components: int = 0
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
    if header.height > shape[0] + _FILLED_UP or header.width > shape[1] + _FILLED_UP:
        raise damaged(
            f"it is damaged: a part of {shape[0]} x {shape[1]} pixels has {header.height} x "
            f"{header.width}"
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
        if marker in FRAMES and len(data) >= 6:
            header.frame = marker
            header.bits, header.height, header.width, header.components = unpack_from(">BHHB", data)
        elif marker == 0xE1 and data.startswith(b"Exif\0\0"):
            header.exif = header.exif or data
        elif marker == 0xE1 and data.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
            header.xmp = data
        elif marker == 0xEE and data.startswith(b"Adobe"):
            header.adobe = True
    raise damaged("it is cut short: it ends before its pixels")


def _decode(stream: bytes, header: _Header) -> Image.Image:
    if stream.rfind(_END, header.scan) >= 0:
        image = _image(stream, header)
        coded = stream[: stream.find(_END, header.scan)]
        if header.frame in _IN_SEVERAL_SCANS and not _has_all_scans(coded, header):
            raise damaged("it is cut short: some of its scans are missing")
        if header.frame in _ARITHMETIC or not _may_be_cut(image, header):
            return image
    elif header.frame in (_PROGRESSIVE, *_ARITHMETIC):
        raise damaged("it is cut short: its end is missing")
    else:
        # Zeros fill up the last block of a disk.
        coded = stream.rstrip(b"\0")
        try:
            image = _image(coded + _END, header)
        except ValueError as error:
            raise damaged("it is cut short: its end is missing") from error
    if not _is_whole(image, coded, header):
        raise damaged("it is cut short: its lower part is missing")
    return image


def _has_all_scans(coded: bytes, header: _Header) -> bool:
    """Return whether scans bring all bits of all 64 frequencies of every component."""
    complete: dict[int, set[int]] = {}
    at = header.scan
    while at >= 0:
        # Length and number of components, two bytes for each, and what this scan brings of them.
        count = int.from_bytes(coded[at + 4 : at + 5])
        names = coded[at + 5 : at + 5 + 2 * count : 2]
        brought = coded[at + 5 + 2 * count : at + 8 + 2 * count]
        if len(brought) == 3 and brought[2] % 16 == 0:
            for name in names:
                complete.setdefault(name, set()).update(range(brought[0], brought[1] + 1))
        at = coded.find(bytes([0xFF, SCAN]), at + 2)
    found = [frequencies >= set(range(64)) for frequencies in complete.values()]
    return len(found) >= header.components and all(found)


def _is_whole(image: Image.Image, coded: bytes, header: _Header) -> bool:
    """Return whether an image has all of its pixels; `coded` are they without an end.

    Where a stream ends early, libjpeg goes on with gray. If there is noise, it goes on with that,
    at once or after the restart marker that comes next, but the pixels before stay the same.
    """
    restarts = [0xD0 - 1, *(marker[0] for marker in _RESTART.findall(coded, header.scan))]
    following = 0xD0 + (restarts[-1] + 1) % 8
    # A zero ends what looks like a marker that is cut.
    noise = b"\0" * coded.endswith(b"\xff") + _NOISE + bytes([0xFF, following]) + _NOISE
    try:
        other = _image(coded + noise + _END, header)
    except ValueError:
        return False
    return all(
        np.array_equal(np.asarray(one), np.asarray(two)) for _, (one, two) in in_bands(image, other)
    )


def _image(stream: bytes, header: _Header) -> Image.Image:
    # Only pixels are left to the decoder: Pillow's reader of files would obey settings of the whole
    # process, and stumble over metadata.
    mode, unpacker = _MODES[header.components]
    image = Image.new(mode, (header.width, header.height), None)
    image.frombytes(stream, "jpeg", unpacker, "")
    return image


def _may_be_cut(image: Image.Image, header: _Header) -> bool:
    """Return whether the last block of 8 x 8 pixels has the gray with which libjpeg goes on."""
    if header.frame in (_LOSSLESS, _PROGRESSIVE) or header.components == 4:
        # The gray differs, or what is missing is fine detail. Such images are too rare for a rule.
        return True
    left, top = ((side - 1) // 8 * 8 for side in image.size)
    # Colors may come in from the blocks beside, but they do not change the luma by much.
    block = np.asarray(image.crop((left, top, *image.size)).convert("L"))
    return bool(126 <= block.min() <= block.max() <= 130)


def _require_readable(stream: bytes, header: _Header, most_scans: int = MOST_SCANS) -> None:
    if not (header.scan and header.frame):
        raise damaged("it is damaged or cut short: it contains no pixels")
    if header.frame == _JPEG_LS:
        what = "compressed by JPEG-LS"
    elif header.frame not in _READ:
        what = "hierarchical, or lossless with arithmetic coding"
    elif header.bits != 8:
        what = f"of {header.bits} bits"
    elif header.components not in _MODES or (header.components > 1 and header.frame == _LOSSLESS):
        what = f"of {header.components} channels"
    elif header.components == 4 and not header.adobe:
        what = "of four channels that does not say which colors they are"
    else:
        shape = header.height, header.width, header.components
        require_few_scans(stream, header.scan, header.frame, shape, most_scans)
        return
    raise ImageReadError(f"it is a JPEG {what}, which is not read; save it as gray PNG")
