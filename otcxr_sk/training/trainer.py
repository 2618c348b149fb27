"""The training loop; the only file that imports Fabric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm.auto import tqdm

from otcxr_sk.method.diagnostics import effective_rank, spread
from otcxr_sk.method.model import OTCXRModel
from otcxr_sk.method.objective import Objective
from otcxr_sk.method.views import NUMBERS, ViewSampler
from otcxr_sk.training.runtime import Source, choose_precision, load_batches, uniform

if TYPE_CHECKING:
    from lightning_fabric import Fabric

# Embeddings of an epoch that its spread and effective rank are computed from, at most.
WATCHED = 2048
WARMUP = 0.1


@dataclass(frozen=True)
class Trainer:
    """How to train; `fit` trains a model in place.

    Parameters
    ----------
    views : ViewSampler
    objective : Objective
    mean, std : float
        Of the pixels of the training images; images are standardised by them.
    size : int
        Height and width that images are read at, in pixels.
    epochs, batch_size : int
        Every epoch sees every image once, in batches of nearly equal size.
    learning_rate : float
        Peak of AdamW's, after a linear warm-up and before a cosine decay to zero.
    weight_decay : float
        Not applied to biases and norms.
    seed : int
        Order is keyed by (seed, epoch), views by (seed, epoch, place in that order), which names
        an image.
    device : torch.device
    precision : {"auto", "bf16", "float32"}
        Of the encoder; heads, transport and losses are always float32.
    num_workers : int
    verbose : bool
        Whether to show a progress bar.
    """

    views: ViewSampler
    objective: Objective
    mean: float
    std: float
    size: int
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    seed: int
    device: torch.device
    precision: str
    num_workers: int = 0
    verbose: bool = False

    def fit(self, model: OTCXRModel, source: Source) -> dict[str, list[float]]:
        """Train `model` in place, on the CPU again when done.

        Returns
        -------
        history : dict of str to list of float
            Per epoch: every term of the loss, the loss, the learning rate at its end, marginal
            error, matching accuracy and chance, spread and effective rank.

        Raises
        ------
        NonFiniteLossError
            The loss or its gradient is no longer finite. The model then holds the weights of
            the last epoch that ended well, and the error its history.
        """
        from timm.optim import param_groups_weight_decay

        fabric = self._fabric()
        model.train().to(memory_format=torch.channels_last)
        groups = param_groups_weight_decay(model, self.weight_decay)
        optimiser = torch.optim.AdamW(groups, lr=self.learning_rate, betas=(0.9, 0.95))
        steps = self._n_batches(source)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, WarmupCosine(steps * self.epochs).factor
        )
        wrapped, optimiser = fabric.setup(model, optimiser)

        history: dict[str, list[float]] = {}
        good = _snapshot(model)
        with tqdm(total=steps * self.epochs, unit="batch", disable=not self.verbose) as bar:
            for epoch in range(self.epochs):
                order = np.random.default_rng([self.seed, epoch]).permutation(len(source))
                batches = np.array_split(order, steps)
                sums: dict[str, Tensor] = {}
                watched: list[Tensor] = []
                images = load_batches(source, batches, self.size, self.num_workers)
                starts = _starts(batches)
                for start, batch in zip(starts, images, strict=True):
                    terms, embedding = wrapped(*self.draw(batch, epoch, start))
                    loss = self.objective.total(terms)
                    if not torch.isfinite(loss):
                        raise _stopped(model, good, epoch, history)
                    optimiser.zero_grad()
                    fabric.backward(loss)
                    optimiser.step()
                    schedule.step()
                    for name, value in {"loss": loss, **terms}.items():
                        sums[name] = sums.get(name, 0) + value.detach() * len(batch)
                    if len(watched) * len(batch) < WATCHED:
                        watched.append(embedding[: len(batch)])
                    bar.update()
                if not all(value.isfinite().all() for value in model.parameters()):
                    # A finite loss can have a gradient that is not.
                    raise _stopped(model, good, epoch, history)
                good = _snapshot(model)
                numbers = {name: float(value) / len(source) for name, value in sums.items()}
                seen = torch.cat(watched)[:WATCHED].float()
                numbers |= {
                    "spread": spread(seen),
                    "effective_rank": effective_rank(seen),
                    "learning_rate": optimiser.param_groups[0]["lr"],
                }
                for name, number in numbers.items():
                    history.setdefault(name, []).append(number)
                bar.set_postfix(
                    epoch=f"{epoch + 1}/{self.epochs}",
                    loss=f"{numbers['loss']:.3f}",
                    matching=f"{numbers['matching_accuracy']:.2f}",
                )
        model.cpu().eval()
        return history

    @torch.inference_mode()
    def evaluate(self, model: OTCXRModel, source: Source) -> dict[str, float]:
        """Every term of the loss and the loss, on fixed views, with the model in eval mode."""
        model.eval().to(self.device)
        dtype = choose_precision(self.precision, self.device)
        batches = np.array_split(np.arange(len(source)), self._n_batches(source))
        sums: dict[str, float] = {}
        images = load_batches(source, batches, self.size, self.num_workers)
        for start, batch in zip(_starts(batches), images, strict=True):
            with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
                terms, _ = model(*self.draw(batch, 0, start))
            for name, value in {"loss": self.objective.total(terms), **terms}.items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(batch) / len(source)
        return sums

    def _n_batches(self, source: Source) -> int:
        # Variance between images needs two of them in every batch.
        return max(1, min(math.ceil(len(source) / self.batch_size), len(source) // 2))

    def _fabric(self) -> Fabric:
        from lightning_fabric import Fabric
        from lightning_fabric.plugins import MixedPrecision, Precision

        class Autocast(MixedPrecision):
            def convert_input(self, data: Any) -> Any:
                # Fabric would round the crop coordinates to bfloat16 as well.
                return data

        mixed = choose_precision(self.precision, self.device) == torch.bfloat16
        return Fabric(
            accelerator=self.device.type,
            devices=[self.device.index or 0] if self.device.type == "cuda" else 1,
            plugins=Autocast("bf16-mixed", self.device.type) if mixed else Precision(),
        )

    def draw(self, batch: Tensor, epoch: int, start: int) -> tuple[Tensor, Tensor]:
        """Standardise a batch of images and draw its views.

        `start` is the place of its first image in the order of the epoch, which with the seed and
        the epoch decides what is drawn: the same whatever the batch size and the device.
        """
        numbers = uniform((self.seed, epoch), start, start + len(batch), 2 * NUMBERS)
        random = torch.from_numpy(numbers).view(-1, 2, NUMBERS).to(self.device)
        return self.views((batch.to(self.device) - self.mean) / self.std, random)


class NonFiniteLossError(FloatingPointError):
    """Training stopped because the loss or its gradient was NaN or infinite."""

    def __init__(self, epoch: int, history: dict[str, list[float]]) -> None:
        kept = f"The weights of epoch {epoch} are kept." if epoch else "No epoch was completed."
        super().__init__(
            f"the loss or its gradient is not finite in epoch {epoch + 1}. {kept} Lower "
            "learning_rate, or use precision='float32'."
        )
        self.epoch = epoch
        self.history = history


@dataclass(frozen=True)
class WarmupCosine:
    """Share of the peak learning rate: linear warm-up, cosine decay to zero over `steps`."""

    steps: int

    def factor(self, step: int) -> float:
        """Share in (0, 1] at a step, counted from 0."""
        warmup = max(1, round(WARMUP * self.steps))
        if step < warmup:
            return (step + 1) / warmup
        done = (step - warmup) / max(1, self.steps - warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def _starts(batches: Sequence[NDArray[np.intp]]) -> list[int]:
    return [0, *np.cumsum([len(batch) for batch in batches])[:-1].tolist()]


def _stopped(
    model: OTCXRModel, good: dict[str, Tensor], epoch: int, history: dict[str, list[float]]
) -> NonFiniteLossError:
    model.load_state_dict(good)
    model.cpu().eval()
    return NonFiniteLossError(epoch, history)


def _snapshot(model: OTCXRModel) -> dict[str, Tensor]:
    return {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}
