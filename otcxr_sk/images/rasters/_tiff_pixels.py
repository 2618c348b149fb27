"""Decompress and unpack the pixels of a TIFF file."""

import struct
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

from otcxr_sk.images._errors import ImageReadError, damaged, require_size
from otcxr_sk.images._jpeg import MOST_SCANS
from otcxr_sk.images._pillow import in_bands
from otcxr_sk.images.rasters._jpeg import decode_stream, shared_tables
from otcxr_sk.images.rasters._tags import require_inside
from otcxr_sk.images.rasters._tiff_layout import (
    BLACK_IS_ZERO,
    CMYK,
    DIFFERENCES,
    FAX,
    FLOAT_DIFFERENCES,
    GROUP_4,
    JPEG,
    NO_PREDICTOR,
    NONE,
    YCBCR,
    Layout,
)

# Top, left, and samples (rows, columns, channels) of a part of the image.
Block = tuple[int, int, NDArray[Any]]

# Pixels unpacked at a time.
_AT_ONCE = 2**20

_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))

# What follows a fax, where fewer lines are there than are wanted, must be no code that ends it, and
# those of Group 3 go on at the next end of a line.
_NOISE = np.random.default_rng(0).bytes(120)
_LINES = b"".join(b"\0\1" + _NOISE[at : at + 4] for at in range(0, len(_NOISE), 4))

# What libtiff returns for data of any kind: bytes, in the mode that Pillow keeps without copying.
_FOUR_BYTES, _BYTE, _BIT = 4, 1, 0


def blocks(content: bytes, layout: Layout) -> Iterator[Block]:
    """Yield all parts of the image."""
    if layout.compression == NONE:
        yield from _uncompressed(content, layout)
    elif layout.compression == JPEG:
        yield from _jpeg(content, layout)
    elif layout.compression in FAX:
        (image,) = _by_libtiff(content, layout, _BIT)
        # Where lines are missing, libtiff goes on with white, or with more bytes if there are any.
        rest = _NOISE if layout.compression == GROUP_4 else _LINES
        if _by_libtiff(content, layout, _BIT, rest) != [image]:
            raise damaged("it is cut short: its lower part is missing")
        for rows, (band,) in in_bands(image):
            yield rows.start, 0, np.asarray(band, dtype=np.uint8)[..., np.newaxis]
    else:
        yield from _compressed(content, layout)


