"""Images in an array, in memory or read by row from where it lies."""

from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from otcxr_sk.images._errors import ImageReadError
from otcxr_sk.images._pixels import luma, to_float
from otcxr_sk.images._resize import Resize
from otcxr_sk.images._source import DEFAULT_RESIZE, ImageSource, Indices, Originals


class ArraySource(ImageSource):
    """Images in an array, which is never copied as a whole.

    Parameters
    ----------
    array : array-like
        Numbers in one of the layouts below. Booleans and integers of 8 and 16 bits are scaled by
        their bit depth (uint8 / 255, uint16 / 65535, int16 / 32767); floats, and integers of 32
        and 64 bits, are taken as they are. Three channels become luma (ITU-R BT.601). Whatever
        has a NumPy dtype, a shape and slices of rows is read by row where it lies: memory maps,
        HDF5 data sets, Zarr and Dask arrays.
    layout : {"nhw", "nchw", "nhwc"}, default="nhw"
        Order of the axes: images, channels (1 or 3), height, width.
    image_shape : tuple (height, width), default=None
        If given, `array` holds one flattened image a row instead, (n, height * width).
    resize : {"squash", "pad", "crop"}, default="squash"
        How an image that is no square becomes one, see `ImageSource`.

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
        return int(self._array.shape[0])

    def _originals(self, indices: Indices) -> Iterator[Originals]:
        stack = to_float(self._rows(np.asarray(indices, dtype=np.intp)))
        if self._image_shape is not None:
            stack = stack.reshape(-1, *self._image_shape)
        elif "c" in self._layout:
            axis = self._layout.index("c")
            one = stack.shape[axis] == 1
            stack = stack.squeeze(axis) if one else luma(stack, axis)
        yield Originals(stack, finite=self._array.dtype.kind in "biu")

    def _rows(self, indices: NDArray[np.intp]) -> NDArray[Any]:
        if isinstance(self._array, np.ndarray):
            return self._array[indices]
        if not len(indices):
            return np.asarray(self._array[:0])
        # Lists of rows are understood differently by every library, if at all: HDF5 wants them
        # sorted, without repetition. Slices mean the same everywhere.
        rows, back = np.unique(indices, return_inverse=True)
        runs = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
        return np.concatenate([self._run(int(run[0]), int(run[-1]) + 1) for run in runs])[back]

    def _run(self, start: int, stop: int) -> NDArray[Any]:
        try:
            return np.asarray(self._array[start:stop])
        except Exception as error:
            last = f" to {stop - 1}" if stop - start > 1 else ""
            raise ImageReadError(f"row {start}{last}: cannot be read ({error})") from error


def is_lazy(array: Any) -> bool:
    """Whether rows can be read from `array` without making a NumPy array of it as a whole."""
    return (
        not isinstance(array, np.ndarray)
        # Sparse matrices have no rows of pixels.
        and not hasattr(array, "tocsr")
        and isinstance(getattr(array, "dtype", None), np.dtype)
        and len(getattr(array, "shape", ())) > 1
        and hasattr(array, "__getitem__")
    )
