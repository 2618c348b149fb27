"""Images in files."""

import os
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from otcxr_sk._paths import as_path
from otcxr_sk.images._cache import ImageCache
from otcxr_sk.images._errors import ImageReadError
from otcxr_sk.images._pixels import Resize, Squares
from otcxr_sk.images._read import read_gray
from otcxr_sk.images._values import is_no_path, require_paths, shown, values_of
from otcxr_sk.images.sources._source import DEFAULT_RESIZE, ImageSource, Indices


class PathSource(ImageSource):
    """Images in files, which are decoded on demand; their sizes may differ.

    Parameters
    ----------
    paths : sequence of str, bytes or path-like
        List, tuple, one-dimensional array, or column of pandas, polars or Arrow. A ``~`` at the
        start of a path is the home folder.
    resize : {"squash", "pad", "crop"}, default="squash"
        How a non-square image becomes square, see `ImageSource`.
    cache : ImageCache, default=None
        Where decoded and resized images are kept.
    allow_missing : bool, default=False
        Whether to accept None, NaN or an empty text in place of a path, as an image that cannot
        be read. By default it is an error at once.

    Raises
    ------
    TypeError
        If `paths` cannot be iterated over.
    ValueError
        If `paths` is one path, empty or not one-dimensional, or something in it is no path.

    See Also
    --------
    list_images : List the images in a folder.
    read_image : How a file is read.
    ImageCache : A folder of decoded images.
    ArraySource : Images in an array.

    Examples
    --------
    >>> from otcxr_sk.images import PathSource
    >>> source = PathSource(["a.png", "b.dcm"])
    >>> len(source), source.describe(1)
    (2, "row 1, file 'b.dcm'")
    """

    # Index of the first path: not 0 in a part of another source.
    _first = 0

    def __init__(
        self,
        paths: Iterable[str | bytes | os.PathLike[Any]],
        *,
        resize: Resize = DEFAULT_RESIZE,
        cache: ImageCache | None = None,
        allow_missing: bool = False,
    ) -> None:
        super().__init__(resize=resize)
        require_paths(paths)
        shape = getattr(paths, "shape", (0,))
        if len(shape) != 1:
            raise ValueError(f"paths must be one-dimensional, got an array of shape {shape}")
        self._cache = cache
        # Changing reference counts would copy a list of strings into every worker process, page by
        # page, whereas one block of bytes stays shared. In an array of fixed-width strings, every
        # path would take as much memory as the longest one.
        encoded, ends = bytearray(), []
        for row, path in enumerate(values_of(paths)):
            # Text first, for speed.
            if isinstance(path, str | bytes | os.PathLike) and path:
                one = os.fsencode(path)
                encoded += os.fsencode(as_path(one)) if one.startswith(b"~") else one
            elif not (allow_missing and is_no_path(path)):
                advice = "; leave it out" if is_no_path(path) else ""
                raise ValueError(f"row {row} is {shown(path)}, not the path of an image{advice}")
            ends.append(len(encoded))
        if not ends:
            raise ValueError("there are no paths: at least one is needed")
        if b"\0" in encoded:
            row = int(np.searchsorted(ends, encoded.index(b"\0"), side="right"))
            raise ValueError(
                f"row {row} is the content of a file or another block of bytes, not the path of an "
                "image; decode it first, for example with PIL.Image.open(io.BytesIO(content))"
            )
        self._encoded = bytes(encoded)
        self._ends = np.array([0, *ends], dtype=np.int64)

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self._ends) - 1

    def describe(self, index: int) -> str:
        """Return what messages call an image: its row and file."""
        return f"row {index}, file {self._path(index)!r}"

    def file(self, index: int) -> str | None:
        """Return the path of an image, or None if it is missing."""
        return self._path(index) or None

    def part(self, start: int, stop: int, folder: str) -> "PathSource":
        """Return rows `start` to `stop - 1` under the same indices, for another process.

        Relative paths are joined to `folder`, since that process may work in another one.
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

    def _squares(self, indices: Indices, size: int) -> Iterator[Squares]:
        for index in map(int, indices):
            path = self._path(index)
            if not path:
                raise ImageReadError(f"row {index}: there is no path")
            entry = self._cache.entry(path, size, self._resize) if self._cache else None
            image = entry.load() if entry else None
            if image is None:
                pixels, bits = read_gray(path)
                image = self._fit(pixels[np.newaxis], [index], size, finite=bits > 0)
                if entry:
                    entry.store(image)
            yield image
