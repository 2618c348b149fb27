"""The optimiser, its learning rate, and the running average of its weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from timm.utils import ModelEmaV3

OPTIMISERS = ("adamw", "lars")

# Images that a step has where "auto" is the number below.
_IMAGES = 64
_AUTO = {"adamw": 2e-3, "lars": 0.6}

# AdamW forgets squared gradients in 1 / (1 - beta2) steps; twice as many make a warm-up that needs
# no tuning (Ma and Yarats, "On the adequacy of untuned warmup for adaptive optimization", 2021).
_BETAS = (0.9, 0.95)
_WARMUP = round(2 / (1 - _BETAS[1]))

_MOMENTUM = 0.9


def build_optimiser(model: nn.Module, name: str, weight_decay: float) -> torch.optim.Optimizer:
    """Make the optimiser of a model, whose learning rate is set before every step.

    Norms and biases are spared weight decay, and LARS's trust ratio, too.

    Parameters
    ----------
    model : nn.Module
    name : {"adamw", "lars"}
        LARS is that of You, Gitman and Ginsburg, "Large batch training of convolutional
        networks", 2017, with momentum 0.9 and trust coefficient 0.001.
    weight_decay : float
    """
    from timm.optim import Lars, param_groups_weight_decay

    # timm ties both the groups and the trust ratio to there being weight decay.
    groups = param_groups_weight_decay(model, 1.0)
    for group in groups:
        if name == "lars":
            group["always_adapt"] = group["weight_decay"] > 0
        group["weight_decay"] *= weight_decay
    if name == "adamw":
        return torch.optim.AdamW(groups, betas=_BETAS)
    return Lars(groups, momentum=_MOMENTUM)


def peak_rate(learning_rate: float | str, optimizer: str, n_images: int) -> float:
    """Peak of the learning rate for steps of `n_images`.

    Parameters
    ----------
    learning_rate : float or "auto"
        A number is taken as it is. "auto" grows with the square root of `n_images`: from 0.002
        at 64 with AdamW, and as ``0.075 * sqrt(n_images)`` with LARS. The root is the rule for
        Adam of Malladi et al., "On the SDEs and scaling rules for adaptive gradient algorithms",
        2022, of which the betas are left alone here; with LARS it is that of Chen et al.,
        "A simple framework for contrastive learning of visual representations", 2020, appendix
        B.1, for small batches and few epochs.
    optimizer : {"adamw", "lars"}
    n_images : int
        Of all batches and processes that share in a step.

    Examples
    --------
    >>> peak_rate("auto", "adamw", 64), peak_rate("auto", "adamw", 256)
    (0.002, 0.004)
    >>> peak_rate(0.001, "adamw", 256)
    0.001
    """
    if isinstance(learning_rate, str):
        return _AUTO[optimizer] * math.sqrt(n_images / _IMAGES)
    return learning_rate


def build_average(model: nn.Module, decay: float) -> ModelEmaV3:
    """Make the exponential moving average of a model's weights and statistics of batch norm.

    After step t the average keeps a share of ``min(decay, 1 - t ** (-2 / 3))`` of itself and
    takes the rest from the model, so that what weights were at the start is soon forgotten.
    """
    from timm.utils import ModelEmaV3

    return ModelEmaV3(model, decay=decay, use_warmup=True)


@dataclass(frozen=True)
class WarmupConstant:
    """Share of the peak learning rate in a stream without end: linear warm-up, then all of it."""

    def factor(self, step: int) -> float:
        """Share in (0, 1] at a step, counted from 0."""
        return min(1.0, (step + 1) / _WARMUP)
