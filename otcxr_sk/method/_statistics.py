"""Statistics over the images of a batch: those of the loss, and those to monitor."""

import torch
from torch import Tensor

from otcxr_sk.method._geometry import neighbors


class BatchStatistics:
    """Statistics of a batch that this process has as a whole.

    Where several processes have a part each, training passes a subclass that combines all parts.
    """

    def means(self, *samples: tuple[Tensor, Tensor | None]) -> list[Tensor]:
        """Return the means of some values that the images of the batch have, each of any shape.

        Beside the values stand their weights, of the same shape, or None for equal ones.
        """
        return [
            values.mean() if weights is None else (values * weights).sum() / weights.sum()
            for values, weights in samples
        ]

    def largest(self, value: Tensor) -> Tensor:
        """Return the largest of the values that the parts of the batch have, one each."""
        return value

    def covariance(self, q: Tensor) -> Tensor:
        """Return the unbiased covariances (2, D, D) of samples (2, n, D) of the two views."""
        q = q - q.mean(1, keepdim=True)
        return q.transpose(1, 2) @ q / (q.shape[1] - 1)


WHOLE_BATCH = BatchStatistics()


def matching_accuracy(plan: Tensor, affine: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
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

    Returns
    -------
    accuracy, chance : Tensor, scalar
        In [0, 1]; `chance` is the accuracy of a uniform plan. NaN if there is no such token.
    """
    arrived, by_chance, counts = arrivals(plan, affine, grid)
    accuracy, chance = WHOLE_BATCH.means((arrived, counts), (by_chance, counts))
    return accuracy, chance


def arrivals(plan: Tensor, affine: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return what `matching_accuracy` averages, for each token of `s`.

    Returns
    -------
    arrived, by_chance : Tensor of shape (B, N)
        Share of the token's mass, and of mass that is spread evenly.
    counts : Tensor of shape (B, N)
        1 for tokens whose center lies inside `t`, 0 for others.
    """
    near, inside = (told.to(plan.dtype) for told in neighbors(affine, grid))
    return (plan * near).sum(2) / plan.sum(2), near.mean(2), inside


def spread(embedding: Tensor) -> float:
    """Return the standard deviation of embeddings relative to their root mean square.

    Parameters
    ----------
    embedding : Tensor of shape (n, C)
        Embeddings of n images.

    Returns
    -------
    spread : float
        In [0, 1]; 0 if all embeddings are the same vector.
    """
    rms = embedding.square().sum(1).mean().sqrt()
    deviation = embedding.var(0, correction=0).sum().sqrt()
    return float(deviation / rms.clamp(min=torch.finfo(rms.dtype).tiny))


def spectrum(embedding: Tensor) -> Tensor:
    """Return the singular values of centered embeddings as shares of their sum.

    Parameters
    ----------
    embedding : Tensor of shape (n, C)
        Embeddings of n images.

    Returns
    -------
    shares : Tensor of shape (min(n, C),), float64
        In descending order; all 0 if all embeddings are the same vector.
    """
    # On the CPU, since not every device has float64. In float32, rounding looks like a direction.
    cloud = embedding.cpu().double()
    if not cloud.numel():
        return cloud.new_zeros(0)
    # The square of a very small or large number is none.
    cloud = cloud / cloud.abs().max().clamp(min=torch.finfo(cloud.dtype).tiny)
    precision = torch.finfo(torch.float32).eps
    limit = precision * cloud.norm()
    cloud = cloud - cloud.mean(0)
    # From the smaller of the two products, which takes half as long as from the cloud.
    square = cloud @ cloud.T if len(cloud) < cloud.shape[1] else cloud.T @ cloud
    values = torch.linalg.eigvalsh(square).flip(0).clamp(min=0).sqrt()
    # The embeddings themselves are float32: what is below its precision is rounding, too.
    values[values <= precision * values[0]] = 0
    if values.sum() <= limit:
        return torch.zeros_like(values)
    return values / values.sum()


def effective_rank(shares: Tensor) -> float:
    """Return the effective rank of embeddings: the exponential of the entropy of their `spectrum`.

    Parameters
    ----------
    shares : Tensor of shape (m,)
        The spectrum.

    Returns
    -------
    rank : float
        In [1, min(n - 1, C)] for embeddings (n, C), or 0 if all are the same vector.

    References
    ----------
    .. [1] O. Roy, M. Vetterli, "The effective rank: A measure of effective dimensionality",
       EUSIPCO 2007.
    """
    return float(torch.special.entr(shares).sum().exp()) if shares.any() else 0.0
