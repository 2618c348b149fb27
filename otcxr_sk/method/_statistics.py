"""Statistics over the images of a batch: those of the loss, and those to monitor."""

import torch
from torch import Tensor

from otcxr_sk.method._geometry import inside, neighbors


class BatchStatistics:
    """Statistics of a batch that this process has as a whole.

    Where several processes have a part each, training passes a subclass that combines all parts.
    """

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of all values, of any shape, that the images of the batch have."""
        return values.mean()

    def largest(self, value: Tensor) -> Tensor:
        """Return the largest of the values that the parts of the batch have, one each."""
        return value

    def moments(self, s: Tensor, t: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return unbiased variance (D,) and covariance (D, D) of samples (n, D) of each view."""
        return [(q.var(0), covariance(q)) for q in (s, t)]


def covariance(q: Tensor) -> Tensor:
    """Return the unbiased covariance (D, D) of samples (n, D)."""
    q = q - q.mean(0)
    return q.T @ q / (len(q) - 1)


WHOLE_BATCH = BatchStatistics()


def matching_accuracy(
    plan: Tensor, affine: Tensor, grid: tuple[int, int], statistics: BatchStatistics = WHOLE_BATCH
) -> tuple[Tensor, Tensor]:
    """Return the share of transported mass that arrives where it belongs.

    For each token of view `s` whose center lies inside view `t`, this is the share of its row of
    the plan that goes to tokens of `t` whose centers are less than one token spacing of `t` away
    in the original image, averaged over all such tokens of the batch.

    Parameters
    ----------
    plan : Tensor of shape (B, N, N)
        Transport plans from tokens of `s` (rows) to tokens of `t`.
    affine : Tensor of shape (2 * B, 2, 3)
        Maps of all first views `s`, then of all second views `t`, as from `Views`.
    grid : tuple of int
        Rows and columns of the dense map, N = rows * columns.
    statistics : BatchStatistics
        Takes the mean over the batch.

    Returns
    -------
    accuracy, chance : Tensor, scalar
        In [0, 1]; `chance` is the accuracy of a uniform plan. NaN if there is no such token.
    """
    s, t = affine.chunk(2)
    near, counts = neighbors(s, t, grid), inside(s, t, grid)
    rows = plan / plan.sum(2, keepdim=True)
    return (
        statistics.mean((rows * near).sum(2)[counts]),
        statistics.mean(near.float().mean(2)[counts]),
    )


def spread(embedding: Tensor) -> float:
    """Return the standard deviation of embeddings (n, C) relative to their root mean square.

    In [0, 1]; 0 if all embeddings are the same vector.
    """
    rms = embedding.square().sum(1).mean().sqrt()
    deviation = embedding.var(0, correction=0).sum().sqrt()
    return float(deviation / rms.clamp(min=torch.finfo(rms.dtype).tiny))


def spectrum(embedding: Tensor) -> Tensor:
    """Return the singular values of centered embeddings (n, C) as shares of their sum.

    In descending order, float64; all 0 if all embeddings are the same vector.
    """
    # On the CPU, since not every device has float64. In float32, rounding looks like a direction.
    cloud = embedding.cpu().double()
    values = torch.linalg.svdvals(cloud - cloud.mean(0))
    # The embeddings themselves are float32: what is below its precision is rounding, too.
    if values.sum() <= torch.finfo(torch.float32).eps * cloud.norm():
        return torch.zeros_like(values)
    return values / values.sum()


def effective_rank(shares: Tensor) -> float:
    """Return the effective rank of embeddings (n, C): the exponential of the `spectrum`'s entropy.

    Roy and Vetterli, "The effective rank: A measure of effective dimensionality", 2007. In
    [1, min(n - 1, C)], or 0 if all embeddings are the same vector.
    """
    return float(torch.special.entr(shares).sum().exp()) if shares.any() else 0.0
