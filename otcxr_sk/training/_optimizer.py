"""The optimizer, its learning rate at every step, and the running average of the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from otcxr_sk._parameters import ParameterGroup

if TYPE_CHECKING:
    import torch
    from timm.utils import ModelEmaV3
    from torch import nn

OPTIMIZERS = ("adamw", "lars")

# AdamW's decay of the averages of gradients and of their squares; LARS's of gradients.
BETAS = (0.9, 0.95)
_MOMENTUM = 0.9


@dataclass(repr=False)
class Optimizer(ParameterGroup):
    """How a gradient becomes a step.

    The learning rate and the number of batches in a step are parameters of the estimator.

    Parameters
    ----------
    name : {"adamw", "lars"}, default="adamw"
        LARS (You, Gitman and Ginsburg, "Large batch training of convolutional networks", 2017,
        with momentum 0.9 and trust coefficient 0.001) is for steps of thousands of images.
    weight_decay : float, default=0.01
        Not applied to biases and normalization layers, which LARS's trust ratio spares, too.
    clip_norm : float, default=None
        Largest norm of the gradient of a step, over all parameters; a longer gradient is scaled
        down to it. None clips nothing.
    ema : float, default=None
        Decay, such as 0.999, of a running average of weights and batch norm statistics over
        about ``1 / (1 - ema)`` steps; training then ends with the average. After step t it keeps
        a share of ``min(ema, 1 - t ** (-2 / 3))`` of itself, so that the start is soon forgotten.
        None keeps no average.

    See Also
    --------
    otcxr_sk.OTCXRPretrainer : Takes this, or the name alone, as its parameter `optimizer`.

    Examples
    --------
    >>> from otcxr_sk import OTCXRPretrainer, Optimizer
    >>> OTCXRPretrainer(optimizer=Optimizer("lars", weight_decay=1e-6))
    OTCXRPretrainer(optimizer=Optimizer(name='lars', weight_decay=1e-06))
    """

    name: str = "adamw"
    weight_decay: float = 0.01
    clip_norm: float | None = None
    ema: float | None = None

    def build(self, model: nn.Module, *, on_gpu: bool = False) -> torch.optim.Optimizer:
        """Build the optimizer of a model; its learning rate is set before every step.

        Parameters
        ----------
        model : torch.nn.Module
            What is optimized. It may have its own ``parameter_groups(weight_decay)``, whose
            ``lr_scale`` multiplies the learning rate.
        on_gpu : bool, default=False
            Whether the model will be moved to a GPU.

        Returns
        -------
        optimizer : torch.optim.Optimizer
            Without a learning rate yet.
        """
        import torch
        from timm.optim import Lars, param_groups_weight_decay

        # timm makes two groups, and applies the trust ratio, only where there is weight decay.
        own = getattr(model, "parameter_groups", partial(param_groups_weight_decay, model))
        groups = own(1.0)
        for group in groups:
            if self.name == "lars":
                group["always_adapt"] = group["weight_decay"] > 0
            group["weight_decay"] *= self.weight_decay
        if self.name == "adamw":
            # One launch for all parameters. On the CPU, it would round differently, no faster.
            fused = True if on_gpu else None
            return torch.optim.AdamW(groups, betas=BETAS, fused=fused)
        if self.name != "lars":
            raise ValueError(f"name must be 'adamw' or 'lars', got {self.name!r}")
        return Lars(groups, momentum=_MOMENTUM)

    def build_average(self, model: nn.Module) -> ModelEmaV3 | None:
        """Start the running average of a model.

        Parameters
        ----------
        model : torch.nn.Module
            Whose weights are averaged.

        Returns
        -------
        average : timm.utils.ModelEmaV3 or None
            None if `ema` is None.
        """
        from timm.utils import ModelEmaV3

        return None if self.ema is None else ModelEmaV3(model, decay=self.ema, use_warmup=True)


# Share of the steps of a run in which the learning rate rises.
WARMUP = 0.1

# AdamW forgets squared gradients in 1 / (1 - beta2) steps; a warm-up of twice as many needs no
# tuning (Ma and Yarats, "On the adequacy of untuned warmup for adaptive optimization", 2021).
_WARMUP_STEPS = round(2 / (1 - BETAS[1]))

# The rates that "auto" takes for steps of so many images.
_IMAGES = 64
_AUTO = {"adamw": 2e-3, "lars": 0.6}


def peak_rate(learning_rate: float | str, optimizer: str, n_images: int) -> float:
    """Return the peak of the learning rate for steps of `n_images`.

    Parameters
    ----------
    learning_rate : float or "auto"
        A number is returned as it is. "auto" grows with the square root of `n_images`: from 0.002
        at 64 with AdamW, and as ``0.075 * sqrt(n_images)`` with LARS. For AdamW, the root is the
        rule of Malladi et al., "On the SDEs and scaling rules for adaptive gradient algorithms",
        2022, for Adam, without its rule for the betas. For LARS, it is the rule of Chen et al.,
        "A simple framework for contrastive learning of visual representations", 2020, appendix
        B.1, for small batches and few epochs.
    optimizer : {"adamw", "lars"}
    n_images : int
        Images in a step, over all its batches and processes.

    Examples
    --------
    >>> peak_rate("auto", "adamw", 64), peak_rate("auto", "adamw", 256)
    (0.002, 0.004)
    >>> peak_rate(0.001, "adamw", 256)
    0.001
    """
    if isinstance(learning_rate, str):
        return _AUTO[optimizer] * math.sqrt(n_images / _IMAGES)
    return float(learning_rate)


@dataclass(frozen=True)
class WarmupCosine:
    """Share of the peak learning rate: linear warm-up, then cosine decay to zero over `steps`."""

    steps: int

    def factor(self, step: int) -> float:
        """Return the share, in [0, 1], at a step counted from 0."""
        warmup = max(1, round(WARMUP * self.steps))
        if step < warmup:
            return (step + 1) / warmup
        done = (step - warmup) / max(1, self.steps - warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


@dataclass(frozen=True)
class WarmupConstant:
    """Share of the peak learning rate in an endless stream: linear warm-up, then all of it."""

    def factor(self, step: int) -> float:
        """Return the share, in (0, 1], at a step counted from 0."""
        return min(1.0, (step + 1) / _WARMUP_STEPS)
