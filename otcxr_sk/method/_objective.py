"""The loss: its parameters, its weighted sum, and its variance and covariance terms."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from otcxr_sk._parameters import ParameterGroup
from otcxr_sk.method._statistics import WHOLE_BATCH, BatchStatistics


@dataclass(repr=False)
class Objective(ParameterGroup):
    r"""The loss of pre-training: the weights of its terms, and how tokens are matched.

    .. math:: L = \alpha L_{OT} + \beta [\mathrm{var}(q_s) + \mathrm{var}(q_t)]
        + \eta [\mathrm{cov}(q_s) + \mathrm{cov}(q_t)] + \gamma L_{image} + \rho L_{read}

    The first three terms are OTCXR's [1]_ on the tokens `q` of both views, with the variance and
    covariance terms of VICReg [2]_. The fourth, weighted by `global_weight`, is VICReg's loss on a
    projection `p` of the embedding; the last, weighted by `read_out`, is how far what is read from
    the last map of the first view is from what the second view shows, place by place:

    .. math:: L_{image} = \frac{1}{D} \| p_s - p_t \|^2
        + \frac{3}{2} [\mathrm{var}(p_s) + \mathrm{var}(p_t)]
        + \frac{1}{25} [\mathrm{cov}(p_s) + \mathrm{cov}(p_t)]

    VICReg's proportions are 25 : 25 : 1. Here variance weighs three times as much, because short
    runs leave it far from satisfied.

    Parameters
    ----------
    alpha : float, default=1.0
        Weight of the transport term. Like all weights it is at least 0; 0 switches the term off.
    beta : float, default=2.0
        Weight of the variance term of the tokens.
    eta : float, default=0.1
        Weight of the covariance term of the tokens.
    global_weight : float, default=10.0
        Weight of the image-level term.
    epsilon : float, default=0.1
        Entropic regularization of the transport plan, above 0, in the unit of the cost, which is
        one minus the cosine of two tokens and lies in [0, 2].
    transport : {"inverse", "direct"}, default="inverse"
        The transport term. "inverse" is the divergence of the transport plan from the true plan,
        which is known from where the views were cropped, so that tokens learn to find their place
        (inverse optimal transport [3]_). "direct" is the cost of the plan, as in [1]_.
    cv_sim_depth : int, default=0
        Number of CV-SIM blocks, which infuse the tokens of each view with the other view, before
        transport.
    read_out : float, default=10.0
        Weight of the read-out: from the encoder's last map of one view, and from nothing else, has
        to be told what the map that is matched shows of the other view at every place. It serves
        training only: it is neither saved nor part of `score`.

    See Also
    --------
    otcxr_sk.OTCXRPretrainer : Takes this as its parameter `objective`.

    References
    ----------
    .. [1] V. Gorade, A. Singh, D. Mishra, "OTCXR: Rethinking Self-supervised Alignment using
       Optimal Transport for Chest X-ray Analysis", WACV 2025.
    .. [2] A. Bardes, J. Ponce, Y. LeCun, "VICReg: Variance-Invariance-Covariance Regularization
       for Self-Supervised Learning", ICLR 2022.
    .. [3] A. Stuart, M.-T. Wolfram, "Inverse Optimal Transport", SIAM Journal on Applied
       Mathematics 80, 2020.

    Examples
    --------
    >>> from otcxr_sk import Objective, OTCXRPretrainer
    >>> encoder = OTCXRPretrainer(objective=Objective(transport="direct"))
    >>> encoder.set_params(objective__alpha=2.0).objective
    Objective(alpha=2.0, transport='direct')
    """

    alpha: float = 1.0
    beta: float = 2.0
    eta: float = 0.1
    global_weight: float = 10.0
    epsilon: float = 0.1
    transport: str = "inverse"
    cv_sim_depth: int = 0
    read_out: float = 10.0

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the terms that are not switched off, by name."""
        weights = {
            "transport": self.alpha,
            "variance": self.beta,
            "covariance": self.eta,
            "global_invariance": self.global_weight,
            "global_variance": self.global_weight * 3 / 2,
            "global_covariance": self.global_weight / 25,
            "read_out": self.read_out,
        }
        return {name: weight for name, weight in weights.items() if weight}

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum of the terms that `OTCXRModel` returns.

        Parameters
        ----------
        terms : dict of str to Tensor of shape ()
            The terms by name.

        Returns
        -------
        loss : Tensor of shape ()
            What training minimizes.
        """
        # Not a product with weight 0: a term that is switched off may be NaN.
        return torch.stack([w * terms[name] for name, w in self.weights.items()]).sum()


def without_read_out(objective: Objective) -> Objective:
    """Return the objective without the term that a saved network cannot compute."""
    return replace(objective, read_out=0.0)


def regularizers(q: Tensor, statistics: BatchStatistics = WHOLE_BATCH) -> tuple[Tensor, Tensor]:
    r"""Return the variance term and the covariance term, each summed over both views.

    The variance term is :math:`\frac{1}{D} \sum_d \max(0, 1 - \sqrt{\mathrm{Var}(q_d) + 10^{-4}})`,
    in [0, 1] for each view, VICReg eq. 1 and 2 (Bardes, Ponce, LeCun 2022); the covariance term is
    :math:`\frac{1}{D} \sum_{d \neq d'} \mathrm{Cov}(q)_{dd'}^2`, eq. 3 and 4.

    Parameters
    ----------
    q : Tensor of shape (2, ..., D)
        The two views. All axes between are samples; at least two in the whole batch.
    statistics : BatchStatistics
        Takes covariances over the batch.

    Returns
    -------
    variance, covariance : Tensor, scalar
    """
    matrix = statistics.covariance(q.flatten(1, -2))
    variance = matrix.diagonal(dim1=1, dim2=2)
    hinge = (1 - (variance + 1e-4).sqrt()).clamp(min=0)
    width = q.shape[-1]
    return hinge.sum() / width, (matrix.square().sum() - variance.square().sum()) / width
