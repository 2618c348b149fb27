"""One DICOM file to one picture: polarity and range right."""

import os
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut, apply_windowing, get_decoder
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGExtended12Bit,
)

from otcxr_sk.images._errors import ImageReadError, reading, require_file, require_size

# Projection radiographs as they are labelled in practice: CR and DX by the standard, DR as some
# vendors have it, RG for digitised film, OT and SC for secondary captures.
_MODALITIES = {"CR", "DX", "DR", "RG", "OT", "SC"}

# Where no window is given, this share of the pixels is clipped at either end.
_CLIPPED_SHARE = 0.005


def read_dicom(path: str | os.PathLike[str]) -> NDArray[np.float32]:
    """Read a chest radiograph from a DICOM file as it is meant to be shown.

    Stored values go through the modality LUT or rescale, then the VOI LUT or else the first
    window (LINEAR, LINEAR_EXACT or SIGMOID), are divided by the range of that step's output, and
    are inverted once if the file says MONOCHROME1. So bone is bright and air dark whichever way
    the file stores it. The tag is believed: a file with a wrong Photometric Interpretation comes
    out inverted.

    Without a usable VOI LUT or window, [0, 1] spans the image's own values between the 0.5th and
    the 99.5th percentile, Pixel Padding Value or Range left out of account.

    Parameters
    ----------
    path : str or path-like
        DICOM file with a single-frame, single-channel image of at most 16 bits, of modality CR,
        DX, DR, RG, OT or SC, or without one.

    Returns
    -------
    ndarray of shape (height, width), float32
        The picture in [0, 1], 0 black.

    Raises
    ------
    ImageReadError
        If the file is missing, damaged, or no such image, or if its compression needs a codec
        that is not installed. The message names the file.

    References
    ----------
    DICOM PS3.3, C.7.6.3.1.2 (Photometric Interpretation), C.11.1 (Modality LUT), C.11.2 (VOI LUT).

    Examples
    --------
    >>> from pydicom.data import get_testdata_file
    >>> from otcxr_sk.images import read_dicom
    >>> read_dicom(get_testdata_file("CT_small.dcm"))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    otcxr_sk.images._errors.ImageReadError: cannot read '...CT_small.dcm': its modality is 'CT'...
    """
    name = os.fspath(path)
    with reading(name):
        require_file(name)
        return dicom_picture(name)


def dicom_picture(path: str) -> NDArray[np.float32]:
    """Read as `read_dicom` does, errors left as they come."""
    dataset = pydicom.dcmread(path, force=True)
    if not {"SOPClassUID", "Rows", "PixelData"} & set(dataset.dir()):
        raise ImageReadError("this is not a DICOM image; leave it out")
    return _display(_stored_values(dataset), dataset)


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


def _stored_values(dataset: Dataset) -> NDArray[Any]:
    """Pixels as stored, (height, width), once everything known says that they are a radiograph."""
    modality = str(dataset.get("Modality") or "").strip().upper()
    if modality and modality not in _MODALITIES:
        raise ImageReadError(
            f"its modality is {modality!r}, not a projection radiograph "
            f"({', '.join(sorted(_MODALITIES))}); leave it out"
        )
    if "PixelData" not in dataset:
        raise ImageReadError(
            "it holds no pixel data; if it should, it was cut short: replace it with an intact "
            "copy, otherwise leave it out"
        )
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames > 1:
        raise ImageReadError(f"it holds {frames} frames; save the one to use in a file of its own")
    photometric = dataset.get("PhotometricInterpretation")
    if photometric not in ("MONOCHROME1", "MONOCHROME2"):
        raise ImageReadError(
            f"its photometric interpretation is {photometric!r}, not MONOCHROME1 or MONOCHROME2; "
            "convert it to grayscale first"
        )
    if dataset.BitsAllocated > 16:
        raise ImageReadError(
            f"its pixels have {dataset.BitsAllocated} bits, radiographs at most 16; leave it out"
        )
    require_size(dataset.Rows, dataset.Columns)
    return _decode(dataset)


def _decode(dataset: Dataset) -> NDArray[Any]:
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit
    syntax = dataset.file_meta.TransferSyntaxUID
    install = 'pip install "otcxr-sk[dicom]"'
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise ImageReadError(
            f"its transfer syntax, {syntax.name}, is not one for still images; convert it"
        ) from error
    if not decoder.is_available:
        raise ImageReadError(f"no codec for its transfer syntax, {syntax.name}: {install}")
    # Given a damaged stream GDCM may end the whole process, so pydicom is to fall back on it only
    # where the others read nothing, or 8 bits out of 12.
    others = [plugin for plugin in decoder.available_plugins if plugin != "gdcm"]
    if others and syntax != JPEGExtended12Bit:
        dataset.pixel_array_options(decoding_plugin=others[0])
    try:
        return dataset.pixel_array
    except RuntimeError as error:
        codec = (
            f", unless another codec is wanted: {install}" if decoder.missing_dependencies else ""
        )
        raise ImageReadError(
            f"its pixels, in transfer syntax {syntax.name}, are damaged or cut short; replace the "
            f"file with an intact copy{codec}"
        ) from error


