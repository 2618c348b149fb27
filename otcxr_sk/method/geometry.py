"""Where the tokens of a view lie in the original image."""

from __future__ import annotations

import torch
from torch import Tensor

# Mass of a token, relative to one that the other view shows whole, that goes anywhere.
FLOOR = 1e-3


def axis_centres(size: int, like: Tensor) -> Tensor:
    """Centres of `size` equal cells of [-1, 1], in the dtype and on the device of `like`."""
    return (torch.arange(size, device=like.device, dtype=like.dtype) * 2 + 1) / size - 1


def token_centres(affine: Tensor, grid: tuple[int, int]) -> Tensor:
    """Centres of a view's tokens in normalised coordinates of the original image.

    Parameters
    ----------
    affine : Tensor of shape (B, 2, 3)
        Maps view coordinates to image coordinates, as from `ViewSampler`.
    grid : tuple of int
        Rows and columns of the dense map, N = rows * columns.

    Returns
    -------
    centres : Tensor of shape (B, N, 2)
        (x, y) in [-1, 1], tokens in row-major order.
    """
    y, x = (axis_centres(size, affine) for size in grid)
    here = torch.cartesian_prod(y, x).flip(-1)
    return here @ affine[:, :, :2].transpose(1, 2) + affine[:, None, :, 2]


def true_plan(affine: Tensor, grid: tuple[int, int]) -> Tensor:
    """Transport plan that takes every part of the image that both views show to itself.

    Between two tokens goes the area that they share, in units of the mean area of a token, and
    beside it a thousandth of a token's mass from every token to all of the other view's, since
    Sinkhorn's logarithms need positive marginals. Its marginals weigh a token by how much of it
    the other view shows.

    Parameters
    ----------
    affine : Tensor of shape (2 * B, 2, 3)
        Maps of first views `s`, then of second views `t`, as from `ViewSampler`: upright boxes.
    grid : tuple of int
        Rows and columns of the N tokens.

    Returns
    -------
    plan : Tensor of shape (B, N, N)
        Positive, summing to 1; from tokens of `s` (rows) to those of `t`, in row-major order.
    """
    lengths = []
    for axis, size in ((1, grid[0]), (0, grid[1])):
        scale, shift = affine[:, axis, axis, None], affine[:, axis, 2, None]
        centre = scale * axis_centres(size, affine) + shift
        half = scale.abs() / size
        low = torch.maximum(*_across(centre - half))
        high = torch.minimum(*_across(centre + half))
        # The geometric mean of both sizes favours neither view.
        half_s, half_t = _across(half)
        lengths.append((high - low).clamp(min=0) / (2 * (half_s * half_t).sqrt()))
    rows, columns = lengths
    n = grid[0] * grid[1]
    shared = torch.einsum("bij,bkl->bikjl", rows, columns).reshape(-1, n, n)
    plan = shared + FLOOR / n
    return plan / plan.sum((1, 2), keepdim=True)


def _across(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers (2 * B, n) of first views as columns and of second views as rows."""
    s, t = numbers.chunk(2)
    return s[:, :, None], t[:, None]


def neighbours(affine_s: Tensor, affine_t: Tensor, grid: tuple[int, int]) -> Tensor:
    """Which tokens of `t` lie less than one token spacing of `t` from each token of `s`.

    Distance is taken per axis in units of the spacing of `t` and combined by Pythagoras.

    Returns
    -------
    near : Tensor of bool, shape (B, N, N)
        ``near[b, i, j]`` for token `i` of view `s` and token `j` of view `t`.
    """
    spacing = (
        2
        * affine_t.diagonal(dim1=1, dim2=2).abs()
        / torch.tensor([grid[1], grid[0]], device=affine_t.device, dtype=affine_t.dtype)
    )
    s, t = (token_centres(a, grid) / spacing[:, None] for a in (affine_s, affine_t))
    return torch.cdist(s, t, compute_mode="donot_use_mm_for_euclid_dist") < 1


def inside(affine_s: Tensor, affine_t: Tensor, grid: tuple[int, int]) -> Tensor:
    """Which tokens of `s` have their centre inside view `t`: Tensor of bool, shape (B, N)."""
    centres = token_centres(affine_s, grid) - affine_t[:, None, :, 2]
    return (centres.abs() <= affine_t.diagonal(dim1=1, dim2=2).abs()[:, None]).all(-1)
