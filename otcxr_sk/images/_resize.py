"""Images of any shape to squares."""

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Resize = Literal["squash", "pad", "crop"]
RESIZES: tuple[str, ...] = get_args(Resize)


def to_squares(stack: NDArray[np.float32], size: int, how: Resize) -> NDArray[np.float32]:
    """Resize a stack (k, height, width) to (k, size, size), bilinear with antialiasing.

    "squash" keeps the whole image and gives up its proportions. "pad" keeps both, and fills the
    rest of the square, the same on either side, with the least value of the image: black, whatever
    its range. "crop" keeps the proportions of the central square and leaves out the rest. A strip
    one pixel high or wide is a row of a table rather than a picture: it is squashed in any case.
    Squares are all the same to the three, and those of the right size are left as they are.
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
    squares = np.empty((len(stack), size, size), dtype=np.float32)
    squares[:] = stack.min(axis=(1, 2), keepdims=True)
    top, left = (size - rows) // 2, (size - columns) // 2
    squares[:, top : top + rows, left : left + columns] = _interpolate(stack, rows, columns)
    return squares


def _interpolate(stack: NDArray[np.float32], rows: int, columns: int) -> NDArray[np.float32]:
    if stack.shape[1:] == (rows, columns):
        return stack
    import torch

    resized = torch.nn.functional.interpolate(
        torch.from_numpy(stack)[:, None], size=(rows, columns), mode="bilinear", antialias=True
    )
    return resized[:, 0].numpy()
