"""One file of any known format to one picture."""

import os
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from otcxr_sk.images._dicom import dicom_picture, looks_like_dicom
from otcxr_sk.images._errors import ImageReadError, reading, require_file, require_size
from otcxr_sk.images._pixels import luma, to_float

_PILLOW_FORMATS = {
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262


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
    name = os.fspath(path)
    with reading(name):
        require_file(name)
        with open(name, "rb") as file:
            head = file.read(132)
        # First, since a DICOM preamble may be the start of a TIFF, for a file that is both.
        if looks_like_dicom(head):
            return dicom_picture(name, modalities=modalities)
        if head.startswith(b"\x93NUMPY"):
            return _read_npy(name)
        for signature, kind in _PILLOW_FORMATS.items():
            if head.startswith(signature):
                return _read_with_pillow(name, kind)
        raise ImageReadError(
            "this is not a DICOM, PNG, JPEG, TIFF or NPY file; convert it or leave it out"
        )


def _read_npy(path: str) -> NDArray[np.float32]:
    # Mapped, since a header can claim any size, and mapping fails where the file is shorter.
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        raise ImageReadError(
            f"it holds {array.dtype} of shape {array.shape}, not one image of numbers (height, "
            "width); pass a stack of images as an array instead"
        )
    require_size(*array.shape)
    return to_float(array)


def _read_with_pillow(path: str, kind: str) -> NDArray[np.float32]:
    with Image.open(path, formats=[kind]) as image:
        require_size(image.height, image.width)
        # A phone's MPO is a JPEG with previews behind the picture.
        pages = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
        if pages > 1:
            raise ImageReadError(f"it holds {pages} pictures; save each in a file of its own")
        image.load()
        return _gray(ImageOps.exif_transpose(image), getattr(image, "tag_v2", {}), kind)


def _gray(image: Image.Image, tags: Any, kind: str) -> NDArray[np.float32]:
    if image.mode in ("1", "L", "F"):
        return to_float(np.asarray(image))
    if image.mode == "LA":
        return to_float(np.asarray(image.getchannel("L")))
    if image.mode.startswith("I;16") or (image.mode == "I" and kind == "PNG"):
        bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
        gray = np.asarray(image).astype(np.float32) / np.float32(2**bits - 1)
        # Pillow inverts a TIFF whose zero is white by itself, but for 16 bits.
        return 1 - gray if tags.get(_PHOTOMETRIC) == 0 else gray
    if image.mode == "I":
        raise ImageReadError(
            "its pixels are signed or have 32 bits, so their range is unknown; "
            "save them as unsigned 16 bits or as floats in [0, 1]"
        )
    # By way of RGBA, since a palette may hold transparency.
    colour = image.convert("RGBA" if image.mode in ("P", "PA", "RGBA") else "RGB")
    return luma(to_float(np.asarray(colour)[..., :3]), axis=-1)
