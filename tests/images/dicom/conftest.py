import struct

import numpy as np
import pydicom
import pytest
from pydicom.datadict import tag_for_keyword

LONG = {"OB", "OW", "SQ", "UN", "UT"}
NUMBERS = {"US": "H", "SS": "h", "UL": "I", "FD": "d", "FL": "f"}


class Raw:
    """Write DICOM byte by byte, however odd; shares no code with what reads it."""

    def __init__(self, folder, order="<", explicit=True):
        self.folder, self.order, self.explicit = folder, order, explicit

    def element(self, keyword, vr, value, length=None):
        """Return an element, of which a value that is not bytes is encoded by its VR."""
        if isinstance(value, str):
            value = value.encode()
        elif not isinstance(value, bytes):
            values = np.atleast_1d(value).tolist()
            value = struct.pack(f"{self.order}{len(values)}{NUMBERS[vr]}", *values)
        tag = keyword if isinstance(keyword, int) else tag_for_keyword(keyword)
        head = struct.pack(f"{self.order}HH", tag >> 16, tag & 0xFFFF)
        length = len(value) if length is None else length
        if not self.explicit:
            return head + struct.pack(f"{self.order}I", length) + value
        form = "xxI" if vr in LONG else "H"
        return head + vr.encode() + struct.pack(f"{self.order}{form}", length) + value

    def item(self, content, *, defined=True):
        start = struct.pack(f"{self.order}HH", 0xFFFE, 0xE000)
        if defined:
            return start + struct.pack(f"{self.order}I", len(content)) + content
        end = struct.pack(f"{self.order}HHI", 0xFFFE, 0xE00D, 0)
        return start + b"\xff\xff\xff\xff" + content + end

    def fragments(self, *fragments, table=b"", end=True):
        """Return encapsulated pixel data."""
        items = b"".join(self.item(fragment) for fragment in (table, *fragments))
        return items + (b"\xfe\xff\xdd\xe0\0\0\0\0" if end else b"")

    def lookup_table(self, descriptor, entries, vr="US"):
        """Return an item with a lookup table."""
        described = self.element("LUTDescriptor", vr, descriptor)
        return self.item(described + self.element("LUTData", "OW", entries))

    def meta(self, syntax):
        plain = Raw(self.folder)
        uid = plain.element("TransferSyntaxUID", "UI", syntax + "\0" * (len(syntax) % 2))
        length = plain.element("FileMetaInformationGroupLength", "UL", len(uid))
        return bytes(128) + b"DICM" + length + uid

    def write(self, elements, *, syntax="1.2.840.10008.1.2.1", name="raw.dcm", tail=b""):
        """Write a file of (keyword, vr, value), in the order given."""
        path = self.folder / name
        body = b"".join(self.element(*element) for element in elements)
        path.write_bytes((self.meta(syntax) if syntax else b"") + body + tail)
        return path

    def image(self, pixels, *, coded=None, syntax="1.2.840.10008.1.2.1", name="raw.dcm", **tags):
        """Write an image of 8 or 16 bits; `tags` are (vr, value), or None to leave one out."""
        pixels = np.asarray(pixels)
        bits = 8 * pixels.dtype.itemsize
        _, stored = tags.get("BitsStored") or ("US", bits)
        elements = {
            "SOPClassUID": ("UI", "1.2.840.10008.5.1.4.1.1.7\0"),
            "Modality": ("CS", "DX"),
            "SamplesPerPixel": ("US", 1 if pixels.ndim == 2 else 3),
            "PhotometricInterpretation": ("CS", "MONOCHROME2 " if pixels.ndim == 2 else "RGB "),
            "Rows": ("US", pixels.shape[0]),
            "Columns": ("US", pixels.shape[1]),
            "BitsAllocated": ("US", bits),
            "BitsStored": ("US", bits),
            "HighBit": ("US", stored - 1 if isinstance(stored, int) and stored else bits - 1),
            "PixelRepresentation": ("US", int(pixels.dtype.kind == "i")),
            **tags,
        }
        if coded is None:
            data = pixels.astype(pixels.dtype.newbyteorder(self.order)).tobytes()
            elements.setdefault("PixelData", ("OW", data))
        else:
            elements.setdefault("PixelData", ("OB", coded, 0xFFFFFFFF))
        kept = [(keyword, *value) for keyword, value in elements.items() if value is not None]
        kept.sort(key=lambda element: tag_for_keyword(element[0]))
        return self.write(kept, syntax=syntax, name=name)


@pytest.fixture
def raw(tmp_path):
    return Raw(tmp_path)


@pytest.fixture
def write_coded(write_dicom):
    """Write a DICOM file with the header for `pixels` and a compressed stream as its data."""

    def write(pixels, syntax, stream, **tags):
        path = write_dicom(pixels, **tags)
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PixelData = pydicom.encaps.encapsulate([stream])
        dataset["PixelData"].is_undefined_length = True
        dataset.save_as(path)
        return path

    return write
