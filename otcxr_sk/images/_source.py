"""Images to read from, wherever they lie."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from otcxr_sk.images._problems import Unusable
from otcxr_sk.images._resize import RESIZES, Resize, to_squares

Indices = Sequence[int] | NDArray[np.integer[Any]]

# Rows and columns between pixels that are looked at first.
_SAMPLED = 61

# Decided by examples/benchmarks/resize.py.
DEFAULT_RESIZE: Resize = "squash"


class Originals(NamedTuple):
    """Images (k, height, width), and whether all their numbers are finite for certain."""

    stack: NDArray[np.float32]
    finite: bool


class ImageSource(ABC):
    """A sized collection of grayscale images, read by row when asked for.

    Parameters
    ----------
    resize : {"squash", "pad", "crop"}, default="squash"
        How an image that is no square becomes one: distorted, filled up with black, or cut to
        its central square.
    """

    # Whether many images are read in less time together than one by one.
    _in_stacks = False

    def __init__(self, *, resize: Resize = DEFAULT_RESIZE) -> None:
        if resize not in RESIZES:
            raise ValueError(f"resize must be 'squash', 'pad' or 'crop', got {resize!r}")
        self._resize = resize

    @abstractmethod
    def __len__(self) -> int:
        """Count the images."""

    def describe(self, index: int) -> str:
        """Name an image as its owner knows it."""
        return f"row {index}"

    def file(self, index: int) -> str | None:
        """Give the path of the file that holds an image, None if none does."""
        return None

    @abstractmethod
    def _originals(self, indices: Indices) -> Iterator[Originals]:
        """Yield the images in order, in stacks that the caller may change."""

    def read(
        self, indices: Indices, size: int, *, refuse_constant: bool = False
    ) -> NDArray[np.float32]:
        """Read some images, each resized to a square.

        Resizing is bilinear with antialiasing. An image that has the size already is left as it
        is.

        Parameters
        ----------
        indices : sequence of int
            Rows, in any order.
        size : int
            Height and width of the result in pixels.
        refuse_constant : bool, default=False
            Whether an image of several rows and columns, all alike, is an error.

        Returns
        -------
        ndarray of shape (len(indices), 1, size, size), float32
            New memory. Integers of 8 and 16 bits are scaled to [0, 1], floats as they were.

        Raises
        ------
        ImageReadError
            If an image cannot be read; the message names its file or row.
        ValueError
            If an image has values that are not finite, or is refused as constant; the message
            names the row.
        """
        batch = np.empty((len(indices), 1, size, size), dtype=np.float32)
        start = 0
        for squares, constant in self._squares(indices, size):
            if refuse_constant and constant.any():
                which = int(constant.argmax())
                raise ValueError(
                    f"{self.describe(int(indices[start + which]))}: the image is constant, every "
                    f"pixel is {squares[which, 0, 0]:g}; nothing can be learnt from it: leave it "
                    "out"
                )
            batch[start : start + len(squares), 0] = squares
            start += len(squares)
        return batch

    def read_usable(
        self, indices: Indices, size: int, *, refuse_constant: bool = False
    ) -> tuple[NDArray[np.float32], list[Unusable]]:
        """Read as `read` does, but tell of images that cannot be used instead of raising.

        Returns
        -------
        images : ndarray of shape (len(indices), 1, size, size), float32
            With zeros for the images that cannot be used.
        problems : list of Unusable
            Each of those.
        """
        if self._in_stacks:
            with suppress(ValueError):
                return self.read(indices, size, refuse_constant=refuse_constant), []
        batch = np.zeros((len(indices), 1, size, size), dtype=np.float32)
        problems = []
        for place, index in enumerate(indices):
            try:
                batch[place] = self.read([int(index)], size, refuse_constant=refuse_constant)[0]
            except ValueError as error:
                problems.append(Unusable(int(index), self.file(int(index)), error))
        return batch, problems

    def _squares(
        self, indices: Indices, size: int
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
        """Yield images as squares in stacks, and which of them are constant pictures."""
        start = 0
        for stack, finite in self._originals(indices):
            constant = self._constant(stack, indices[start : start + len(stack)], finite)
            yield to_squares(stack, size, self._resize), constant
            start += len(stack)

    def _constant(
        self, stack: NDArray[np.float32], indices: Indices, finite: bool
    ) -> NDArray[np.bool_]:
        """Tell which images are constant; raise for one that is not finite."""
        # Looking at every pixel takes a good part of the time that a plain file takes to read.
        few = stack[:, ::_SAMPLED, ::_SAMPLED]
        if finite and (few != few[:, :1, :1]).any(axis=(1, 2)).all():
            return np.zeros(len(stack), dtype=np.bool_)
        low, high = stack.min(axis=(1, 2)), stack.max(axis=(1, 2))
        # A NaN is the minimum and the maximum of whatever it is in.
        bad = ~(np.isfinite(low) & np.isfinite(high))
        if bad.any():
            raise ValueError(
                f"{self.describe(indices[bad.argmax()])}: the image holds NaN or infinity (or "
                "values beyond float32); repair it or leave it out"
            )
        # A strip one pixel high is a row of a table rather than a picture.
        return (low == high) & (min(stack.shape[1:]) > 1)


class Selection(ImageSource):
    """Some rows of another source, in an order of their own; messages name the rows there."""

    def __init__(self, source: ImageSource, rows: NDArray[np.intp]) -> None:
        super().__init__(resize=source._resize)
        self._source = source
        self._rows = rows

    def __len__(self) -> int:
        """Count the images."""
        return len(self._rows)

    def describe(self, index: int) -> str:
        """Name an image as the other source does."""
        return self._source.describe(int(self._rows[index]))

    def file(self, index: int) -> str | None:
        """Give the path of the file that holds an image, None if none does."""
        return self._source.file(int(self._rows[index]))

    def _originals(self, indices: Indices) -> Iterator[Originals]:
        return self._source._originals(self._rows[np.asarray(indices)])

    def _squares(
        self, indices: Indices, size: int
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.bool_]]]:
        return self._source._squares(self._rows[np.asarray(indices)], size)
