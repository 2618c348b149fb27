"""Decode RLE (PS3.5, annex G)."""

from contextlib import suppress
from struct import unpack

import numpy as np
from numpy.typing import NDArray

from otcxr_sk.images._errors import ImageReadError, damaged
from otcxr_sk.images.dicom._layout import Layout


def decode_rle(data: bytes, layout: Layout) -> NDArray[np.unsignedinteger]:
    """Decode a frame to one plane or three (samples, height, width)."""
    size, pixels = layout.allocated // 8, layout.rows * layout.columns
    count, *offsets = unpack("<16I", data[:64].ljust(64, b"\0"))
    wanted = layout.samples * size
    if count != wanted:
        raise ImageReadError(
            f"its RLE stream has {count} segments, but its header says {layout.samples} samples of "
            f"{layout.allocated} bits, which take {wanted}; correct its header"
        )
    # The bytes of a sample are segments of their own, the highest first.
    planes = np.empty((layout.samples, pixels, size), dtype=np.uint8)
    ends = [*offsets[1:wanted], len(data)]
    for number, (start, end) in enumerate(zip(offsets, ends, strict=False)):
        segment = _decode_segment(data[start:end], pixels)
        if len(segment) < pixels:
            raise damaged(f"its RLE stream is cut short: it has {len(segment)} of {pixels} pixels")
        sample, place = divmod(number, size)
        planes[sample, :, size - 1 - place] = np.frombuffer(segment, np.uint8, pixels)
    return planes.view(f"<u{size}").reshape(layout.samples, layout.rows, layout.columns)


def _decode_segment(data: bytes, wanted: int) -> bytearray:
    decoded, at = bytearray(), 0
    with suppress(IndexError):
        while len(decoded) < wanted:
            head = data[at]
            if head < 128:
                end = at + head + 2
                decoded += data[at + 1 : end]
                at = end
            elif head > 128:
                decoded += data[at + 1 : at + 2] * (257 - head)
                at += 2
            else:
                at += 1
    return decoded
