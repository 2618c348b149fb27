"""From a cost to a transport plan; the only file that imports POT."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from otcxr_sk.method.statistics import WHOLE, Batch

# Iterations between two looks at the marginals, as in POT.
_LOOK = 10

# Costs up to so many times epsilon have exponentials, and these scalings, within float32.
_RANGE = 30.0


def cosine_cost(s: Tensor, t: Tensor) -> Tensor:
    """Cost between the tokens of two views, ``M_ij = 1 - cos(s_i, t_j)``.

    Parameters
    ----------
    s, t : Tensor of shape (B, N, D)

    Returns
    -------
    cost : Tensor of shape (B, N, N)
        In [0, 2].
    """
    return 1 - normalize(s, dim=-1) @ normalize(t, dim=-1).transpose(1, 2)


def transport_plan(
    cost: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    epsilon: float,
    max_iter: int = 50,
    tol: float = 1e-3,
    batch: Batch = WHOLE,
) -> tuple[Tensor, Tensor]:
    r"""Entropic transport plans of a batch of problems.

    Solves :math:`\min_P \langle P, M \rangle + \epsilon \sum_{ij} P_{ij} \log P_{ij}` under
    :math:`P 1 = a`, :math:`P^T 1 = b` by Sinkhorn's iterations (Cuturi 2013): as scalings of
    :math:`\exp(-M / \epsilon)` where it is far from underflow, and else in the log domain
    (`ot.batch.bregman_log_projection_batch`), which takes longer. The plan carries no
    gradient: by the
    envelope theorem the derivative of the optimal value in `M` is `P` itself.

    Parameters
    ----------
    cost : Tensor of shape (B, N, N)
        Float32 or float64.
    a, b : Tensor of shape (B, N)
        Positive marginals, each row summing to 1.
    epsilon : float
        Entropic regularisation, in the unit of the cost.
    max_iter : int
        Bound on the iterations.
    tol : float
        Iterations end when no marginal is further off than this; looked at every tenth.
    batch : Batch
        Whose marginals these are.

    Returns
    -------
    plan : Tensor of shape (B, N, N)
    error : Tensor of shape (B,)
        Largest of the two L1 distances of the plan's marginals from `a` and `b`. POT does not
        warn when it runs out of iterations; this is where it shows.
    """
    cost = cost.detach()
    # Not so where the cost is NaN.
    if batch.largest(cost.abs().max()) <= _RANGE * epsilon:
        plan = _scaled(cost.div(-epsilon).exp_(), a, b, max_iter, tol, batch)
    else:
        from ot.backend import get_backend
        from ot.batch import bregman_log_projection_batch

        logits = -cost / epsilon
        nx = _Backend(get_backend(logits), batch)
        plan = bregman_log_projection_batch(logits, a, b, nx=nx, max_iter=max_iter, tol=tol)["T"]
    error = torch.maximum((plan.sum(2) - a).abs().sum(1), (plan.sum(1) - b).abs().sum(1))
    return plan, error


def _scaled(
    kernel: Tensor, a: Tensor, b: Tensor, max_iter: int, tol: float, batch: Batch
) -> Tensor:
    """Scale rows and columns of kernels (B, N, N), in place, to the marginals."""
    # Rows times matrices: products with columns take eight times as long.
    a, b = a[:, None], b[:, None]
    g = torch.ones_like(b)
    rows = g @ kernel.transpose(1, 2)
    for iteration in range(max_iter):
        f = a / rows
        g = b / (f @ kernel)
        rows = g @ kernel.transpose(1, 2)
        if iteration % _LOOK == 0 and batch.largest((f * rows - a).norm(dim=2).max()) < tol:
            break
    return kernel.mul_(f.transpose(1, 2)).mul_(g)


class _Backend:
    """A backend of POT's whose maximum, by which iterations end, is that of the whole batch."""

    def __init__(self, backend: Any, batch: Batch) -> None:
        self._backend, self._batch = backend, batch

    def max(self, values: Tensor) -> Tensor:
        return self._batch.largest(self._backend.max(values))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


def divergence_from_truth(cost: Tensor, plan: Tensor, truth: Tensor, *, epsilon: float) -> Tensor:
    r"""Divergence of an entropic plan from the true one, differentiable in the cost.

    :math:`\frac{1}{\epsilon} \langle T - P, M \rangle + \sum_{ij} T_{ij} \log T_{ij}
    - \sum_{ij} P_{ij} \log P_{ij}`, the Fenchel-Young loss (Blondel, Martins, Niculae 2020) of
    entropic transport. It is convex in `M`, equals :math:`KL(T \| P)` where `P` is the optimal
    plan for the marginals of `T`, and is 0 where `P = T`. To minimise it is inverse optimal
    transport (Stuart and Wolfram 2020): to learn the cost under which the plan observed is
    optimal. As the plan carries no gradient, the derivative in `M` is
    :math:`(T - P) / \epsilon`, exact by the envelope theorem.

    Parameters
    ----------
    cost : Tensor of shape (B, N, N)
    plan : Tensor of shape (B, N, N)
        As from `transport_plan`, for this cost, this `epsilon` and the marginals of `truth`.
    truth : Tensor of shape (B, N, N)
        Positive, each summing to 1.
    epsilon : float

    Returns
    -------
    divergence : Tensor of shape (B,)
        In nats, non-negative but for what the plan's marginals are off.
    """
    gain = ((truth - plan) * cost).sum((1, 2)) / epsilon
    return gain + (torch.xlogy(truth, truth) - torch.xlogy(plan, plan)).sum((1, 2))
