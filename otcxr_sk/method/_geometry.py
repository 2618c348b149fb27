"""Where the tokens of a view lie in the original image."""

from collections.abc import Iterator

import torch
from torch import Tensor

# Mass that a token spreads evenly over the other view, relative to one that it shows completely.
FLOOR = 1e-3


def axis_centers(size: int, like: Tensor) -> Tensor:
    """Return the centers of `size` equal cells of [-1, 1], with the dtype and device of `like`."""
    end = 1 - 1 / size
    return torch.linspace(-end, end, size, device=like.device, dtype=like.dtype)


def token_centers(affine: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the centers of a view's tokens in normalized coordinates of the original image.

    Parameters
    ----------
    affine : Tensor of shape (B, 2, 3)
        Maps from view coordinates to image coordinates, as from `Views`.
    grid : tuple of int
        Rows and columns of the dense map, N = rows * columns.

    Returns
    -------
    centers : Tensor of shape (B, N, 2)
        (x, y) in [-1, 1], tokens in row-major order.
    """
    y, x = (axis_centers(size, affine) for size in grid)
    in_view = torch.cartesian_prod(y, x).flip(-1)
    return in_view @ affine[:, :, :2].transpose(1, 2) + affine[:, None, :, 2]


def true_plan(affine: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the plan that transports every part of the image that both views show to itself.

    Two tokens exchange the area that they share, in units of the geometric mean of their areas.
    In addition every token spreads a thousandth of a token's mass over all tokens of the other
    view, since Sinkhorn's algorithm needs positive marginals. The marginals of the plan weigh
    each token by how much of it the other view shows.

    Parameters
    ----------
    affine : Tensor of shape (2 * B, 2, 3)
        Maps of all first views `s`, then of all second views `t`, as from `Views`: without
        rotation or shear.
    grid : tuple of int
        Rows and columns of the dense map, N = rows * columns.

    Returns
    -------
    plan : Tensor of shape (B, N, N)
        Positive, each summing to 1; from tokens of `s` (rows) to tokens of `t`, both in row-major
        order.
    """
    lengths = []
    for (s, t), _, (half_s, half_t) in _axes(affine, grid):
        low = torch.maximum((s - half_s)[:, :, None], (t - half_t)[:, None])
        high = torch.minimum((s + half_s)[:, :, None], (t + half_t)[:, None])
        # The geometric mean of both sizes favors neither view.
        size = 2 * (half_s * half_t).sqrt()
        lengths.append((high - low).clamp(min=0) / size[:, None])
    rows, columns = lengths
    n = grid[0] * grid[1]
    shared = torch.einsum("bij,bkl->bikjl", rows, columns).reshape(-1, n, n)
    plan = shared + FLOOR / n
    return plan / plan.sum((1, 2), keepdim=True)


def neighbors(affine: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Tell which tokens of `t` lie less than one token spacing of `t` from each token of `s`.

    The distance is Euclidean, with each axis in units of the spacing of `t`. `affine` and `grid`
    are those of `true_plan`.

    Returns
    -------
    near : Tensor of bool, shape (B, N, N)
        ``near[b, i, j]`` for token `i` of view `s` and token `j` of view `t`.
    inside : Tensor of bool, shape (B, N)
        Whether the center of a token of `s` lies inside view `t`.
    """
    distances, within = [], []
    for ((s, t), (_, middle), (_, half)), size in zip(_axes(affine, grid), grid, strict=True):
        distances.append(((s[:, :, None] - t[:, None]) / (2 * half)[:, None]).square())
        within.append((s - middle).abs() <= size * half)
    n = grid[0] * grid[1]
    squares = distances[0][:, :, None, :, None] + distances[1][:, None, :, None, :]
    inside = (within[0][:, :, None] & within[1][:, None]).flatten(1)
    return (squares < 1).view(-1, n, n), inside


def _axes(affine: Tensor, grid: tuple[int, int]) -> Iterator[tuple[tuple[Tensor, Tensor], ...]]:
    """Yield for rows, then for columns, three pairs of a number of `s` and one of `t`.

    They are the centers of their tokens (B, n), their own centers (B, 1), and half the sizes of
    their tokens (B, 1), all in the original image.
    """
    for axis, size in ((1, grid[0]), (0, grid[1])):
        scale, middle = affine[:, axis, axis, None], affine[:, axis, 2, None]
        centers = torch.addcmul(middle, scale, axis_centers(size, affine))
        s, t = centers.chunk(2)
        half_s, half_t = (scale.abs() / size).chunk(2)
        middle_s, middle_t = middle.chunk(2)
        yield (s, t), (middle_s, middle_t), (half_s, half_t)
