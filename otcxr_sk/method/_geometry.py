"""Where the tokens of a view lie in the original image."""

import torch
from torch import Tensor

# Mass that a token spreads evenly over the other view, relative to one that it shows completely.
FLOOR = 1e-3


def axis_centers(size: int, like: Tensor) -> Tensor:
    """Return the centers of `size` equal cells of [-1, 1], with the dtype and device of `like`."""
    return (torch.arange(size, device=like.device, dtype=like.dtype) * 2 + 1) / size - 1


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
    for axis, size in ((1, grid[0]), (0, grid[1])):
        scale, shift = affine[:, axis, axis, None], affine[:, axis, 2, None]
        center = scale * axis_centers(size, affine) + shift
        half = scale.abs() / size
        low = torch.maximum(*_across(center - half))
        high = torch.minimum(*_across(center + half))
        # The geometric mean of both sizes favors neither view.
        half_s, half_t = _across(half)
        lengths.append((high - low).clamp(min=0) / (2 * (half_s * half_t).sqrt()))
    rows, columns = lengths
    n = grid[0] * grid[1]
    shared = torch.einsum("bij,bkl->bikjl", rows, columns).reshape(-1, n, n)
    plan = shared + FLOOR / n
    return plan / plan.sum((1, 2), keepdim=True)


def _across(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Return numbers (2 * B, n) of the first views as columns and of the second views as rows."""
    s, t = numbers.chunk(2)
    return s[:, :, None], t[:, None]


def neighbors(affine_s: Tensor, affine_t: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tell which tokens of `t` lie less than one token spacing of `t` from each token of `s`.

    The distance is Euclidean, with each axis in units of the spacing of `t`.

    Returns
    -------
    near : Tensor of bool, shape (B, N, N)
        ``near[b, i, j]`` for token `i` of view `s` and token `j` of view `t`.
    """
    half = affine_t.diagonal(dim1=1, dim2=2).abs()
    spacing = 2 * half / half.new_tensor(grid[::-1])
    s, t = (token_centers(a, grid) / spacing[:, None] for a in (affine_s, affine_t))
    return torch.cdist(s, t, compute_mode="donot_use_mm_for_euclid_dist") < 1


def inside(affine_s: Tensor, affine_t: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tell which tokens of `s` have their center inside view `t`: Tensor of bool, shape (B, N)."""
    centers = token_centers(affine_s, grid) - affine_t[:, None, :, 2]
    return (centers.abs() <= affine_t.diagonal(dim1=1, dim2=2).abs()[:, None]).all(-1)
