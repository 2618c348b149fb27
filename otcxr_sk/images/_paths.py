"""Images in files."""

import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otcxr_sk.images._cache import ImageCache
from otcxr_sk.images._errors import ImageReadError
from otcxr_sk.images._files import read_picture
from otcxr_sk.images._resize import Resize, to_squares
from otcxr_sk.images._source import DEFAULT_RESIZE, ImageSource, Indices, Originals


class PathSource(ImageSource):
    """Images in files, decoded when asked for (see `read_image`); sizes may differ.

    Parameters
    ----------
    paths : sequence of str or path-like
        List, tuple, one-dimensional array or data-frame column.
    resize : {"squash", "pad", "crop"}, default="squash"
        How an image that is no square becomes one, see `ImageSource`.
    cache : ImageCache, default=None
        Where decoded, resized images are kept.
    allow_missing : bool, default=False
        Whether None or NaN in place of a path is an image that cannot be read, rather than an
        error at once.

    Examples
    --------
    >>> from otcxr_sk.images import PathSource
    >>> source = PathSource(["a.png", "b.dcm"])
    >>> len(source), source.describe(1)
    (2, "row 1, file 'b.dcm'")
    """

    # Number of the first row.
    _first = 0

    def __init__(
        self,
        paths: Iterable[str | os.PathLike[str]],
        *,
        resize: Resize = DEFAULT_RESIZE,
        cache: ImageCache | None = None,
        allow_missing: bool = False,
    ) -> None:
        super().__init__(resize=resize)
        if isinstance(paths, str | bytes | os.PathLike):
            raise ValueError(f"expected a sequence of paths, got one: [{os.fspath(paths)!r}]")
        shape = getattr(paths, "shape", (0,))
        if len(shape) != 1:
            raise ValueError(f"paths must have one dimension, got an array of shape {shape}")
        self._cache = cache
        # A list of strings would be copied into every worker process, page by page, as reference
        # counts change; one block of memory is shared. One of fixed width would be as wide as the
        # longest path.
        encoded, ends = bytearray(), []
        for row, path in enumerate(paths):
            if isinstance(path, str | os.PathLike):
                encoded += os.fsencode(path)
            elif not (allow_missing and _is_missing(path)):
                raise ValueError(f"row {row} is {path!r}, not the path of an image")
            ends.append(len(encoded))
        if not ends:
            raise ValueError("there are no paths to read images from")
        self._encoded = bytes(encoded)
        self._ends = np.array([0, *ends], dtype=np.int64)

    def __len__(self) -> int:
        """Count the files."""
        return len(self._ends) - 1

    def describe(self, index: int) -> str:
        """Name an image by its row and file."""
        return f"row {index}, file {self._path(index)!r}"

    def file(self, index: int) -> str | None:
        """Give the path of an image, None where there is none."""
        return self._path(index) or None

    def part(self, start: int, stop: int, folder: str) -> "PathSource":
        """Give some rows alone, by the numbers that they have here, for another process to read.

        It may work in another folder, so relative paths become ones of `folder`.
        """
        paths: Any = (
            os.path.join(folder, path) if path else None
            for path in map(self._path, range(start, stop))
        )
        part = PathSource(paths, resize=self._resize, cache=self._cache, allow_missing=True)
        part._first = start
        return part

    def _path(self, index: int) -> str:
        index -= self._first
        return os.fsdecode(self._encoded[self._ends[index] : self._ends[index + 1]])

    def _existing(self, index: int) -> str:
        path = self._path(index)
        if not path:
            raise ImageReadError(f"row {index}: there is no path")
        return path

    def _originals(self, indices: Indices) -> Iterator[Originals]:
        for index in indices:
            picture = read_picture(self._existing(int(index)))
            yield Originals(picture.pixels[np.newaxis], finite=picture.bits > 0)

    def _squares(
        self, indices: Indices, size: int
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
        if self._cache is None:
            yield from super()._squares(indices, size)
            return
        for index in map(int, indices):
            path = self._existing(index)
            entry = self._cache.entry(path, size, self._resize)
            found = entry.load()
            if found is None:
                picture = read_picture(path)
                stack = picture.pixels[np.newaxis]
                constant = bool(self._constant(stack, [index], picture.bits > 0)[0])
                square = to_squares(stack, size, self._resize)[0]
                found = entry.store(square, picture.bits, constant)
            yield found.square[np.newaxis], np.array([found.constant])


def _is_missing(value: Any) -> bool:
    # NaN, NaT and pandas.NA differ from themselves, the last in a way that has no truth value.
    return value is None or type(value).__name__ == "NAType" or bool(value != value)
