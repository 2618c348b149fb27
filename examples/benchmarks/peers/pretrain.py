"""Pre-training of a peer with the optimizer, schedule, batches and views of the library."""

import copy
import math
from dataclasses import dataclass, fields

import numpy as np
import torch

from otcxr_sk import Optimizer, Views
from otcxr_sk.method import NUMBERS_PER_VIEW, build_encoder
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
    device: str = "cpu"

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


def draw_views(views, images, generator):
    """Draw views with random numbers of the CPU, so that they are the same on every device."""
    numbers = torch.rand(NUMBERS_PER_VIEW, 2, len(images), generator=generator)
    return views(images, numbers.permute(2, 1, 0).to(images.device, non_blocking=True))


def pretrain(make_peer, encoder, images, budget, learning_rate, seed):
    """Train a peer's encoder.

    Parameters
    ----------
    make_peer : callable
        Turns an encoder into a `Peer`.
    encoder : DenseEncoder
        The start, on the CPU; it is trained in place.
    images : Tensor of shape (n, 1, H, W)
        Standardized.
    budget : Budget
    learning_rate : float
        Peak, after a linear warm-up and before a cosine decay to zero.
    seed : int

    Returns
    -------
    encoder : DenseEncoder
        In eval mode, on the device of the budget.

    Raises
    ------
    FloatingPointError
        The loss is not finite; noticed at the end of an epoch.
    """
    device, views = torch.device(budget.device), Views()
    images = images.to(device)
    per_epoch = math.ceil(len(images) / budget.batch_size)
    steps = per_epoch * budget.epochs
    schedule, step = WarmupCosine(steps), 0
    with Randomness(seed, device).exchanged():
        peer = make_peer(encoder).train().to(device, memory_format=torch.channels_last)
        optimizer = budget.optimizer.build(peer)
        random = np.random.default_rng(seed)
        generator = torch.Generator().manual_seed(seed)
        for _ in range(budget.epochs):
            order = torch.from_numpy(random.permutation(len(images))).to(device)
            losses = []
            for batch in order.tensor_split(per_epoch):
                loss = peer.loss(*draw_views(views, images[batch], generator))
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate * schedule.factor(step)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
                step += 1
                peer.after_step(step / steps)
            # A look at every loss would have the processor wait for the GPU in every step.
            for place, value in enumerate(torch.stack(losses).tolist(), step - per_epoch + 1):
                if not math.isfinite(value):
                    raise FloatingPointError(f"the loss is {value} in step {place}")
    # A copy does not hold on to heads, teacher and gradients.
    return copy.deepcopy(peer.encoder).eval()
