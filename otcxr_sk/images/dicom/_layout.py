"""What the header says of the pixels: their number, samples, bits and color."""

from typing import Any, NamedTuple

from numpy.typing import NDArray

from otcxr_sk.images._errors import ImageReadError, require_size
from otcxr_sk.images.dicom._header import Header

# Supported photometric interpretations, with their samples per pixel.
_SAMPLES = {
    **dict.fromkeys(("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"), 1),
    **dict.fromkeys(("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"), 3),
}

# Memory per sample, relative to 8-bit samples of other files: the largest image takes 512 MiB.
_COST = 3 / 2


class Layout(NamedTuple):
    """How the pixels of an image are stored, by its header.

    Attributes
    ----------
    allocated, stored, highest : int
        Bits per sample, those that are used, and the position of the highest of these.
    signed, planar : bool
        Whether samples are two's complement, and whether each color is stored apart.
    """

    photometric: str
    rows: int
    columns: int
    samples: int
    allocated: int
    stored: int
    highest: int
    signed: bool
    planar: bool
    frames: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of one frame."""
        color = (self.samples,) if self.samples > 1 else ()
        return (self.rows, self.columns, *color)


class Samples(NamedTuple):
    """One decoded frame.

    Attributes
    ----------
    values : ndarray of shape (height, width), or (height, width, 3) if `color` is "RGB"
        8 or 16 bits: those that are not used may be set, and memory may be read-only.
    bits : int
        The lowest bits, which can hold samples: the precision of a stream, or all of them.
    color : {"GRAY", "RGB", "YBR"}
        What the values are. Of YBR, they are the luma.
    """

    values: NDArray[Any]
    bits: int
    color: str


def read_layout(header: Header) -> Layout:
    """Read the layout of the pixels, with the defaults of other readers for what is not said.

    Raises
    ------
    ImageReadError
        If the header rules out an image that is supported.
    """
    photometric = _photometric(header)
    # Zero means one to other readers.
    samples = header.integer("SamplesPerPixel", 1) or 1
    if samples != _SAMPLES[photometric]:
        raise ImageReadError(
            f"{samples} samples per pixel do not fit {photometric}; correct its header"
        )
    allocated = header.integer("BitsAllocated")
    if allocated not in (8, 16):
        raise ImageReadError(
            f"its pixels have {allocated} bits, those of radiographs 8 or 16; leave it out"
        )
    stored = header.integer("BitsStored", allocated)
    if not 1 <= stored <= allocated:
        raise ImageReadError(f"{stored} of {allocated} bits are stored; correct its header")
    sign = header.integer("PixelRepresentation", 0)
    if sign not in (0, 1):
        raise ImageReadError(f"its Pixel Representation is {sign}, not 0 or 1; correct its header")
    rows, columns = header.integer("Rows"), header.integer("Columns")
    require_size(rows, columns, cost=_COST * samples)
    return Layout(
        photometric=photometric,
        rows=rows,
        columns=columns,
        samples=samples,
        allocated=allocated,
        stored=stored,
        highest=header.integer("HighBit", stored - 1),
        signed=sign == 1,
        planar=header.integer("PlanarConfiguration", 0) == 1,
        frames=max(1, header.integer("NumberOfFrames", 1)),
    )


def _photometric(header: Header) -> str:
    # Spaces and underscores are forgiven, as is lower case.
    written = header.code("PhotometricInterpretation").replace(" ", "").replace("_", "")
    if not written:
        raise ImageReadError("its header has no Photometric Interpretation; correct it")
    for photometric in _SAMPLES:
        if written == photometric.replace(" ", "").replace("_", ""):
            return photometric
    raise ImageReadError(
        f"its photometric interpretation is {header.quoted('PhotometricInterpretation')}, not one "
        f"of {', '.join(_SAMPLES)}; convert it to grayscale first"
    )
