"""Decode compressed streams: which codec reads what."""

from collections.abc import Callable
from importlib.util import find_spec
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from otcxr_sk.images._errors import ImageReadError
from otcxr_sk.images._jpeg import END
from otcxr_sk.images._jpeg_whole import CORNER, IN_SEVERAL_SCANS, decode_whole, without_end
from otcxr_sk.images.dicom._jpeg2000 import require_few_blocks
from otcxr_sk.images.dicom._streams import Stream

_ELSEWHERE = (
    "if another program shows the whole image, save it from there uncompressed, otherwise replace "
    "it with an intact copy or leave it out"
)
_JPEG_2000 = ("JPEG 2000", "HTJ2K")
_INSTALL = 'pip install "otcxr-sk[dicom]"'


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
    codec = _codec(stream, syntax)
    if stream.codec in _JPEG_2000:
        require_few_blocks(stream.data)
    pixels = f"its pixels, a {stream.codec} stream in transfer syntax {syntax},"

    def decode(data: bytes) -> NDArray[Any]:
        try:
            return codec(stream._replace(data=data))
        except MemoryError:
            raise
        # Codecs raise errors of any type.
        except Exception as error:
            raise ImageReadError(f"{pixels} cannot be decoded; {_ELSEWHERE}") from error

    if stream.frame is None or stream.codec == "JPEG-LS":
        # Their codecs decode them as a whole or not at all.
        whole = stream.data if stream.ended else without_end(stream.data, stream.scan)[0] + END
        return decode(whole)
    if not stream.ended and stream.frame.marker in IN_SEVERAL_SCANS:
        raise ImageReadError(
            f"{pixels} have no end marker, so that scans may be missing; {_ELSEWHERE}"
        )
    return decode_whole(
        stream.data, stream.scan, stream.frame, decode, _corner, np.array_equal, f"{pixels} are"
    )


def _corner(pixels: NDArray[Any]) -> NDArray[Any]:
    return np.atleast_3d(pixels)[-CORNER:, -CORNER:, 0]


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
