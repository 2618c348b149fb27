"""How the pixels of a TIFF file are laid out, and whether such files are read."""

from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from otcxr_sk.images._errors import ImageReadError, doubt, require_size
from otcxr_sk.images.rasters._tags import Directory

NONE, LZW, JPEG, PACKBITS = 1, 5, 7, 32773
GROUP_4 = 4
FAX = {2, 3, GROUP_4}
# Compressions that a predictor may precede.
_PREDICTABLE = {LZW, 8, 32946, 34925, 50000}
_COMPRESSIONS = {NONE, *FAX, JPEG, PACKBITS, *_PREDICTABLE}
_OTHER_COMPRESSIONS = {
    6: "old-style JPEG", 32809: "ThunderScan", 33003: "JPEG 2000", 33005: "JPEG 2000",
    34676: "SGI Log", 34677: "SGI Log", 34712: "JPEG 2000", 34887: "LERC", 34892: "lossy JPEG",
    34933: "PNG", 34934: "JPEG XR", 50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL",
}  # fmt: skip

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6
# Channels without extra ones.
COLORS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3}
_OTHER_COLORS = {
    4: "a mask", 8: "colors in CIELab", 9: "colors in ICCLab", 10: "colors in ITULab",
    32803: "raw sensor data", 32844: "logarithmic light", 32845: "logarithmic light",
    34892: "raw sensor data",
}  # fmt: skip

_UNSIGNED, _SIGNED, _FLOAT, _UNDEFINED = 1, 2, 3, 4
_COMPLEX = {5, 6}
_BY_PLANE = 2
_ASSOCIATED = 1

NO_PREDICTOR, DIFFERENCES, FLOAT_DIFFERENCES = 1, 2, 3

# Channels and bytes of tables beyond which a file is no image, and strips or tiles: each takes a
# fraction of a millisecond, more where it is a JPEG.
_MOST_CHANNELS, _MOST_TABLES = 32, 2**16
_MOST_PARTS, _MOST_JPEGS = 2**15, 2**12
# Bytes that strips or tiles may have if they share some.
_SHARED = 2**24

_AS_GRAY = "save it as gray TIFF or PNG of 8 or 16 bits"


@dataclass(frozen=True)
class Layout:
    """Where the pixels are and what they mean."""

    height: int
    width: int
    channels: int
    bits: int
    # "u" or "f", as in NumPy.
    kind: str
    order: str
    # Each channel is stored apart, or all of a pixel together.
    planes: int
    photometric: int
    compression: int
    predictor: int
    reverse_bits: bool
    # Whether the first extra channel is alpha by which the others were multiplied.
    premultiplied: bool
    # Colors of a palette (n, 3).
    palette: NDArray[np.int64]
    # Height and width of a strip or tile, and where they are.
    chunk: tuple[int, int]
    tiled: bool
    offsets: NDArray[np.int64]
    counts: NDArray[np.int64]
    jpeg_tables: bytes
    fax_options: dict[int, int]

    @property
    def channels_stored_together(self) -> int:
        """Number of channels in each plane."""
        return self.channels // self.planes

    def bytes_of(self, columns: int) -> int:
        """Return the bytes of a part of a row in one plane."""
        return (columns * self.channels_stored_together * self.bits + 7) // 8


