"""One DICOM file to one picture: polarity and range right."""

import os
import warnings
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from otcxr_sk.images._dicom_decode import stored_values
from otcxr_sk.images._dicom_display import displayed
from otcxr_sk.images._dicom_file import DicomFile
from otcxr_sk.images._errors import (
    ImageReadError,
    ImageReadWarning,
    reading,
    require_file,
    require_size,
)

# Projection radiographs as they are labelled in practice: CR and DX by the standard, DR as some
# vendors have it, RG for digitised film, OT and SC for secondary captures.
_MODALITIES = ("CR", "DR", "DX", "OT", "RG", "SC")

# Photometric interpretations that can be shown, with their samples per pixel.
_SAMPLES = {
    "MONOCHROME1": 1,
    "MONOCHROME2": 1,
    "PALETTE COLOR": 1,
    "RGB": 3,
    "YBR_FULL": 3,
    "YBR_FULL_422": 3,
    "YBR_ICT": 3,
    "YBR_RCT": 3,
}

# Of a sample beside one of 8 bits in another file: so the largest picture allowed takes 512 MiB.
_COST = 4 / 3

# What Presentation LUT Shape has to be beside each.
_SHAPES = {"MONOCHROME1": "INVERSE", "MONOCHROME2": "IDENTITY"}


def read_dicom(
    path: str | os.PathLike[str],
    *,
    modalities: Collection[str] | None = None,
    frame: int | None = None,
) -> NDArray[np.float32]:
    """Read a chest radiograph from a DICOM file as it is meant to be shown.

    Stored values go through the modality LUT or rescale, then the VOI LUT or else the first
    window (LINEAR, LINEAR_EXACT or SIGMOID), are divided by the range of that step's output, and
    are inverted once if the file says MONOCHROME1. So bone is bright and air dark whichever way
    the file stores it. The tag is believed: a file with a wrong Photometric Interpretation comes
    out inverted.

    Without a usable VOI LUT or window, [0, 1] spans the image's own values between the 0.5th and
    the 99.5th percentile, Pixel Padding Value or Range left out of account. Overlays are ignored.

    Parameters
    ----------
    path : str or path-like
        DICOM file with pixels of 8 or 16 bits, of which any number may be in use.
    modalities : collection of str, default=None
        Modalities to read, such as ``{"DX"}``. By default projection radiographs and what may be
        one: CR, DX, DR, RG, OT and SC. A file without a modality is always read.
    frame : int, default=None
        Which frame, from 0. Needed where there are several.

    Returns
    -------
    ndarray of shape (height, width), float32
        The picture in [0, 1], 0 black. Colour becomes luma (ITU-R BT.601).

    Raises
    ------
    ImageReadError
        If the file is missing, damaged, or no such image, or if its compression needs a codec
        that is not installed. The message names the file.

    Warns
    -----
    ImageReadWarning
        If the picture is in colour, or if Presentation LUT Shape contradicts Photometric
        Interpretation.

    Notes
    -----
    Presentation LUT Shape adds no inversion of its own: of an image it is INVERSE where
    Photometric Interpretation is MONOCHROME1 and IDENTITY otherwise, so both tell of the same
    one. Where they contradict each other, viewers disagree; Photometric Interpretation is
    believed, since every image has it.

    References
    ----------
    DICOM PS3.3, C.7.6.3.1.2 (Photometric Interpretation), C.11.1 (Modality LUT), C.11.2 (VOI LUT),
    C.7.6.1 and C.8.11.3 (Presentation LUT Shape).

    Examples
    --------
    >>> from pydicom.data import get_testdata_file
    >>> from otcxr_sk.images import read_dicom
    >>> read_dicom(get_testdata_file("CT_small.dcm"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    otcxr_sk.images._errors.ImageReadError: cannot read '...CT_small.dcm': its modality is 'CT'...
    >>> read_dicom(get_testdata_file("CT_small.dcm"), modalities={"CT"}).shape
    (128, 128)
    """
    name = os.fspath(path)
    with reading(name):
        require_file(name)
        return dicom_picture(name, modalities=modalities, frame=frame)


