"""Recognize a DICOM file, and read its header and pixel data in bounded memory."""

import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from PIL import Image
from pydicom import dcmread
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import data_element_generator, read_dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from otcxr_sk.images._errors import ImageReadError

# Larger elements of the header are left in the file. The largest that are needed, lookup tables,
# have at most 2**16 entries of 16 bits.
_HEADER_ELEMENT = 2**20
# Bytes to inflate at a time, bytes allowed for the header, and pixels allowed without a limit.
_PIECE = 2**16
_HEADER = 2**24
_DEFAULT_PIXELS = 2**27

_PIXEL_DATA = 0x7FE00010

# By whether VRs are implicit, and whether numbers are little-endian.
_PLAIN_SYNTAXES = {
    (True, True): ImplicitVRLittleEndian,
    (False, True): ExplicitVRLittleEndian,
    (True, False): ExplicitVRBigEndian,
    (False, False): ExplicitVRBigEndian,
}


def looks_like_dicom(head: bytes) -> bool:
    """Return whether a file with these first bytes is DICOM, with or without its preamble."""
    if head[128:132] == b"DICM":
        return True
    # Without a preamble, the first element is in group 0002 or 0008, and its tag is followed by a
    # value representation (explicit) or a length below 256 (implicit).
    group, kind = head[:2], head[4:8]
    explicit = kind[:2].isalpha() and kind[:2].isupper()
    implicit = len(kind) == 4 and kind[1:] == b"\0\0\0"
    return group in (b"\x02\0", b"\x08\0", b"\0\x08") and (explicit or implicit)


@dataclass
class DicomFile:
    """An open DICOM file, whose pixels are read on demand.

    Attributes
    ----------
    header : Dataset
        All elements before the pixel data, with `file_meta.TransferSyntaxUID` set.
    """

    header: Dataset
    _rest: io.BufferedIOBase
    _encoding: tuple[bool, bool]

    def load_pixels(self) -> bool:
        """Add the pixel data to the header, and return whether there are any."""
        element = next(data_element_generator(self._rest, *self._encoding), None)
        if element is None or element.tag != _PIXEL_DATA or not element.value:
            return False
        self.header[element.tag] = element
        return True


@contextmanager
def open_dicom(path: str) -> Iterator[DicomFile]:
    """Open a DICOM file and read its header."""
    with _GuardedFile(path) as file:
        rest: io.BufferedIOBase = file
        try:
            header: Dataset = dcmread(
                file, stop_before_pixels=True, force=True, defer_size=_HEADER_ELEMENT
            )
        except _DeflatedError as deflated:
            rest = deflated.inflated
            header = read_dataset(rest, False, True, stop_when=_at_pixels)
            header.file_meta = FileMetaDataset()
            header.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        encoding = _real_encoding(header)
        if "TransferSyntaxUID" not in header.file_meta:
            header.file_meta.TransferSyntaxUID = _PLAIN_SYNTAXES[encoding]
        yield DicomFile(header, rest, encoding)


def _at_pixels(tag: int, vr: str | None, length: int) -> bool:
    # The tags just below are those of floating-point pixels.
    return _PIXEL_DATA - 2 <= tag <= _PIXEL_DATA


def _real_encoding(header: Dataset) -> tuple[bool, bool]:
    """Return whether VRs are implicit and numbers little-endian, whatever the file meta says."""
    for element in header.elements():
        if isinstance(element, RawDataElement):
            return element.is_implicit_VR, element.is_little_endian
    return header.original_encoding


class _DeflatedError(Exception):
    """The rest of the file is deflated; `inflated` is its content."""

    def __init__(self, inflated: io.BytesIO) -> None:
        super().__init__()
        self.inflated = inflated


class _GuardedFile(io.BufferedReader):
    """A file that guards pydicom against taking any amount of memory.

    pydicom allocates whatever length an element claims, and inflates a deflated file at once,
    however large it becomes. Only for the latter does it read the rest of a file in one call.
    """

    def __init__(self, path: str) -> None:
        super().__init__(io.FileIO(path))
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            raise _DeflatedError(self._inflate())
        if size > _PIECE:
            size = min(size, max(self._size - self.tell(), 0))
        return super().read(size)

    def _inflate(self) -> io.BytesIO:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or _DEFAULT_PIXELS) + _HEADER
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        inflated = io.BytesIO()
        while not inflater.eof and (piece := super().read(_PIECE)):
            while piece and not inflater.eof:
                inflated.write(inflater.decompress(piece, _PIECE * 16))
                piece = inflater.unconsumed_tail
                if inflated.tell() > limit:
                    raise ImageReadError(
                        f"it inflates to more than {limit} bytes, as a decompression bomb does; "
                        "if the file is genuine, raise PIL.Image.MAX_IMAGE_PIXELS"
                    )
        if not inflater.eof:
            raise ImageReadError(
                "its deflated data are cut short; replace it with an intact copy or leave it out"
            )
        inflated.seek(0)
        return inflated
