"""Images in an array, in memory or on disk."""

import math
from collections.abc import Iterator
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from otcxr_sk.images._errors import ImageReadError
from otcxr_sk.images._pixels import (
    Numbers,
    Resize,
    Squares,
    luma,
    tensor_to_float,
    to_float,
)
from otcxr_sk.images.sources._source import DEFAULT_RESIZE, ImageSource, Indices

if TYPE_CHECKING:
    from torch import Tensor


class ArraySource(ImageSource):
    """Images in an array, which is never copied as a whole.

    Parameters
    ----------
    array : array-like
        Numbers in one of the layouts below. Integers of 8 and 16 bits are divided by the largest
        value of their type (uint8 / 255, uint16 / 65535, int16 / 32767); booleans become 0 and 1;
        floats, and integers of 32 and 64 bits, are unchanged. Three channels become luma
        (ITU-R BT.601). Memory maps, HDF5 datasets, Zarr and Dask arrays, and any other object
        with a NumPy dtype, a shape and slices of rows, are read row by row on demand. Tensors
        are read where they are, on the CPU without a copy.
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
        self._array = as_rows(array)
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

    @property
    def raw_bytes(self) -> int | None:  # type: ignore[override]
        """Bytes of each image as it is, if all are integers of 8 or 16 bits."""
        kind = self._array.dtype
        if kind.kind not in "iu" or kind.itemsize > 2 or not kind.isnative:
            return None
        return int(math.prod(self._array.shape[1:]) * kind.itemsize)

    def read_raw(self, indices: Indices) -> NDArray[Any]:
        """Read images as they are."""
        return self._rows(np.asarray(indices, dtype=np.intp))

    def gray(self, raw: "Tensor") -> "Tensor":
        """Turn what `read_raw` returned, on any device, into gray floats (k, height, width)."""
        return self._one_channel(tensor_to_float(raw))

    def _squares(self, indices: Indices, size: int) -> Iterator[Squares]:
        stack = self._one_channel(to_float(self.read_raw(indices)))
        yield self._fit(stack, indices, size, finite=self._array.dtype.kind in "biu")

    def _one_channel(self, stack: Numbers) -> Numbers:
        if self._image_shape is not None:
            return stack.reshape(-1, *self._image_shape)
        return luma(stack, self._layout.index("c")) if "c" in self._layout else stack

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
        rows = f"rows {start} to {stop - 1}" if stop - start > 1 else f"row {start}"
        try:
            return as_array(self._array[start:stop])
        except ImageReadError as error:
            raise ImageReadError(f"{rows}: {error}") from error
        except Exception as error:
            raise ImageReadError(
                f"{rows}: the array cannot be read there; check its file or server, or leave them "
                "out"
            ) from error


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


def as_rows(array: Any) -> Any:
    """Return an array of any library with a NumPy dtype, whose rows can be read.

    It is not copied, unless it is on another device or a list.
    """
    # Kind V: numbers of other libraries, such as the bfloat16 of JAX.
    if is_lazy(array) and array.dtype.kind != "V":
        return array
    return _Tensor(array) if _has_foreign_numbers(array) else as_array(array)


def as_array(value: Any) -> NDArray[Any]:
    """Return numbers of any library as a NumPy array, without a copy where that is possible.

    Raises
    ------
    ImageReadError
        Some are masked, or not stored.
    ValueError
        They are nested lists of different lengths.
    """
    if isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value):
        raise ImageReadError(
            "some of its pixels are masked; give them a value, for example with X.filled(0)"
        )
    if hasattr(value, "detach"):
        if value.layout != _torch().strided:
            raise ImageReadError("this is a sparse tensor; pass X.to_dense()")
        value = value.float() if _has_foreign_numbers(value) else value
        return np.asarray(value.numpy(force=True))
    try:
        array = np.asarray(value)
    except TypeError:
        # Arrays on a GPU refuse to be copied unasked.
        if not hasattr(value, "__dlpack__"):
            raise
        return as_array(_torch().from_dlpack(value))
    if array.dtype.kind == "O" and not array.ndim and hasattr(value, "__dlpack__"):
        return as_array(_torch().from_dlpack(value))
    foreign = array.dtype.kind == "V" and np.can_cast(array.dtype, np.float32)
    return array.astype(np.float32) if foreign else array


class _Tensor:
    """A tensor of numbers that NumPy does not have, converted row by row."""

    dtype = np.dtype(np.float32)

    def __init__(self, tensor: Any) -> None:
        self._tensor = tensor.detach().cpu()
        self.shape = tuple(tensor.shape)

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        return as_array(self._tensor[rows])


def _has_foreign_numbers(value: Any) -> bool:
    """Return whether this is a tensor of floats that NumPy does not have, such as bfloat16."""
    if not hasattr(value, "detach") or not value.is_floating_point():
        return False
    torch = _torch()
    return value.dtype not in (torch.float16, torch.float32, torch.float64)


def _torch() -> Any:
    # Importing this package loads no torch.
    import torch

    return torch


def layout_of(shape: tuple[int, ...]) -> Literal["nhw", "nchw", "nhwc"]:
    """Return the order of the axes of a stack of images.

    Raises
    ------
    ValueError
        They are not the axes of images, or it is not clear which of them has the channels.
    """
    if len(shape) == 3:
        return "nhw"
    if len(shape) != 4:
        raise ValueError(
            f"images come as (n, h, w), (n, 1 or 3, h, w) or (n, h, w, 1 or 3), got {shape}"
        )
    first, last = shape[1] in (1, 3), shape[3] in (1, 3)
    if first and last:
        raise ValueError(
            f"cannot tell which axis of images of shape {shape} has the channels: pass "
            "np.moveaxis(X, 1, 3) if it is axis 1, np.moveaxis(X, 3, 1) if it is axis 3"
        )
    if not (first or last):
        raise ValueError(
            f"images of shape {shape} have no axis of 1 or 3 channels; expected "
            "(n, 1 or 3, h, w) or (n, h, w, 1 or 3)"
        )
    return "nchw" if first else "nhwc"


def row_shape(n_features: int, image_shape: tuple[int, int] | None) -> tuple[int, int]:
    """Return the height and width of images in flattened rows.

    By default they are square if that is possible, and otherwise strips one pixel high.

    Raises
    ------
    ValueError
        `image_shape` has another number of pixels, or is no shape.
    """
    if image_shape is None:
        side = math.isqrt(n_features)
        return (side, side) if side * side == n_features else (1, n_features)
    if len(image_shape) != 2 or not all(isinstance(n, Integral) and n > 0 for n in image_shape):
        raise ValueError(f"image_shape must be (height, width) in pixels, got {image_shape!r}")
    height, width = image_shape
    if height * width != n_features:
        raise ValueError(
            f"image_shape={tuple(image_shape)} needs rows of {height * width} pixels, but X has "
            f"{n_features} features"
        )
    return height, width
