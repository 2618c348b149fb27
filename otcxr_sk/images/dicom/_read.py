"""Read one DICOM file as one image with the right polarity and range."""

import os
from collections.abc import Collection, Iterable
from numbers import Integral
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import (
    DigitalIntraOralXRayImageStorageForProcessing,
    DigitalMammographyXRayImageStorageForProcessing,
    DigitalXRayImageStorageForProcessing,
)

from otcxr_sk._files import open_file
from otcxr_sk._ordinary import ordinary
from otcxr_sk._paths import as_path
from otcxr_sk._quote import counted, quoted
from otcxr_sk.images._errors import ImageReadError, doubt, reading
from otcxr_sk.images._telling import tell
from otcxr_sk.images.dicom._decode import decode_frame, syntax_name
from otcxr_sk.images.dicom._display import display_values
from otcxr_sk.images.dicom._elements import Element
from otcxr_sk.images.dicom._file import DicomFile, find_dicom
from otcxr_sk.images.dicom._header import Header
from otcxr_sk.images.dicom._layout import Layout, read_layout

# Projection radiographs as they are labeled in practice: CR and DX by the standard, DR by some
# vendors, RG for digitized film, OT and SC for secondary captures.
_MODALITIES = ("CR", "DR", "DX", "OT", "RG", "SC")

_FOR_PROCESSING = (
    DigitalIntraOralXRayImageStorageForProcessing,
    DigitalMammographyXRayImageStorageForProcessing,
    DigitalXRayImageStorageForProcessing,
)

# The Presentation LUT Shape that the standard requires with each.
_SHAPES = {"MONOCHROME1": "INVERSE", "MONOCHROME2": "IDENTITY"}


