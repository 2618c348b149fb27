"""A batch divided among processes: its statistics, and the model that computes with them.

Every process computes the same loss, that of the whole batch. The backward pass of a sum over
processes adds up their gradients, one for each of these equal losses; `DistributedDataParallel`
then averages over processes, which leaves the gradient of a single loss.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd import Function
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from otcxr_sk.method import BatchStatistics
from otcxr_sk.training._random import Randomness


class Loss(Protocol):
    """What is minimized: a weighted sum of terms, such as `Objective`."""

    @property
    def weights(self) -> Mapping[str, float]:
        """Weights of the terms that are not switched off, by name."""

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Return the weighted sum of the terms that a network returns."""


class SharedModel(nn.Module):
    """A model that sees a part of each batch and returns the terms of the whole.

    Parameters
    ----------
    model : nn.Module
        Returns terms and embedding, as `OTCXRModel` does. Its batch norms are replaced in place by
        norms over all processes; its parameters remain the same objects.
    objective : Loss
        Terms that it gives no weight are returned without gradient.
    device : torch.device
        Where the model will be.
    """

    def __init__(self, model: nn.Module, objective: Loss, device: torch.device) -> None:
        super().__init__()
        share_norms(model, device)
        self.model, self._weights = model, objective.weights

    def forward(self, views: Tensor, affine: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the terms of the loss of the whole batch, and the embedding of this part."""
        terms, embedding = self.model(views, affine, SharedStatistics())
        # DistributedDataParallel waits for gradients of all that a result with a gradient needs.
        return {
            name: term if name in self._weights else term.detach() for name, term in terms.items()
        }, embedding


def has_idle_parameters(model: nn.Module, objective: Loss, size: int) -> bool:
    """Return whether the loss is independent of some parameters, by a trial on a copy.

    `DistributedDataParallel` must be told: it would wait for their gradients.
    """
    trial = deepcopy(model).train()
    views, affine = torch.zeros(4, 1, size, size), torch.eye(2, 3).expand(4, 2, 3)
    with Randomness(0, torch.device("cpu")).given():
        loss = objective.total(trial(views, affine)[0])
    parameters = [value for value in trial.parameters() if value.requires_grad]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return any(gradient is None for gradient in gradients)


class SharedStatistics(BatchStatistics):
    """Statistics of a batch divided among processes; every process gets the same.

    Processes exchange sums, never samples, so the traffic does not grow with the batch.
    """

    def means(self, *samples: tuple[Tensor, Tensor | None]) -> list[Tensor]:
        """Return the means of the numbers of all processes, which may have different counts."""
        numbers = []
        for values, weights in samples:
            total = (values if weights is None else values * weights).sum()
            # Filled in where it is: a number that is sent would be waited for.
            number = torch.full_like(total, values.numel()) if weights is None else weights.sum()
            numbers.append(torch.stack([total, number]))
        totals = add_up(torch.stack(numbers))
        return list(totals[:, 0] / totals[:, 1])

    def largest(self, value: Tensor) -> Tensor:
        """Return the largest number of all processes, so that all iterate equally long."""
        value = value.clone()
        dist.all_reduce(value, dist.ReduceOp.MAX)
        return value

    def covariance(self, q: Tensor) -> Tensor:
        """Return the covariances (2, D, D) of both views over all processes."""
        count = q.new_full((2, 1), q.shape[1])
        sums = add_up(torch.cat([q.sum(1), count], 1))
        count = sums[0, -1].detach()
        q = q - (sums[:, :-1] / count).unsqueeze(1)
        return add_up(q.transpose(1, 2) @ q) / (count - 1)


def add_up(values: Tensor) -> Tensor:
    """Sum a tensor over all processes, differentiably."""
    return _Sum.apply(values)


class _Sum(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return _summed(values)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _summed(gradient)


def _summed(values: Tensor) -> Tensor:
    values = values.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(values)
    return values


def join_parts(part: Tensor, sizes: Sequence[int]) -> Tensor:
    """Concatenate, over processes i, the first `sizes[i]` rows of the tensor of process i."""
    padded = part.new_zeros((max(sizes), *part.shape[1:]))
    own = sizes[dist.get_rank()]
    padded[:own] = part[:own]
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return torch.cat([rows[:size] for rows, size in zip(parts, sizes, strict=True)])


def share_norms(model: nn.Module, device: torch.device) -> None:
    """Make the batch norms of a model, in place, normalize over the parts of all processes.

    Their parameters, buffers and names are kept.
    """
    from timm.layers import convert_sync_batchnorm

    if device.type == "cuda":
        # In place, because the model itself is not a norm.
        convert_sync_batchnorm(model)
        return
    # Torch's SyncBatchNorm takes no CPU tensors.
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, _BatchNorm):
                setattr(module, name, SharedNorm(child))


class SharedNorm(_BatchNorm):
    """A batch norm over all processes.

    Parameters
    ----------
    norm : nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d or timm's `BatchNormAct2d`
        The norm that this one replaces. Its parameters and buffers are taken over, and so are the
        dropout and activation of timm's.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(norm.__dict__)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (n, C, ...), where n may differ between processes."""
        if self.training:
            statistics = _statistics(x)
            if self.track_running_stats:
                self._track(*statistics)
            one = statistics[0].new_ones(self.num_features)
            weight, bias = (self.weight, self.bias) if self.affine else (one, 0 * one)
            x = _Normalize.apply(x, weight, bias, *statistics, self.eps)
        else:
            running = self.running_mean, self.running_var
            of_batch = self.running_mean is None
            x = F.batch_norm(x, *running, self.weight, self.bias, of_batch, 0.0, self.eps)
        for name in ("drop", "act"):
            if name in self._modules:
                x = getattr(self, name)(x)
        return x

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / int(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        self.running_var.lerp_((variance * count / (count - 1)).to(self.running_var), share)


@torch.no_grad()
def _statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean and biased variance of each channel over all processes, and the count."""
    zeros = x.new_zeros(x.shape[1], dtype=torch.promote_types(x.dtype, torch.float32))
    mean, variance = torch.batch_norm_update_stats(x, zeros, zeros.clone(), 0.0)
    own = torch.cat([mean, variance, mean.new_tensor([x.numel() // x.shape[1]])])
    parts = own.new_empty(dist.get_world_size(), len(own))
    dist.all_gather(list(parts), own)
    means, variances, counts = (*parts[:, :-1].chunk(2, 1), parts[:, -1:])
    count = counts.sum()
    mean = (counts * means).sum(0) / count
    variance = (counts * (variances + (means - mean).square())).sum(0) / count
    return mean, variance, count


class _Normalize(Function):
    """Normalize by statistics that all processes share and that depend on the input of all."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, *rest: Any) -> Tensor:
        mean, variance, count, ctx.eps = rest
        ctx.save_for_backward(x, weight, mean, variance, count)
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, ctx.eps)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight, mean, variance, count = ctx.saved_tensors
        eps = ctx.eps
        # First as if the statistics were constants, then what flows back through them.
        given = (gradient, x, weight, mean, variance, None, None, False, eps, [True, True, True])
        to_x, to_weight, to_bias = torch.ops.aten.native_batch_norm_backward(*given)
        sums = _summed(torch.stack([to_weight, to_bias]))
        slope, shift = sums * weight * (variance + eps).rsqrt() / count
        to_x -= F.batch_norm(x, mean, variance, slope, shift, False, 0.0, eps)
        return to_x, to_weight, to_bias, None, None, None, None
