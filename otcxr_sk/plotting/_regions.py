"""Regions of X-rays that are matched, and where those of one view lie in another.

Places are shares of an image's width and height, from the upper left corner.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Box = tuple[float, float, float, float]


def centers(grid: tuple[int, int]) -> NDArray[np.float64]:
    """Return the centers (N, 2) of tokens, x and y in [0, 1]."""
    y, x = ((np.arange(cells) + 0.5) / cells for cells in grid)
    return np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)


def true_places(affine: NDArray[Any], grid: tuple[int, int]) -> NDArray[np.float64]:
    """Return where in the second view the centers (N, 2) of the first one's tokens are.

    Those that the second view does not show are outside of [0, 1].
    """
    # Both are maps from [-1, 1] to the image, without rotation.
    (first, from_first), (second, from_second) = ((s[:, :2].diagonal(), s[:, 2]) for s in affine)
    image = (2 * centers(grid) - 1) * first + from_first
    return ((image - from_second) / second + 1) / 2


def box_of(token: int, grid: tuple[int, int]) -> Box:
    """Return left, top, right and bottom of a token, numbered row by row."""
    rows, columns = grid
    row, column = divmod(token, columns)
    return column / columns, row / rows, (column + 1) / columns, (row + 1) / rows


def draw_box(ax: Any, box: Box, **style: Any) -> None:
    """Draw a rectangle over an X-ray."""
    from matplotlib.patches import Rectangle

    left, top, right, bottom = box
    ax.add_patch(Rectangle((left, top), right - left, bottom - top, **style))
