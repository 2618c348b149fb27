"""How far a run has come."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from otcxr_sk.method.diagnostics import effective_rank, spectrum, spread
from otcxr_sk.training.checkpoint import Checkpoint
from otcxr_sk.training.plan import EpochPlan

if TYPE_CHECKING:
    from timm.utils import ModelEmaV3

# Embeddings of an epoch that its spread and effective rank are computed from, at most.
WATCHED = 2048


class Tally:
    """Sums of what the batches of an epoch have told so far."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.watched: list[Tensor] = []

    @property
    def watches(self) -> bool:
        """Whether the next embedding is wanted."""
        return sum(map(len, self.watched)) < WATCHED

    def add(self, terms: dict[str, Tensor], embedding: Tensor, n_images: int) -> None:
        """Count a batch of `n_images` and the embedding of its views."""
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach() * n_images
        if self.watches:
            self.watched.append(embedding[:n_images])

    def means(self, n_images: int) -> dict[str, float]:
        """Means over the epoch, and the health of its embeddings."""
        seen = torch.cat(self.watched)[:WATCHED].float()
        return {
            **{name: float(value) / n_images for name, value in self.sums.items()},
            "spread": spread(seen),
            "effective_rank": effective_rank(spectrum(seen)),
        }


class Progress:
    """Where a run stands.

    Parameters
    ----------
    model : nn.Module
    optimiser : torch.optim.Optimizer
        Of the parameters of `model`.
    plan : EpochPlan
    average : ModelEmaV3, default=None
        Running average of `model`, if one is kept.
    precision : lightning_fabric.plugins.Precision, default=None
        With the scaler of float16's gradients, if there is one.

    Attributes
    ----------
    earlier : int
        Steps made before epoch 0, by a stream.
    epoch : int
        Epochs completed.
    step : int
        Steps done of the next one.
    history : dict of str to list of float
        A number for every epoch completed.
    tally : Tally
        Of the epoch that is under way.
    good : dict of str to Tensor
        Weights of `outcome` after the last epoch that ended well, on the CPU.
    kept : dict of str to Tensor
        Weights that a callback wants back at the end; none at first.
    stopped : bool
        Whether a callback has ended the run.
    """

    def __init__(
        self,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        plan: EpochPlan,
        average: ModelEmaV3 | None = None,
        precision: Any = None,
    ) -> None:
        self.model, self.optimiser, self.plan = model, optimiser, plan
        self.average, self.precision = average, precision
        self.earlier, self.epoch, self.step = 0, 0, 0
        self.history: dict[str, list[float]] = {}
        self.tally = Tally()
        self.good = snapshot(self.outcome)
        self.kept: dict[str, Tensor] = {}
        self.stopped = False
        self._started = time.monotonic()

    @property
    def outcome(self) -> nn.Module:
        """What training gives if it ends now: the average, if one is kept."""
        return self.model if self.average is None else self.average.module

    @property
    def done(self) -> int:
        """Steps from the start of the run."""
        return self.earlier + self.epoch * self.plan.steps + self.step

    @property
    def seconds(self) -> float:
        """Time that the run has taken, earlier parts included."""
        return time.monotonic() - self._started

    def end_epoch(self, numbers: dict[str, float]) -> None:
        """Write down an epoch and start the next; NaN for what has no number this time."""
        for name in {**self.history, **numbers}:
            values = self.history.setdefault(name, [math.nan] * self.epoch)
            values.append(numbers.get(name, math.nan))
        self.epoch, self.step = self.epoch + 1, 0
        self.tally = Tally()
        self.good = snapshot(self.outcome)

    def pack(self) -> Checkpoint:
        """Gather all that decides how the run goes on, between two steps.

        The learning rate is not among it: it follows from the number of steps. Tensors are no
        copies where they need not be: save them before the next step.
        """
        groups: dict[str, dict[str, Tensor]] = {
            "model": self.model.state_dict(),
            "sums": self.tally.sums,
            "generator": _generators(self.model),
        }
        if self.average is not None:
            groups["average"] = self.average.module.state_dict()
        if self.kept is not self.good:
            groups["kept"] = self.kept
        if self.step:
            groups["good"] = self.good
            groups["watched"] = {"embedding": torch.cat(self.tally.watched)}
        for index, state in self.optimiser.state_dict()["state"].items():
            groups[f"optimiser {index}"] = state
        tensors = {
            f"{group}/{name}": value.cpu().contiguous()
            for group, values in groups.items()
            for name, value in values.items()
        }
        numbers = {
            "earlier": self.earlier,
            "epoch": self.epoch,
            "step": self.step,
            "steps": self.plan.steps,
            "stopped": self.stopped,
            "kept is good": self.kept is self.good,
            "history": self.history,
            "seconds": self.seconds,
            "precision": {} if self.precision is None else self.precision.state_dict(),
        }
        return Checkpoint(tensors, numbers)

    def unpack(self, checkpoint: Checkpoint) -> None:
        """Take up a run where `pack` left it."""
        groups: dict[str, dict[str, Tensor]] = {}
        for key, value in checkpoint.tensors.items():
            group, _, name = key.partition("/")
            groups.setdefault(group, {})[name] = value
        self.model.load_state_dict(groups["model"])
        if self.average is not None:
            self.average.module.load_state_dict(groups["average"])
        self.good = groups.get("good", groups.get("average", groups["model"]))
        _load_optimiser(self.optimiser, groups)
        device = next(self.model.parameters()).device
        self.tally = Tally()
        sums = groups.get("sums", {})
        self.tally.sums = {name: value.to(device) for name, value in sums.items()}
        self.tally.watched = [value.to(device) for value in groups.get("watched", {}).values()]
        torch.set_rng_state(groups["generator"]["cpu"])
        if device.type == "cuda" and "cuda" in groups["generator"]:
            torch.cuda.set_rng_state(groups["generator"]["cuda"], device)
        numbers: dict[str, Any] = checkpoint.numbers
        self.earlier = numbers["earlier"]
        self.epoch, self.step = numbers["epoch"], numbers["step"]
        if self.precision is not None:
            self.precision.load_state_dict(numbers["precision"])
        self.stopped = numbers.get("stopped", False)
        self.kept = self.good if numbers.get("kept is good") else groups.get("kept", {})
        self.history = {name: list(values) for name, values in numbers["history"].items()}
        self._started = time.monotonic() - numbers["seconds"]


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Copy the weights to the CPU."""
    return {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}


def _generators(model: nn.Module) -> dict[str, Tensor]:
    device = next(model.parameters()).device
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _load_optimiser(optimiser: torch.optim.Optimizer, groups: dict[str, dict[str, Tensor]]) -> None:
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for index, parameter in enumerate(parameters):
        if values := groups.get(f"optimiser {index}"):
            # Kernels may round differently for another order in memory.
            state[index] = {
                name: torch.empty_like(parameter).copy_(value)
                if value.shape == parameter.shape
                else value
                for name, value in values.items()
            }
    given = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": state, "param_groups": given})
