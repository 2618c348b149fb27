"""Sources of images: what they have in common, and parts of them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from otcxr_sk.images._errors import Unusable, listing
from otcxr_sk.images._pixels import RESIZES, Resize, Squares, tensor_to_squares, to_squares

if TYPE_CHECKING:
    from torch import Tensor

Indices = Sequence[int] | NDArray[np.integer[Any]]

# Pixels that a device turns into floats at once.
_AT_ONCE = 2**26

# The quick check for constant images looks at one of this many rows and columns.
_SAMPLED = 61

# Decided by examples/benchmarks/resize.py.
DEFAULT_RESIZE: Resize = "squash"


class ImageSource(ABC):
    """A sized collection of grayscale images, which are read by index on demand.

    Parameters
    ----------
    resize : {"squash", "pad", "crop"}, default="squash"
        How a non-square image becomes square: by distortion, by padding with black, or by
        cropping to its central square.

    See Also
    --------
    PathSource : Images in files.
    ArraySource : Images in an array.
    DatasetSource : Images of a torch dataset.
    """

    # Whether reading many images at once is faster than reading them one by one.
    _in_stacks = False

    # Bytes of each image before it is scaled and resized, if all have one shape and are integers
    # of 8 or 16 bits; a GPU then does the rest.
    raw_bytes: int | None = None

    def __init__(self, *, resize: Resize = DEFAULT_RESIZE) -> None:
        if resize not in RESIZES:
            raise ValueError(f"resize must be 'squash', 'pad' or 'crop', got {resize!r}")
        self._resize = resize

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of images."""

    def describe(self, index: int) -> str:
        """Return what messages call an image: its row and, if it has one, its file."""
        return f"row {index}"

    def file(self, index: int) -> str | None:
        """Return the path of the file that contains an image, or None."""
        return None

    def read_raw(self, indices: Indices) -> NDArray[Any]:
        """Read images as they are, where `raw_bytes` is a number."""
        raise NotImplementedError

    def gray(self, raw: "Tensor") -> "Tensor":
        """Turn what `read_raw` returned, on any device, into gray floats (k, height, width)."""
        raise NotImplementedError

    def squares(self, raw: "Tensor", size: int) -> "Tensor":
        """Turn what `read_raw` returned, on any device, into what `read` returns."""
        return self._by_parts(
            raw, lambda gray: tensor_to_squares(gray, size, self._resize)[:, None]
        )

    def constant(self, raw: "Tensor") -> "Tensor":
        """Tell which of the images that `read_raw` returned are constant: bool, shape (k,)."""

        def same(gray: "Tensor") -> "Tensor":
            # A strip one pixel high is a row of a table rather than an image.
            return (gray.amin((1, 2)) == gray.amax((1, 2))) & (min(gray.shape[1:]) > 1)

        return self._by_parts(raw, same)

    def constant_error(self, index: int, value: float) -> ValueError:
        """Say that an image is constant."""
        return ValueError(
            f"{self.describe(index)}: the image is constant, every pixel is {value:g}; nothing can "
            "be learned from it: leave it out"
        )

    def _by_parts(self, raw: "Tensor", make: "Callable[[Tensor], Tensor]") -> "Tensor":
        import torch

        # Floats of many large images would not fit into the memory of a GPU.
        parts = raw.split(max(1, _AT_ONCE // raw[0].numel()))
        made = [make(self.gray(part)) for part in parts]
        return made[0] if len(made) == 1 else torch.cat(made)

    @abstractmethod
    def _squares(self, indices: Indices, size: int) -> Iterator[Squares]:
        """Yield the resized images in order, in stacks of any length."""

    def read(
        self, indices: Indices, size: int, *, refuse_constant: bool = False
    ) -> NDArray[np.float32]:
        """Read images and resize each to a square.

        Resizing is bilinear with antialiasing. An image of the right size is left unchanged.

        Parameters
        ----------
        indices : sequence of int
            Rows, in any order.
        size : int
            Height and width of the result in pixels.
        refuse_constant : bool, default=False
            Whether to raise an error for an image whose pixels are all equal. Images of a single
            row or column are exempt.

        Returns
        -------
        ndarray of shape (len(indices), 1, size, size), float32
            New memory. Integers of 8 and 16 bits are divided by the largest value of their type,
            unsigned ones thus to [0, 1]; other numbers are unchanged.

        Raises
        ------
        ImageReadError
            If an image cannot be read. The message names its file or row.
        ValueError
            If an image contains NaN or infinity, or is constant and `refuse_constant` is set. The
            message names the row.
        """
        batch = np.empty((len(indices), 1, size, size), dtype=np.float32)
        start = 0
        for squares, constant in self._squares(indices, size):
            if refuse_constant and constant.any():
                which = int(constant.argmax())
                raise self.constant_error(int(indices[start + which]), squares[which, 0, 0])
            batch[start : start + len(squares), 0] = squares
            start += len(squares)
        return batch

    def read_usable(
        self, indices: Indices, size: int, *, refuse_constant: bool = False
    ) -> tuple[NDArray[np.float32], list[Unusable]]:
        """Read as `read` does, but return the images that cannot be used instead of raising.

        Returns
        -------
        images : ndarray of shape (len(indices), 1, size, size), float32
            Zeros for images that cannot be used.
        problems : list of Unusable
            Those images, and why they cannot be used.
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

    def _fit(
        self, stack: NDArray[np.float32], indices: Indices, size: int, *, finite: bool
    ) -> Squares:
        """Resize images (k, height, width); `finite` if all values are known to be finite."""
        constant = self._constant(stack, indices, finite)
        return Squares(to_squares(stack, size, self._resize), constant)

    def _constant(
        self, stack: NDArray[np.float32], indices: Indices, finite: bool
    ) -> NDArray[np.bool_]:
        """Return which images are constant; raise an error if one is not finite."""
        # Checking every pixel takes a considerable part of the time to read an uncompressed file.
        few = stack[:, ::_SAMPLED, ::_SAMPLED]
        if finite and (few != few[:, :1, :1]).any(axis=(1, 2)).all():
            return np.zeros(len(stack), dtype=np.bool_)
        low, high = stack.min(axis=(1, 2)), stack.max(axis=(1, 2))
        # NaN propagates through min and max.
        bad = ~(np.isfinite(low) & np.isfinite(high))
        if bad.any():
            raise ValueError(
                f"{self.describe(indices[bad.argmax()])}: the image contains NaN or infinity (or "
                "values beyond float32); repair it or leave it out"
            )
        # A strip one pixel high is a row of a table rather than an image.
        return (low == high) & (min(stack.shape[1:]) > 1)


class Selection(ImageSource):
    """Some rows of another source, in any order; messages name the rows of that source."""

    def __init__(self, source: ImageSource, rows: NDArray[np.intp]) -> None:
        super().__init__(resize=source._resize)
        self._source = source
        self._rows = rows

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._rows)

    def describe(self, index: int) -> str:
        """Return what messages of the other source call an image."""
        return self._source.describe(int(self._rows[index]))

    def file(self, index: int) -> str | None:
        """Return the path of the file that contains an image, or None."""
        return self._source.file(int(self._rows[index]))

    @property
    def raw_bytes(self) -> int | None:  # type: ignore[override]
        """Bytes of each image of the other source as it is, see `ImageSource`."""
        return self._source.raw_bytes

    def read_raw(self, indices: Indices) -> NDArray[Any]:
        """Read images as they are."""
        return self._source.read_raw(self._rows[np.asarray(indices)])

    def gray(self, raw: "Tensor") -> "Tensor":
        """Turn what `read_raw` returned into gray floats."""
        return self._source.gray(raw)

    def _squares(self, indices: Indices, size: int) -> Iterator[Squares]:
        return self._source._squares(self._rows[np.asarray(indices)], size)


def leave_out(source: ImageSource, problems: Sequence[Unusable]) -> ImageSource:
    """Return the images without those that cannot be used.

    Raises
    ------
    ValueError
        If some cannot be used and fewer than two remain.
    """
    if not problems:
        return source
    rows = np.setdiff1d(np.arange(len(source)), [problem.row for problem in problems])
    if len(rows) < 2:
        raise ValueError(
            f"at least 2 images are needed, found {len(rows)} sample(s) that can be used; "
            f"{listing(problems, len(source))}"
        )
    return Selection(source, rows)
