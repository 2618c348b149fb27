"""The directories of tags in TIFF files, and in EXIF data, which have the same form."""

from collections.abc import Iterator
from struct import Struct

import numpy as np
from numpy.typing import NDArray

from otcxr_sk.images._errors import damaged

# Types of values that are whole numbers or bytes.
_TYPES = {
    1: "u1", 2: "u1", 3: "u2", 4: "u4", 6: "i1", 7: "u1", 8: "i2", 9: "i4", 13: "u4", 16: "u8",
    17: "i8", 18: "u8",
}  # fmt: skip

_ORDERS = {b"II": "<", b"MM": ">"}

# Directories, tags of one and tags of all after which a file is no image. They take a few bytes,
# or none where they overlap.
_MOST, _MOST_TAGS, _MOST_IN_ALL = 10_000, 4096, 2**17


class Directory:
    """The tags of one image."""

    def __init__(self, content: bytes, offset: int, order: str, big: bool) -> None:
        number, count, entry = (
            Struct(order + form) for form in (("Q", "Q", "HHQ8s") if big else ("I", "H", "HHI4s"))
        )
        start = offset + count.size
        require_inside(content, start)
        self.length: int = count.unpack_from(content, offset)[0]
        if self.length > _MOST_TAGS:
            raise damaged(f"it is damaged: its header claims {self.length} tags")
        stop = start + self.length * entry.size
        require_inside(content, stop + number.size)
        self._content, self.order, self.size = content, order, len(content)
        self._number = number
        self._entries = {
            tag: (kind, length, value)
            for tag, kind, length, value in entry.iter_unpack(memoryview(content)[start:stop])
        }
        self.next: int = number.unpack_from(content, stop)[0]

    def numbers(self, tag: int, most: int | None = None) -> NDArray[np.int64]:
        """Return the values of a tag, or none if it is missing or not of whole numbers.

        At most the first `most` of them.
        """
        kind, length, value = self._entries.get(tag, (1, 0, b""))
        if kind not in _TYPES:
            return np.empty(0, dtype=np.int64)
        dtype = np.dtype(self.order + _TYPES[kind])
        start = 0
        if length * dtype.itemsize > len(value):
            (start,) = self._number.unpack(value)
            value = self._content
            require_inside(value, start + length * dtype.itemsize)
        length = length if most is None else min(length, most)
        return np.frombuffer(value, dtype, length, start).astype(np.int64)

    def number(self, tag: int, default: int) -> int:
        """Return the first value of a tag."""
        return next(map(int, self.numbers(tag, 1)), default)

    def content(self, tag: int) -> bytes:
        """Return the values of a tag as bytes."""
        return self.numbers(tag).astype(np.uint8).tobytes()


def directories(content: bytes) -> Iterator[Directory]:
    """Yield the directories of a TIFF file or of EXIF data, which starts with the same header."""
    order = _ORDERS.get(content[:2])
    if order is None:
        return
    big = content[2:4].strip(b"\0") == b"+"
    start, number = (8, "Q") if big else (4, "I")
    require_inside(content, 2 * start)
    (offset,) = Struct(order + number).unpack_from(content, start)
    seen: set[int] = set()
    n_tags = 0
    while offset and offset not in seen and len(seen) < _MOST and n_tags < _MOST_IN_ALL:
        seen.add(offset)
        directory = Directory(content, offset, order, big)
        yield directory
        n_tags += directory.length
        offset = directory.next


def require_inside(content: bytes, stop: int) -> None:
    """Raise an error if a part of a file that should end at `stop` does not."""
    if stop > len(content):
        raise damaged(
            f"it is damaged or cut short: its header points to byte {stop} of {len(content)}"
        )
