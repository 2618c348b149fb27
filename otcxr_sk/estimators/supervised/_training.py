"""Training an encoder with labels: what classifier and segmenter have in common."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from otcxr_sk._torch_defaults import inference
from otcxr_sk._transfer import send
from otcxr_sk.estimators._encoder import FittedEncoder
from otcxr_sk.estimators._fit import draw_seed, hold_out, patients_of, sides
from otcxr_sk.estimators._inputs import numbered
from otcxr_sk.estimators._parameters import Settings
from otcxr_sk.estimators._run import describe_run, open_run
from otcxr_sk.estimators._seen import Patients, digest, new_salt, note
from otcxr_sk.estimators._state import History, Weights, pack, unpack
from otcxr_sk.images import (
    ImageSource,
    Scan,
    Selection,
    Unusable,
    read_usable_batches,
    spread,
)
from otcxr_sk.method import DenseEncoder
from otcxr_sk.training import (
    LabelledDraw,
    NonFiniteLossError,
    Randomness,
    Trainer,
    TrainingState,
    choose_device,
    choose_precision,
    join_processes,
    put_on,
)

# Images that batch norms are calibrated with, and how many at a time.
CALIBRATED, CHUNK = 1024, 128

# Of a run of "auto" epochs.
STEPS, LEAST_EPOCHS = 300, 10


class Task(Protocol):
    """What an encoder is to learn, from which labels.

    Attributes
    ----------
    known : ndarray of bool, shape (n,)
        Which images have labels.
    labels : ndarray of shape (n, ...)
    draw : type
        Draws views with their labels.
    """

    known: NDArray[np.bool_]
    labels: NDArray[Any]
    draw: type[LabelledDraw]

    def network(self, encoder: DenseEncoder, training: NDArray[np.intp]) -> TunedNetwork:
        """Return the network that training on some rows starts from."""

    def validate(self, outputs: Tensor, rows: NDArray[np.intp], network: Any) -> dict[str, float]:
        """Return numbers for the history, from what the network tells of rows held out."""


class TunedNetwork(nn.Module):
    """An encoder and heads on it, which learn together.

    Parameters
    ----------
    encoder : DenseEncoder
    layer_decay : float
        Each layer of the encoder learns by this factor more slowly than the one above it. Only
        timm's models have layers.

    Attributes
    ----------
    encoding : callable
        Returns a context in which `forward` calls the encoder.
    terms : tuple of str
        Names of the terms of the loss.
    """

    terms: tuple[str, ...]

    def __init__(self, encoder: DenseEncoder, layer_decay: float) -> None:
        super().__init__()
        self.encoder, self._layer_decay = encoder, layer_decay
        self.encoding: Callable[[], AbstractContextManager[Any]] = nullcontext

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Return the parameters for an optimizer, with a ``lr_scale`` by layer."""
        from timm.optim import param_groups_layer_decay, param_groups_weight_decay

        backbone = self.encoder.backbone
        if hasattr(backbone, "pretrained_cfg"):
            decay = self._layer_decay
            groups = param_groups_layer_decay(backbone, weight_decay, layer_decay=decay)
        else:
            groups = param_groups_weight_decay(backbone, weight_decay)
        for head in self.children():
            if head is not self.encoder:
                groups += param_groups_weight_decay(head, weight_decay)
        return [group for group in groups if group["params"]]

    def forward(self, views: Tensor, labels: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the terms of the loss of views (B, 1, S, S), and their embedding (B, C)."""
        with self.encoding():
            encoded, embedding = self._encode(views)
        with torch.autocast(views.device.type, enabled=False):
            losses = self.losses(self._scores(encoded), labels)
        return dict(zip(self.terms, losses, strict=True)), embedding.detach()

    def tell(self, images: Tensor) -> Tensor:
        """Return the scores of images (B, 1, S, S), before sigmoid or softmax."""
        encoded, _ = self._encode(images)
        with torch.autocast(images.device.type, enabled=False):
            return self._scores(encoded)

    def losses(self, scores: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """Return the terms of the loss, in their order."""
        raise NotImplementedError

    def _encode(self, images: Tensor) -> tuple[Any, Tensor]:
        """Return what the heads need of images, and the embedding."""
        raise NotImplementedError

    def _scores(self, encoded: Any) -> Tensor:
        raise NotImplementedError


class SumOfTerms:
    """The sum of the terms that a network returns, as `Trainer` takes it."""

    def __init__(self, *names: str) -> None:
        self.weights = dict.fromkeys(names, 1.0)

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Return the sum."""
        return torch.stack([terms[name] for name in self.weights]).sum()


@dataclass(frozen=True, eq=False)
class FineTuned:
    """What fine-tuning has learned.

    Parameters
    ----------
    network : nn.Module
        With an attribute ``encoder``.
    weights : ndarray of uint8
        Of the encoder and the heads it was pre-trained with, as `FittedEncoder` has them.
    history : dict of str to list of float
    patients : dict or None
        Whom the network was trained on, before and now.
    n_images : int
        Number of images that it was trained on with labels.
    n_patients : int or None
        Of these images, if they are known.
    """

    network: Any
    weights: Weights
    history: History
    patients: Patients | None
    n_images: int
    n_patients: int | None


def fine_tune(
    settings: Settings,
    encoder: FittedEncoder,
    source: ImageSource,
    problems: Sequence[Unusable],
    task: Task,
    patients: NDArray[Any] | None,
    *,
    num_workers: int | str,
    fitted: Callable[[FineTuned], Any],
) -> tuple[FineTuned, BaseException | None]:
    """Train a network on the images that have labels.

    Parameters
    ----------
    settings : Settings
        Parameters of the estimator; ``pretrainer`` and ``labels`` identify what it starts from. No
        epochs leave the network as it starts.
    encoder : FittedEncoder
    source : ImageSource
    problems : sequence of Unusable
        Rows that cannot be used.
    task : Task
    patients : ndarray of shape (n,) or None
    num_workers : int or "auto"
    fitted : callable
        Makes a fitted estimator of what was learned so far.
    """
    processes = join_processes(encoder.device)
    if processes.count > 1:
        raise ValueError("training with labels takes one process: start without torchrun")
    seed = draw_seed(settings.random_state)
    numbers = numbered(patients, len(source))
    usable = task.known.copy()
    usable[[problem.row for problem in problems]] = False
    if not usable.any():
        first = problems[0]
        raise ValueError(
            f"no image that has a label can be used; row {first.row}, for one: {first.reason}"
        )
    settings.epochs = count_epochs(settings, int(usable.sum()))
    describe = partial(describe_run, settings, source, seed, numbers, None)
    with open_run(settings, source, seed, processes, describe) as run:
        held_out = hold_out(numbers, settings.validation_fraction, run.seed)
        training, held_out = sides(np.flatnonzero(usable), held_out)
        if len(training) < 2:
            raise ValueError(
                "a single image that has a label can be used, and at least 2 are needed; label more"
            )
        trained, kept = patients_of(patients, training, held_out)
        salt = new_salt()
        seen = note(settings.pretrainer.patients_, trained, kept, salt)
        n_patients = None if trained is None else len(np.unique(digest(trained, salt)))
        run.keep_scan(Scan(encoder.mean, encoder.std, list(problems)), len(training))
        random = Randomness(run.seed, processes.device)
        with random.given():
            network = task.network(encoder.load().encoder, training)
        draw = task.draw(
            settings.views,
            encoder.mean,
            encoder.std,
            run.seed,
            processes.device,
            torch.from_numpy(task.labels[training]).to(processes.device),
        )

        def learned(network: Any, history: Mapping[str, Sequence[float]]) -> FineTuned:
            weights = with_encoder(encoder.weights, network.encoder)
            return FineTuned(
                network,
                weights,
                {name: [*some] for name, some in history.items()},
                seen,
                len(training),
                n_patients,
            )

        def so_far(state: TrainingState) -> Any:
            return fitted(learned(state.network, state.history))

        def validate(network: Any) -> dict[str, float]:
            images = Selection(source, held_out)
            told = [told for told, _, _ in outputs(network, encoder, images, num_workers)]
            found = task.validate(torch.cat(told), held_out, network)
            if not math.isfinite(found["validation_loss"]):
                raise NonFiniteLossError("the validation loss is not finite")
            return found

        if not settings.epochs:
            return learned(network, {}), None
        trainer = Trainer(
            draw=draw,
            objective=SumOfTerms(*network.terms),
            optimizer=settings.optimizer,
            size=encoder.architecture["image_size"],
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            precision=encoder.precision,
            num_workers=num_workers,
            verbose=settings.verbose > 0,
            processes=processes,
            callbacks=settings.callbacks,
            validate=validate if len(held_out) else None,
            fitted=so_far,
        )
        history, failure = run.train(trainer, network, Selection(source, training), random)
        return learned(network, history), failure


def count_epochs(settings: Settings, n_images: int) -> int:
    """Return the epochs of a run: many of few images, or it would end after a few steps."""
    if settings.epochs != "auto":
        return int(settings.epochs)
    # Who is held out is drawn by patient, and known only once the run is.
    n_training = max(1, round((1 - settings.validation_fraction) * n_images))
    return max(LEAST_EPOCHS, math.ceil(STEPS / math.ceil(n_training / settings.batch_size)))


def outputs(
    network: Any, encoder: FittedEncoder, source: ImageSource, num_workers: int | str
) -> Generator[tuple[Tensor, list[Unusable], Tensor], None, None]:
    """Yield, batch by batch on the CPU, what a network tells of images.

    Beside it are the images that cannot be used, unless these are errors, and what `spread` finds.
    """
    device = choose_device(encoder.device)
    put_on(device, network.eval())
    dtype = choose_precision(encoder.precision, device)
    with closing(encoder.read(source, 0, len(source), num_workers, device)) as loaded:
        for images, problems in loaded:
            batch = send(images, device)
            mixed = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
            with inference(), mixed:
                told = network.tell((batch - encoder.mean) / encoder.std)
            yield told.float().cpu(), problems, spread(batch).cpu()


def with_encoder(weights: Weights, encoder: nn.Module) -> Weights:
    """Return packed weights of a network, its encoder replaced."""
    own = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    return pack({**unpack(weights), **own})


def calibrated(
    encoder: FittedEncoder, source: ImageSource, num_workers: int | str
) -> FittedEncoder:
    """Return an encoder whose batch norms have seen images, if they had not.

    Those of a random start have a mean of 0 and a variance of 1. In training they normalize by the
    batch, so the embeddings that a probe is fitted on would be others than those it starts with.
    """
    model = encoder.load()
    norms = [
        module
        for module in model.encoder.modules()
        if isinstance(module, _BatchNorm)
        and module.running_mean is not None
        and module.running_var is not None
        and not module.running_mean.any()
        and bool((module.running_var == 1).all())
    ]
    if not norms:
        return encoder
    device = choose_device(encoder.device)
    put_on(device, model.encoder)
    for norm in norms:
        # The mean over all batches.
        norm.momentum = None
        norm.train()
    rows = np.random.default_rng(0).permutation(len(source))[:CALIBRATED]
    batches = np.array_split(rows, -(-len(rows) // CHUNK))
    given = source, batches, encoder.architecture["image_size"], num_workers, device
    with closing(read_usable_batches(*given)) as loaded, inference():
        for chunk, (images, problems) in zip(batches, loaded, strict=True):
            usable = ~np.isin(chunk, [problem.row for problem in problems])
            if usable.sum() > 1:
                model.encoder((images[torch.from_numpy(usable)] - encoder.mean) / encoder.std)
    return replace(encoder, weights=with_encoder(encoder.weights, model.encoder))
