"""Images to read from, whether they lie in an array or in files."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from tqdm.auto import tqdm

from otcxr_sk.images._errors import ImageReadError
from otcxr_sk.images._files import read_image
from otcxr_sk.images._pixels import luma, to_float

Indices = Sequence[int] | NDArray[np.integer[Any]]

_NAMED_PROBLEMS = 20


class ImageSource(ABC):
    """A sized collection of grayscale images, read by row when asked for."""

    @abstractmethod
    def __len__(self) -> int:
        """Count the images."""

    @abstractmethod
    def describe(self, index: int) -> str:
        """Name an image as its owner knows it."""

    @abstractmethod
    def _originals(self, indices: Indices) -> Iterator[NDArray[np.float32]]:
        """Yield the images in order, in stacks (k, height, width) that the caller may change."""

    def read(
        self, indices: Indices, size: int, *, refuse_constant: bool = False
    ) -> NDArray[np.float32]:
        """Read some images, each resized to a square.

        Resizing is bilinear with antialiasing. It squashes: the aspect ratio is not kept, as in
        the usual torchvision transform. An image that has the size already is left as it is.

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
            If a file cannot be read; the message names it.
        ValueError
            If an image has values that are not finite, or is refused as constant; the message
            names the row.
        """
        batch = np.empty((len(indices), 1, size, size), dtype=np.float32)
        start = 0
        for stack in self._originals(indices):
            stop = start + len(stack)
            self._check(stack, indices[start:stop], refuse_constant)
            batch[start:stop, 0] = _resize(stack, size)
            start = stop
        return batch

    def _check(self, stack: NDArray[np.float32], indices: Indices, refuse_constant: bool) -> None:
        low, high = stack.min(axis=(1, 2)), stack.max(axis=(1, 2))
        # A NaN is the minimum and the maximum of whatever it is in.
        bad = ~(np.isfinite(low) & np.isfinite(high))
        if bad.any():
            raise ValueError(
                f"{self.describe(indices[bad.argmax()])}: the image holds NaN or infinity (or "
                "values beyond float32); repair it or leave it out"
            )
        constant = low == high
        # A strip one pixel high is a row of a table rather than a picture.
        if refuse_constant and min(stack.shape[1:]) > 1 and constant.any():
            which = constant.argmax()
            raise ValueError(
                f"{self.describe(indices[which])}: the image is constant, every pixel is "
                f"{low[which]:g}; nothing can be learnt from it: leave it out"
            )


class ArraySource(ImageSource):
    """Images in an array, which is never copied as a whole.

    Parameters
    ----------
    array : array-like
        Numbers in one of the layouts below. Booleans and integers of 8 and 16 bits are scaled by
        their bit depth (uint8 / 255, uint16 / 65535, int16 / 32767); floats, and integers of 32
        and 64 bits, are taken as they are. Three channels become luma (ITU-R BT.601).
    layout : {"nhw", "nchw", "nhwc"}, default="nhw"
        Order of the axes: images, channels (1 or 3), height, width.
    image_shape : tuple (height, width), default=None
        If given, `array` holds one flattened image a row instead, (n, height * width).

    Examples
    --------
    >>> import numpy as np
    >>> from otcxr_sk.images import ArraySource
    >>> rows = np.array([[0, 255, 255, 0]], dtype=np.uint8)
    >>> ArraySource(rows, image_shape=(2, 2)).read([0], size=2).tolist()
    [[[[0.0, 1.0], [1.0, 0.0]]]]
    """

    def __init__(
        self,
        array: ArrayLike,
        *,
        layout: Literal["nhw", "nchw", "nhwc"] = "nhw",
        image_shape: tuple[int, int] | None = None,
    ) -> None:
        self._array = np.asarray(array)
        self._layout = layout
        self._image_shape = image_shape
        shape = self._array.shape
        if layout not in ("nhw", "nchw", "nhwc"):
            raise ValueError(f"layout must be 'nhw', 'nchw' or 'nhwc', got {layout!r}")
        if self._array.dtype.kind not in "biuf":
            raise ValueError(f"images must be real numbers, got an array of {self._array.dtype}")
        if image_shape is not None:
            if layout != "nhw":
                raise ValueError("image_shape is for flattened gray images: leave layout at 'nhw'")
            if len(shape) != 2 or shape[1] != image_shape[0] * image_shape[1]:
                raise ValueError(
                    f"image_shape={image_shape} needs rows of {image_shape[0] * image_shape[1]} "
                    f"values, got an array of shape {shape}"
                )
        elif len(shape) != len(layout):
            raise ValueError(f"layout {layout!r} has {len(layout)} axes, got shape {shape}")
        elif "c" in layout and shape[layout.index("c")] not in (1, 3):
            raise ValueError(f"images have 1 or 3 channels, got shape {shape} as {layout!r}")
        if 0 in shape:
            raise ValueError(f"there are no images in an array of shape {shape}")

    def __len__(self) -> int:
        """Count the images."""
        return len(self._array)

    def describe(self, index: int) -> str:
        """Name an image by its row."""
        return f"row {index}"

    def _originals(self, indices: Indices) -> Iterator[NDArray[np.float32]]:
        stack = to_float(self._array[np.asarray(indices, dtype=np.intp)])
        if self._image_shape is not None:
            stack = stack.reshape(-1, *self._image_shape)
        elif "c" in self._layout:
            axis = self._layout.index("c")
            one = stack.shape[axis] == 1
            stack = stack.squeeze(axis) if one else luma(stack, axis)
        yield stack


class PathSource(ImageSource):
    """Images in files, decoded when asked for (see `read_image`); sizes may differ.

    Parameters
    ----------
    paths : sequence of str or path-like
        List, tuple, one-dimensional array or data-frame column.

    Examples
    --------
    >>> from otcxr_sk.images import PathSource
    >>> source = PathSource(["a.png", "b.dcm"])
    >>> len(source), source.describe(1)
    (2, "row 1, file 'b.dcm'")
    """

    def __init__(self, paths: Iterable[str | os.PathLike[str]]) -> None:
        if isinstance(paths, str | bytes | os.PathLike):
            raise ValueError(f"expected a sequence of paths, got one: [{os.fspath(paths)!r}]")
        shape = getattr(paths, "shape", (0,))
        if len(shape) != 1:
            raise ValueError(f"paths must have one dimension, got an array of shape {shape}")
        encoded = []
        for row, path in enumerate(paths):
            if not isinstance(path, str | os.PathLike):
                raise ValueError(f"row {row} is {path!r}, not the path of an image")
            encoded.append(os.fsencode(path))
        if not encoded:
            raise ValueError("there are no paths to read images from")
        # A list of strings would be copied into every worker process, page by page, as reference
        # counts change; one block of memory is shared.
        self._paths = np.array(encoded, dtype=np.bytes_)

    def __len__(self) -> int:
        """Count the files."""
        return len(self._paths)

    def describe(self, index: int) -> str:
        """Name an image by its row and file."""
        return f"row {index}, file {self._path(index)!r}"

    def _path(self, index: int) -> str:
        return os.fsdecode(self._paths[index])

    def _originals(self, indices: Indices) -> Iterator[NDArray[np.float32]]:
        for index in indices:
            yield read_image(self._path(int(index)))[np.newaxis]


def scan(
    source: ImageSource, size: int, *, batch_size: int = 64, progress: bool = False
) -> tuple[float, float]:
    """Read every image once, before training: find all that cannot be used, measure the rest.

    Parameters
    ----------
    source : ImageSource
        The images.
    size : int
        Height and width, in pixels, that they will be trained at.
    batch_size : int, default=64
        Images read at a time.
    progress : bool, default=False
        Whether to show a progress bar.

    Returns
    -------
    mean, std : float
        Mean and standard deviation of all pixels at that size. If all are alike, `std` is 1.

    Raises
    ------
    ImageReadError
        If files cannot be read. The message counts all images that cannot be used, for whatever
        reason, and names up to 20.
    ValueError
        If images hold NaN or infinity, or are constant, in the same words.

    Notes
    -----
    Accumulated in float64 by the pairwise update of Chan, Golub and LeVeque (1983), which keeps
    its precision where the mean is large beside the standard deviation.
    """
    problems: list[ValueError] = []
    count, mean, squares = 0, 0.0, 0.0
    with tqdm(total=len(source), desc="reading", unit="img", disable=not progress) as bar:
        for start in range(0, len(source), batch_size):
            rows = np.arange(start, min(start + batch_size, len(source)))
            bar.update(len(rows))
            try:
                pixels = source.read(rows, size, refuse_constant=True).astype(np.float64)
            except ValueError:
                problems += _problems(source, rows, size)
                continue
            batch_mean = float(pixels.mean())
            total = count + pixels.size
            shift = batch_mean - mean
            squares += float(np.square(pixels - batch_mean).sum())
            squares += shift**2 * count * pixels.size / total
            mean += shift * pixels.size / total
            count = total
    if problems:
        more = len(problems) - _NAMED_PROBLEMS
        listed = [*map(str, problems[:_NAMED_PROBLEMS]), *([f"and {more} more"] * (more > 0))]
        unreadable = any(isinstance(problem, ImageReadError) for problem in problems)
        raise (ImageReadError if unreadable else ValueError)(
            "\n  ".join([f"{len(problems)} of {len(source)} images cannot be used:", *listed])
        )
    std = (squares / count) ** 0.5
    return mean, std or 1.0


def _problems(source: ImageSource, rows: NDArray[np.intp], size: int) -> list[ValueError]:
    """Collect what is wrong with each of `rows`."""
    found = []
    for row in rows:
        try:
            source.read([row], size, refuse_constant=True)
        except ValueError as error:
            found.append(error)
    return found


def _resize(stack: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    if stack.shape[1:] == (size, size):
        return stack
    import torch

    resized = torch.nn.functional.interpolate(
        torch.from_numpy(stack)[:, None], size=(size, size), mode="bilinear", antialias=True
    )
    return resized[:, 0].numpy()
