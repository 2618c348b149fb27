"""Pre-training of a peer: the optimiser, schedule, batches and views of the library's trainer."""

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
from timm.optim import param_groups_weight_decay

from otcxr_sk.method.encoders import build_encoder
from otcxr_sk.method.views import ViewSampler
from otcxr_sk.training.plan import WarmupCosine
from otcxr_sk.training.runtime import private_randomness

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Budget:
    """What all methods get alike; the words are those of `OTCXRPretrainer`."""

    encoder: str
    image_size: int
    match_stride: int
    epochs: int
    batch_size: int
    weight_decay: float


def random_encoder(budget, seed):
    """Untrained encoder in eval mode, the same for every peer of a seed."""
    with private_randomness(seed, CPU):
        encoder = build_encoder(
            budget.encoder, size=budget.image_size, match_stride=budget.match_stride
        )
    return encoder.eval()


def pretrain(make_peer, encoder, images, budget, learning_rate, seed):
    """Train a peer's encoder.

    Parameters
    ----------
    make_peer : callable
        Puts heads on an encoder: gives a `Peer`.
    encoder : Encoder
        Where to start from; it is trained itself.
    images : Tensor of shape (n, 1, H, W)
        Standardised.
    budget : Budget
    learning_rate : float
        Peak, after a linear warm-up and before a cosine decay to zero.
    seed : int

    Returns
    -------
    encoder : Encoder
        In eval mode.

    Raises
    ------
    FloatingPointError
        The loss is no longer finite.
    """
    sampler = ViewSampler()
    per_epoch = math.ceil(len(images) / budget.batch_size)
    steps = per_epoch * budget.epochs
    with private_randomness(seed, CPU):
        peer = make_peer(encoder).train().to(memory_format=torch.channels_last)
        groups = param_groups_weight_decay(peer, budget.weight_decay)
        optimiser = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.95))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, WarmupCosine(steps).factor)
        random = np.random.default_rng(seed)
        generator = torch.Generator().manual_seed(seed)
        for step in range(steps):
            if step % per_epoch == 0:
                batches = np.array_split(random.permutation(len(images)), per_epoch)
            loss = peer.loss(*sampler(images[batches[step % per_epoch]], generator))
            if not torch.isfinite(loss):
                raise FloatingPointError(f"the loss is {float(loss)} in step {step + 1}")
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            peer.after_step((step + 1) / steps)
    # A copy lets go of heads, teacher and gradients.
    return copy.deepcopy(peer.encoder).eval()
