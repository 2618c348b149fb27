"""PNG files."""

import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from otcxr_sk.images._errors import ImageReadError, damaged, require_size
from otcxr_sk.images._pillow import GrayImage, canvas, in_bands
from otcxr_sk.images._pixels import luma, to_float
from otcxr_sk.images._telling import tell
from otcxr_sk.images.rasters._exif import orientation

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GRAY, _RGB, _PALETTE, _GRAY_ALPHA, _RGB_ALPHA = 0, 2, 3, 4, 6

# What Pillow's decoder is asked for, by color type and bits: its mode, and how it unpacks pixels.
# It has none for 16 bits of several channels, so their bytes are unpacked.
_UNPACKED = {
    (_GRAY, 1): ("1", ["1"]), (_GRAY, 2): ("L", ["L;2"]), (_GRAY, 4): ("L", ["L;4"]),
    (_GRAY, 8): ("L", ["L"]), (_GRAY, 16): ("I;16", ["I;16B"]),
    (_PALETTE, 1): ("P", ["P;1"]), (_PALETTE, 2): ("P", ["P;2"]), (_PALETTE, 4): ("P", ["P;4"]),
    (_PALETTE, 8): ("P", ["P"]),
    (_GRAY_ALPHA, 8): ("LA", ["LA"]), (_GRAY_ALPHA, 16): ("RGBA", ["RGBA"]),
    (_RGB, 8): ("RGB", ["RGB"]), (_RGB, 16): ("RGB", ["RGB;16B", "RGB;16L"]),
    (_RGB_ALPHA, 8): ("RGBA", ["RGBA"]), (_RGB_ALPHA, 16): ("RGBA", ["RGBA;16B", "RGBA;16L"]),
}  # fmt: skip

_CHANNELS = {_GRAY: 1, _RGB: 3, _PALETTE: 1, _GRAY_ALPHA: 2, _RGB_ALPHA: 4}
# Memory and time per pixel, relative to gray, and factors for 16 bits and for interlacing.
_COSTS = {_GRAY: 1, _RGB: 3, _PALETTE: 1, _GRAY_ALPHA: 2, _RGB_ALPHA: 3}
_DEEP, _INTERLACED = 5 / 3, 4 / 3
_WHITE: dict[str, Any] = {
    "1": 1, "L": 255, "P": 255, "I;16": 65535, "LA": (255,) * 2, "RGB": (255,) * 3,
    "RGBA": (255,) * 4,
}  # fmt: skip

