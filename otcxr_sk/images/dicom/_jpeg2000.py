"""Bound what a codec of JPEG 2000 must set up, which a few bytes of a stream may demand."""

from struct import unpack_from

from otcxr_sk.images._errors import ImageReadError

_SIZE, _CODING, _COMPONENT, _TILE, _DATA = 0xFF51, 0xFF52, 0xFF53, 0xFF90, 0xFF93

# Tiles, blocks or precincts, and packets: one for each layer of each precinct.
_MOST_TILES, _MOST_BLOCKS, _MOST_PACKETS = 2**14, 2**18, 2**19


def require_few_blocks(data: bytes) -> None:
    """Raise an error for a stream in too many parts for its pixels."""
    height = width = tiles = 1
    layers, n_parts, at, stop = 1, 0, 2, 0
    while at + 4 <= len(data):
        marker, length = unpack_from(">2H", data, at)
        start = at + 4
        if marker == _TILE and at + 12 <= len(data):
            (size,) = unpack_from(">I", data, at + 6)
            stop = at + size
            n_parts += 1
            if n_parts > 2 * _MOST_TILES:
                _refuse("tiles")
        elif marker == _DATA:
            # Without a length, the last tile reaches the end.
            if stop <= at:
                return
            at = stop
            continue
        elif marker == _SIZE and at + 40 <= len(data):
            right, bottom, left, top, across, down = unpack_from(">6I", data, start + 2)
            height, width = bottom - top, right - left
            tiles = -(-right // max(1, across)) * -(-bottom // max(1, down))
            if tiles > _MOST_TILES:
                _refuse("tiles")
        elif marker in (_CODING, _COMPONENT) and start + 10 <= len(data):
            style = data[start] if marker == _CODING else 1
            if marker == _CODING:
                (layers,) = unpack_from(">H", data, start + 2)
            # Up to 256 components are named by one byte.
            first = start + (5 if marker == _CODING else 2)
            levels, wide, high = data[first : first + 3]
            sizes = data[first + 5 : at + 2 + length] if style & 1 else b""
            _require_few(height, width, tiles, layers, levels, (wide & 15) + (high & 15) + 4, sizes)
        at += 2 + length


def _require_few(
    height: int, width: int, tiles: int, layers: int, levels: int, block: int, sizes: bytes
) -> None:
    precincts = 0
    for place in range(min(levels, 32) + 1):
        across, down = width >> (levels - place), height >> (levels - place)
        size = sizes[place] if place < len(sizes) else 0xFF
        precincts += ((across >> (size & 15)) + 1) * ((down >> (size >> 4)) + 1) + tiles
    if max(height * width >> block, precincts) > _MOST_BLOCKS:
        _refuse("blocks")
    if layers * precincts > _MOST_PACKETS:
        _refuse("layers")


def _refuse(what: str) -> None:
    raise ImageReadError(
        f"its JPEG 2000 stream has more {what} than an image needs; if it is genuine, convert it"
    )
