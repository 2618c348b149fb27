"""One file of any known format to one picture."""

import math
import os
from collections.abc import Collection
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image

from otcxr_sk.images._dicom import dicom_picture, looks_like_dicom
from otcxr_sk.images._errors import ImageReadError, reading, require_file, require_size
from otcxr_sk.images._pillow import Picture, decode
from otcxr_sk.images._pixels import to_float

_PILLOW_FORMATS = {
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}
_NPY = b"\x93NUMPY"

# Of the start of a file: enough to tell its format.
_HEAD = 132

# At most, in a file: 16 bits each of four channels, without compression.
_BYTES_PER_PIXEL = 8


def read_image(
    path: str | os.PathLike[str], *, modalities: Collection[str] | None = None
) -> NDArray[np.float32]:
    """Read a file as one grayscale image.

    The format is recognised by content, whatever the file is called: DICOM (see `read_dicom`),
    PNG, JPEG, TIFF, and NPY with a two-dimensional array.

    Parameters
    ----------
    path : str or path-like
        The file.
    modalities : collection of str, default=None
        Of a DICOM file, the modalities to read (see `read_dicom`).

    Returns
    -------
    ndarray of shape (height, width), float32
        The picture in [0, 1], 0 black: integers of 8 and 16 bits are divided by the largest value
        of their bit depth. Floats in a TIFF or NPY file, and NPY integers of more bits, are taken
        as they are. Colour becomes luma (ITU-R BT.601), transparency is ignored, EXIF orientation
        is applied.

    Raises
    ------
    ImageReadError
        If the file is missing, empty, damaged, absurdly large or not one such image. The message
        names the file.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from otcxr_sk.images import read_image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "ramp.npy")
    ...     np.save(path, np.array([[0, 51, 255]], dtype=np.uint8))
    ...     print(read_image(path))
    [[0.  0.2 1. ]]
    """
    return read_picture(os.fspath(path), modalities=modalities).pixels


def read_picture(path: str, *, modalities: Collection[str] | None = None) -> Picture:
    """Read as `read_image` does, and tell the bits that the pixels had."""
    with reading(path):
        require_file(path)
        # All is read from the one open file, and never by way of a map of it: a file that is
        # replaced meanwhile stays what it was, and one that is cut meanwhile ends in an error
        # rather than in the end of the process.
        with open(path, "rb") as file:
            kind = recognise(file.read(_HEAD))
            if kind == "DICOM":
                # Its pixels come in [0, 1], from up to 16 bits.
                return Picture(dicom_picture(path, modalities=modalities), 16)
            file.seek(0)
            if kind == "NPY":
                return _read_npy(file)
            if kind is not None:
                return decode(_whole(file), kind)
        raise ImageReadError(
            "this is not a DICOM, PNG, JPEG, TIFF or NPY file; convert it or leave it out"
        )


def recognise(head: bytes) -> str | None:
    """Name the format of a file by its first bytes, None if it is none that can be read."""
    # First, since a DICOM preamble may be the start of a TIFF, for a file that is both.
    if looks_like_dicom(head):
        return "DICOM"
    if head.startswith(_NPY):
        return "NPY"
    return next((kind for start, kind in _PILLOW_FORMATS.items() if head.startswith(start)), None)


def looks_like_image(path: str) -> bool:
    """Whether a regular file starts like one that can be read."""
    with open(path, "rb") as file:
        return recognise(file.read(_HEAD)) is not None


def _whole(file: BinaryIO) -> bytes:
    limit = Image.MAX_IMAGE_PIXELS
    size = os.fstat(file.fileno()).st_size
    if limit is not None and size > _BYTES_PER_PIXEL * limit:
        raise ImageReadError(
            f"its {size} bytes are more than an image of {limit} pixels can take; "
            "if the file is genuine, raise PIL.Image.MAX_IMAGE_PIXELS"
        )
    return file.read()


def _read_npy(file: BinaryIO) -> Picture:
    headers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(file)
    if version not in headers:
        raise ImageReadError(f"its NPY format {version} is not one for numbers; save it anew")
    shape, by_columns, dtype = headers[version](file)
    if len(shape) != 2 or dtype.kind not in "biuf":
        raise ImageReadError(
            f"it holds {dtype} of shape {shape}, not one image of numbers (height, "
            "width); pass a stack of images as an array instead"
        )
    require_size(*shape)
    # A header can claim any size.
    wanted = math.prod(shape) * dtype.itemsize
    if os.fstat(file.fileno()).st_size - file.tell() < wanted:
        raise ValueError("fewer values than its header says")
    array = np.frombuffer(file.read(wanted), dtype)
    array = array.reshape(shape[::-1]).T if by_columns else array.reshape(shape)
    unit = dtype.kind in "bu" and dtype.itemsize <= 2
    return Picture(to_float(array), 8 * dtype.itemsize if unit else 0)