def _display(stored: NDArray[Any], dataset: Dataset) -> NDArray[np.float32]:
    """Shown brightness in [0, 1] of every stored value."""
    # Each step maps a pixel by its value alone. At most 2**16 values are cheaper to map than
    # millions of pixels, and int32 keeps narrow types from overflowing on the way.
    lowest = int(stored.min())
    offsets = np.subtract(stored, lowest, dtype=np.intp)
    counts = np.bincount(offsets.ravel())
    levels = np.arange(lowest, lowest + len(counts), dtype=np.int32)
    shown = _to_unit_range(levels, counts, dataset)
    if not np.isfinite(shown).all():
        raise ImageReadError("its rescale or window values are not finite; correct its header")
    shown = np.clip(shown, 0, 1)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        shown = 1 - shown
    return shown.astype(np.float32)[offsets]


def _to_unit_range(levels: NDArray[Any], counts: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    """Output of modality LUT and VOI LUT for sorted `levels`, divided by the VOI output's range."""
    if dataset.get("ModalityLUTSequence"):
        _allow_any_depth(dataset.ModalityLUTSequence[0])
    values = apply_modality_lut(levels, dataset)
    if dataset.get("VOILUTSequence"):
        table = dataset.VOILUTSequence[0]
        entries, first = table.LUTDescriptor[:2]
        depth = _allow_any_depth(table)
        inside = np.clip(np.rint(values), first, first + (entries or 2**16) - 1)
        return apply_voi_lut(inside.astype(np.int32), dataset) / (2**depth - 1)
    window = _first_window(dataset)
    if window is not None:
        return apply_windowing(values, window) / 255
    return _stretch(values, _without_padding(levels, counts, dataset))


def _allow_any_depth(table: Dataset) -> int:
    """Have pydicom look up a table as 16 bits; return the bits that its entries really use.

    pydicom knows no modality LUT of 10 or 12 bits, and wraps indices above 255 where the entries
    of a VOI LUT have 8.
    """
    entries, first, depth = table.LUTDescriptor
    if not 8 <= depth <= 16:
        raise ImageReadError(f"its lookup table has entries of {depth} bits; correct its header")
    table.LUTDescriptor = [entries, first, 16]
    return depth


def _first_window(dataset: Dataset) -> Dataset | None:
    """Return the first window in `dataset`, for an output range of 0 to 255; None without one."""

    def first(keyword: str) -> float:
        value = dataset.get(keyword)
        if isinstance(value, pydicom.multival.MultiValue):
            value = value[0] if value else None
        return np.nan if value in (None, "") else float(value)

    window = Dataset()
    window.PhotometricInterpretation = "MONOCHROME2"
    window.PixelRepresentation = 0
    window.BitsStored = 8
    window.VOILUTFunction = str(dataset.get("VOILUTFunction") or "LINEAR").strip()
    window.WindowCenter, window.WindowWidth = first("WindowCenter"), first("WindowWidth")
    narrowest = 1 if window.VOILUTFunction == "LINEAR" else np.finfo(np.float32).tiny
    usable = np.isfinite(window.WindowCenter) and window.WindowWidth >= narrowest
    return window if usable else None


def _without_padding(levels: NDArray[Any], counts: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    """Pixels per level, those that only fill the frame left out."""
    padding = dataset.get("PixelPaddingValue")
    if padding is None:
        return counts
    limit = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted((padding, padding if limit is None else limit))
    kept = np.where((levels >= low) & (levels <= high), 0, counts)
    return kept if kept.any() else counts


def _stretch(values: NDArray[Any], counts: NDArray[Any]) -> NDArray[Any]:
    """Map the 0.5th to 99.5th percentile of `values`, occurring `counts` times, to [0, 1]."""
    order = np.argsort(values, kind="stable")
    order = order[counts[order] > 0]
    clipped = _CLIPPED_SHARE * counts.sum()
    low = values[order[np.argmax(np.cumsum(counts[order]) > clipped)]]
    high = values[order[::-1][np.argmax(np.cumsum(counts[order[::-1]]) > clipped)]]
    if low == high:
        low, high = values[order[0]], values[order[-1]]
    if low == high:
        return np.zeros(len(values))
    return (values.astype(np.float64) - low) / (float(high) - float(low))
