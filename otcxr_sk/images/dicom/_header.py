"""Read the values of a DICOM header, however they are written.

pydicom converts values by settings of the whole process and warns of what it finds odd. Here, an
element that is empty counts as absent, its value representation may be wrong or missing, and of
several values the first counts where the standard knows only one.
"""

import re
from collections.abc import Mapping
from struct import calcsize, unpack

import numpy as np
from numpy.typing import NDArray
from pydicom.charset import CODES_TO_ENCODINGS, python_encoding
from pydicom.datadict import dictionary_description, dictionary_VR, tag_for_keyword

from otcxr_sk.images._errors import ImageReadError
from otcxr_sk.images.dicom._elements import Element, ElementFile

# Larger values are not read whole: lookup tables, the largest, have 2**16 entries of 16 bits.
_MOST_BYTES = 2**18
# Of texts, whose encoding may change with every few bytes.
_MOST_TEXT = 2**14

# Of group 6000; further overlays have the even groups up to 601E.
_OVERLAY_BIT_POSITION, _OVERLAY_DATA = 0x60000102, 0x60003000

_BINARY = {
    "US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d",
}  # fmt: skip
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
# Characters of a value in a message.
_MOST_QUOTED = 64

_PADDING = " \0\t\r\n"


class Header:
    """The elements of a data set or of an item, by keyword.

    Parameters
    ----------
    file : ElementFile, default=None
        The open file. None for an empty header.
    elements : mapping of int to Element
        By tag.
    parent : Header, default=None
        The header in which this item is.
    """

    def __init__(
        self,
        file: ElementFile | None = None,
        elements: Mapping[int, Element] | None = None,
        parent: "Header | None" = None,
    ) -> None:
        self._file = file
        self._elements = elements or {}
        self._parent = parent

    def __contains__(self, keyword: str) -> bool:
        """Return whether there is such an element, even if it is empty."""
        return self._element(keyword) is not None

    def text(self, keyword: str) -> str:
        """Return an element as text, empty if it is absent."""
        element = self._element(keyword)
        numbers = [] if element is None else self._binary(keyword, element)
        if numbers:
            return "\\".join(str(number) for number in numbers)
        return _decode(self.data(keyword)[:_MOST_TEXT], self._codec()).strip(_PADDING)

    def code(self, keyword: str) -> str:
        """Return the first value of an element in upper case, empty if it is absent."""
        return self.text(keyword).split("\\")[0].strip(_PADDING).upper()

    def integer(self, keyword: str, default: int | None = None) -> int:
        """Return a whole number.

        Raises
        ------
        ImageReadError
            If it is not a whole number, or is absent and has no default.
        """
        number = next(iter(self.numbers(keyword)), None)
        if number is None:
            if default is not None:
                return default
            raise ImageReadError(f"its header has no {dictionary_description(keyword)}; correct it")
        if number != round(number, 0) or not abs(number) < 2**63:
            raise ImageReadError(
                f"its {dictionary_description(keyword)} is {self.quoted(keyword)}, not a whole "
                "number; correct its header"
            )
        return int(number)

    def numbers(self, keyword: str) -> list[float | None]:
        """Return all values of an element: None for an empty one, NaN for what is no number."""
        element = self._element(keyword)
        if element is None:
            return []
        binary = self._binary(keyword, element)
        if binary:
            return [float(number) for number in binary]
        texts = [text.strip(_PADDING) for text in self.text(keyword).split("\\")]
        numbers = [_number(text) for text in texts]
        return numbers if any(number is not None for number in numbers) else []

    def quoted(self, keyword: str) -> str:
        """Return how an element is quoted in a message."""
        return repr(self.text(keyword)[:_MOST_QUOTED])

    def words(self, keyword: str) -> NDArray[np.uint16]:
        """Return a value as little-endian words of 16 bits."""
        element, data = self._element(keyword), self.data(keyword)
        dtype = "<u2" if element is None else f"{element.encoding.order}u2"
        return np.frombuffer(data.ljust(len(data) + len(data) % 2, b"\0"), dtype).astype("<u2")

    def data(self, keyword: str) -> bytes:
        """Return the bytes of a value, empty if it is absent."""
        element = self._element(keyword)
        if element is None or self._file is None or element.length is None:
            return b""
        return self._file.read(element.start, min(element.length, _MOST_BYTES))

    def has_embedded_overlays(self) -> bool:
        """Return whether overlays may be in unused bits of the pixels."""
        return any(
            tag & 0xFF00FFFF == _OVERLAY_BIT_POSITION
            and tag - _OVERLAY_BIT_POSITION + _OVERLAY_DATA not in self._elements
            for tag in self._elements
        )

    def vr(self, keyword: str) -> str:
        """Return the value representation of an element, empty if the file does not say."""
        element = self._element(keyword)
        return "" if element is None or element.vr in ("UN", "OB", "OW") else element.vr

    def items(self, keyword: str) -> "list[Header]":
        """Return the items of a sequence."""
        element = self._element(keyword)
        if element is None or self._file is None:
            return []
        headers = []
        for item in self._file.items(element):
            end = self._file.size if item.length is None else item.start + item.length
            encoding = self._file.encoding_at(item.start, item.encoding.order)
            found: dict[int, Element] = {}
            for inner, _ in self._file.elements(item.start, min(end, self._file.size), encoding):
                found.setdefault(inner.tag, inner)
            headers.append(Header(self._file, found, self))
        return headers

    def _element(self, keyword: str) -> Element | None:
        tag = tag_for_keyword(keyword)
        return None if tag is None else self._elements.get(tag)

    def _binary(self, keyword: str, element: Element) -> tuple[float, ...]:
        """Return the values of an element if they are binary numbers."""
        code = _BINARY.get(self.vr(keyword) or dictionary_VR(keyword).split(" or ")[0])
        if code is None:
            return ()
        data = self.data(keyword)
        count, order = len(data) // calcsize(f"<{code}"), element.encoding.order
        return unpack(f"{order}{count}{code}", data[: count * calcsize(f"<{code}")])

    def _codec(self) -> str:
        """Return Python's name for the first character set that applies here."""
        name = self.data("SpecificCharacterSet").decode("ascii", "replace").split("\\")[0]
        if not name and self._parent is not None:
            return self._parent._codec()
        name = name.strip(_PADDING).replace("-", "_").replace("ISO IR", "ISO_IR")
        return python_encoding.get(name, "latin-1")


def _number(text: str) -> float | None:
    if not text:
        return None
    return float(text) if _NUMBER.fullmatch(text) else float("nan")


def _decode(data: bytes, codec: str) -> str:
    """Decode text, whose encoding may change at escape sequences (PS3.5, 6.1.2.5)."""
    decoded = ""
    for piece in re.split(rb"(?=\x1b)", data):
        start = next((start for start in CODES_TO_ENCODINGS if piece.startswith(start)), b"")
        inner = CODES_TO_ENCODINGS.get(start, codec)
        # Python's codecs for Japanese expect the escape sequence, the others do not.
        keep = inner.startswith("iso2022_jp")
        decoded += (piece if keep else piece.removeprefix(start)).decode(inner, "replace")
    return decoded
