"""How far a run has come."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from otcxr_sk._transfer import Arriving
from otcxr_sk.method import effective_rank, spectrum, spread
from otcxr_sk.training._checkpoint import RunState
from otcxr_sk.training._epoch import EpochPlan
from otcxr_sk.training._random import Randomness

if TYPE_CHECKING:
    from timm.utils import ModelEmaV3

# Spread and effective rank of an epoch are computed from at most this many embeddings.
WATCHED = 2048

# Batches that a GPU is asked for before a loss is looked at.
LATE = 2


class Tally:
    """Sums over the batches of an epoch so far.

    Parameters
    ----------
    sums : mapping of str to Tensor, default={}
        By term, its sum over earlier batches, all on one device.
    watched : sequence of Tensor, default=()
        Embeddings of earlier batches.
    """

    def __init__(
        self, sums: Mapping[str, Tensor] | None = None, watched: Sequence[Tensor] = ()
    ) -> None:
        self._names = list(sums or ())
        self._totals = torch.stack([*sums.values()]) if sums else None
        self.watched = list(watched)

    @property
    def sums(self) -> dict[str, Tensor]:
        """By term, its sum over the images so far."""
        if self._totals is None:
            return {}
        return {name: one.clone() for name, one in zip(self._names, self._totals, strict=True)}

    @property
    def watches(self) -> bool:
        """Whether the next embedding is needed."""
        return sum(map(len, self.watched)) < WATCHED

    def add(self, terms: Mapping[str, Tensor], embedding: Tensor, n_images: int) -> None:
        """Add the terms of a batch of `n_images`, and the embedding of its views."""
        values = torch.stack([value.detach() for value in terms.values()])
        if self._totals is None:
            self._names, self._totals = list(terms), torch.zeros_like(values)
        self._totals.add_(values, alpha=n_images)
        if self.watches:
            self.watched.append(embedding[:n_images])

    def is_finite(self) -> bool:
        """Whether the embeddings have no NaN and no infinity."""
        return bool(torch.cat(self.watched).isfinite().all())

    def means(self, n_images: int) -> dict[str, float]:
        """Return the means over an epoch of `n_images`, and the health of its embeddings."""
        assert self._totals is not None
        totals = self._totals.tolist()
        seen = torch.cat(self.watched)[:WATCHED].float().cpu()
        return {
            **{name: total / n_images for name, total in zip(self._names, totals, strict=True)},
            "spread": spread(seen),
            "effective_rank": effective_rank(spectrum(seen)),
        }


class Losses:
    """Whether the losses of the batches so far are finite.

    A GPU is not waited for: a loss is looked at when those of a few more batches are asked for.
    """

    def __init__(self) -> None:
        self._coming: deque[Arriving] = deque()

    def add(self, loss: Tensor) -> bool:
        """Take in the loss of a batch, and return whether those that have come are finite."""
        self._coming.append(Arriving(loss.detach()))
        return self._are_finite(LATE if loss.is_cuda else 0)

    def are_finite(self) -> bool:
        """Wait for all losses, and return whether they are finite."""
        return self._are_finite(0)

    def _are_finite(self, left: int) -> bool:
        while len(self._coming) > left:
            if not self._coming.popleft().read().isfinite():
                return False
        return True


class Progress:
    """The state of a run.

    Parameters
    ----------
    model : nn.Module
    optimizer : torch.optim.Optimizer
        Optimizer of the parameters of `model`.
    plan : EpochPlan
    average : ModelEmaV3, default=None
        Running average of `model`, if one is kept.
    precision : lightning_fabric.plugins.Precision, default=None
        Holds the scaler of float16's gradients, if there is one.
    random : Randomness, default=None
        What the network draws from in training. None is a stream with seed 0.

    Attributes
    ----------
    earlier : int
        Steps before epoch 0, in the earlier parts of a stream.
    epoch : int
        Epochs completed.
    step : int
        Steps completed of the next epoch.
    history : dict of str to list of float
        By name, a number for every epoch completed.
    tally : Tally
        Sums over the epoch under way.
    losses : Losses
        Of the batches so far.
    good : dict of str to Tensor
        Weights of `outcome` after the last epoch that ended well, on the CPU.
    kept : dict of str to Tensor
        Weights that a callback wants back at the end; empty at first.
    stopped : bool
        Whether a callback has ended the run.
    paused : bool
        Whether a callback has ended this call of `fit`, but not the run. Not saved.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        plan: EpochPlan,
        average: ModelEmaV3 | None = None,
        precision: Any = None,
        random: Randomness | None = None,
    ) -> None:
        self.model, self.optimizer, self.plan = model, optimizer, plan
        self.average, self.precision = average, precision
        self.random = random or Randomness(0, torch.device("cpu"))
        self.earlier, self.epoch, self.step = 0, 0, 0
        self.history: dict[str, list[float]] = {}
        self.tally, self.losses = Tally(), Losses()
        self.good = snapshot(self.outcome)
        self.kept: dict[str, Tensor] = {}
        self.stopped = self.paused = False
        self._started = time.monotonic()

    @property
    def outcome(self) -> nn.Module:
        """The network that training returns if it ends now: the average, if one is kept."""
        return self.model if self.average is None else self.average.module

    @property
    def done(self) -> int:
        """Steps since the start of the run."""
        return self.earlier + self.epoch * self.plan.steps + self.step

    @property
    def seconds(self) -> float:
        """Time that the run has taken, including earlier parts of a resumed one."""
        return time.monotonic() - self._started

    def end_epoch(self, numbers: dict[str, float]) -> None:
        """Record an epoch and start the next; names without a number this time get NaN."""
        for name in {**self.history, **numbers}:
            values = self.history.setdefault(name, [math.nan] * self.epoch)
            values.append(numbers.get(name, math.nan))
        self.epoch, self.step = self.epoch + 1, 0
        self.tally = Tally()
        self.good = snapshot(self.outcome)

    def pack(self) -> RunState:
        """Collect, between two steps, all that decides how the run continues.

        The learning rate is not included: it follows from the number of steps. Tensors may share
        memory with the run, so save them before the next step.
        """
        groups: dict[str, dict[str, Tensor]] = {
            "model": self.model.state_dict(),
            "sums": self.tally.sums,
            "generator": self.random.states(),
        }
        if self.average is not None:
            groups["average"] = self.average.module.state_dict()
        if self.kept is not self.good:
            groups["kept"] = self.kept
        if self.step:
            groups["good"] = self.good
            groups["watched"] = {"embedding": torch.cat(self.tally.watched)}
        for index, state in self.optimizer.state_dict()["state"].items():
            groups[f"optimizer {index}"] = state
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
            # Files of tensors have their own order, which would become that of the history.
            "sums": list(self.tally.sums),
            "seconds": self.seconds,
            "precision": {} if self.precision is None else self.precision.state_dict(),
        }
        return RunState(tensors, numbers)

    def unpack(self, saved: RunState, folder: str | None = None) -> None:
        """Continue a run from what `pack` collected; a message names the folder.

        Raises
        ------
        ValueError
            It is of another network, or was changed.
        """
        try:
            self._unpack(saved)
        # PyTorch's message has names as they are.
        except (LookupError, TypeError, AttributeError, RuntimeError, ValueError, OverflowError):
            raise ValueError(
                f"the checkpoint in the folder {folder!r} does not fit this run, or was changed; "
                "use another folder"
            ) from None

    def _unpack(self, saved: RunState) -> None:
        groups: dict[str, dict[str, Tensor]] = {}
        for key, value in saved.tensors.items():
            group, _, name = key.partition("/")
            groups.setdefault(group, {})[name] = value
        self.model.load_state_dict(groups["model"])
        if self.average is not None:
            self.average.module.load_state_dict(groups["average"])
        self.good = groups.get("good", groups.get("average", groups["model"]))
        _load_optimizer(self.optimizer, groups)
        device = next(self.model.parameters()).device
        sums, numbers = groups.get("sums", {}), saved.numbers
        self.tally = Tally(
            {name: sums[name].to(device) for name in numbers["sums"]},
            [value.to(device) for value in groups.get("watched", {}).values()],
        )
        self.random.go_on(groups["generator"])
        counts = [numbers[name] for name in ("earlier", "epoch", "step")]
        self.earlier, self.epoch, self.step = counts
        if (
            not all(type(count) is int and 0 <= count < 2**48 for count in counts)
            or self.step >= self.plan.steps
            or not all(type(numbers[name]) is bool for name in ("stopped", "kept is good"))
        ):
            raise ValueError
        # A stream may go on with another precision, whose scaler starts anew.
        if self.precision is not None and numbers["precision"]:
            self.precision.load_state_dict(numbers["precision"])
        self.stopped = numbers["stopped"]
        self.kept = self.good if numbers["kept is good"] else groups.get("kept", {})
        history = numbers["history"]
        self.history = {name: [float(n) for n in values] for name, values in history.items()}
        if any(len(values) != self.epoch for values in self.history.values()):
            raise ValueError
        self._started = time.monotonic() - numbers["seconds"]


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """Copy the weights of a model to the CPU."""
    return {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}


def _load_optimizer(optimizer: torch.optim.Optimizer, groups: dict[str, dict[str, Tensor]]) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for index, parameter in enumerate(parameters):
        if values := groups.get(f"optimizer {index}"):
            # In the parameter's order in memory, because kernels may round differently in another.
            state[index] = {
                name: torch.empty_like(parameter).copy_(value)
                if value.shape == parameter.shape
                else value.clone()
                for name, value in values.items()
            }
    given = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": given})