# First row and column, and steps, of each pass of an interlaced image.
_ADAM7 = [
    (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
    (1, 0, 2, 1),
]  # fmt: skip

# Far more than an image in pieces of some kilobytes has.
_MOST_CHUNKS = 2**18

# Bytes inflated at a time.
_AT_ONCE = 2**24

# Metadata are read for the orientation only: in EXIF data, also as ImageMagick hides it in text,
# and in XMP data.
_EXIF_AS_TEXT, _XMP_AS_TEXT = b"Raw profile type exif\0", b"XML:com.adobe.xmp\0"
_LONGEST_EXIF, _MOST_TEXTS = 2**18, 10

_USED = {
    b"IHDR", b"PLTE", b"IDAT", b"IEND", b"acTL", b"fcTL", b"eXIf", b"iTXt", b"tEXt", b"zTXt",
}  # fmt: skip


class _Png(NamedTuple):
    """The parts of a file that matter for its pixels."""

    height: int
    width: int
    color: int
    bits: int
    interlaced: bool
    palette: NDArray[np.uint8]
    compressed: bytes
    orientation: int
    ended: bool


def decode_png(content: bytes) -> GrayImage:
    """Decode the content of a PNG file."""
    png = _parse(content)
    tell(bits=png.bits)
    mode, unpackers = _UNPACKED[png.color, png.bits]
    try:
        images = [_unpack(png, mode, unpacker) for unpacker in unpackers]
    except ValueError:
        _require_all_pixels(png)
        raise
    # Pillow takes less for all if it ends with a row, and then leaves the last one as it was.
    last = images[0].crop((0, png.height - 1, png.width, png.height))
    if png.interlaced or last == Image.new(mode, last.size, _WHITE[mode]):
        _require_all_pixels(png)
    upright, pixels = canvas(png.height, png.width, png.orientation)
    for rows, bands in in_bands(*images):
        pixels[rows] = _gray([np.asarray(band) for band in bands], png)
    return GrayImage(upright, 16 if png.bits == 16 else 8)


def _unpack(png: _Png, mode: str, unpacker: str) -> Image.Image:
    # Only pixels are left to the decoder: Pillow's reader of files would obey settings of the whole
    # process, and stumble over metadata.
    image = Image.new(mode, (png.width, png.height), None)
    last = (0, png.height - 1, png.width, png.height)
    image.paste(_WHITE[mode], last)
    image.frombytes(png.compressed, "zip", unpacker, int(png.interlaced))
    return image


def _require_all_pixels(png: _Png) -> None:
    """Raise an error if there are fewer pixels than the header says."""
    bits = png.bits * _CHANNELS[png.color]
    passes = _ADAM7 if png.interlaced else [(0, 0, 1, 1)]
    wanted = 0
    for top, left, down, right in passes:
        rows, columns = len(range(top, png.height, down)), len(range(left, png.width, right))
        wanted += rows * (1 + (columns * bits + 7) // 8) * (columns > 0)
    inflater, rest = zlib.decompressobj(), png.compressed
    with suppress(zlib.error):
        while wanted > 0 and (inflated := len(inflater.decompress(rest, _AT_ONCE))):
            wanted, rest = wanted - inflated, inflater.unconsumed_tail
    if wanted > 0:
        what = "damaged" if png.ended else "cut short"
        raise damaged(f"it is {what}: some of its pixels are missing")


def _gray(bands: list[NDArray[Any]], png: _Png) -> NDArray[np.float32]:
    band = bands[0]
    if png.color == _GRAY:
        return to_float(band)
    if png.color == _PALETTE:
        if int(band.max()) >= len(png.palette):
            raise damaged("it is damaged: its palette lacks some of its colors")
        return luma(to_float(png.palette), axis=-1)[band]
    if png.bits == 16:
        high, low = bands if len(bands) > 1 else (band[..., ::2], band[..., 1::2])
        band = high.astype(np.uint16) << 8 | low
    if png.color == _GRAY_ALPHA:
        return to_float(band[..., 0])
    return luma(to_float(band[..., :3]), axis=-1)


def _parse(content: bytes) -> _Png:
    if not content.startswith(_SIGNATURE):
        if content[4:5] not in (b"\r", b"\n"):
            raise damaged("it does not begin as a PNG file does")
        raise ImageReadError(
            "its line ends were changed, as by a transfer in text mode; copy it again in binary "
            "mode, or leave it out"
        )
    header = palette = exif = xmp = b""
    compressed: list[bytes] = []
    frames = texts = 0
    ended = False
    for name, data in _chunks(content):
        match name:
            case b"IHDR":
                header = data
                _require_readable(header)
            case b"PLTE":
                palette = data[: len(data) // 3 * 3]
            case b"IDAT":
                compressed.append(data)
            case b"IEND":
                ended = True
            case b"acTL":
                frames += int.from_bytes(data[:4])
            case b"fcTL" if not compressed:
                # The still image is the first of the frames.
                frames -= 1
            case b"eXIf":
                exif = data
            case b"iTXt" if data.startswith(_XMP_AS_TEXT):
                xmp = data
            case b"tEXt" | b"zTXt" if data.startswith(_EXIF_AS_TEXT):
                texts += 1
                if texts <= _MOST_TEXTS:
                    exif = exif or _exif_in_text(data, name == b"zTXt")
    if not compressed:
        raise damaged("it is damaged or cut short: it contains no pixels")
    if 0 < frames < 2**31:
        raise ImageReadError(f"it contains {frames + 1} images; save each as a separate file")
    color, bits = header[9], header[8]
    if color == _PALETTE and not palette:
        raise damaged("it is damaged: its palette is missing")
    return _Png(
        height=int.from_bytes(header[4:8]),
        width=int.from_bytes(header[:4]),
        color=color,
        bits=bits,
        interlaced=header[12] == 1,
        palette=np.frombuffer(palette, dtype=np.uint8).reshape(-1, 3),
        compressed=b"".join(compressed),
        orientation=orientation(exif, xmp),
        ended=ended,
    )


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield name and content of the chunks that matter, up to the end of the image or file."""
    at, name, count = len(_SIGNATURE), b"", 0
    while name != b"IEND" and at + 12 <= len(content):
        count += 1
        if count > _MOST_CHUNKS:
            raise ImageReadError(
                f"it is a PNG of more than {_MOST_CHUNKS} parts, unlike an image; leave it out"
            )
        first, name = not name, content[at + 4 : at + 8]
        start, at = at + 8, at + 12 + int.from_bytes(content[at : at + 4])
        if not name.isalpha() or first != (name == b"IHDR"):
            raise damaged("it is damaged: one of its parts has no known name")
        if at > len(content):
            return
        if name in _USED:
            data = content[start : at - 4]
            if zlib.crc32(data, zlib.crc32(name)) == int.from_bytes(content[at - 4 : at]):
                yield name, data
            elif name[:1].isupper():
                raise damaged("it is damaged: a checksum does not match")
        elif name[:1].isupper():
            # The standard's sign of a part without which the image cannot be understood.
            raise ImageReadError(
                f"it is a PNG with the extension {name.decode()!r}, which is not read; save it "
                "as a standard PNG"
            )


def _require_readable(header: bytes) -> None:
    color, bits = header[9:10], header[8:9]
    if len(header) != 13 or (*color, *bits) not in _UNPACKED or header[10:12] != bytes(2):
        raise damaged("it is damaged: its header is not that of a PNG")
    cost = _COSTS[header[9]] * (_DEEP if header[8] > 8 else 1) * (_INTERLACED if header[12] else 1)
    require_size(int.from_bytes(header[4:8]), int.from_bytes(header[:4]), cost=cost)


def _exif_in_text(data: bytes, compressed: bool) -> bytes:
    """Return EXIF data from a text: a line with their name, their length, and hexadecimals."""
    text = data[len(_EXIF_AS_TEXT) :]
    with suppress(zlib.error, ValueError):
        if compressed:
            text = zlib.decompressobj().decompress(text[1:], _LONGEST_EXIF)
        numbers = text[:_LONGEST_EXIF].split(b"\n", 3)[3:]
        return bytes.fromhex(b"".join(numbers).replace(b"\n", b"").decode("latin-1"))
    return b""
