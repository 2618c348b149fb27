"""The orientation in which an image is to be shown."""

import re

from otcxr_sk.images._errors import ImageReadError
from otcxr_sk.images.rasters._tags import directories

ORIENTATION = 274
_IN_XMP = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')


def orientation(exif: bytes, xmp: bytes) -> int:
    """Return the orientation, 1 to 8, that EXIF data or else XMP data say, and 1 if none does."""
    found = 0
    try:
        for directory in directories(exif.removeprefix(b"Exif\0\0")):
            found = directory.number(ORIENTATION, 0)
            break
    except ImageReadError:
        # The pixels do not depend on whether metadata are intact.
        pass
    return found or orientation_in_xmp(xmp)


def orientation_in_xmp(xmp: bytes) -> int:
    """Return the orientation that XMP data say, and 1 if they do not."""
    match = _IN_XMP.search(xmp)
    return int(match[1]) if match else 1
