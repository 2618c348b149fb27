"""Decode the pixel data of a DICOM file: which codec reads which transfer syntax."""

from importlib.util import find_spec
from struct import unpack
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels import get_decoder
from pydicom.pixels.decoders.base import Decoder
from pydicom.uid import (
    JPEG2000,
    UID,
    JPEG2000Lossless,
    JPEG2000TransferSyntaxes,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
)

from otcxr_sk.images._errors import ImageReadError

_INSTALL = 'pip install "otcxr-sk[dicom]"'

# Transfer syntaxes whose streams say how large the image is.
_SELF_DESCRIBING = [*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes]

# Start of frame: this range without the markers of Huffman tables, extensions and arithmetic
# conditioning, and the marker of JPEG-LS.
_FRAME_MARKERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_JPEG_END = b"\xff\xd9"
_J2K_START = b"\xff\x4f\xff\x51"


def stored_values(dataset: Dataset, frame: int) -> tuple[NDArray[Any], str]:
    """Decode one frame.

    Parameters
    ----------
    dataset : Dataset
        Includes pixel data and `file_meta.TransferSyntaxUID`.
    frame : int
        Index of the frame, from 0.

    Returns
    -------
    pixels : ndarray of shape (height, width) or (height, width, 3)
        8 or 16 bits as stored: unused bits may be set, and memory may be read-only.
    photometric : str
        Photometric Interpretation of the result.

    Raises
    ------
    ImageReadError
        If no codec is installed or the pixels are damaged.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    decoder = _decoder(syntax)
    plugin = _plugin(syntax, dataset.BitsStored)
    try:
        stream = _stream(dataset, frame) if syntax in _SELF_DESCRIBING else b""
        if plugin == "imagecodecs":
            return _by_imagecodecs(stream, dataset)
        pixels, properties = decoder.as_array(
            dataset,
            index=frame,
            decoding_plugin=plugin,
            raw=True,
            view_only=True,
            correct_unused_bits=False,
        )
    except (RuntimeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1].strip().rstrip(".")
        raise ImageReadError(
            f"its pixels, in transfer syntax {syntax.name}, are damaged or cut short ({reason}); "
            "replace the file with an intact copy or leave it out"
        ) from error
    return pixels, str(properties["photometric_interpretation"])


def _decoder(syntax: UID) -> Decoder:
    try:
        return get_decoder(syntax)
    except NotImplementedError as error:
        raise ImageReadError(
            f"its transfer syntax, {syntax.name}, is not for still images; convert it"
        ) from error


def _plugin(syntax: UID, bits: int) -> str:
    """Return the codec to use: imagecodecs, or the name of a pydicom plugin.

    It is the same wherever the same extra is installed. GDCM is never used, even if it is
    installed: a damaged stream may make it abort the process.
    """
    if not syntax.is_encapsulated:
        return ""
    if syntax == RLELossless:
        return "pydicom"
    if syntax == JPEGBaseline8Bit or (syntax == JPEGExtended12Bit and bits == 8):
        return "pillow"
    if find_spec("imagecodecs") is not None:
        return "imagecodecs"
    if syntax in (JPEG2000, JPEG2000Lossless):
        return "pillow"
    raise ImageReadError(f"no codec installed for its transfer syntax, {syntax.name}: {_INSTALL}")


def _by_imagecodecs(stream: bytes, dataset: Dataset) -> tuple[NDArray[Any], str]:
    import imagecodecs

    syntax = dataset.file_meta.TransferSyntaxUID
    photometric = str(dataset.PhotometricInterpretation)
    if syntax in JPEG2000TransferSyntaxes:
        # JP2 boxes, which DICOM forbids, may come first.
        pixels = imagecodecs.jpeg2k_decode(stream[stream.find(_J2K_START) :])
    elif syntax in JPEGLSTransferSyntaxes:
        pixels = imagecodecs.jpegls_decode(stream)
    else:
        # The same color space in and out means no conversion: the header says which one it is.
        colors = None if dataset.SamplesPerPixel == 1 else "rgb"
        pixels = imagecodecs.jpeg8_decode(stream, colorspace=colors, outcolorspace=colors)
    # The header may allocate 16 bits, so the sign is extended.
    pixels = pixels.astype(np.int16) if pixels.dtype == np.int8 else pixels
    # JPEG 2000 codecs undo the color transform themselves.
    return pixels, "RGB" if photometric in ("YBR_ICT", "YBR_RCT") else photometric


def _stream(dataset: Dataset, frame: int) -> bytes:
    """Return one compressed frame after checking its size against the header.

    Codecs allocate what the stream asks for, and some fill missing parts with gray.
    """
    frames = int(dataset.get("NumberOfFrames") or 1)
    stream: bytes = get_frame(dataset.PixelData, frame, number_of_frames=frames)
    jpeg2000 = dataset.file_meta.TransferSyntaxUID in JPEG2000TransferSyntaxes
    found = _jpeg2000_size(stream) if jpeg2000 else _jpeg_size(stream)
    if found is None:
        raise ValueError("the stream has no size or no end")
    height, width, samples, bits = found
    expected = dataset.Rows, dataset.Columns, dataset.SamplesPerPixel
    if (height, width, samples) != expected or bits > dataset.BitsAllocated:
        raise ValueError(
            f"{height} x {width} pixels of {samples} samples of {bits} bits, but the header says "
            f"{expected[0]} x {expected[1]} of {expected[2]} of up to {dataset.BitsAllocated}"
        )
    return stream


def _jpeg_size(stream: bytes) -> tuple[int, int, int, int] | None:
    """Return height, width, samples and bits of a JPEG or JPEG-LS stream, None if incomplete."""
    at = 2
    while at + 10 <= len(stream) and stream[at] == 0xFF:
        marker, length = stream[at + 1], int.from_bytes(stream[at + 2 : at + 4])
        if marker == 0xFF:
            at += 1
        elif marker in _FRAME_MARKERS:
            bits, height, width, samples = unpack(">BHHB", stream[at + 4 : at + 10])
            return (height, width, samples, bits) if stream.rfind(_JPEG_END) > at else None
        else:
            at += 2 + length
    return None


def _jpeg2000_size(stream: bytes) -> tuple[int, int, int, int] | None:
    """Return height, width, samples and bits of a JPEG 2000 stream, None if it has no header."""
    at = stream.find(_J2K_START) + len(_J2K_START)
    if at < len(_J2K_START) or len(stream) < at + 39:
        return None
    # Skipped: length and capabilities before the size, the tile sizes after it.
    right, bottom, left, top = unpack(">4I", stream[at + 4 : at + 20])
    samples, precision = unpack(">HB", stream[at + 36 : at + 39])
    return bottom - top, right - left, samples, (precision & 0x7F) + 1
