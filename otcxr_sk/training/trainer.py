"""The training loop; the only file that imports Fabric."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from otcxr_sk.images import ImageSource
from otcxr_sk.method.model import OTCXRModel
from otcxr_sk.method.objective import Objective
from otcxr_sk.method.views import NUMBERS, ViewSampler
from otcxr_sk.training.callbacks import TrainingState, Watch
from otcxr_sk.training.checkpoint import Checkpoint, Checkpoints
from otcxr_sk.training.distributed import ALONE, Processes
from otcxr_sk.training.interrupt import deferred_interrupt
from otcxr_sk.training.optimiser import (
    WarmupConstant,
    build_average,
    build_optimiser,
    peak_rate,
)
from otcxr_sk.training.plan import EpochPlan, WarmupCosine
from otcxr_sk.training.progress import Progress
from otcxr_sk.training.runtime import choose_precision, load_batches, uniform
from otcxr_sk.training.shared_batch import has_idle_parameters
from otcxr_sk.training.stream import Memory

if TYPE_CHECKING:
    from lightning_fabric import Fabric

# Names that Fabric has for what autocast computes in.
_MIXED: dict[torch.dtype, Any] = {torch.bfloat16: "bf16-mixed", torch.float16: "16-mixed"}

# The scale of float16's gradients is halved when they overflow, and so many steps left out are no
# accident.
_LEAST_SCALE = 1e-4

NOBODY = Watch()


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
        Every epoch sees every image once, in batches of nearly equal size, which processes share.
    learning_rate : float or "auto"
        Peak, after a linear warm-up and before a cosine decay to zero; see `peak_rate`.
    weight_decay : float
        Not applied to biases and norms.
    seed : int
        Order is keyed by (seed, epoch), views by (seed, epoch, place in that order), which names
        an image.
    device : torch.device
    precision : {"auto", "bf16", "fp16", "float32"}
        Of the encoder; heads, transport and losses are always float32.
    accumulate : int
        Batches per step of the optimiser.
    optimizer : {"adamw", "lars"}
    clip_norm : float or None
        Largest norm of the gradient of a step, all parameters together.
    ema : float or None
        Decay of a running average of the weights, which the model holds in the end.
    schedule : WarmupConstant or None
        None is the warm-up and the cosine over all epochs.
    max_time : float or None
        Minutes after which no further epoch is begun, earlier parts of a resumed run included.
    num_workers : int
    verbose : bool
        Whether to show a progress bar.
    processes : Processes
        Those that `fit` shares every batch with; the first alone has checkpoints and a bar.
    """

    views: ViewSampler
    objective: Objective
    mean: float
    std: float
    size: int
    epochs: int
    batch_size: int
    learning_rate: float | str
    weight_decay: float
    seed: int
    device: torch.device
    precision: str
    accumulate: int = 1
    optimizer: str = "adamw"
    clip_norm: float | None = None
    ema: float | None = None
    schedule: WarmupConstant | None = None
    max_time: float | None = None
    num_workers: int = 0
    verbose: bool = False
    processes: Processes = ALONE

    def fit(
        self,
        model: OTCXRModel,
        source: ImageSource,
        checkpoints: Checkpoints | Memory | None = None,
        start: Checkpoint | None = None,
        watch: Watch = NOBODY,
    ) -> dict[str, list[float]]:
        """Train `model` in place, on the CPU again when done.

        Parameters
        ----------
        model : OTCXRModel
        source : ImageSource
        checkpoints : Checkpoints or Memory, default=None
            Where to save how far training has come.
        start : Checkpoint, default=None
            Where to go on from.
        watch : Watch, optional
            What looks at the run; it may end it early and choose among its weights.

        Returns
        -------
        history : dict of str to list of float
            Per epoch: every term of the loss, the loss, the learning rate at its end, marginal
            error, matching accuracy and chance, spread and effective rank; with images held
            out, "validation_loss"; and what callbacks record.

        Raises
        ------
        NonFiniteLossError
            The loss or its gradient is no longer finite. The model then holds the weights of
            the last epoch that ended well, and the error its history.
        TrainingInterrupted
            Ctrl-C was pressed. The model then holds the weights after the step that was under
            way, which is saved, and the exception the history of the epochs before.
        ValueError
            Batches are too small to be shared by so many processes.
        """
        plan = self._plan(source, self.processes.rank, self.processes.count)
        fabric = self._fabric(model)
        model.train().to(memory_format=torch.channels_last)
        plain = build_optimiser(model, self.optimizer, self.weight_decay)
        network, optimiser = fabric.setup(self.processes.spread(model, self.objective), plain)
        average = None if self.ema is None else build_average(model, self.ema)
        precision = fabric.strategy.precision
        progress = Progress(model, plain, plan, average, precision)
        if start is not None:
            progress.unpack(start)
        total = progress.earlier + progress.plan.steps * self.epochs
        shown = self.verbose and self.processes.is_first
        bar = tqdm(total=total, initial=progress.done, unit="step", disable=not shown)
        state = TrainingState(progress, self.epochs, watch.fitted)
        with bar, watch.over(state), deferred_interrupt() as interrupt:
            (stop,) = self.processes.any(interrupt.asked)
            while not (stop or self._is_over(progress)):
                for _ in self._steps(fabric, network, optimiser, progress, source):
                    bar.update()
                    due = _is_due(checkpoints, progress)
                    if any(self.processes.any(interrupt.asked, due)):
                        break
                (stop,) = self.processes.any(interrupt.asked)
                # A finite loss can have a gradient that is not.
                if not all(value.isfinite().all() for value in model.parameters()):
                    raise _failed(progress)
                if progress.step == progress.plan.steps:
                    self._end_epoch(progress, len(source), bar, watch, state)
                at_once = stop or self._is_over(progress)
                if checkpoints and (at_once or _is_due(checkpoints, progress)):
                    checkpoints.save(progress.pack(), progress.done)
            (stop,) = self.processes.any(interrupt.asked)
            if average is not None:
                model.load_state_dict(average.module.state_dict())
            model.cpu().eval()
            if stop:
                raise TrainingInterrupted(progress, checkpoints.folder if checkpoints else None)
            state.ended = True
        return progress.history

    def _steps(
        self,
        fabric: Fabric,
        network: Any,
        optimiser: Any,
        progress: Progress,
        source: ImageSource,
    ) -> Iterator[None]:
        """Train to the end of the epoch, from wherever in it the run is, and stop at every step."""
        plan = progress.plan
        order = np.random.default_rng([self.seed, progress.epoch]).permutation(len(source))
        first = plan.first_batch(progress.step)
        batches = plan.batches(order)[first:]
        optimiser.zero_grad()
        with closing(load_batches(source, batches, self.size, self.num_workers)) as images:
            for index, batch in enumerate(images, first):
                views = self.draw(batch, progress.epoch, plan.starts[index])
                self.processes.seed(self.seed, progress.epoch, plan.starts[index])
                with self._in_step(fabric, network, plan.ends_step(index)):
                    terms, embedding = network(*views)
                    loss = self.objective.total(terms)
                    if not torch.isfinite(loss):
                        raise _failed(progress)
                    fabric.backward(loss * plan.share(index))
                if progress.tally.watches:
                    embedding = self.processes.join(embedding, plan.parts[index])
                progress.tally.add({"loss": loss, **terms}, embedding, plan.sizes[index])
                if plan.ends_step(index):
                    self._step(fabric, network, optimiser, progress)
                    yield

    def _in_step(self, fabric: Fabric, network: Any, ends: bool) -> AbstractContextManager[Any]:
        """Add up gradients over processes at the end of a step alone."""
        if self.processes.count == 1:
            return nullcontext()
        return fabric.no_backward_sync(network, enabled=not ends)

    def _step(self, fabric: Fabric, network: Any, optimiser: Any, progress: Progress) -> None:
        for group in optimiser.param_groups:
            group["lr"] = self._rate(progress)
        if self.clip_norm is not None:
            # A gradient that is not finite makes weights that are not, or the scaler leaves it out.
            fabric.clip_gradients(
                network, optimiser, max_norm=self.clip_norm, error_if_nonfinite=False
            )
        optimiser.step()
        optimiser.zero_grad()
        progress.step += 1
        if progress.average is not None:
            progress.average.update(progress.model, progress.done)
        if fabric.strategy.precision.state_dict().get("scale", 1) < _LEAST_SCALE:
            raise _failed(progress)

    def _end_epoch(
        self, progress: Progress, n_images: int, bar: tqdm, watch: Watch, state: TrainingState
    ) -> None:
        numbers = {**progress.tally.means(n_images), "learning_rate": self._rate(progress)}
        with state.aside():
            if watch.validation is not None:
                # By the views of any other evaluation, so that losses can be compared.
                losses = replace(self, seed=0).evaluate(progress.outcome, watch.validation)
                progress.model.train()
                numbers["validation_loss"] = losses["loss"]
            progress.end_epoch(self.processes.from_first(lambda: numbers))
            for callback in watch.callbacks:
                if callback.on_epoch_end(state):
                    progress.stopped = True
            (progress.stopped,) = self.processes.any(progress.stopped)
        last = {name: values[-1] for name, values in progress.history.items()}
        bar.set_postfix(
            epoch=f"{progress.epoch}/{self.epochs}",
            loss=f"{last['loss']:.3f}",
            matching=f"{last['matching_accuracy']:.2f}",
        )

    @torch.inference_mode()
    def evaluate(self, model: nn.Module, source: ImageSource) -> dict[str, float]:
        """Every term of the loss and the loss, on fixed views, with the model in eval mode."""
        model.eval().to(self.device)
        dtype = choose_precision(self.precision, self.device)
        plan = self._plan(source)
        batches = plan.batches(np.arange(len(source)))
        sums: dict[str, float] = {}
        images = load_batches(source, batches, self.size, self.num_workers)
        for start, batch in zip(plan.starts, images, strict=True):
            with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
                terms, _ = model(*self.draw(batch, 0, start))
            for name, value in {"loss": self.objective.total(terms), **terms}.items():
                sums[name] = sums.get(name, 0.0) + float(value) * len(batch) / len(source)
        return sums

    def _plan(self, source: ImageSource, rank: int = 0, count: int = 1) -> EpochPlan:
        return EpochPlan(len(source), self.batch_size, self.accumulate, rank, count)

    def _rate(self, progress: Progress) -> float:
        curve = self.schedule or WarmupCosine(progress.plan.steps * self.epochs)
        n_images = self.batch_size * self.accumulate
        peak = peak_rate(self.learning_rate, self.optimizer, n_images)
        return peak * curve.factor(progress.done)

    def _is_over(self, progress: Progress) -> bool:
        if progress.epoch == self.epochs or progress.stopped:
            return True
        # An epoch that has begun is brought to its end.
        if self.max_time is None or progress.epoch == 0 or progress.step > 0:
            return False
        return self.processes.any(progress.seconds >= 60 * self.max_time)[0]

    def _fabric(self, model: OTCXRModel) -> Fabric:
        from lightning_fabric import Fabric
        from lightning_fabric.plugins import MixedPrecision, Precision
        from lightning_fabric.strategies import DDPStrategy

        class Autocast(MixedPrecision):
            def convert_input(self, data: Any) -> Any:
                # Fabric would round the crop coordinates as well.
                return data

        dtype = choose_precision(self.precision, self.device)
        mixed = _MIXED.get(dtype)
        plugin = Autocast(mixed, self.device.type) if mixed else Precision()
        if self.processes.count > 1:
            here = int(os.environ["LOCAL_WORLD_SIZE"])
            idle = has_idle_parameters(model, self.objective, self.size)
            fabric = Fabric(
                accelerator=self.device.type,
                strategy=DDPStrategy(find_unused_parameters=idle),
                devices=here,
                num_nodes=self.processes.count // here,
                plugins=plugin,
            )
            fabric.launch()
            return fabric
        return Fabric(
            accelerator=self.device.type,
            devices=[self.device.index or 0] if self.device.type == "cuda" else 1,
            plugins=plugin,
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


class TrainingInterrupted(KeyboardInterrupt):
    """Ctrl-C, after the step that was under way; `history` is of the epochs completed."""

    def __init__(self, progress: Progress, folder: str | None) -> None:
        saved = f"; to go on, call fit again with checkpoint_dir={folder!r}" if folder else ""
        super().__init__(
            f"training was interrupted after step {progress.done}, with {progress.epoch} epochs "
            f"completed{saved}"
        )
        self.history = progress.history


def _failed(progress: Progress) -> NonFiniteLossError:
    progress.model.load_state_dict(progress.good)
    progress.model.cpu().eval()
    return NonFiniteLossError(progress.epoch, progress.history)


def _is_due(checkpoints: Checkpoints | Memory | None, progress: Progress) -> bool:
    return checkpoints is not None and checkpoints.is_due(progress.epoch, progress.step)
