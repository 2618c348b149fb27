"""A DICOM file to its header, and then to its pixel data, in bounded memory."""

import io
import os
import zlib

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

# Elements of the header above this size are left in the file. The largest of use, lookup tables,
# have at most 2**16 entries of 16 bits.
_HEADER_ELEMENT = 2**20
# Inflated at a time, and allowed for beside the pixels.
_PIECE = 2**16
_HEADER = 2**24
_DEFAULT_PIXELS = 2**27

_PIXEL_DATA = 0x7FE00010


class DicomFile:
    """A DICOM file whose header is read on opening, and its pixels when asked for.

    Parameters
    ----------
    path : str
        The file.

    Attributes
    ----------
    header : Dataset
        All elements in front of the pixel data, with `file_meta.TransferSyntaxUID` set.
    """

    def __init__(self, path: str) -> None:
        self._file: io.BufferedIOBase = _GuardedFile(path)
        try:
            self._open(path)
        except BaseException:
            self.close()
            raise

    def _open(self, path: str) -> None:
        try:
            header: Dataset = dcmread(
                self._file, stop_before_pixels=True, force=True, defer_size=_HEADER_ELEMENT
            )
        except _DeflatedError as deflated:
            self.close()
            self._file = deflated.inflated
            header = read_dataset(self._file, False, True, stop_when=_at_pixels)
            header.file_meta = FileMetaDataset()
            header.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        self._plain_syntax = _plain_syntax(header)
        if "TransferSyntaxUID" not in header.file_meta:
            header.file_meta.TransferSyntaxUID = self._plain_syntax
        self.header = header

    def load_pixels(self) -> bool:
        """Add the pixel data to the header; return whether there are any."""
        elements = data_element_generator(
            self._file,
            is_implicit_VR=self._plain_syntax == ImplicitVRLittleEndian,
            is_little_endian=self._plain_syntax != ExplicitVRBigEndian,
        )
        element = next(elements, None)
        if element is None or element.tag != _PIXEL_DATA or not element.value:
            return False
        self.header[element.tag] = element
        return True

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "DicomFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _at_pixels(tag: int, vr: str | None, length: int) -> bool:
    # Floating-point pixels have tags just below.
    return _PIXEL_DATA - 2 <= tag <= _PIXEL_DATA


def _plain_syntax(header: Dataset) -> str:
    """How elements are encoded, whatever the file meta information says."""
    implicit, little = header.original_encoding
    for element in header.elements():
        if isinstance(element, RawDataElement):
            implicit, little = element.is_implicit_VR, element.is_little_endian
            break
    if not little:
        return ExplicitVRBigEndian
    return ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian


class _DeflatedError(Exception):
    """The rest of the file is deflated; carries it inflated."""

    def __init__(self, inflated: io.BytesIO) -> None:
        super().__init__()
        self.inflated = inflated


class _GuardedFile(io.BufferedReader):
    """A file that never takes more memory than it has bytes.

    pydicom allocates whatever length an element claims, and inflates a deflated file in one go,
    however large it becomes. That is the only case in which it reads all that is left.
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
