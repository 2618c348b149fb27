"""Where the tokens of a view lie in the original image."""

from __future__ import annotations

import torch
from torch import Tensor


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


def overlap(affine_s: Tensor, affine_t: Tensor, grid: tuple[int, int]) -> Tensor:
    """Share of each token's area in view `s` that view `t` shows too.

    Views are upright boxes of the image, so the share is the product of the shares per axis.

    Returns
    -------
    share : Tensor of shape (B, N)
        In [0, 1], tokens of view `s` in row-major order.
    """
    shares = []
    for axis, size in ((1, grid[0]), (0, grid[1])):
        scale, shift = affine_s[:, axis, axis], affine_s[:, axis, 2]
        centre = scale[:, None] * axis_centres(size, affine_s) + shift[:, None]
        half = scale.abs()[:, None] / size
        reach = affine_t[:, axis, axis].abs()[:, None]
        middle = affine_t[:, axis, 2][:, None]
        low = torch.maximum(centre - half, middle - reach)
        high = torch.minimum(centre + half, middle + reach)
        shares.append((high - low).clamp(min=0) / (2 * half))
    return (shares[0][:, :, None] * shares[1][:, None, :]).flatten(1)


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
