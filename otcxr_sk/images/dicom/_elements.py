"""Find the elements of a DICOM file, and leave their values where they are."""

from collections.abc import Iterator
from struct import Struct
from typing import BinaryIO, NamedTuple

from otcxr_sk.images._errors import ImageReadError

# Value representations whose length takes 2 and 4 bytes (PS3.5, 7.1.2).
_SHORT = frozenset(b"AE AS AT CS DA DS DT FD FL IS LO LT PN SH SL SS ST TM UI UL US".split())
_LONG = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())
_VRS = _SHORT | _LONG

_DELIMITERS = 0xFFFE
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF

# Of an element: tag and what follows it, with a value representation and without.
_FORMS = {order: (Struct(f"{order}HH2sHI"), Struct(f"{order}I")) for order in "<>"}

# Far more than the header of any image has, and read in less than a second.
_MOST_ELEMENTS = 2**17


class Encoding(NamedTuple):
    """Whether value representations are explicit, and the byte order as in `struct`."""

    explicit: bool
    order: str


class Element(NamedTuple):
    """Where an element is: its value has `length` bytes from `start`, None if not defined.

    Attributes
    ----------
    vr : str
        Value representation, empty if it is implicit.
    encoding : Encoding
        That of the data set which contains the element.
    """

    tag: int
    vr: str
    start: int
    length: int | None
    encoding: Encoding


class ElementFile:
    """A file of DICOM elements, of which no more is read than is asked for."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self.size = size
        self._left = _MOST_ELEMENTS

    def read(self, start: int, length: int) -> bytes:
        """Return bytes from `start`: fewer than `length` at the end of the file."""
        self._file.seek(start)
        return self._file.read(max(0, min(length, self.size - start)))

    def encoding_at(self, start: int, order: str = "") -> Encoding:
        """Return the encoding of the data set that starts here, whatever was said about it.

        The byte order is known within a file, and told by the first group, 0002 or 0008, elsewhere.
        """
        head = self.read(start, 6)
        little, big = int.from_bytes(head[:2], "little"), int.from_bytes(head[:2], "big")
        return Encoding(head[4:] in _VRS, order or ("<" if little <= big else ">"))

    def elements(self, start: int, end: int, encoding: Encoding) -> Iterator[tuple[Element, int]]:
        """Iterate over the elements of a data set, with the end of each.

        The data set ends at `end` or by a delimiter, but its last element may claim more.
        """
        while start + 8 <= end:
            element = self._element_at(start, encoding)
            if element.tag == _ITEM_END:
                return
            start = self._end_of(element)
            yield element, start

    def _end_of(self, element: Element) -> int:
        if element.length is not None:
            return element.start + element.length
        # Nested to any depth: what is open is either a sequence (None) or an item.
        at, order = element.start, element.encoding.order
        nested: list[Encoding | None] = [None]
        while nested and at + 8 <= self.size:
            encoding = nested[-1]
            inner = self._element_at(at, encoding or Encoding(False, order))
            if inner.tag in (_ITEM_END, _SEQUENCE_END):
                nested.pop()
            elif encoding is None and inner.tag != _ITEM:
                return at
            elif inner.length is None:
                nested.append(self.encoding_at(inner.start, order) if encoding is None else None)
            at = inner.start + (inner.length or 0)
        return at

    def items(self, element: Element) -> Iterator[Element]:
        """Iterate over the items of a sequence, or over the fragments of compressed pixels."""
        at = element.start
        end = self.size if element.length is None else min(self.size, at + element.length)
        while at + 8 <= end:
            item = self._element_at(at, Encoding(False, element.encoding.order))
            if item.tag != _ITEM:
                return
            yield item
            at = item.start + item.length if item.length is not None else self._end_of_item(item)

    def _end_of_item(self, item: Element) -> int:
        encoding = self.encoding_at(item.start, item.encoding.order)
        ends = [end for _, end in self.elements(item.start, self.size, encoding)]
        # The delimiter takes 8 bytes.
        return (ends[-1] if ends else item.start) + 8

    def _element_at(self, at: int, encoding: Encoding) -> Element:
        self._left -= 1
        if self._left < 0:
            raise ImageReadError(
                f"its header has more than {_MOST_ELEMENTS} elements, unlike that of an image; "
                "leave it out"
            )
        head = self.read(at, 12).ljust(12, b"\0")
        forms = _FORMS[encoding.order]
        group, number, vr, short, long = forms[0].unpack(head)
        implicit = forms[1].unpack_from(head, 4)[0]
        # Some writers mix both kinds of encoding.
        explicit = encoding.explicit or (at + 8 + implicit > self.size and vr in _VRS)
        if group == _DELIMITERS or not explicit or not (vr.isalpha() and vr.isupper()):
            start, length, vr = at + 8, implicit, b""
        elif vr in _LONG or (vr not in _SHORT and not short):
            start, length = at + 12, long
        else:
            start, length = at + 8, short
        return Element(
            (group << 16) + number,
            vr.decode("ascii"),
            start,
            None if length == _UNDEFINED else length,
            encoding,
        )
