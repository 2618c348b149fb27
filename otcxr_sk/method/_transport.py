"""Costs, entropic transport plans and their divergence from the true plan."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from otcxr_sk.method._statistics import WHOLE_BATCH, BatchStatistics

# Iterations between two checks of the marginals, as in Python Optimal Transport (POT).
_PERIOD = 10

# exp(-cost / epsilon), and its scalings, stay within float32 up to this ratio of cost to epsilon.
_RANGE = 30.0


def cosine_cost(s: Tensor, t: Tensor) -> Tensor:
    """Return the cost of transport between tokens, ``M_ij = 1 - cos(s_i, t_j)``.

    Parameters
    ----------
    s, t : Tensor of shape (B, N, D)
        Tokens of both views.

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
    between: tuple[float, float] | None = None,
    statistics: BatchStatistics = WHOLE_BATCH,
) -> tuple[Tensor, Tensor]:
    r"""Solve a batch of entropic optimal transport problems.

    Minimizes :math:`\langle P, M \rangle + \epsilon \sum_{ij} P_{ij} \log P_{ij}` over the plans
    `P` with marginals :math:`P 1 = a` and :math:`P^T 1 = b`, by Sinkhorn's algorithm (Cuturi
    2013): by scaling :math:`\exp(-M / \epsilon)` where that is far from underflow, otherwise in
    the log domain, as `ot.batch.bregman_log_projection_batch` of POT does, which takes longer. The
    plan carries no gradient: by the envelope theorem, the derivative of the optimal value in `M`
    is `P`.

    Parameters
    ----------
    cost : Tensor of shape (B, N, N)
        `M`, in float32 or float64.
    a, b : Tensor of shape (B, N)
        Positive marginals, each row summing to 1.
    epsilon : float
        Entropic regularization, in the unit of the cost.
    max_iter : int, default=50
        Largest number of iterations.
    tol : float, default=1e-3
        Iterations end when the L2 error of every plan's marginals is below this; checked every
        tenth iteration, and only on the CPU. Another device would have to be waited for, and does
        `max_iter` iterations.
    between : tuple of float, default=None
        Two numbers that all costs lie between. None looks for them, which waits for the device.
    statistics : BatchStatistics
        Combines the parts of the batch, so that all parts get the same number of iterations.

    Returns
    -------
    plan : Tensor of shape (B, N, N)
    error : Tensor of shape (B,)
        L1 error of the plan's first marginal; the second is met, as iterations end with it.
        Iterations that end before `tol` is reached show here; there is no warning.
    """
    cost = cost.detach()
    if between is None:
        largest = float(statistics.largest(cost.abs().max()))
        between = -largest, largest
    # A number that is added to all costs changes no plan.
    middle, reach = (between[0] + between[1]) / 2, (between[1] - between[0]) / 2
    logits = (middle - cost).div_(epsilon)
    # False if a cost is NaN: the plan is then NaN, too.
    if reach <= _RANGE * epsilon:
        plan = _scaled(logits.exp_(), a, b, max_iter, tol, statistics)
    else:
        plan = _in_log_domain(logits, a, b, max_iter, tol, statistics)
    return plan, (plan.sum(2) - a).abs().sum(1)


def _scaled(
    kernel: Tensor, a: Tensor, b: Tensor, max_iter: int, tol: float, statistics: BatchStatistics
) -> Tensor:
    """Scale rows and columns of kernels (B, N, N) to the marginals, in place."""
    # Row vectors on the left: products with column vectors take eight times as long.
    a, b = a[:, None], b[:, None]
    g = torch.ones_like(b)
    rows = g @ kernel.transpose(1, 2)
    for iteration in range(max_iter):
        f = a / rows
        g = b / (f @ kernel)
        rows = g @ kernel.transpose(1, 2)
        if _looks_at(kernel, iteration) and statistics.largest(_worst(f * rows - a)) < tol:
            break
    return kernel.mul_(f.transpose(1, 2)).mul_(g)


def _in_log_domain(
    logits: Tensor, a: Tensor, b: Tensor, max_iter: int, tol: float, statistics: BatchStatistics
) -> Tensor:
    """Shift rows and columns of the logarithms of kernels (B, N, N) to the marginals."""
    log_a, log_b = a.log(), b.log()
    g = torch.zeros_like(b)
    for iteration in range(max_iter):
        f = log_a - (logits + g[:, None]).logsumexp(2)
        g = log_b - (logits + f[:, :, None]).logsumexp(1)
        if _looks_at(logits, iteration):
            rows = (logits + f[:, :, None] + g[:, None]).exp_().sum(2)
            if statistics.largest(_worst(rows - a)) < tol:
                break
    return (logits + f[:, :, None] + g[:, None]).exp_()


def _looks_at(numbers: Tensor, iteration: int) -> bool:
    """Whether to look at the marginals now, which would keep other devices from working ahead."""
    return numbers.device.type == "cpu" and iteration % _PERIOD == 0


def _worst(difference: Tensor) -> Tensor:
    return difference.norm(dim=-1).max()


def divergence_from_truth(cost: Tensor, plan: Tensor, truth: Tensor, *, epsilon: float) -> Tensor:
    r"""Return the divergence of an entropic plan from the true plan, differentiable in the cost.

    :math:`\frac{1}{\epsilon} \langle T - P, M \rangle + \sum_{ij} T_{ij} \log T_{ij}
    - \sum_{ij} P_{ij} \log P_{ij}`, the Fenchel-Young loss (Blondel, Martins, Niculae 2020) of
    entropic transport. It is convex in `M`, equals :math:`KL(T \| P)` if `P` is the optimal plan
    for the marginals of `T`, and is 0 if `P = T`. Minimizing it is inverse optimal transport
    (Stuart and Wolfram 2020): learning the cost under which an observed plan is optimal. The plan
    carries no gradient, so the derivative with respect to `M` is :math:`(T - P) / \epsilon`,
    which is exact by the envelope theorem.

    Parameters
    ----------
    cost : Tensor of shape (B, N, N)
        `M`, in the unit of `epsilon`.
    plan : Tensor of shape (B, N, N)
        `P`, from `transport_plan` with this cost, this `epsilon` and the marginals of `truth`.
    truth : Tensor of shape (B, N, N)
        `T`, positive, each summing to 1.
    epsilon : float
        Entropic regularization of `plan`.

    Returns
    -------
    divergence : Tensor of shape (B,)
        In nats; non-negative, except for the error of the plan's marginals.
    """
    gain = ((truth - plan) * cost).sum((1, 2)) / epsilon
    return gain + (torch.xlogy(truth, truth) - torch.xlogy(plan, plan)).sum((1, 2))
