"""Recognize a DICOM file, and find its header and pixel data in bounded memory."""

import io
import os
import zlib
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian

from otcxr_sk.images._errors import ImageReadError, damaged, require_content
from otcxr_sk.images.dicom._elements import Element, ElementFile
from otcxr_sk.images.dicom._header import Header

# Bytes to inflate at a time, bytes allowed for the header, and pixels allowed without a limit.
_PIECE = 2**16
_HEADER = 2**24
_DEFAULT_PIXELS = 2**27

_PREAMBLE = 128
_META_GROUP = 0x0002
_TRANSFER_SYNTAX = 0x00020010
_PIXEL_DATA = 0x7FE00010

# Elements beyond the pixel data that are looked at: a file may have group 0028 there.
_MOST_BEYOND = 1000


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
    """An open DICOM file, whose values are read on demand.

    Attributes
    ----------
    file : ElementFile
        The elements, inflated if they were deflated.
    header : Header
        All elements but those of the file meta information.
    syntax : str
        Transfer Syntax UID, empty if there is none.
    pixels : Element or None
        Where the pixel data are.
    ends_early : bool
        Whether the last element has fewer bytes than it claims, since the file ends.
    """

    file: ElementFile
    header: Header
    syntax: str
    pixels: Element | None
    ends_early: bool


def find_dicom(opened: BinaryIO) -> DicomFile:
    """Find the elements of an open DICOM file."""
    file = ElementFile(opened, os.fstat(opened.fileno()).st_size)
    require_content(file.read(0, 1))
    syntax, start = _read_meta(file)
    form = _deflated_form(file, start, syntax)
    if form is not None:
        opened.seek(start)
        inflated = _inflate(opened, form)
        file, start = ElementFile(inflated, len(inflated.getbuffer())), 0
    return _find_elements(file, start, syntax)


def _read_meta(file: ElementFile) -> tuple[str, int]:
    """Return the transfer syntax, and where the data set starts."""
    start = _PREAMBLE + 4 if file.read(_PREAMBLE, 4) == b"DICM" else 0
    syntax: Element | None = None
    for element, end in file.elements(start, file.size, file.encoding_at(start, "<")):
        if element.tag >> 16 != _META_GROUP:
            break
        start = end
        if element.tag == _TRANSFER_SYNTAX:
            syntax = element
    found = {} if syntax is None else {_TRANSFER_SYNTAX: syntax}
    return Header(file, found).code("TransferSyntaxUID"), start


def _deflated_form(file: ElementFile, start: int, syntax: str) -> int | None:
    """Return in which form, as in `zlib`, the data set is deflated, or None if it is not.

    The standard's form has no header; some writers leave that of zlib or gzip.
    """
    if looks_like_dicom(file.read(start, 8)):
        return None
    head = file.read(start, _PIECE)
    for form in (-zlib.MAX_WBITS, zlib.MAX_WBITS + 32):
        with suppress(zlib.error):
            if looks_like_dicom(zlib.decompressobj(form).decompress(head, 8)):
                return form
    return -zlib.MAX_WBITS if syntax == DeflatedExplicitVRLittleEndian else None


def _find_elements(file: ElementFile, start: int, syntax: str) -> DicomFile:
    found: dict[int, Element] = {}
    beyond, ends_early = 0, False
    for element, end in file.elements(start, file.size, file.encoding_at(start)):
        if _PIXEL_DATA in found:
            beyond += 1
            if beyond > _MOST_BEYOND:
                break
        ends_early = end > file.size
        if element.tag == _PIXEL_DATA or not ends_early:
            # The first counts if there are two.
            found.setdefault(element.tag, element)
    return DicomFile(file, Header(file, found), syntax, found.get(_PIXEL_DATA), ends_early)


def _inflate(opened: BinaryIO, form: int) -> io.BytesIO:
    limit = 2 * (Image.MAX_IMAGE_PIXELS or _DEFAULT_PIXELS) + _HEADER
    inflater = zlib.decompressobj(form)
    inflated = io.BytesIO()
    try:
        while not inflater.eof and (piece := opened.read(_PIECE)):
            while piece and not inflater.eof:
                inflated.write(inflater.decompress(piece, _PIECE * 16))
                piece = inflater.unconsumed_tail
                if inflated.tell() > limit:
                    raise ImageReadError(
                        f"it inflates to more than {limit} bytes, as a decompression bomb does; "
                        "if the file is genuine, raise PIL.Image.MAX_IMAGE_PIXELS"
                    )
    except zlib.error as error:
        raise damaged(
            "its data set is deflated, or its transfer syntax says so, but it cannot be inflated"
        ) from error
    if not inflater.eof:
        raise damaged("its deflated data are cut short")
    return inflated