def _uncompressed(content: bytes, layout: Layout) -> Iterator[Block]:
    layout = _with_strips_joined(layout)
    for places, top, left, rows, columns in _chunks(layout):
        size = layout.bytes_of(layout.chunk[1])
        _require_bytes(layout, places, rows * size)
        for first in range(0, rows, max(1, _AT_ONCE // columns)):
            count = min(max(1, _AT_ONCE // columns), rows - first)
            planes = []
            for place in places:
                start = int(layout.offsets[place]) + first * size
                require_inside(content, start + count * size)
                packed: Any = memoryview(content)[start : start + count * size]
                if layout.reverse_bits:
                    packed = packed.tobytes().translate(_REVERSED)
                planes.append(np.frombuffer(packed, dtype=np.uint8).reshape(count, size))
            yield top + first, left, _unpacked(planes, columns, layout)


def _with_strips_joined(layout: Layout) -> Layout:
    """Return the layout with one strip if one follows the other, as in most files."""
    rows, columns = layout.chunk
    steps = np.diff(layout.offsets)
    if layout.tiled or layout.planes > 1 or (steps != rows * layout.bytes_of(columns)).any():
        return layout
    chunk = layout.height, columns
    return replace(layout, chunk=chunk, offsets=layout.offsets[:1], counts=layout.counts[:0])


def _jpeg(content: bytes, layout: Layout) -> Iterator[Block]:
    shared = shared_tables(layout.jpeg_tables, ycbcr=layout.photometric == YCBCR)
    # One for each channel, unless there is one strip.
    most_scans = MOST_SCANS if len(layout.offsets) == 1 else 4
    for places, top, left, rows, columns in _chunks(layout):
        images = [
            decode_stream(bytes(_chunk(content, layout, place)), shared, layout.chunk, most_scans)
            for place in places
        ]
        for image in images:
            width, height = image.size
            if (
                width < columns
                or height < rows
                or len(image.getbands()) != layout.channels_stored_together
            ):
                raise damaged(
                    "it is damaged: a part of it does not have the size that its header says"
                )
        for part, bands in in_bands(*images):
            planes = [np.atleast_3d(np.asarray(band)[:rows, :columns]) for band in bands]
            samples = _together(planes)[: rows - part.start]
            inverted = layout.channels_stored_together == 4
            yield top + part.start, left, 255 - samples if inverted else samples


def _compressed(content: bytes, layout: Layout) -> Iterator[Block]:
    size = layout.bytes_of(layout.chunk[1])
    images = _by_libtiff(content, layout, _BYTE if size % _FOUR_BYTES else _FOUR_BYTES)
    for rows, bands in in_bands(*images, pixels_wide=layout.width):
        # Each plane, as rows of the bytes of several tiles.
        planes = [np.asarray(band).reshape(rows.stop - rows.start, -1, size) for band in bands]
        for number, left in enumerate(range(0, layout.width, layout.chunk[1])):
            columns = min(layout.chunk[1], layout.width - left)
            parts = [plane[:, number] for plane in planes]
            yield rows.start, left, _unpacked(parts, columns, layout)


def _chunks(layout: Layout) -> Iterator[tuple[list[int], int, int, int, int]]:
    """Yield numbers in each plane, top, left, rows and columns of every strip or tile."""
    rows, columns = layout.chunk
    number, per_plane = 0, len(layout.offsets) // layout.planes
    for top in range(0, layout.height, rows):
        for left in range(0, layout.width, columns):
            places = list(range(number, len(layout.offsets), per_plane))
            yield (
                places,
                top,
                left,
                min(rows, layout.height - top),
                min(columns, layout.width - left),
            )
            number += 1


def _require_bytes(layout: Layout, places: list[int], wanted: int) -> None:
    """Raise an error if strips or tiles are shorter than their pixels.

    A wrong length of the only one does not matter.
    """
    if len(layout.counts) == len(layout.offsets) > layout.planes:
        there = layout.counts[places].min()
        if 0 < there < wanted:
            raise damaged(f"it is damaged: one of its parts has {there} bytes instead of {wanted}")


def _chunk(content: bytes, layout: Layout, place: int) -> bytes | memoryview:
    """Return a compressed strip or tile."""
    start = int(layout.offsets[place])
    if len(layout.counts) > place and layout.counts[place] > 0:
        stop = start + int(layout.counts[place])
    elif len(layout.offsets) == 1:
        stop = len(content)
    else:
        raise ImageReadError(
            "it is a TIFF that does not say where its strips or tiles end, which is not read; "
            "save it again with another program, or leave it out"
        )
    require_inside(content, max(stop, start + 1))
    chunk = memoryview(content)[start:stop]
    return chunk.tobytes().translate(_REVERSED) if layout.reverse_bits else chunk


def _by_libtiff(content: bytes, layout: Layout, unit: int, rest: bytes = b"") -> list[Image.Image]:
    """Decompress each plane by libtiff, as pixels of bits, of bytes or of four bytes.

    Pillow knows only some kinds of pixels, and takes others for them, so it is shown bytes. The
    `rest` follows those of each strip or tile.
    """
    rows, columns = layout.chunk
    width = layout.width
    if unit:
        # Including what the last tiles have beyond the image.
        n_tiles = -(-width // columns)
        columns = layout.bytes_of(columns) // unit
        width = n_tiles * columns
    # Pillow applies its limit to what it is shown.
    require_size(layout.height, layout.width, cost=max(1, width / layout.width))
    images: list[Image.Image] = []
    per_plane = len(layout.offsets) // layout.planes
    for plane in range(layout.planes):
        chunks = [
            _chunk(content, layout, plane * per_plane + number) for number in range(per_plane)
        ]
        if rest:
            chunks = [bytes(chunk) + rest for chunk in chunks]
        shown = {
            256: [width],
            257: [layout.height],
            258: [8] * unit or [1],
            259: [layout.compression],
            262: [CMYK if unit == _FOUR_BYTES else BLACK_IS_ZERO],
            277: [unit or 1],
            **{tag: [value] for tag, value in layout.fax_options.items()},
        }
        if layout.tiled:
            shown |= {322: [columns], 323: [rows]}
        else:
            shown[278] = [rows]
        image = TiffImageFile(BytesIO(_tiff(shown, chunks, layout.tiled)))
        image.load()
        images.append(image)
    return images


def _tiff(tags: dict[int, list[int]], chunks: list[bytes | memoryview], tiled: bool) -> bytes:
    """Return a TIFF file with these tags, and strips or tiles."""
    parts: list[bytes | memoryview] = [bytes(8)]
    at = 8

    def append(part: bytes | memoryview) -> int:
        nonlocal at
        parts.append(part)
        at += len(part)
        return at - len(part)

    places = [append(chunk) for chunk in chunks]
    tags = tags | {(324 if tiled else 273): places, (325 if tiled else 279): [*map(len, chunks)]}
    entries = []
    for tag, values in sorted(tags.items()):
        packed = struct.pack(f"<{len(values)}I", *values)
        value = packed if len(values) == 1 else struct.pack("<I", append(packed))
        entries.append(struct.pack("<HHI", tag, 4, len(values)) + value)
    parts[0] = struct.pack("<4sI", b"II*\0", at)
    append(struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4))
    return b"".join(parts)


def _unpacked(planes: list[NDArray[np.uint8]], columns: int, layout: Layout) -> NDArray[Any]:
    """Return samples (rows, columns, channels) of rows of bytes, one array for each plane."""
    return _together([_samples(plane, layout)[:, :columns] for plane in planes])


def _together(planes: list[NDArray[Any]]) -> NDArray[Any]:
    return planes[0] if len(planes) == 1 else np.concatenate(planes, axis=2)


def _samples(packed: NDArray[np.uint8], layout: Layout) -> NDArray[Any]:
    """Return the samples of rows of bytes of a strip or tile, which may be wider than the image."""
    channels = layout.channels_stored_together
    rows, length = len(packed), layout.chunk[1] * channels
    shape = rows, layout.chunk[1], channels
    if layout.bits % 8:
        return _whole_bytes(packed, length, layout.bits).reshape(shape)
    size = layout.bits // 8
    packed = np.ascontiguousarray(packed)
    dtype = np.dtype(f"{layout.order}{layout.kind}{size}")
    if layout.predictor == NO_PREDICTOR:
        return packed.view(dtype).reshape(shape)
    if layout.predictor == DIFFERENCES:
        # Also floats are subtracted as if they were integers.
        unsigned = np.dtype(f"{layout.order}u{size}")
        differences = packed.view(unsigned).reshape(shape)
        native = unsigned.newbyteorder("=")
        return np.cumsum(differences, axis=1, dtype=native).view(dtype.newbyteorder("="))
    assert layout.predictor == FLOAT_DIFFERENCES
    # All first bytes of the floats of a row, then all second ones; the differences are of bytes.
    differences = packed.reshape(rows, -1, channels)
    summed = np.cumsum(differences, axis=1, dtype=np.uint8).reshape(rows, size, length)
    return np.ascontiguousarray(summed.swapaxes(1, 2)).view(f">f{size}").reshape(shape)


def _whole_bytes(packed: NDArray[np.uint8], length: int, bits: int) -> NDArray[np.uint16]:
    """Unpack the first `length` integers of a number of bits from each row of bytes."""
    # Eight of them start at a whole byte again, and each is within three bytes.
    n_groups = -(-length // 8)
    padded = np.pad(packed, ((0, 0), (0, n_groups * bits + 2 - packed.shape[1])))
    values = np.empty((len(packed), 8 * n_groups), dtype=np.uint16)
    for place in range(8):
        byte, bit = divmod(place * bits, 8)
        first, second, third = (
            padded[:, byte + more :: bits][:, :n_groups].astype(np.uint32) for more in range(3)
        )
        three = first << 16 | second << 8 | third
        values[:, place::8] = three >> (24 - bits - bit) & (2**bits - 1)
    return values[:, :length]