def read_layout(tags: Directory) -> Layout:
    """Return the layout of an image, or raise an error that names what is not read."""
    height, width = tags.number(257, 0), tags.number(256, 0)
    require_size(height, width)
    compression = tags.number(259, NONE)
    if compression not in _COMPRESSIONS:
        name = _OTHER_COMPRESSIONS.get(compression, f"method {compression}")
        _refuse(f"compressed by {name}", "save it without compression or with LZW")
    channels = tags.number(277, 1)
    if not 1 <= channels <= _MOST_CHANNELS:
        _refuse(f"of {channels} channels", _AS_GRAY)
    bits, kind = _depth(tags, channels, compression)
    require_size(height, width, cost=channels * _cost(bits))
    photometric = _photometric(tags, channels, compression)
    if photometric == CMYK and (bits not in (8, 16) or kind != "u"):
        _refuse(f"of CMYK colors of {bits} bits", _AS_GRAY)
    premultiplied = tags.number(338, 0) == _ASSOCIATED
    planes = stored = 1
    if _stored_by_plane(tags):
        # Other extra channels are not needed.
        planes, stored = min(channels, COLORS[photometric] + premultiplied), channels
        channels = planes
    return Layout(
        height=height,
        width=width,
        channels=channels,
        bits=bits,
        kind=kind,
        order=tags.order,
        planes=planes,
        photometric=photometric,
        compression=compression,
        predictor=_predictor(tags, bits, kind, compression),
        reverse_bits=tags.number(266, 1) == 2 and compression != JPEG,
        premultiplied=premultiplied,
        palette=_palette(tags, bits) if photometric == PALETTE else np.empty((0, 3), np.int64),
        jpeg_tables=_jpeg_tables(tags),
        fax_options={tag: tags.number(tag, 0) for tag in (292, 293) if len(tags.numbers(tag))},
        **_chunks(tags, (height, width), stored, planes, compression),
    )


def _cost(bits: int) -> float:
    """Return the memory and time that samples take, relative to 8 bits."""
    return 1 if bits == 8 else 2 if bits <= 16 else 3 if bits == 32 else 5


def _jpeg_tables(tags: Directory) -> bytes:
    # They are put before each strip or tile.
    if len(tags.numbers(347, _MOST_TABLES + 1)) > _MOST_TABLES:
        _refuse(f"of more than {_MOST_TABLES} bytes of tables", _AS_GRAY)
    return tags.content(347)


def _stored_by_plane(tags: Directory) -> bool:
    return tags.number(284, 1) == _BY_PLANE


def _depth(tags: Directory, channels: int, compression: int) -> tuple[int, str]:
    depths = {int(bits) for bits in tags.numbers(258)[:channels]}
    formats = {int(form) for form in tags.numbers(339)[:channels]} or {_UNSIGNED}
    if not depths:
        # As the standard says, unless the strips show that it was forgotten.
        depths = {1}
        pixels = tags.number(257, 0) * tags.number(256, 0) * channels
        if compression == NONE and tags.numbers(279).sum() >= pixels > 8:
            _refuse("that does not say how many bits a pixel has", "save it with another program")
    if len(depths) > 1 or len(formats) > 1:
        _refuse("whose channels differ in their bits or kind of number", _AS_GRAY)
    (bits,), (form,) = depths, formats
    if form in (_UNSIGNED, _UNDEFINED, _SIGNED):
        if form == _SIGNED or not 1 <= bits <= 16:
            signed = "signed" if form == _SIGNED else "unsigned"
            raise ImageReadError(
                f"its pixels are {signed} integers of {bits} bits, so their range is unknown; save "
                "them as unsigned 16-bit integers or as floats in [0, 1]"
            )
    elif form != _FLOAT:
        _refuse(f"of {'complex' if form in _COMPLEX else 'an unknown kind of'} numbers", _AS_GRAY)
    elif bits not in (16, 32, 64):
        _refuse(f"of {bits}-bit floats", "save it as 32-bit floats")
    kind = "f" if form == _FLOAT else "u"
    if (compression in FAX and (bits, kind, channels) != (1, "u", 1)) or (
        compression == JPEG and (bits, kind) != (8, "u")
    ):
        _refuse(f"of {bits} bits in a compression that is not for them", _AS_GRAY)
    return bits, kind


