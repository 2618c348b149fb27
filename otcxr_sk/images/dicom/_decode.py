"""Decode one frame of the pixel data of a DICOM file."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.uid import UID, RLELossless

from otcxr_sk._quote import quoted
from otcxr_sk.images._errors import ImageReadError, damaged, doubt
from otcxr_sk.images.dicom._codecs import decode_stream
from otcxr_sk.images.dicom._elements import Element
from otcxr_sk.images.dicom._file import DicomFile
from otcxr_sk.images.dicom._frames import read_stream
from otcxr_sk.images.dicom._layout import Layout, Samples
from otcxr_sk.images.dicom._rle import decode_rle
from otcxr_sk.images.dicom._streams import HEAD, Stream, is_start, looks_like_rle, parse_stream

_STANDARD = "1.2.840.10008.1.2"
_VIDEO = ("MPEG", "HEVC", "SMPTE", "Fragmentable")
_ITEM = b"\xfe\xff\x00\xe0"

# Bytes beyond those of the pixels that tell whether they are more pixels.
_LOOKED_AT = 2**16


def decode_frame(dicom: DicomFile, pixels: Element, layout: Layout, frame: int) -> Samples:
    """Decode one frame.

    The pixel data themselves tell how they are stored. The transfer syntax may be wrong: not every
    program that compresses or decompresses a file changes it.

    Parameters
    ----------
    dicom : DicomFile
    pixels : Element
        The pixel data.
    layout : Layout
    frame : int
        Index of the frame, from 0.

    Raises
    ------
    ImageReadError
        If the pixels are cut short, contradict the header, or cannot be decoded.
    """
    file, wanted = dicom.file, _frame_size(layout) * layout.frames
    left = file.size - pixels.start
    claimed = left if pixels.length is None else pixels.length
    found = max(0, min(claimed, left))
    fragments = file.read(pixels.start, len(_ITEM)) == _ITEM
    if fragments and (pixels.length is None or pixels.length != wanted):
        data, whole = read_stream(dicom, pixels, frame, layout.frames)
        return _decode_encapsulated(data, whole, dicom.syntax, layout)
    if found >= wanted:
        _require_standard(dicom.syntax)
        if found >= _full_size(layout) * layout.frames:
            # Nothing was left out, although the label of a compressed image may remain.
            layout = layout._replace(photometric=layout.photometric.removesuffix("_422"))
        used = _frame_size(layout) * layout.frames
        beyond = file.read(pixels.start + used, min(found - used, _LOOKED_AT))
        row = _full_size(layout) // layout.rows
        # A few bytes, or zeros, only fill up what is there.
        if pixels.length is not None and len(beyond) >= min(row, _LOOKED_AT) and any(beyond):
            doubt(
                f"it has {found} bytes of pixels, but rows, columns, bits and frames in its header "
                f"make {used}, and the others were ignored: check the image"
            )
        data = _native_frame(dicom, pixels, layout, frame)
        return _decode_native(data, layout, pixels.encoding.order)
    if is_start(file.read(pixels.start, HEAD)):
        data = file.read(pixels.start, found)
        return _decode_encapsulated(data, found == claimed, dicom.syntax, layout)
    if found < claimed:
        raise damaged(f"it is cut short: it has {found} of {wanted} bytes of pixels")
    raise ImageReadError(
        f"it has {found} bytes of pixels, but rows, columns, bits and frames in its header make "
        f"{wanted}; correct its header, or leave it out"
    )


def _full_size(layout: Layout) -> int:
    return layout.rows * layout.columns * layout.samples * layout.allocated // 8


def _frame_size(layout: Layout) -> int:
    # Two pixels share their chroma.
    halved = layout.photometric.endswith("_422")
    return _full_size(layout) // 3 * 2 if halved else _full_size(layout)


def _require_standard(syntax: str) -> None:
    # Private ones may swap the bytes of pixels.
    if syntax and not syntax.startswith(_STANDARD):
        raise ImageReadError(
            f"its transfer syntax, {quoted(syntax)}, is not one of the standard; convert it"
        )


def _native_frame(dicom: DicomFile, pixels: Element, layout: Layout, frame: int) -> bytes:
    size = _frame_size(layout)
    if layout.allocated == 8 and pixels.vr == "OW" and pixels.encoding.order == ">":
        # The bytes of each word are swapped, even if they are pixels of their own.
        end = (frame + 1) * size
        words = np.frombuffer(dicom.file.read(pixels.start, end + end % 2), np.uint16)
        return words.byteswap().tobytes()[end - size : end]
    return dicom.file.read(pixels.start + frame * size, size)


def _decode_native(data: bytes, layout: Layout, order: str) -> Samples:
    values = np.frombuffer(data, f"{order}u{layout.allocated // 8}")
    shape = layout.rows, layout.columns
    if layout.photometric.endswith("_422"):
        # Two of luma, then two of chroma.
        luma = values.reshape(-1, 4)[:, :2].reshape(shape)
        return Samples(luma, layout.allocated, "YBR")
    if layout.planar or layout.samples == 1:
        return _of_planes(values.reshape(-1, *shape), layout)
    return _of_planes(np.moveaxis(values.reshape(*shape, 3), -1, 0), layout)


def _of_planes(planes: NDArray[Any], layout: Layout) -> Samples:
    if layout.samples == 1:
        return Samples(planes[0], layout.allocated, "GRAY")
    if layout.photometric == "RGB":
        return Samples(np.moveaxis(planes, 0, -1), layout.allocated, "RGB")
    return Samples(planes[0], layout.allocated, "YBR")


def _decode_encapsulated(data: bytes, whole: bool, syntax: str, layout: Layout) -> Samples:
    stream = parse_stream(data)
    if stream is not None:
        return _decode_stream(stream, whole, syntax, layout)
    if syntax == RLELossless or looks_like_rle(data, layout.samples * layout.allocated // 8):
        return _of_planes(decode_rle(data, layout), layout)
    if len(data) in (_frame_size(layout), _frame_size(layout) + 1):
        return _decode_native(data[: _frame_size(layout)], layout, "<")
    name = syntax_name(syntax)
    if name.startswith(_VIDEO):
        raise ImageReadError(f"its transfer syntax, {name}, is not for still images; convert it")
    if not whole:
        raise damaged("it is cut short: it ends within its pixels")
    if not data:
        raise ImageReadError("its pixel data are empty; leave it out")
    raise ImageReadError(
        f"its pixels, in transfer syntax {name}, are no stream of JPEG, JPEG-LS, JPEG 2000 or RLE; "
        "if another program shows the image, save it from there uncompressed, otherwise leave it "
        "out"
    )


def syntax_name(syntax: str) -> str:
    """Return what the standard calls a transfer syntax, for messages and tables."""
    # Without validation, which warns or not by a setting of pydicom.
    name = UID(syntax, validation_mode=0).name
    return "(none)" if not name else quoted(name) if name == syntax else name


def _decode_stream(stream: Stream, whole: bool, syntax: str, layout: Layout) -> Samples:
    expected = layout.rows, layout.columns, layout.samples
    if (stream.height, stream.width, stream.samples) != expected or stream.bits > layout.allocated:
        raise ImageReadError(
            f"its pixels are a stream of {stream.height} x {stream.width} pixels of "
            f"{stream.samples} samples of {stream.bits} bits, but its header says {layout.rows} x "
            f"{layout.columns} of {layout.samples} of up to {layout.allocated}; correct its header"
        )
    if not stream.ended and not whole:
        raise damaged("it is cut short: it ends within its pixels")
    values = decode_stream(stream, syntax_name(syntax))
    if values.shape != layout.shape:
        raise ImageReadError(
            f"its {stream.codec} stream has components of different sizes; convert it to grayscale "
            "first"
        )
    if stream.codec == "JPEG" and stream.bits < layout.stored:
        # Lossless streams may save bits that no pixel uses, but those of a lossy one are scaled.
        doubt(
            f"its JPEG stream has samples of {stream.bits} bits, but its Bits Stored is "
            f"{layout.stored}: check its brightness"
        )
    if stream.signed and not layout.signed:
        # The reverse is common, and all readers agree on it.
        doubt(
            f"its {stream.codec} stream says that samples may be negative, but its Pixel "
            "Representation that they are not, as which they were read: check the image"
        )
    if layout.samples == 1:
        return Samples(values, stream.bits, "GRAY")
    # Codecs of JPEG 2000 undo its own transforms. Other streams of JPEG may say what they are.
    color = layout.photometric if layout.photometric in ("YBR_FULL", "YBR_FULL_422") else "RGB"
    if stream.codec == "JPEG":
        color = stream.color or color
    if color == "RGB":
        return Samples(values, stream.bits, "RGB")
    return Samples(values[..., 0], stream.bits, "YBR")
