"""Statistics over the images of a batch."""

from __future__ import annotations

from torch import Tensor


class Batch:
    """Statistics of a batch that is here as a whole.

    Where several processes have a part of it each, training gives another that sees all parts.
    """

    def mean(self, values: Tensor) -> Tensor:
        """Mean of numbers, of any shape, that the images of the batch gave."""
        return values.mean()

    def largest(self, value: Tensor) -> Tensor:
        """Largest of a number that every part of the batch has."""
        return value

    def moments(self, s: Tensor, t: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Variance (D,) and covariance (D, D) of the samples (n, D) of both views."""
        return [(q.var(0), covariance(q)) for q in (s, t)]


def covariance(q: Tensor) -> Tensor:
    """Unbiased covariance (D, D) of samples (n, D)."""
    q = q - q.mean(0)
    return q.T @ q / (len(q) - 1)


WHOLE = Batch()
