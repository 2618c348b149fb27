"""The training loop; the only file that imports Fabric."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from tqdm.auto import tqdm

from otcxr_sk._quote import counted
from otcxr_sk.images import ImageSource, read_batches
from otcxr_sk.training._checkpoint import CheckpointFolder, InMemoryCheckpoint, RunState
from otcxr_sk.training._device import choose_precision
from otcxr_sk.training._distributed import SINGLE_PROCESS, Processes
from otcxr_sk.training._epoch import Draw, EpochPlan, NonFiniteLossError
from otcxr_sk.training._interrupt import deferred_interrupt
from otcxr_sk.training._optimizer import Optimizer, WarmupConstant, WarmupCosine, peak_rate
from otcxr_sk.training._progress import Progress
from otcxr_sk.training._random import Randomness, TrainingPasses
from otcxr_sk.training._running_statistics import settling, unsettled
from otcxr_sk.training._shared_batch import Loss, has_idle_parameters
from otcxr_sk.training.callbacks import Callback, TrainingState, calling

if TYPE_CHECKING:
    from lightning_fabric import Fabric

# Fabric's names for computing in these dtypes by autocast.
_MIXED: dict[torch.dtype, Any] = {torch.bfloat16: "bf16-mixed", torch.float16: "16-mixed"}

# The scale of float16's gradients is halved when they overflow, which training recovers from.
# Below this scale it does not.
_LEAST_SCALE = 1e-4

# Steps between two looks at that scale, which wait for the GPU.
_LOOK = 50

# Fabric keeps in one variable for all threads that it is going back, and checks it in bfloat16.
_going_back = Lock()


@dataclass(frozen=True)
class Trainer:
    """The settings of a training run; `fit` trains a model in place.

    Parameters
    ----------
    draw : Draw
        Standardizes images and draws their views. Its seed also decides the order of each epoch.
    objective : Loss
    optimizer : Optimizer
    size : int
        Height and width that images are read at, in pixels.
    epochs, batch_size : int
        An epoch trains on each image once, in batches of nearly equal size, which are divided
        among processes.
    learning_rate : float or "auto"
        Peak of the learning rate; see `peak_rate`.
    precision : {"auto", "bfloat16", "float16", "float32"}
        Arithmetic of the encoder; heads, transport and losses are always float32.
    accumulate : int, default=1
        Batches per step of the optimizer.
    schedule : WarmupConstant, default=None
        None is a linear warm-up and a cosine decay to zero over all epochs.
    num_workers : int or "auto", default=0
        Processes that read images; 0 reads in this one.
    verbose : bool, default=False
        Whether to show a progress bar.
    processes : Processes, default=SINGLE_PROCESS
        The processes that train together. Only the first has checkpoints and a progress bar.
    callbacks : sequence of Callback, default=()
        Called in this order.
    validate : callable, default=None
        Called after every epoch with the network; returns what it adds to the history. It may
        raise a `NonFiniteLossError`.
    fitted : callable, default=None
        Makes the result of `TrainingState.estimator`.
    """

    draw: Draw
    objective: Loss
    optimizer: Optimizer
    size: int
    epochs: int
    batch_size: int
    learning_rate: float | str
    precision: str
    accumulate: int = 1
    schedule: WarmupConstant | None = None
    num_workers: int | str = 0
    verbose: bool = False
    processes: Processes = SINGLE_PROCESS
    callbacks: Sequence[Callback] = ()
    validate: Callable[[nn.Module], dict[str, float]] | None = None
    fitted: Callable[[TrainingState], Any] | None = None

    def fit(
        self,
        model: nn.Module,
        source: ImageSource,
        checkpoints: CheckpointFolder | InMemoryCheckpoint | None = None,
        start: RunState | None = None,
        random: Randomness | None = None,
    ) -> dict[str, list[float]]:
        """Train `model` in place; it is on the CPU and in eval mode afterwards.

        Parameters
        ----------
        model : nn.Module
            Takes what `draw` returns, and returns terms of the loss and embeddings, such as
            `OTCXRModel`.
        source : ImageSource
        checkpoints : CheckpointFolder or InMemoryCheckpoint, default=None
            Where the run is saved.
        start : RunState, default=None
            Where the run continues from.
        random : Randomness, default=None
            What the network draws from. None is a stream with the seed of `draw`.

        Returns
        -------
        history : dict of str to list of float
            Per epoch: every term of the loss, the loss, the learning rate at its end, marginal
            error, matching accuracy and chance, spread and effective rank; and what `validate`
            and callbacks add.

        Raises
        ------
        NonFiniteLossError
            If the loss, its gradient, the embedding or the validation loss is not finite. The
            model then has the weights of the last epoch that ended well, and the error has its
            history.
        TrainingInterrupted
            If Ctrl-C was pressed. The model then has the weights after the step under way, which
            are saved, and the exception has the history of the completed epochs.
        ValueError
            If a batch is too small to be divided among the processes.
        """
        rank, count = self.processes.rank, self.processes.count
        plan = EpochPlan(len(source), self.batch_size, self.accumulate, rank, count)
        fabric = self._fabric(model)
        model.train().to(memory_format=torch.channels_last)
        plain = self.optimizer.build(model, on_gpu=self.draw.device.type == "cuda")
        network, optimizer = fabric.setup(self.processes.share(model, self.objective), plain)
        average = self.optimizer.build_average(model)
        random = random or Randomness(self.draw.seed, self.draw.device)
        progress = Progress(model, plain, plan, average, fabric.strategy.precision, random)
        if start is not None:
            progress.unpack(start, checkpoints.folder if checkpoints else None)
        total = progress.earlier + plan.steps * self.epochs
        shown = self.verbose and self.processes.is_first
        bar = tqdm(total=total, initial=progress.done, unit="step", disable=not shown)
        state = TrainingState(progress, self.epochs, self.fitted)
        with bar, calling(self.callbacks, state), deferred_interrupt() as interrupt:
            stop, progress.paused = self.processes.any(interrupt.asked, progress.paused)
            while not (stop or self._is_over(progress)):
                for _ in self._steps(fabric, network, optimizer, progress, source):
                    bar.update()
                    due = _is_due(checkpoints, progress)
                    if any(self.processes.any(interrupt.asked, due)):
                        break
                (stop,) = self.processes.any(interrupt.asked)
                if _is_lost(fabric, progress):
                    raise _failed(progress)
                if progress.step == plan.steps:
                    self._end_epoch(progress, len(source), state)
                    bar.set_postfix(self._summary(progress))
                at_once = stop or self._is_over(progress)
                if checkpoints and (at_once or _is_due(checkpoints, progress)):
                    checkpoints.save(progress.pack(), progress.done)
            (stop,) = self.processes.any(interrupt.asked)
            if average is not None:
                model.load_state_dict(average.module.state_dict())
            model.cpu().eval()
            if stop:
                raise _interrupted(progress, checkpoints.folder if checkpoints else None)
            state.ended = True
        return progress.history

    def _steps(
        self,
        fabric: Fabric,
        network: Any,
        optimizer: Any,
        progress: Progress,
        source: ImageSource,
    ) -> Iterator[None]:
        """Train to the end of the epoch under way, and yield after every step."""
        plan = progress.plan
        order = np.random.default_rng([self.draw.seed, progress.epoch]).permutation(len(source))
        first = plan.first_batch(progress.step)
        batches = plan.batches(order)[first:]
        # Anew in every epoch, because callbacks may have changed the network.
        passes = TrainingPasses(progress.model, progress.random)
        norms = unsettled(progress.model)
        optimizer.zero_grad()
        images = read_batches(source, batches, self.size, self.num_workers, self.draw.device)
        with closing(images):
            for index, batch in enumerate(images, first):
                rows = batches[index - first]
                views = self.draw(batch, progress.epoch, plan.starts[index], rows)
                key = self.draw.seed, progress.epoch, plan.starts[index]
                self.processes.seed(progress.random, *key)
                train = partial(self._pass, fabric, network, progress, index, views)
                with settling(norms):
                    loss, terms, embedding = passes.do(train)
                if progress.tally.watches:
                    embedding = self.processes.join(embedding, plan.parts[index])
                progress.tally.add({"loss": loss, **terms}, embedding, plan.sizes[index])
                if plan.ends_step(index):
                    self._step(fabric, network, optimizer, progress)
                    yield

    def _pass(
        self, fabric: Fabric, network: Any, progress: Progress, index: int, views: Any
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """Go forward and backward with a batch; return the loss, its terms and the embedding."""
        plan = progress.plan
        # Gradients are exchanged between processes at the end of a step only.
        with fabric.no_backward_sync(network, enabled=not plan.ends_step(index)):
            terms, embedding = network(*views)
            loss = self.objective.total(terms)
            if not progress.losses.add(loss):
                raise _failed(progress)
            try:
                with _going_back:
                    fabric.backward(loss * plan.share(index))
            except RuntimeError as error:
                # Torch's search for anomalies stops at the first gradient that is NaN.
                if torch.is_anomaly_check_nan_enabled() and "nan values" in str(error):
                    raise _failed(progress) from error
                raise
        return loss, terms, embedding

    def _step(self, fabric: Fabric, network: Any, optimizer: Any, progress: Progress) -> None:
        rate = self._rate(progress)
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1.0)
        limit = self.optimizer.clip_norm
        if limit is not None:
            # If the gradient is not finite, the scaler skips the step or `fit` finds the weights.
            fabric.clip_gradients(network, optimizer, max_norm=limit, error_if_nonfinite=False)
        optimizer.step()
        optimizer.zero_grad()
        progress.step += 1
        if progress.average is not None:
            progress.average.update(progress.model, progress.done)
        if progress.step % _LOOK == 0 and _has_no_scale(fabric):
            raise _failed(progress)

    def _end_epoch(self, progress: Progress, n_images: int, state: TrainingState) -> None:
        if not progress.tally.is_finite():
            raise _failed(progress, "the embedding")
        numbers = {**progress.tally.means(n_images), "learning_rate": self._rate(progress)}
        if self.validate is not None:
            try:
                numbers |= self.validate(progress.outcome)
            except NonFiniteLossError as error:
                raise _failed(progress, "the validation loss") from error
            progress.model.train()
        progress.end_epoch(self.processes.from_first(lambda: numbers))
        for callback in self.callbacks:
            if callback.on_epoch_end(state):
                progress.stopped = True
        progress.stopped, progress.paused = self.processes.any(progress.stopped, progress.paused)

    def _summary(self, progress: Progress) -> dict[str, str]:
        last = {name: values[-1] for name, values in progress.history.items()}
        shown = {"loss": "loss", "matching_accuracy": "matching", "read_out": "read-out error"}
        numbers = {label: f"{last[name]:.3f}" for name, label in shown.items() if name in last}
        return {"epoch": f"{progress.epoch}/{self.epochs}", **numbers}

    def _rate(self, progress: Progress) -> float:
        curve = self.schedule or WarmupCosine(progress.plan.steps * self.epochs)
        n_images = self.batch_size * self.accumulate
        peak = peak_rate(self.learning_rate, self.optimizer.name, n_images)
        return peak * curve.factor(progress.done)

    def _is_over(self, progress: Progress) -> bool:
        # A pause waits for the end of the epoch.
        paused = progress.paused and progress.step == 0
        return progress.epoch == self.epochs or progress.stopped or paused

    def _fabric(self, model: nn.Module) -> Fabric:
        from lightning_fabric import Fabric
        from lightning_fabric.accelerators import CUDAAccelerator
        from lightning_fabric.plugins import MixedPrecision, Precision
        from lightning_fabric.strategies import DDPStrategy

        class Autocast(MixedPrecision):
            def convert_input(self, data: Any) -> Any:
                # Fabric would also round the coordinates of the crops.
                return data

            def convert_output(self, data: Any) -> Any:
                # Fabric would give it the default dtype of the program.
                return data

            def unscale_gradients(self, optimizer: Any) -> None:
                # Fabric refuses to for fused optimizers, whose gradients torch unscales as well.
                if self.scaler is not None:
                    self.scaler.unscale_(optimizer)

        class Quiet(CUDAAccelerator):
            def setup_device(self, device: torch.device) -> None:
                # Fabric would print advice on settings that belong to the program, and change the
                # current device for good.
                pass

        device = self.draw.device
        accelerator: Any = Quiet() if device.type == "cuda" else device.type
        mixed = _MIXED.get(choose_precision(self.precision, device))
        plugin = Autocast(mixed, device.type) if mixed else Precision()
        if self.processes.count == 1:
            index = [device.index or 0] if device.type == "cuda" else 1
            return Fabric(accelerator=accelerator, devices=index, plugins=plugin)
        here = int(os.environ["LOCAL_WORLD_SIZE"])
        idle = has_idle_parameters(model, self.objective, self.size)
        fabric = Fabric(
            accelerator=accelerator,
            strategy=DDPStrategy(find_unused_parameters=idle),
            devices=here,
            num_nodes=self.processes.count // here,
            plugins=plugin,
        )
        fabric.launch()
        return fabric


class TrainingInterrupted(KeyboardInterrupt):
    """Training was interrupted by Ctrl-C, and stopped after the step under way.

    Attributes
    ----------
    history : dict of str to list of float
        By name, a number for every epoch completed.
    """

    history: dict[str, list[float]]


def _failed(progress: Progress, what: str = "the loss or its gradient") -> NonFiniteLossError:
    progress.model.load_state_dict(progress.good)
    progress.model.cpu().eval()
    epoch = progress.epoch
    kept = f"The weights of epoch {epoch} are kept." if epoch else "No epoch was completed."
    return NonFiniteLossError(
        f"{what} is not finite in epoch {epoch + 1}. {kept} Lower learning_rate, or use "
        "precision='float32'.",
        epoch,
        progress.history,
    )


def _is_lost(fabric: Fabric, progress: Progress) -> bool:
    """Whether training has failed, which may not have been noticed so far."""
    # A finite loss can have a gradient that is not finite.
    largest = get_total_norm([p for p in progress.model.parameters() if p.numel()], math.inf)
    return _has_no_scale(fabric) or not (progress.losses.are_finite() and largest.isfinite())


def _has_no_scale(fabric: Fabric) -> bool:
    """Whether the gradients of float16 overflow at every scale."""
    return fabric.strategy.precision.state_dict().get("scale", 1) < _LEAST_SCALE


def _interrupted(progress: Progress, folder: str | None) -> TrainingInterrupted:
    saved = f"; to go on, call fit again with checkpoint={folder!r}" if folder else ""
    error = TrainingInterrupted(
        f"training was interrupted after step {progress.done}, with "
        f"{counted(progress.epoch, 'epoch')} completed{saved}"
    )
    error.history = progress.history
    return error


def _is_due(checkpoints: CheckpointFolder | InMemoryCheckpoint | None, progress: Progress) -> bool:
    return checkpoints is not None and checkpoints.is_due(progress.epoch, progress.step)
