"""Tell which codec wrote a stream, and what the stream says of its pixels."""

from struct import unpack
from typing import NamedTuple

from otcxr_sk.images._jpeg import (
    END,
    JPEG_LS,
    LOSSLESS,
    SCAN,
    Frame,
    read_frame,
    require_few_scans,
    segments,
)

_APP0, _APP14 = 0xE0, 0xEE

_JPEG_START = b"\xff\xd8\xff"
_J2K_START = b"\xff\x4f\xff\x51"
_JP2_START = b"\0\0\0\x0cjP  "
# The longest of these.
HEAD = 8
_RLE_HEADER = 64


class Stream(NamedTuple):
    """A compressed frame.

    Attributes
    ----------
    data : bytes
        From the start of the stream, without what may come before.
    codec : str
        "JPEG" (discrete cosine transform), "JPEG Lossless", "JPEG-LS", "JPEG 2000" or "HTJ2K".
    bits : int
        Precision of a sample.
    color : str
        "RGB" or "YBR" if the stream says so, else empty.
    signed : bool
        Whether the stream says that samples are signed.
    ended : bool
        Whether it has its end marker.
    frame : Frame or None
        Of JPEG and JPEG-LS.
    scan : int
        Where its first scan starts.
    """

    data: bytes
    codec: str
    height: int
    width: int
    samples: int
    bits: int
    color: str
    signed: bool
    ended: bool
    frame: Frame | None = None
    scan: int = 0


def is_start(head: bytes) -> bool:
    """Return whether a stream of JPEG, JPEG-LS or JPEG 2000 starts with these bytes."""
    return head.startswith((_JPEG_START, _J2K_START, _JP2_START))


def parse_stream(data: bytes) -> Stream | None:
    """Return what a stream is, or None if it is not one of JPEG, JPEG-LS or JPEG 2000."""
    if data.startswith(_JPEG_START):
        return _parse_jpeg(data)
    if not is_start(data):
        return None
    # JP2 boxes, which DICOM forbids, may come first.
    start = data.find(_J2K_START)
    return None if start < 0 else _parse_jpeg2000(data[start:])


def looks_like_rle(data: bytes, segments: int) -> bool:
    """Return whether data start with the header of RLE with so many segments (PS3.5, annex G)."""
    if len(data) < _RLE_HEADER:
        return False
    count, *offsets = unpack("<16I", data[:_RLE_HEADER])
    used = offsets[:segments]
    return count == segments and used[0] == _RLE_HEADER and used == sorted(used)


def _parse_jpeg(data: bytes) -> Stream | None:
    frame, jfif, adobe, named = None, "", "", ""
    for marker, start, stop in segments(data, 2):
        content = data[start + 4 : stop]
        if marker == SCAN:
            break
        if found := read_frame(marker, content):
            frame = found
            named = "RGB" if content[6 : 6 + 3 * frame.channels : 3].upper() == b"RGB" else ""
        elif marker == _APP0 and content.startswith(b"JFIF"):
            jfif = "YBR"
        elif marker == _APP14 and content.startswith(b"Adobe") and len(content) > 11:
            adobe = "YBR" if content[11] else "RGB"
    if frame is None:
        return None
    if marker == SCAN:
        require_few_scans(data, start, frame)
    return Stream(
        data,
        {LOSSLESS: "JPEG Lossless", JPEG_LS: "JPEG-LS"}.get(frame.marker, "JPEG"),
        frame.height,
        frame.width,
        frame.channels,
        frame.bits,
        color=named or jfif or adobe,
        signed=False,
        ended=data.rfind(END) > start,
        frame=frame,
        scan=start,
    )


def _parse_jpeg2000(data: bytes) -> Stream | None:
    if len(data) < 43:
        return None
    # Skipped: the length before the capabilities, the tile sizes after the size.
    capabilities, right, bottom, left, top = unpack(">H4I", data[6:24])
    samples, precision = unpack(">HB", data[40:43])
    return Stream(
        data,
        "HTJ2K" if capabilities & 0x4000 else "JPEG 2000",
        bottom - top,
        right - left,
        samples,
        bits=(precision & 0x7F) + 1,
        color="",
        signed=precision > 0x7F,
        ended=END in data,
    )
