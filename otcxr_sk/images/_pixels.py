"""How integers become floats, color becomes gray, and any shape becomes a square."""

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from otcxr_sk.images._errors import ImageReadError
from otcxr_sk.images._telling import tell

if TYPE_CHECKING:
    from torch import Tensor

# Arrays of NumPy and tensors of torch.
Numbers = TypeVar("Numbers", NDArray[np.float32], "Tensor")

Resize = Literal["squash", "pad", "crop"]
RESIZES: tuple[str, ...] = get_args(Resize)


class Squares(NamedTuple):
    """Images (k, size, size), float32, and which of their originals were constant (k,), bool."""

    stack: NDArray[np.float32]
    constant: NDArray[np.bool_]


def to_float(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Copy to float32, and scale integers of 8 and 16 bits by the largest value of their type.

    Unsigned integers of 8 and 16 bits, and booleans, are thus mapped to [0, 1], and signed ones to
    about [-1, 1] (uint8 / 255, uint16 / 65535, int8 / 127, int16 / 32767). Floats are unchanged,
    as are integers of 32 and 64 bits: NumPy and pandas use those for any whole number, so the type
    does not tell the range.
    """
    # A float64 beyond float32 becomes infinite, which callers report.
    with np.errstate(over="ignore"):
        floats = np.array(pixels, dtype=np.float32, order="C")
    if pixels.dtype.kind in "iu" and pixels.dtype.itemsize <= 2:
        limit = np.iinfo(pixels.dtype).max
        floats /= np.float32(limit)
        tell(scaling=f"divided by {limit}")
    else:
        tell(scaling="none")
    return floats


def tensor_to_float(pixels: "Tensor") -> "Tensor":
    """Do the same as `to_float` to a tensor of 8 or 16 bits, where it is."""
    import torch

    limit = torch.iinfo(pixels.dtype).max
    # Not every device computes with uint16.
    if pixels.dtype == torch.uint16:
        pixels = pixels.view(torch.int16).to(torch.int32).bitwise_and_(limit)
    return pixels.to(torch.float32).div_(limit)


def luma(image: Numbers, axis: int) -> Numbers:
    """Return the luma (ITU-R BT.601) of three channels along `axis`, or the only channel.

    0.299 R + 0.587 G + 0.114 B.
    """
    axis %= image.ndim
    red, *others = (image[(slice(None),) * axis + (c,)] for c in range(image.shape[axis]))
    if not others:
        return red
    tell(color="luma")
    green, blue = others
    # Of floats that are not finite, callers report.
    with np.errstate(over="ignore", invalid="ignore"):
        # In terms of differences from green, so that R = G = B gives exactly that value.
        return green + 0.299 * (red - green) + 0.114 * (blue - green)


def channel_axis(shape: tuple[int, ...]) -> int | None:
    """Return the axis of the channels of one image of this shape, or None if it has none.

    Raises
    ------
    ImageReadError
        If the shape is neither (height, width), nor (1 or 3, height, width), nor (height, width,
        1 or 3), or if it could be either of the latter.
    """
    axes = [axis for axis in (0, 2) if len(shape) == 3 and shape[axis] in (1, 3)]
    if len(shape) != 2 and len(axes) != 1:
        raise ImageReadError(
            "one image must have shape (height, width), (1 or 3, height, width) or (height, "
            f"width, 1 or 3), got {shape}"
        )
    return axes[0] if axes else None


def gray_pixels(image: NDArray[Any]) -> NDArray[np.float32]:
    """Convert one image of numbers to gray (height, width), scaled as `to_float` does.

    Raises
    ------
    ImageReadError
        If `channel_axis` finds that the shape is not that of one image.
    """
    axis = channel_axis(image.shape)
    pixels = to_float(image)
    return pixels if axis is None else luma(pixels, axis)


def to_squares(stack: NDArray[np.float32], size: int, how: Resize) -> NDArray[np.float32]:
    """Resize a stack (k, height, width) to (k, size, size), as `tensor_to_squares` does."""
    if stack.shape[1:] == (size, size):
        return stack
    import torch

    return tensor_to_squares(torch.from_numpy(stack), size, how).numpy()


def tensor_to_squares(stack: "Tensor", size: int, how: Resize) -> "Tensor":
    """Resize a stack (k, height, width) to (k, size, size), bilinear with antialiasing.

    - "squash" keeps the whole image, but not its proportions.
    - "pad" keeps both. It centers the image and fills the rest of the square with the minimum of
      the image, which is black whatever its range.
    - "crop" keeps the central square in its proportions and discards the rest.

    A strip one pixel high or wide is a row of a table rather than an image, and is always
    squashed. Square images are treated alike by all three, and left unchanged if they have the
    right size.
    """
    height, width = stack.shape[1:]
    if height == width or min(height, width) == 1 or how == "squash":
        return _interpolate(stack, size, size)
    if how == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return _interpolate(stack[:, top : top + side, left : left + side], size, size)
    longest = max(height, width)
    rows, columns = (max(1, round(side * size / longest)) for side in (height, width))
    squares = stack.amin((1, 2), keepdim=True).repeat(1, size, size)
    top, left = (size - rows) // 2, (size - columns) // 2
    squares[:, top : top + rows, left : left + columns] = _interpolate(stack, rows, columns)
    return squares


def _interpolate(stack: "Tensor", rows: int, columns: int) -> "Tensor":
    if stack.shape[1:] == (rows, columns):
        return stack
    from torch.nn.functional import interpolate

    return interpolate(stack[:, None], (rows, columns), mode="bilinear", antialias=True)[:, 0]
