"""Decode compressed streams: which codec reads what."""

from collections.abc import Callable
from importlib.util import find_spec
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from otcxr_sk.images._errors import ImageReadError, damaged
from otcxr_sk.images.dicom._jpeg2000 import require_few_blocks
from otcxr_sk.images.dicom._streams import END, Stream

_ELSEWHERE = (
    "if another program shows the whole image, save it from there uncompressed, otherwise replace "
    "it with an intact copy or leave it out"
)
_JPEG_2000 = ("JPEG 2000", "HTJ2K")
# Streams that their codec decodes as a whole or not at all.
_STRICT = ("JPEG-LS", *_JPEG_2000)
_INSTALL = 'pip install "otcxr-sk[dicom]"'

# Where a stream is cut, codecs go on with gray. They go on with this instead if it is there: bits
# between restart markers, of which they expect one.
_REST = b"".join(b"\x5a\xa5\x36" * 33 + bytes([0xFF, 0xD0 + number % 8]) for number in range(16))


def decode_stream(stream: Stream, syntax: str) -> NDArray[Any]:
    """Decode a stream, and leave its color as it is.

    The codec is the same wherever the same extra is installed: Pillow for 8-bit JPEG, imagecodecs
    for all others. GDCM is never used: a damaged stream may make it abort the process.

    Parameters
    ----------
    stream : Stream
    syntax : str
        Name of the transfer syntax, for messages.

    Returns
    -------
    ndarray of shape (height, width) or (height, width, 3)
        8 or 16 bits.

    Raises
    ------
    ImageReadError
        If no codec is installed, or none can decode the stream.
    """
    decode = _codec(stream, syntax)
    if stream.codec in _JPEG_2000:
        require_few_blocks(stream.data)
    try:
        if stream.ended:
            pixels = decode(stream)
            whole = not _ends_in_gray(pixels, stream) or _is_whole(pixels, stream, decode)
        else:
            pixels = decode(stream._replace(data=_coded(stream) + END))
            whole = not stream.scans and _is_whole(pixels, stream, decode)
    # Codecs raise errors of any type.
    except Exception as error:
        if isinstance(error, MemoryError):
            raise
        raise ImageReadError(
            f"its pixels, a {stream.codec} stream in transfer syntax {syntax}, cannot be "
            f"decoded; {_ELSEWHERE}"
        ) from error
    if not whole and stream.scans and not stream.ended:
        raise ImageReadError(
            f"its pixels, a {stream.codec} stream in transfer syntax {syntax}, have no end marker, "
            f"so that scans may be missing; {_ELSEWHERE}"
        )
    if not whole:
        raise damaged(
            f"its pixels, a {stream.codec} stream in transfer syntax {syntax}, are cut short"
        )
    return pixels


def _coded(stream: Stream) -> bytes:
    """Return a stream without its end."""
    if stream.ended:
        return stream.data[: stream.data.rfind(END)]
    # Zeros that fill up a fragment, except for one that is part of a coded 255.
    coded = stream.data.rstrip(b"\0")
    return coded + b"\0" * coded.endswith(b"\xff")


def _is_whole(
    pixels: NDArray[Any], stream: Stream, decode: Callable[[Stream], NDArray[Any]]
) -> bool:
    """Return whether no pixel depends on what comes after a stream."""
    if stream.codec in _STRICT:
        return True
    other = decode(stream._replace(data=_coded(stream) + _REST + END))
    return np.array_equal(pixels, other)


def _ends_in_gray(pixels: NDArray[Any], stream: Stream) -> bool:
    """Return whether the last block of 8 x 8 pixels has the gray with which JPEG goes on."""
    last = pixels[(len(pixels) - 1) // 8 * 8 :, (pixels.shape[1] - 1) // 8 * 8 :]
    middle = 1 << (stream.bits - 1)
    return stream.codec == "JPEG" and bool(np.isin(last, (middle - 1, middle)).all())


def _codec(stream: Stream, syntax: str) -> Callable[[Stream], NDArray[Any]]:
    if stream.codec == "JPEG" and stream.bits == 8:
        return _jpeg8
    if find_spec("imagecodecs") is not None:
        return _by_imagecodecs
    if stream.codec == "JPEG 2000" and (stream.bits <= 8 or stream.samples == 1):
        return _jpeg2000_by_pillow
    raise ImageReadError(f"no codec installed for its transfer syntax, {syntax}: {_INSTALL}")


def _jpeg8(stream: Stream) -> NDArray[Any]:
    # The same color space in and out means no conversion. Unlike with an opened file, no setting
    # of Pillow decides whether a truncated image is filled with gray.
    mode = "L" if stream.samples == 1 else "RGB"
    size = stream.width, stream.height
    return np.asarray(Image.frombytes(mode, size, stream.data, "jpeg", mode, mode))


def _by_imagecodecs(stream: Stream) -> NDArray[Any]:
    import imagecodecs

    pixels: NDArray[Any]
    if stream.codec in _JPEG_2000:
        pixels = imagecodecs.jpeg2k_decode(stream.data)
    elif stream.codec == "JPEG-LS":
        pixels = imagecodecs.jpegls_decode(stream.data)
    else:
        # The same color space in and out means no conversion.
        colors = None if stream.samples == 1 else "rgb"
        pixels = imagecodecs.jpeg8_decode(stream.data, colorspace=colors, outcolorspace=colors)
    return pixels


def _jpeg2000_by_pillow(stream: Stream) -> NDArray[Any]:
    mode = "RGB" if stream.samples > 1 else "L" if stream.bits <= 8 else "I;16"
    image = Image.new(mode, (stream.width, stream.height))
    decoder = Image.core.jpeg2k_decoder(mode, "j2k", 0, 0, -1, len(stream.data))
    try:
        decoder.setimage(image.im, (0, 0, *image.size))
        decoder.setfd(BytesIO(stream.data))
        if decoder.decode(b"")[1] < 0:
            raise OSError("Pillow cannot decode a JPEG 2000 stream")
    finally:
        decoder.cleanup()
    pixels = np.asarray(image)
    # Pillow scales samples to 8 or 16 bits, and makes signed ones positive.
    pixels = pixels >> (8 * pixels.itemsize - stream.bits)
    return pixels ^ pixels.dtype.type(1 << (stream.bits - 1)) if stream.signed else pixels