def _photometric(tags: Directory, channels: int, compression: int) -> int:
    extra = len(tags.numbers(338))
    if len(tags.numbers(262)):
        photometric = tags.number(262, 0)
    elif channels - extra == 3:
        photometric = RGB
    else:
        # What libtiff assumes.
        photometric = WHITE_IS_ZERO if compression in FAX else BLACK_IS_ZERO
        doubt(
            "its header does not say whether 0 is black or white; black is assumed: check that "
            "bone is bright"
        )
    if photometric in _OTHER_COLORS or photometric not in COLORS:
        _refuse(f"of {_OTHER_COLORS.get(photometric, 'colors of an unknown kind')}", _AS_GRAY)
    if photometric == YCBCR and channels == 1:
        return BLACK_IS_ZERO
    if photometric == YCBCR and (compression != JPEG or _stored_by_plane(tags)):
        _refuse("of colors in YCbCr that are not compressed together by JPEG", _AS_GRAY)
    if photometric == CMYK and tags.number(332, 1) != 1:
        _refuse("of inks other than those of CMYK", _AS_GRAY)
    wanted = COLORS[photometric]
    if channels < wanted:
        _refuse(f"of {channels} instead of {wanted} channels", _AS_GRAY)
    if channels > wanted and not extra and photometric not in (RGB, CMYK):
        _refuse(f"of {channels} channels whose meaning it does not say", _AS_GRAY)
    return photometric


def _predictor(tags: Directory, bits: int, kind: str, compression: int) -> int:
    predictor = tags.number(317, NO_PREDICTOR)
    # Left behind by programs that removed the compression, and not applied by any reader.
    if compression not in _PREDICTABLE or predictor == NO_PREDICTOR:
        return NO_PREDICTOR
    if (predictor == DIFFERENCES and bits in (8, 16, 32, 64)) or (
        predictor == FLOAT_DIFFERENCES and kind == "f"
    ):
        return predictor
    return _refuse(
        f"compressed with predictor {predictor} for {bits} bits", "save it without a predictor"
    )


def _palette(tags: Directory, bits: int) -> NDArray[np.int64]:
    """Return the colors of a palette, 0 to 255."""
    values = tags.numbers(320)
    if bits > 8 or len(values) < 3 * 2**bits:
        _refuse("whose palette is missing or has more than 256 colors", _AS_GRAY)
    colors = values[: 3 * 2**bits].reshape(3, -1).T
    # Programs that do not know that the values have 16 bits write 8.
    return colors if colors.max() < 256 else colors >> 8


def _chunks(
    tags: Directory, shape: tuple[int, int], stored: int, planes: int, compression: int
) -> dict[str, Any]:
    """Return what the layout says of strips or tiles, in the first of the stored planes."""
    height, width = shape
    tiled = len(tags.numbers(322)) > 0
    if tiled:
        rows, columns = tags.number(323, 0), tags.number(322, 0)
        offsets, counts = tags.numbers(324), tags.numbers(325)
    else:
        rows, columns = min(tags.number(278, 0) or height, height), width
        offsets, counts = tags.numbers(273), tags.numbers(279)
    require_size(rows, columns)
    per_plane = -(-height // rows) * -(-width // columns)
    wanted = per_plane * stored
    if per_plane * planes > (_MOST_JPEGS if compression == JPEG else _MOST_PARTS):
        _refuse(f"of {per_plane * planes} strips or tiles", "save it with larger ones")
    if len(offsets) < wanted or (len(offsets) > wanted and not tiled and rows == height):
        _refuse(
            f"of {len(offsets)} strips or tiles instead of {wanted}",
            "save it again with another program, or leave it out",
        )
    offsets, counts = (places[: per_plane * planes] for places in (offsets, counts))
    if offsets.min() <= 0:
        _refuse("without some of its pixels", "leave it out")
    if counts.clip(0).sum(dtype=np.float64) > max(_SHARED, tags.size):
        _refuse("of strips or tiles that share their bytes", "save it with another program")
    return {"chunk": (rows, columns), "tiled": tiled, "offsets": offsets, "counts": counts}


def _refuse(what: str, remedy: str) -> NoReturn:
    raise ImageReadError(f"it is a TIFF {what}, which is not read; {remedy}")
