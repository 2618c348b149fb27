"""Read one DICOM file as one image with the right polarity and range."""

import os
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from otcxr_sk._warning import warn_user
from otcxr_sk.images._errors import ImageReadError, ImageReadWarning, reading, require_size
from otcxr_sk.images.dicom._decode import stored_values
from otcxr_sk.images.dicom._display import display_values
from otcxr_sk.images.dicom._file import open_dicom

# Projection radiographs as they are labeled in practice: CR and DX by the standard, DR by some
# vendors, RG for digitized film, OT and SC for secondary captures.
_MODALITIES = ("CR", "DR", "DX", "OT", "RG", "SC")

# Supported photometric interpretations, with their samples per pixel.
_SAMPLES = {
    **dict.fromkeys(("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"), 1),
    **dict.fromkeys(("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"), 3),
}

# Memory per sample, relative to 8-bit samples of other files: the largest image takes 512 MiB.
_COST = 4 / 3

# The Presentation LUT Shape that the standard requires with each.
_SHAPES = {"MONOCHROME1": "INVERSE", "MONOCHROME2": "IDENTITY"}


def read_dicom(
    path: str | os.PathLike[str],
    *,
    modalities: Collection[str] | None = None,
    frame: int | None = None,
) -> NDArray[np.float32]:
    """Read a chest radiograph from a DICOM file as it is meant to be displayed.

    Stored values pass through the modality LUT or rescale, then the VOI LUT or else the first
    window (LINEAR, LINEAR_EXACT or SIGMOID). The result is divided by the range of that last step,
    and inverted once if the file is MONOCHROME1. Bone is thus bright and air dark, however the
    file stores them. The header is trusted: a file with a wrong Photometric Interpretation comes
    out inverted.

    Without a usable VOI LUT or window, the 0.5th to 99.5th percentiles of the image, taken without
    padding (Pixel Padding Value and Range Limit), are mapped to [0, 1]. Overlays are ignored.

    Parameters
    ----------
    path : str or path-like
        DICOM file with 8 or 16 bits allocated per pixel, of which any number may be stored.
    modalities : collection of str, default=None
        Modalities to read, such as ``{"DX"}``. By default those that projection radiographs have
        in practice: CR, DX, DR, RG, OT and SC. A file without a modality is always read.
    frame : int, default=None
        Index of the frame to read, from 0. Required if there is more than one.

    Returns
    -------
    ndarray of shape (height, width), float32
        The image in [0, 1], where 0 is black. Color becomes luma (ITU-R BT.601).

    Raises
    ------
    ImageReadError
        If the file is missing, damaged or not such an image, or if its compression needs a codec
        that is not installed. The message names the file.

    Warns
    -----
    ImageReadWarning
        If the image is in color, or if Presentation LUT Shape contradicts Photometric
        Interpretation.

    See Also
    --------
    read_image : Read a file of any format.
    read_dicom_table : Read the headers of many files.

    Notes
    -----
    Presentation LUT Shape does not invert a second time: the standard requires INVERSE with
    MONOCHROME1 and IDENTITY with MONOCHROME2, so both describe the same inversion. Where they
    contradict each other, viewers disagree; Photometric Interpretation is used, since every image
    has it.

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
        return dicom_pixels(name, modalities=modalities, frame=frame)


def dicom_pixels(
    path: str, *, modalities: Collection[str] | None = None, frame: int | None = None
) -> NDArray[np.float32]:
    """Read as `read_dicom` does, but with errors and warnings that do not name the file."""
    with open_dicom(path) as file:
        header = file.header
        if "SOPClassUID" not in header and "Rows" not in header:
            raise ImageReadError("this is not a DICOM image; leave it out")
        _require_modality(header, modalities)
        # Checked before the pixels take memory.
        frame = _require_displayable(header, frame) if "Rows" in header else 0
        if not file.load_pixels():
            raise ImageReadError(
                "it contains no pixel data; if it should, it is cut short: replace it with an "
                "intact copy, otherwise leave it out"
            )
    stored, photometric = stored_values(header, frame)
    decoded = header.file_meta.TransferSyntaxUID.is_encapsulated
    pixels = display_values(stored, photometric, header, decoded=decoded)
    _warn_if_doubtful(header)
    return pixels


def _require_modality(header: Dataset, allowed: Collection[str] | None) -> None:
    modality = str(header.get("Modality") or "").strip().upper()
    kinds = "a projection radiograph" if allowed is None else "one of those to read"
    allowed = _MODALITIES if allowed is None else allowed
    if modality and modality not in allowed:
        raise ImageReadError(
            f"its modality is {modality!r}, not {kinds} ({', '.join(sorted(allowed))}); leave it "
            f"out, or pass modalities={{{modality!r}}} to read_dicom"
        )


def _require_displayable(header: Dataset, frame: int | None) -> int:
    """Raise an error if the header rules out an image; return the frame to read."""
    photometric = header.get("PhotometricInterpretation")
    if photometric not in _SAMPLES:
        raise ImageReadError(
            f"its photometric interpretation is {photometric!r}, not one of "
            f"{', '.join(_SAMPLES)}; convert it to grayscale first"
        )
    samples = int(header.get("SamplesPerPixel") or 1)
    if samples != _SAMPLES[photometric]:
        raise ImageReadError(
            f"{samples} samples per pixel do not fit {photometric}; correct its header"
        )
    if header.BitsAllocated not in (8, 16):
        raise ImageReadError(
            f"its pixels have {header.BitsAllocated} bits, those of radiographs 8 or 16; leave it "
            "out"
        )
    if not 1 <= header.BitsStored <= header.BitsAllocated:
        raise ImageReadError(
            f"{header.BitsStored} of {header.BitsAllocated} bits are stored; correct its header"
        )
    require_size(header.Rows, header.Columns, cost=_COST * samples)
    frames = int(header.get("NumberOfFrames") or 1)
    if frame is None and frames > 1:
        raise ImageReadError(
            f"it contains {frames} frames; read one with read_dicom, by frame=0 to "
            f"frame={frames - 1}, and save it with numpy.save"
        )
    if not 0 <= (frame or 0) < frames:
        raise ImageReadError(f"it contains {frames} frames, counted from 0, but no frame {frame}")
    return frame or 0


def _warn_if_doubtful(header: Dataset) -> None:
    photometric = header.PhotometricInterpretation
    expected = _SHAPES.get(photometric)
    shape = str(header.get("PresentationLUTShape") or "").strip()
    if expected is None:
        warn_user(
            f"it is in color ({photometric}), and only its luma is used: check that it is a "
            "radiograph, and that nothing is drawn on it",
            ImageReadWarning,
        )
    elif shape != expected and shape in _SHAPES.values():
        warn_user(
            f"its Presentation LUT Shape, {shape}, contradicts its Photometric Interpretation, "
            f"{photometric}, which is used: check that bone is bright",
            ImageReadWarning,
        )
