"""Errors and warnings about images, and the functions that word and raise them."""

import errno
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

from PIL import Image

from otcxr_sk._paths import reason
from otcxr_sk._warning import warn_user

# Images whose reasons a message gives; the others are counted.
_NAMED = 20

# Also of JPEG and DICOM. Rows take memory, however short they are.
_LONGEST_SIDE = 2**16 - 1

# Doubts about the file that is being read. Python's own way to collect warnings changes filters
# that all threads share.
_doubts: ContextVar[list[str]] = ContextVar("doubts")


class ImageReadError(ValueError):
    """A file cannot be read as one grayscale image.

    The message names the file and says what to do about it.
    """


class ImageReadWarning(UserWarning):
    """A file was read, but the result should be checked.

    The message names the file and says why.
    """


class UnusableImageWarning(UserWarning):
    """Some images cannot be used and were left out, or embedded as NaN."""


class Unusable(NamedTuple):
    """An image that cannot be used."""

    row: int
    file: str | None
    error: ValueError

    @property
    def reason(self) -> str:
        """Why it cannot be used, without the name of its file, which may be that of a patient."""
        text = str(self.error)
        return text.partition(f"{self.file!r}: ")[2] or text


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn any exception while reading `path` into an `ImageReadError` that names the file.

    Each `doubt` becomes an `ImageReadWarning` that names the file.
    """
    doubts: list[str] = []
    before = _doubts.set(doubts)
    try:
        yield
    except ImageReadError as error:
        raise ImageReadError(f"cannot read {path!r}: {error}") from error.__cause__
    except MemoryError as error:
        raise ImageReadError(
            f"cannot read {path!r}: there is not enough memory for it; lower num_workers, or leave "
            "it out"
        ) from error
    # Decoders raise errors of any type, including IndexError and struct.error. What they say is
    # for programmers, and whether the file or the decoder is to blame is not known here.
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            why = _not_opened(path, error.errno, reason(error))
            raise ImageReadError(f"cannot read {path!r}: {why}") from error
        raise ImageReadError(
            f"cannot read {path!r}: its content cannot be decoded; if another program shows it, "
            "save it from there as PNG, otherwise replace it with an intact copy or leave it out"
        ) from error
    finally:
        _doubts.reset(before)
    for message in doubts:
        warn_user(f"{path!r}: {message}", ImageReadWarning)


def doubt(message: str) -> None:
    """Warn of something about the file that is being read, which `reading` names."""
    _doubts.get().append(message)


def _not_opened(path: str, number: int, why: str) -> str:
    if number in (errno.ENOENT, errno.ENOTDIR):
        return "there is no such file; check the path"
    if os.path.isdir(path):
        return "this is a folder; pass the paths of the images in it"
    # Of pipes and devices; the others are said of sockets, and of devices that are not there.
    if number in (errno.EINVAL, errno.ENXIO, errno.ENODEV):
        return "this is not a regular file; copy the image to a file first"
    return f"the system says: {why}"


def damaged(what: str) -> ImageReadError:
    """Return the error for a file that is not as it was written."""
    return ImageReadError(f"{what}; replace it with an intact copy or leave it out")


def require_content(head: bytes) -> None:
    """Raise an `ImageReadError` for a file that has no first bytes."""
    if not head:
        raise damaged("the file is empty")


def require_size(height: int, width: int, cost: float = 1) -> None:
    """Raise an `ImageReadError` for an image without pixels, or too large to be a radiograph.

    `cost` is the memory that a pixel takes, relative to other formats: the limit is divided by it.
    """
    if height < 1 or width < 1:
        raise ImageReadError(f"the image is {height} x {width} pixels; leave it out")
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and height * width * cost > limit:
        raise ImageReadError(
            f"{height} x {width} pixels exceed the limit of {limit / cost:.0f}, which guards "
            "against decompression bombs; if the file is genuine, raise "
            f"PIL.Image.MAX_IMAGE_PIXELS to {height * width * cost:.0f}"
        )
    if limit is not None and max(height, width) > _LONGEST_SIDE:
        raise ImageReadError(
            f"the image is {height} x {width} pixels, but radiographs have at most {_LONGEST_SIDE} "
            "on a side; cut it, or set PIL.Image.MAX_IMAGE_PIXELS to None"
        )


def listing(problems: Sequence[Unusable], n_images: int) -> str:
    """Return a message with the number of images that cannot be used and the first 20 reasons."""
    lines = [f"{len(problems)} of {n_images} images cannot be used:"]
    lines += [str(problem.error) for problem in problems[:_NAMED]]
    if len(problems) > _NAMED:
        lines.append(f"and {len(problems) - _NAMED} more")
    return "\n  ".join(lines)


def unusable_table(problems: Sequence[Unusable]) -> list[dict[str, Any]]:
    """Return row, file and reason of images that cannot be used, sorted by row, as plain data."""
    return [
        {"row": problem.row, "file": problem.file, "reason": problem.reason}
        for problem in sorted(problems, key=lambda problem: problem.row)
    ]


def without_names(problem: dict[str, Any]) -> dict[str, Any]:
    """Return a row of `unusable_table` without what may be the name of a patient.

    That is the file, and whatever the reason quotes.
    """
    why, *quotes = re.split("['\"]", problem["reason"], maxsplit=1)
    return {**problem, "file": None, "reason": f"{why}..." if quotes else why}


def warn_unusable(problems: Sequence[Unusable], n_images: int, on_error: str, fate: str) -> None:
    """Warn of images that cannot be used if `on_error` is "warn"; `fate` says what became of them.

    Warns
    -----
    UnusableImageWarning
    """
    if problems and on_error == "warn":
        warn_user(f"{listing(problems, n_images)}\n{fate}", UnusableImageWarning)


def require_usable(problems: Sequence[Unusable], n_images: int) -> None:
    """Raise the error that `scan` documents if some images cannot be used."""
    if problems:
        unreadable = any(isinstance(problem.error, ImageReadError) for problem in problems)
        raise (ImageReadError if unreadable else ValueError)(listing(problems, n_images))