def dicom_picture(
    path: str, *, modalities: Collection[str] | None = None, frame: int | None = None
) -> NDArray[np.float32]:
    """Read as `read_dicom` does, errors and warnings left as they come."""
    with DicomFile(path) as file:
        header = file.header
        if "SOPClassUID" not in header and "Rows" not in header:
            raise ImageReadError("this is not a DICOM image; leave it out")
        _require_modality(header, modalities)
        # Before memory is taken for the pixels.
        frame = _require_picture(header, frame) if "Rows" in header else 0
        if not file.load_pixels():
            raise ImageReadError(
                "it holds no pixel data; if it should, it was cut short: replace it with an "
                "intact copy, otherwise leave it out"
            )
    stored, photometric = stored_values(header, frame)
    decoded = header.file_meta.TransferSyntaxUID.is_encapsulated
    picture = displayed(stored, photometric, header, decoded=decoded)
    _warn_of_doubts(header)
    return picture


def looks_like_dicom(head: bytes) -> bool:
    """Whether a file starting with these bytes is DICOM, with or without its preamble."""
    if head[128:132] == b"DICM":
        return True
    # Without a preamble the first element is of group 0002 or 0008, and what follows its tag is a
    # value representation (explicit) or a length below 256 (implicit).
    group, kind = head[:2], head[4:8]
    explicit = kind[:2].isalpha() and kind[:2].isupper()
    implicit = len(kind) == 4 and kind[1:] == b"\0\0\0"
    return group in (b"\x02\0", b"\x08\0", b"\0\x08") and (explicit or implicit)


def _require_modality(header: Dataset, allowed: Collection[str] | None) -> None:
    modality = str(header.get("Modality") or "").strip().upper()
    if modality and modality not in (_MODALITIES if allowed is None else allowed):
        kinds = "a projection radiograph" if allowed is None else "among those to read"
        raise ImageReadError(
            f"its modality is {modality!r}, not {kinds} "
            f"({', '.join(sorted(_MODALITIES if allowed is None else allowed))}); leave it out, "
            f"or have read_dicom read it by modalities={{{modality!r}}}"
        )


def _require_picture(header: Dataset, frame: int | None) -> int:
    """Raise unless everything known says that pixels can be shown; return which frame to show."""
    photometric = header.get("PhotometricInterpretation")
    if photometric not in _SAMPLES:
        raise ImageReadError(
            f"its photometric interpretation is {photometric!r}, not one of "
            f"{', '.join(_SAMPLES)}; convert it to grayscale first"
        )
    samples = int(header.get("SamplesPerPixel") or 1)
    if samples != _SAMPLES[photometric]:
        raise ImageReadError(
            f"it has {samples} samples per pixel, which cannot be {photometric}; correct its header"
        )
    if header.BitsAllocated not in (8, 16):
        raise ImageReadError(
            f"its pixels have {header.BitsAllocated} bits, radiographs 8 or 16; leave it out"
        )
    if not 1 <= header.BitsStored <= header.BitsAllocated:
        raise ImageReadError(
            f"{header.BitsStored} bits are stored of {header.BitsAllocated}; correct its header"
        )
    require_size(header.Rows, header.Columns, cost=_COST * samples)
    frames = int(header.get("NumberOfFrames") or 1)
    if frame is None and frames > 1:
        raise ImageReadError(
            f"it holds {frames} frames; read_dicom reads one of them by frame=0 to "
            f"frame={frames - 1}, and numpy.save makes a file of it"
        )
    if not 0 <= (frame or 0) < frames:
        raise ImageReadError(f"it holds {frames} frames, counted from 0, so none is {frame}")
    return frame or 0


def _warn_of_doubts(header: Dataset) -> None:
    photometric = header.PhotometricInterpretation
    if photometric not in _SHAPES:
        warnings.warn(
            f"it is in colour ({photometric}), of which only luma is used: check that it is a "
            "radiograph, and that nothing is drawn into it",
            ImageReadWarning,
            stacklevel=2,
        )
        return
    shape = str(header.get("PresentationLUTShape") or _SHAPES[photometric]).strip()
    if shape != _SHAPES[photometric] and shape in _SHAPES.values():
        warnings.warn(
            f"its Presentation LUT Shape, {shape}, contradicts its Photometric Interpretation, "
            f"{photometric}, which is believed: check whether bone is bright",
            ImageReadWarning,
            stacklevel=2,
        )
