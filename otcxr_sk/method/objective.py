"""Terms of the loss and their weighted sum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from otcxr_sk.method.statistics import WHOLE, Batch, covariance


def variance_loss(q: Tensor) -> Tensor:
    r"""Hinge on the standard deviation of every coordinate.

    :math:`\frac{1}{D} \sum_d \max(0, 1 - \sqrt{\mathrm{Var}(q_d) + 10^{-4}})`, VICReg eq. 1
    (Bardes, Ponce, LeCun 2022).

    Parameters
    ----------
    q : Tensor of shape (..., D)
        All leading axes are samples; at least two in total.

    Returns
    -------
    loss : Tensor, scalar
        In [0, 1].
    """
    return _hinge(q.flatten(0, -2).var(0))


def covariance_loss(q: Tensor) -> Tensor:
    r"""Squared covariances of different coordinates.

    :math:`\frac{1}{D} \sum_{d \neq d'} \mathrm{Cov}(q)_{dd'}^2`, VICReg eq. 3 and 4.

    Parameters
    ----------
    q : Tensor of shape (..., D)
        As for `variance_loss`.

    Returns
    -------
    loss : Tensor, scalar
        Non-negative.
    """
    return _off_diagonal(covariance(q.flatten(0, -2)))


@dataclass(frozen=True)
class Objective:
    r"""The weighted sum of the terms.

    :math:`L = \alpha L_{OT} + \beta [\mathrm{var}(q_s) + \mathrm{var}(q_t)]
    + \eta [\mathrm{cov}(q_s) + \mathrm{cov}(q_t)] + \gamma L_{image}`: the paper's sum over
    dense tokens (Gorade et al., WACV 2025) and beside it, weighted by `global_weight`, VICReg's
    loss on a projection `p` of the pooled map,
    :math:`L_{image} = \| p_s - p_t \|^2 / D + \frac{3}{2} [\mathrm{var}(p_s) + \mathrm{var}(p_t)]
    + \frac{1}{25} [\mathrm{cov}(p_s) + \mathrm{cov}(p_t)]`: its published proportions 25 : 25 : 1,
    but for the variance, which short runs leave far from met and which weighs three times as much.
    """

    alpha: float
    beta: float
    eta: float
    global_weight: float

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the terms that are not switched off."""
        weights = {
            "transport": self.alpha,
            "variance": self.beta,
            "covariance": self.eta,
            "global_invariance": self.global_weight,
            "global_variance": self.global_weight * 3 / 2,
            "global_covariance": self.global_weight / 25,
        }
        return {name: weight for name, weight in weights.items() if weight}

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Sum the terms that `OTCXRModel` returns, weighted."""
        # A term that is switched off may be anything, NaN included.
        return torch.stack([w * terms[name] for name, w in self.weights.items()]).sum()


def regularisers(s: Tensor, t: Tensor, batch: Batch = WHOLE) -> tuple[Tensor, Tensor]:
    """Variance and covariance terms of two views, each view on its own: two scalars."""
    moments = batch.moments(s.flatten(0, -2), t.flatten(0, -2))
    return (
        torch.stack([_hinge(variance) for variance, _ in moments]).sum(),
        torch.stack([_off_diagonal(matrix) for _, matrix in moments]).sum(),
    )


def _hinge(variance: Tensor) -> Tensor:
    return (1 - (variance + 1e-4).sqrt()).clamp(min=0).mean()


def _off_diagonal(matrix: Tensor) -> Tensor:
    return (matrix.square().sum() - matrix.diagonal().square().sum()) / len(matrix)
