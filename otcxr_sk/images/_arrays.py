"""Images in an array, in memory or on disk, and the choice between an array and paths."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from otcxr_sk.images._errors import ImageReadError
from otcxr_sk.images._paths import PathSource
from otcxr_sk.images._pixels import Resize, Squares, luma, to_float
from otcxr_sk.images._source import DEFAULT_RESIZE, ImageSource, Indices


class ArraySource(ImageSource):
    """Images in an array, which is never copied as a whole.

    Parameters
    ----------
    array : array-like
        Numbers in one of the layouts below. Integers of 8 and 16 bits are divided by the largest
        value of their type (uint8 / 255, uint16 / 65535, int16 / 32767); booleans become 0 and 1;
        floats, and integers of 32 and 64 bits, are unchanged. Three channels become luma
        (ITU-R BT.601). Memory maps, HDF5 datasets, Zarr and Dask arrays, and any other object
        with a NumPy dtype, a shape and slices of rows, are read row by row on demand.
    layout : {"nhw", "nchw", "nhwc"}, default="nhw"
        Order of the axes: images, channels (1 or 3), height, width.
    image_shape : tuple (height, width), default=None
        If given, each row of `array` is a flattened image instead: (n, height * width).
    resize : {"squash", "pad", "crop"}, default="squash"
        How a non-square image becomes square, see `ImageSource`.

    Raises
    ------
    ValueError
        If the array is empty, is not of real numbers, or does not have the shape that `layout` or
        `image_shape` says.

    See Also
    --------
    PathSource : Images in files.
    DatasetSource : Images of a torch dataset.

    Examples
    --------
    >>> import numpy as np
    >>> from otcxr_sk.images import ArraySource
    >>> rows = np.array([[0, 255, 255, 0]], dtype=np.uint8)
    >>> ArraySource(rows, image_shape=(2, 2)).read([0], size=2).tolist()
    [[[[0.0, 1.0], [1.0, 0.0]]]]
    """

    _in_stacks = True

    def __init__(
        self,
        array: ArrayLike,
        *,
        layout: Literal["nhw", "nchw", "nhwc"] = "nhw",
        image_shape: tuple[int, int] | None = None,
        resize: Resize = DEFAULT_RESIZE,
    ) -> None:
        super().__init__(resize=resize)
        self._array: Any
        self._array = array if is_lazy(array) else np.asarray(array)
        self._layout = layout
        self._image_shape = image_shape
        shape = self._array.shape
        if layout not in ("nhw", "nchw", "nhwc"):
            raise ValueError(f"layout must be 'nhw', 'nchw' or 'nhwc', got {layout!r}")
        if self._array.dtype.kind not in "biuf":
            raise ValueError(f"images must be real numbers, got an array of {self._array.dtype}")
        if 0 in shape:
            raise ValueError(f"there are no images in an array of shape {shape}")
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
            raise ValueError(f"images must have 1 or 3 channels, got shape {shape} as {layout!r}")

    def __len__(self) -> int:
        """Return the number of images."""
        return int(self._array.shape[0])

    def _squares(self, indices: Indices, size: int) -> Iterator[Squares]:
        stack = to_float(self._rows(np.asarray(indices, dtype=np.intp)))
        if self._image_shape is not None:
            stack = stack.reshape(-1, *self._image_shape)
        elif "c" in self._layout:
            stack = luma(stack, self._layout.index("c"))
        yield self._fit(stack, indices, size, finite=self._array.dtype.kind in "biu")

    def _rows(self, indices: NDArray[np.intp]) -> NDArray[Any]:
        if isinstance(self._array, np.ndarray):
            return self._array[indices]
        if not len(indices):
            return np.asarray(self._array[:0])
        # Libraries differ in how they index by a list of rows (HDF5 needs it sorted and without
        # repetitions), but slices mean the same everywhere.
        rows, back = np.unique(indices, return_inverse=True)
        runs = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
        return np.concatenate([self._run(int(run[0]), int(run[-1]) + 1) for run in runs])[back]

    def _run(self, start: int, stop: int) -> NDArray[Any]:
        try:
            return np.asarray(self._array[start:stop])
        except Exception as error:
            rows = f"rows {start} to {stop - 1}" if stop - start > 1 else f"row {start}"
            raise ImageReadError(f"{rows}: cannot be read ({error})") from error


def is_lazy(array: Any) -> bool:
    """Return whether rows can be read without loading the whole array into memory."""
    return (
        not isinstance(array, np.ndarray)
        # Sparse matrices have no rows of pixels.
        and not hasattr(array, "tocsr")
        and isinstance(getattr(array, "dtype", None), np.dtype)
        and len(getattr(array, "shape", ())) > 1
        and hasattr(array, "__getitem__")
    )


def as_source(images: ImageSource | ArrayLike | Sequence[Any]) -> ImageSource:
    """Return an image source for an array or a sequence of paths.

    Parameters
    ----------
    images : ImageSource, array-like of shape (n, height, width), or sequence of paths
        An `ImageSource` is returned unchanged.

    Returns
    -------
    ImageSource

    See Also
    --------
    ArraySource : Other layouts, flattened rows, and other ways to resize.
    PathSource : Options for files.
    """
    if isinstance(images, ImageSource):
        return images
    if is_lazy(images) or np.asarray(images).dtype.kind in "biuf":
        return ArraySource(images)
    return PathSource(images)  # type: ignore[arg-type]
