"""Read one file of any known format as one grayscale image."""

import math
import os
from collections.abc import Collection
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray
from PIL import Image

from otcxr_sk.images._errors import ImageReadError, reading, require_size
from otcxr_sk.images._pillow import GrayImage, decode
from otcxr_sk.images._pixels import to_float
from otcxr_sk.images.dicom import dicom_pixels, looks_like_dicom

# How files start; the names are those of Pillow, except for NPY.
_STARTS: dict[str, bytes | tuple[bytes, ...]] = {
    "NPY": b"\x93NUMPY",
    "PNG": b"\x89PNG",
    "JPEG": b"\xff\xd8\xff",
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
}

# Bytes at the start of a file that tell its format.
_HEAD = 132

# The most a file needs: four channels of 16 bits, without compression.
_BYTES_PER_PIXEL = 8


def read_image(
    path: str | os.PathLike[str], *, modalities: Collection[str] | None = None
) -> NDArray[np.float32]:
    """Read a file as one grayscale image.

    The format is recognized by content, not by name: DICOM (see `read_dicom`), PNG, JPEG, TIFF,
    or NPY with a two-dimensional array.

    Parameters
    ----------
    path : str or path-like
        The file.
    modalities : collection of str, default=None
        Modalities to read if it is a DICOM file (see `read_dicom`).

    Returns
    -------
    ndarray of shape (height, width), float32
        The image in [0, 1], where 0 is black: unsigned integers of up to 16 bits are divided by
        the largest value of their bit depth. In NPY files, signed integers of 8 and 16 bits are
        divided by the largest value of their type, and wider ones are unchanged. Floats in NPY
        and TIFF files are unchanged. Color becomes luma (ITU-R BT.601); in PNG and TIFF files, 16
        bits of it are read as 8. Transparency is ignored, and EXIF orientation is applied.

    Raises
    ------
    ImageReadError
        If the file is missing, empty, damaged, too large to be a radiograph, or not one image. The
        message names the file.

    See Also
    --------
    read_dicom : Read one DICOM file, or one of its frames.
    list_images : List the images in a folder.
    PathSource : Read many files, resized to squares.

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
    return read_gray(os.fspath(path), modalities=modalities).pixels


def read_gray(path: str, *, modalities: Collection[str] | None = None) -> GrayImage:
    """Read as `read_image` does, and also return the bits that the pixels had."""
    with reading(path):
        # The file is opened once and never memory-mapped: if it is replaced meanwhile, the old
        # content is read, and if it is cut short, that is an error and does not kill the process.
        with open(path, "rb") as file:
            kind = recognize(file.read(_HEAD))
            if kind == "DICOM":
                return GrayImage(dicom_pixels(path, modalities=modalities), 16)
            file.seek(0)
            if kind == "NPY":
                return _read_npy(file)
            if kind is not None:
                return decode(_read_all(file), kind)
        raise ImageReadError(
            "this is not a DICOM, PNG, JPEG, TIFF or NPY file; convert it or leave it out"
        )


def recognize(head: bytes) -> str | None:
    """Return the format of a file with these first bytes, or None if it cannot be read."""
    # DICOM first: its preamble may be a TIFF header, for a file that is both.
    if looks_like_dicom(head):
        return "DICOM"
    return next((kind for kind, start in _STARTS.items() if head.startswith(start)), None)


def looks_like_image(path: str) -> bool:
    """Return whether a regular file starts like an image that can be read."""
    with open(path, "rb") as file:
        return recognize(file.read(_HEAD)) is not None


def _read_all(file: BinaryIO) -> bytes:
    limit = Image.MAX_IMAGE_PIXELS
    size = os.fstat(file.fileno()).st_size
    if limit is not None and size > _BYTES_PER_PIXEL * limit:
        raise ImageReadError(
            f"its {size} bytes are more than an image of {limit} pixels can need; "
            "if the file is genuine, raise PIL.Image.MAX_IMAGE_PIXELS"
        )
    return file.read()


def _read_npy(file: BinaryIO) -> GrayImage:
    headers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(file)
    if version not in headers:
        raise ImageReadError(f"its NPY version {version} is not for numbers; save it with NumPy")
    shape, by_columns, dtype = headers[version](file)
    if len(shape) != 2 or dtype.kind not in "biuf":
        raise ImageReadError(
            f"it contains {dtype} of shape {shape}, not one image of numbers (height, width); "
            "pass a stack of images as an array instead"
        )
    require_size(*shape)
    # A header can claim any size.
    wanted = math.prod(shape) * dtype.itemsize
    if os.fstat(file.fileno()).st_size - file.tell() < wanted:
        raise ValueError("fewer values than its header says")
    array = np.frombuffer(file.read(wanted), dtype)
    array = array.reshape(shape[::-1]).T if by_columns else array.reshape(shape)
    unit = dtype.kind in "bu" and dtype.itemsize <= 2
    return GrayImage(to_float(array), 8 * dtype.itemsize if unit else 0)
