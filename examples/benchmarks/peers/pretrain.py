"""Pre-training of a peer with the optimizer, schedule, batches and views of the library."""

import copy
import math
from dataclasses import dataclass, fields

import numpy as np
import torch

from otcxr_sk import Optimizer, Views
from otcxr_sk.method import build_encoder
from otcxr_sk.training import Randomness, WarmupCosine

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Budget:
    """What all methods have in common: parameters of `OTCXRPretrainer`."""

    encoder: str
    image_size: int
    match_stride: int
    epochs: int
    batch_size: int
    optimizer: Optimizer

    @classmethod
    def of(cls, estimator):
        """Take the parameters of an estimator."""
        return cls(**{field.name: getattr(estimator, field.name) for field in fields(cls)})


def random_encoder(budget, seed):
    """Return an untrained encoder in eval mode, the same for every peer of a seed."""
    with Randomness(seed, CPU).given():
        encoder = build_encoder(
            budget.encoder, size=budget.image_size, match_stride=budget.match_stride
        )
    return encoder.eval()


def pretrain(make_peer, encoder, images, budget, learning_rate, seed):
    """Train a peer's encoder.

    Parameters
    ----------
    make_peer : callable
        Turns an encoder into a `Peer`.
    encoder : DenseEncoder
        The start; it is trained in place.
    images : Tensor of shape (n, 1, H, W)
        Standardized.
    budget : Budget
    learning_rate : float
        Peak, after a linear warm-up and before a cosine decay to zero.
    seed : int

    Returns
    -------
    encoder : DenseEncoder
        In eval mode.

    Raises
    ------
    FloatingPointError
        The loss is not finite.
    """
    views = Views()
    per_epoch = math.ceil(len(images) / budget.batch_size)
    steps = per_epoch * budget.epochs
    schedule = WarmupCosine(steps)
    with Randomness(seed, CPU).exchanged():
        peer = make_peer(encoder).train().to(memory_format=torch.channels_last)
        optimizer = budget.optimizer.build(peer)
        random = np.random.default_rng(seed)
        generator = torch.Generator().manual_seed(seed)
        for step in range(steps):
            if step % per_epoch == 0:
                batches = np.array_split(random.permutation(len(images)), per_epoch)
            loss = peer.loss(*views(images[batches[step % per_epoch]], generator))
            if not torch.isfinite(loss):
                raise FloatingPointError(f"the loss is {float(loss)} in step {step + 1}")
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * schedule.factor(step)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            peer.after_step((step + 1) / steps)
    # A copy does not hold on to heads, teacher and gradients.
    return copy.deepcopy(peer.encoder).eval()
