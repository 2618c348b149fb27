"""Read one file of any known format as one grayscale image."""

import os
from collections.abc import Callable, Collection
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from otcxr_sk._files import open_file
from otcxr_sk._ordinary import ordinary
from otcxr_sk._paths import as_path
from otcxr_sk.images._errors import ImageReadError, reading, require_content
from otcxr_sk.images._pillow import GrayImage
from otcxr_sk.images._telling import tell
from otcxr_sk.images.dicom import as_modalities, dicom_pixels, looks_like_dicom
from otcxr_sk.images.rasters import decode_jpeg, decode_png, decode_tiff, read_npy

# How files start.
_STARTS: dict[str, bytes | tuple[bytes, ...]] = {
    "NPY": b"\x93NUMPY",
    "PNG": b"\x89PNG",
    "JPEG": b"\xff\xd8\xff",
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
}

_DECODERS: dict[str, Callable[[bytes], GrayImage]] = {
    "PNG": decode_png,
    "JPEG": decode_jpeg,
    "TIFF": decode_tiff,
}

# What else files named like images often are, by how they start.
_OTHERS = {
    (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd"): "compressed; unpack it first",
    (b"PK\x03\x04", b"7z\xbc\xaf", b"Rar!"): "an archive, such as ZIP or NPZ; unpack it first",
    (b"\x5c\x01\0\0", b"\0\0\x01\x5c"): "a NIfTI file; save its image as 16-bit PNG or as NPY",
    (b"BM", b"GIF8", b"RIFF", b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51", b"II\xbc\x01"): (
        "an image in another format; save it as PNG"
    ),
    (b"%PDF",): "a PDF document; save the image in it as PNG",
    (b"\x89HDF",): "an HDF5 file; pass the data set in it as an array",
    (b"<",): "a web page or XML, such as the message of a server; download the image again",
    (
        b"version https://git-lfs",
    ): "a reference of Git LFS; fetch the file itself by 'git lfs pull'",
    (bytes(64),): "empty but for zeros; replace it with an intact copy or leave it out",
}

# Bytes at the start of a file that tell its format.
_HEAD = 132

# The most a file needs: four channels of 16 bits, without compression.
_BYTES_PER_PIXEL = 8


@ordinary()
def read_image(
    path: str | os.PathLike[str], *, modalities: Collection[str] | None = None
) -> NDArray[np.float32]:
    """Read a file as one grayscale image.

    The format is recognized by content, not by name: DICOM (see `read_dicom`), PNG, JPEG, TIFF,
    or NPY with an array (height, width), (1 or 3, height, width) or (height, width, 1 or 3).

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
        and TIFF files are unchanged. Color becomes luma (ITU-R BT.601), transparency is ignored,
        and EXIF orientation is applied.

    Raises
    ------
    TypeError, ValueError
        If `modalities` are not text, or none.
    ImageReadError
        If the file is missing, empty, damaged, too large to be a radiograph, not one image, or of
        a kind that is not read. The message names the file.

    Warns
    -----
    ImageReadWarning
        If the file does not say whether 0 is black or white, or see `read_dicom`.

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
    # Before the file is opened: it is not to blame.
    modalities = as_modalities(modalities)
    return read_gray(as_path(path), modalities=modalities).pixels


def read_gray(path: str, *, modalities: Collection[str] | None = None) -> GrayImage:
    """Read as `read_image` does, and also return the bits that the pixels had."""
    with reading(path):
        # The file is opened once and never memory-mapped: if it is replaced meanwhile, the old
        # content is read, and if it is cut short, that is an error and does not kill the process.
        with open_file(path) as file:
            head = file.read(_HEAD)
            require_content(head)
            kind = format_of(head)
            if kind is not None:
                tell(format=kind)
            if kind == "DICOM":
                return GrayImage(dicom_pixels(file, modalities=modalities), 16)
            file.seek(0)
            if kind == "NPY":
                return read_npy(file)
            if kind is not None:
                return _DECODERS[kind](_read_all(file))
        raise ImageReadError(_what_else(head))


def format_of(head: bytes) -> str | None:
    """Return the format of a file with these first bytes, or None if it cannot be read."""
    # DICOM first: its preamble may be a TIFF header, for a file that is both.
    if looks_like_dicom(head):
        return "DICOM"
    return next((kind for kind, start in _STARTS.items() if head.startswith(start)), None)


def looks_like_image(path: str) -> bool:
    """Return whether a file starts like an image that can be read."""
    with open_file(path) as file:
        return format_of(file.read(_HEAD)) is not None


def _what_else(head: bytes) -> str:
    """Return what a file that is not an image is, and what to do about it."""
    start = head.lstrip(b"\xef\xbb\xbf\r\n\t ")
    for starts, what in _OTHERS.items():
        if start.startswith(starts):
            return f"this is {what}"
    return "this is not a DICOM, PNG, JPEG, TIFF or NPY file; convert it or leave it out"


def _read_all(file: BinaryIO) -> bytes:
    limit = Image.MAX_IMAGE_PIXELS
    size = os.fstat(file.fileno()).st_size
    if limit is not None and size > _BYTES_PER_PIXEL * limit:
        raise ImageReadError(
            f"its {size} bytes are more than an image of {limit} pixels can need; "
            "if the file is genuine, raise PIL.Image.MAX_IMAGE_PIXELS"
        )
    return file.read()
