"""Numbers to watch: whether matching is learnt, and whether the embedding has collapsed."""

from __future__ import annotations

import torch
from torch import Tensor

from otcxr_sk.method.geometry import inside, neighbours
from otcxr_sk.method.statistics import WHOLE, Batch


def matching_accuracy(
    plan: Tensor, affine: Tensor, grid: tuple[int, int], batch: Batch = WHOLE
) -> tuple[Tensor, Tensor]:
    """Share of transported mass that arrives where it belongs.

    For each token of view `s` whose centre lies inside view `t`: the share of its row of the
    plan on tokens of `t` whose centres lie less than one token spacing of `t` away, in the
    original image; averaged over all such tokens of the batch.

    Parameters
    ----------
    plan : Tensor of shape (B, N, N)
    affine : Tensor of shape (2 * B, 2, 3)
        First views, then second views, as from `ViewSampler`.
    grid : tuple of int
        Rows and columns of the dense map.
    batch : Batch
        How statistics are taken over the images.

    Returns
    -------
    accuracy, chance : Tensor, scalar
        In [0, 1]; `chance` is the accuracy of a uniform plan. NaN where no token qualifies.
    """
    s, t = affine.chunk(2)
    near, counts = neighbours(s, t, grid), inside(s, t, grid)
    rows = plan / plan.sum(2, keepdim=True)
    return (
        batch.mean((rows * near).sum(2)[counts]),
        batch.mean(near.float().mean(2)[counts]),
    )


def spread(embedding: Tensor) -> float:
    """Measure the standard deviation of embeddings (n, C) in units of their root mean square.

    In [0, 1]; 0 when all embeddings are the same vector.
    """
    rms = embedding.square().sum(1).mean().sqrt()
    deviation = embedding.var(0, correction=0).sum().sqrt()
    return float(deviation / rms.clamp(min=torch.finfo(rms.dtype).tiny))


def spectrum(embedding: Tensor) -> Tensor:
    """Shares of the singular values of centred embeddings (n, C), descending, in float64.

    They sum to 1, or are all 0 when all embeddings are the same.
    """
    # In float64, which not every accelerator has: rounding must not look like a direction.
    cloud = embedding.cpu().double()
    values = torch.linalg.svdvals(cloud - cloud.mean(0))
    # What float32, in which embeddings come, cannot tell from rounding is no direction.
    if values.sum() <= torch.finfo(torch.float32).eps * cloud.norm():
        return torch.zeros_like(values)
    return values / values.sum()


def effective_rank(shares: Tensor) -> float:
    """Measure the exponential of the entropy of a `spectrum` of embeddings (n, C).

    Roy and Vetterli (2007); in [1, min(n - 1, C)], or 0 when all embeddings are the same.
    """
    return float(torch.special.entr(shares).sum().exp()) if shares.any() else 0.0