@ordinary()
def read_dicom(
    path: str | os.PathLike[str],
    *,
    modalities: str | Collection[str] | None = None,
    frame: int | None = None,
) -> NDArray[np.float32]:
    """Read a chest radiograph from a DICOM file as it is meant to be displayed.

    Stored values pass through the modality LUT or rescale, then the VOI LUT or else the first
    window that has a width (LINEAR, LINEAR_EXACT or SIGMOID). The result is divided by the range of
    that last step, and inverted once if the file is MONOCHROME1. Bone is thus bright and air dark,
    however the file stores them. The header is trusted: a file with a wrong Photometric
    Interpretation comes out inverted.

    Without a VOI LUT or window, the 0.5th to 99.5th percentiles of the image, taken without
    padding (Pixel Padding Value and Range Limit), are mapped to [0, 1]. A step that leaves one gray
    of pixels that differ is ignored. Overlays are ignored.

    Parameters
    ----------
    path : str or path-like
        DICOM file with 8 or 16 bits allocated per pixel, of which any number may be stored.
    modalities : collection of str, default=None
        Modalities to read, such as ``{"DX"}``, or one of them as text. By default those that
        projection radiographs have in practice: CR, DX, DR, RG, OT and SC. A file without a
        modality is always read.
    frame : int, default=None
        Index of the frame to read, from 0. Required if there is more than one.

    Returns
    -------
    ndarray of shape (height, width), float32
        The image in [0, 1], where 0 is black. Color becomes luma (ITU-R BT.601).

    Raises
    ------
    TypeError
        If `modalities` are not text, or `frame` is not a whole number.
    ValueError
        If `modalities` is empty.
    ImageReadError
        If the file is missing, cut short or not such an image, if its header contradicts itself,
        or if its compression needs a codec that is not installed. The message names the file.

    Warns
    -----
    ImageReadWarning
        If the image is in color or FOR PROCESSING, if Presentation LUT Shape contradicts
        Photometric Interpretation, if a step of the display is ignored, or if the header
        contradicts the pixels. The message names the file and says what was done.

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
    name = as_path(path)
    # Before the file is opened: it is not to blame.
    modalities = as_modalities(modalities)
    if frame is not None and (not isinstance(frame, Integral) or isinstance(frame, bool)):
        raise TypeError(f"frame must be a whole number, counted from 0, got {frame!r}")
    with reading(name), open_file(name) as file:
        return dicom_pixels(file, modalities=modalities, frame=frame)


def as_modalities(modalities: Any) -> tuple[str, ...] | None:
    """Return the modalities that a user gives as headers have them.

    Among them may be that of a file without one, which is None or empty.
    """
    if modalities is None:
        return None
    names = (modalities,) if isinstance(modalities, str) else modalities
    names = tuple(names) if isinstance(names, Iterable) else (names,)
    if not all(isinstance(name, str | None) for name in names):
        raise TypeError(f"modalities must be text, such as {{'DX', 'MG'}}, got {modalities!r}")
    if not names:
        raise ValueError("modalities must name at least one, such as {'DX'}, or be None")
    return tuple((name or "").strip().upper() for name in names)


def dicom_pixels(
    file: BinaryIO, *, modalities: Collection[str] | None = None, frame: int | None = None
) -> NDArray[np.float32]:
    """Read an open file as `read_dicom` does; errors and warnings do not name it.

    `modalities` are those that `as_modalities` returns.
    """
    dicom = find_dicom(file)
    tell(
        transfer_syntax=syntax_name(dicom.syntax) if dicom.syntax else "not said: by the content",
        modality=dicom.header.code("Modality") or "not said",
        intent=dicom.header.code("PresentationIntentType") or "not said",
    )
    # Checked before the pixels take memory.
    layout, pixels, frame = require_readable(dicom, modalities, frame)
    tell(frames=layout.frames, stored_size=f"{layout.rows} x {layout.columns}")
    samples = decode_frame(dicom, pixels, layout, frame)
    _tell_doubts(dicom.header, layout.photometric)
    return display_values(samples, layout, dicom.header)


def require_readable(
    dicom: DicomFile, modalities: Collection[str] | None = None, frame: int | None = None
) -> tuple[Layout, Element, int]:
    """Return layout, pixel data and frame of an image, unless its header rules it out.

    Raises
    ------
    ImageReadError
        `dicom_pixels` does not read such an image, whatever its pixels are.
    """
    _require_modality(dicom.header, modalities)
    if dicom.pixels is None or dicom.pixels.length == 0:
        raise ImageReadError(_no_pixels(dicom))
    layout = read_layout(dicom.header)
    return layout, dicom.pixels, _chosen_frame(layout.frames, frame)


def _require_modality(header: Header, allowed: Collection[str] | None) -> None:
    modality = header.code("Modality")
    kinds = "a projection radiograph" if allowed is None else "one of those to read"
    allowed = _MODALITIES if allowed is None else allowed
    if modality and modality not in allowed:
        names = ", ".join(sorted(filter(None, allowed)))
        raise ImageReadError(
            f"its modality is {quoted(modality)}, not {kinds} ({names}); leave it out, or pass "
            f"modalities={{{quoted(modality)}}} to read_dicom"
        )


def _no_pixels(dicom: DicomFile) -> str:
    unknown = "SOPClassUID" not in dicom.header and "Rows" not in dicom.header
    if unknown and not (dicom.syntax and dicom.ends_early):
        return "this is not a DICOM image; leave it out"
    if dicom.ends_early:
        return (
            "it is cut short: it ends before its pixels; replace it with an intact copy or leave "
            "it out"
        )
    if any(keyword in dicom.header for keyword in ("FloatPixelData", "DoubleFloatPixelData")):
        return "its pixels are floats, which are not supported; leave it out"
    return (
        "it contains no pixel data; if it should, replace it with an intact copy, otherwise leave "
        "it out"
    )


def _chosen_frame(frames: int, frame: int | None) -> int:
    if frame is None and frames > 1:
        raise ImageReadError(
            f"it contains {frames} frames; read one with read_dicom, by frame=0 to "
            f"frame={frames - 1}, and save it with numpy.save"
        )
    if not 0 <= (frame or 0) < frames:
        raise ImageReadError(
            f"it contains {counted(frames, 'frame')}, counted from 0, but no frame {frame}"
        )
    return frame or 0


def _tell_doubts(header: Header, photometric: str) -> None:
    expected = _SHAPES.get(photometric)
    shape = header.code("PresentationLUTShape")
    if expected is None:
        doubt(
            f"it is in color ({photometric}), and only its luma is used: check that it is a "
            "radiograph, and that nothing is drawn on it"
        )
    elif shape != expected and shape in _SHAPES.values():
        doubt(
            f"its Presentation LUT Shape, {shape}, contradicts its Photometric Interpretation, "
            f"{photometric}, which is used: check that bone is bright"
        )
    if header.code("PresentationIntentType").replace("_", " ") == "FOR PROCESSING" or (
        header.text("SOPClassUID") in _FOR_PROCESSING
    ):
        doubt(
            "it is FOR PROCESSING: raw values of the detector, which are not meant for display and "
            "may be inverted; use the image FOR PRESENTATION that was made of it, if there is one"
        )
