"""The one error that reading a file can end in, and the one warning."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image


class ImageReadError(ValueError):
    """A file could not be read as one grayscale image.

    The message names the file and says what to do about it.
    """


class ImageReadWarning(UserWarning):
    """A file was read as a picture that should be looked at.

    The message names the file and says why.
    """


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn whatever goes wrong while reading `path` into an `ImageReadError` that names it.

    A decompression bomb is an error rather than a warning. An `ImageReadWarning` gets the name of
    the file, and what decoders have to say about oddities that they can handle is kept from the
    user.
    """
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.simplefilter("always", ImageReadWarning)
            yield
    except ImageReadError as error:
        raise ImageReadError(f"cannot read {path!r}: {error}") from error.__cause__
    except MemoryError as error:
        raise ImageReadError(
            f"cannot read {path!r}: there is not enough memory for it; lower num_workers, or leave "
            "it out"
        ) from error
    # Decoders meet a damaged file with errors of every type, IndexError and struct.error included.
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise ImageReadError(
            f"cannot read {path!r}: the file is damaged or cut short ({reason}); "
            "replace it with an intact copy or leave it out"
        ) from error
    # Past the frames of the context manager and of the function that reads.
    for doubt in caught:
        warnings.warn(f"{path!r}: {doubt.message}", ImageReadWarning, stacklevel=4)


def require_file(path: str) -> None:
    """Raise unless `path` is a regular file with something in it."""
    if not os.path.exists(path):
        raise ImageReadError("there is no such file; check the path")
    if os.path.isdir(path):
        raise ImageReadError("this is a folder; give the paths of the images in it")
    if not os.path.isfile(path):
        raise ImageReadError("this is not a regular file; copy the image to a file first")
    if os.path.getsize(path) == 0:
        raise ImageReadError("the file is empty; replace it with an intact copy or leave it out")


def require_size(height: int, width: int, cost: float = 1) -> None:
    """Raise for an image without pixels, or too large to be a radiograph.

    A format whose pixels take `cost` times the memory may have as many times fewer.
    """
    if height < 1 or width < 1:
        raise ImageReadError(f"the image is {height} x {width} pixels; leave it out")
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and height * width * cost > limit:
        raise ImageReadError(
            f"{height} x {width} pixels are more than the limit of {limit / cost:.0f}, which "
            "guards against decompression bombs; if the file is genuine, raise "
            f"PIL.Image.MAX_IMAGE_PIXELS to {height * width * cost:.0f}"
        )
