"""What `OTCXRClassifier.fit` does: a linear probe, and training of the whole network from there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm

from otcxr_sk._torch_defaults import inference
from otcxr_sk._warning import keeping_filters
from otcxr_sk.estimators._encoder import FittedEncoder
from otcxr_sk.estimators._fit import draw_seed, hold_out
from otcxr_sk.estimators._parameters import Settings
from otcxr_sk.estimators._run import describe_run, open_run
from otcxr_sk.estimators._state import History, Weights, unpack
from otcxr_sk.images import (
    ImageSource,
    Scan,
    Selection,
    Unusable,
    read_batches,
    read_usable_batches,
)
from otcxr_sk.method import BatchStatistics, DenseEncoder, pool
from otcxr_sk.training import (
    LabelledDraw,
    NonFiniteLossError,
    Randomness,
    Trainer,
    TrainingInterrupted,
    TrainingState,
    choose_device,
    choose_precision,
    join_processes,
    put_on,
)

# As in `otcxr_sk.evaluation`: embeddings are wide, and labels are few.
PROBE_C = 0.01

# Images that batch norms are calibrated with, and how many at a time.
CALIBRATED, CHUNK = 1024, 128

_WHOLE_BATCH = BatchStatistics()


@dataclass(frozen=True, eq=False)
class Labels:
    """What is asked of every image.

    Parameters
    ----------
    values : ndarray of shape (n,) or (n, k)
        Index of the class of each image; or, of several labels, 0.0, 1.0 or NaN each.
    n_classes : int
        Of a single label. Of several, each has two.
    weights : ndarray of shape (n_classes,) or (k, 2)
        Weight of each class.
    """

    values: NDArray[Any]
    n_classes: int
    weights: NDArray[np.float64]

    @property
    def several(self) -> bool:
        return self.values.ndim == 2

    @property
    def columns(self) -> NDArray[np.float64]:
        """What is told by one number each: (n, 1) for two classes, (n, k) for k labels."""
        values = self.values if self.several else self.values[:, None]
        return values.astype(float)


def weigh(values: NDArray[Any], n_classes: int, class_weight: Any) -> NDArray[np.float64]:
    """Return the weight of each class: (n_classes,), or (k, 2) of several labels."""
    if values.ndim == 1:
        return _weights_of(values, n_classes, class_weight)
    return np.stack([_weights_of(y[~np.isnan(y)], 2, class_weight) for y in values.T])


def _weights_of(values: NDArray[Any], n_classes: int, class_weight: Any) -> NDArray[np.float64]:
    weights = np.ones(n_classes)
    present = np.unique(values).astype(int)
    if class_weight is not None and len(present):
        weights[present] = compute_class_weight(class_weight, classes=present, y=values.astype(int))
    return weights


class Linear(NamedTuple):
    """A linear classifier of embeddings, which are shifted and scaled before.

    Attributes
    ----------
    shift, scale : ndarray of shape (C,)
    coef : ndarray of shape (K, C)
    intercept : ndarray of shape (K,)
    """

    shift: NDArray[np.float64]
    scale: NDArray[np.float64]
    coef: NDArray[np.float64]
    intercept: NDArray[np.float64]

    def of_embeddings(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return coefficients and intercept for embeddings as they are."""
        coef = self.coef / self.scale
        return coef, self.intercept - coef @ self.shift


def probe(embedding: NDArray[np.float32], labels: Labels) -> Linear:
    """Fit a linear probe, the same as `otcxr_sk.evaluation.make_probe`.

    A label of which only one class is known gets a constant, from its smoothed frequency.
    """
    scaler = StandardScaler().fit(embedding)
    z = scaler.transform(embedding)
    if labels.several or labels.n_classes == 2:
        weights = labels.weights if labels.several else labels.weights[None]
        found = [
            _fit_column(z[~np.isnan(y)], y[~np.isnan(y)], dict(enumerate(weight)))
            for y, weight in zip(labels.columns.T, weights, strict=True)
        ]
        coef, intercept = (np.stack(parts) for parts in zip(*found, strict=True))
    else:
        with keeping_filters():
            model = _logistic(dict(enumerate(labels.weights))).fit(z, labels.values)
        coef, intercept = model.coef_, model.intercept_
    return Linear(scaler.mean_, scaler.scale_, coef, intercept)


def _fit_column(z: Any, y: Any, weights: Mapping[int, float]) -> tuple[Any, Any]:
    if len(np.unique(y)) < 2:
        share = (y.sum() + 0.5) / (len(y) + 1)
        return np.zeros(z.shape[1]), np.log(share / (1 - share))
    with keeping_filters():
        model = _logistic(weights).fit(z, y.astype(int))
    return model.coef_[0], model.intercept_[0]


def _logistic(weights: Mapping[int, float]) -> LogisticRegression:
    return LogisticRegression(C=PROBE_C, class_weight=dict(weights), max_iter=1000)


class ClassifyingNetwork(nn.Module):
    """An encoder and a linear classifier of its embedding.

    Parameters
    ----------
    encoder : DenseEncoder
    linear : Linear
        Where the classifier starts.
    labels : Labels
        Their kind decides the loss: softmax for three classes or more, a logistic loss for each
        label otherwise.
    layer_decay : float
        Each layer of the encoder learns by this factor more slowly than the one above it.

    Attributes
    ----------
    encoding : callable
        Returns a context in which `forward` calls the encoder.
    """

    shift: Tensor
    scale: Tensor
    weights: Tensor

    def __init__(
        self, encoder: DenseEncoder, linear: Linear, labels: Labels, layer_decay: float
    ) -> None:
        super().__init__()
        self.encoder, self._layer_decay = encoder, layer_decay
        coef, intercept = (torch.from_numpy(part).float() for part in linear[2:])
        self.head = nn.Linear(coef.shape[1], coef.shape[0])
        with torch.no_grad():
            self.head.weight.copy_(coef)
            self.head.bias.copy_(intercept)
        for name, values in zip(("shift", "scale"), linear[:2], strict=True):
            self.register_buffer(name, torch.from_numpy(values).float())
        self.softmax = not labels.several and labels.n_classes > 2
        weights = labels.weights if labels.several or self.softmax else labels.weights[None]
        self.register_buffer("weights", torch.from_numpy(weights).float())
        self.encoding: Callable[[], AbstractContextManager[Any]] = nullcontext

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """Return the parameters for an optimizer, with a ``lr_scale`` by layer."""
        from timm.optim import param_groups_layer_decay, param_groups_weight_decay

        backbone = param_groups_layer_decay(
            self.encoder.backbone, weight_decay, layer_decay=self._layer_decay
        )
        return [*backbone, *param_groups_weight_decay(self.head, weight_decay)]

    def forward(
        self, views: Tensor, labels: Tensor, statistics: BatchStatistics = _WHOLE_BATCH
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Compute the loss of views (B, 1, H, W) with their labels (B,) or (B, k).

        Returns
        -------
        terms : dict of str to scalar Tensor
            ``cross_entropy``, the weighted mean over all known labels.
        embedding : Tensor of shape (B, C)
            Without gradient.
        """
        with self.encoding():
            embedding = pool(self.encoder(views)[1])
        with torch.autocast(views.device.type, enabled=False):
            (loss,) = statistics.means(self.losses(self.classify(embedding), labels))
        return {"cross_entropy": loss}, embedding.detach()

    def classify(self, embedding: Tensor) -> Tensor:
        """Return the scores (B, K) of embeddings (B, C), before sigmoid or softmax."""
        return self.head((embedding.float() - self.shift) / self.scale)

    def losses(self, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return the losses of scores (B, K), and their weights: 0 for unknown labels."""
        if self.softmax:
            return cross_entropy(scores, labels, reduction="none"), self.weights[labels]
        labels = labels.reshape(scores.shape).float()
        known = ~labels.isnan()
        labels = labels.nan_to_num()
        weights = torch.where(labels > 0.5, self.weights[:, 1], self.weights[:, 0])
        losses = binary_cross_entropy_with_logits(scores, labels, reduction="none")
        return losses, weights * known

    def linear(self) -> Linear:
        """Return the classifier."""
        parts = self.shift, self.scale, self.head.weight, self.head.bias
        return Linear(*(part.detach().cpu().double().numpy() for part in parts))


class CrossEntropy:
    """The loss of a `ClassifyingNetwork`, as `Trainer` takes it."""

    weights: ClassVar[dict[str, float]] = {"cross_entropy": 1.0}

    def total(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Return the only term."""
        return terms["cross_entropy"]


@dataclass(frozen=True, eq=False)
class FineTuned:
    """What fine-tuning has learned.

    Parameters
    ----------
    weights : ndarray of uint8
        Of the encoder and the heads it was pre-trained with, as `FittedEncoder` has them.
    linear : Linear
    history : dict of str to list of float
    """

    weights: Weights
    linear: Linear
    history: History


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
        for images, problems in loaded:
            if not problems:
                model.encoder((images - encoder.mean) / encoder.std)
    return replace(encoder, weights=with_encoder(encoder.weights, model.encoder.cpu()))


def fine_tune(
    settings: Settings,
    encoder: FittedEncoder,
    source: ImageSource,
    embedding: NDArray[np.float32],
    problems: Sequence[Unusable],
    labels: Labels,
    patients: NDArray[np.intp],
    *,
    num_workers: int | str,
    fitted: Callable[[FineTuned], Any],
) -> tuple[FineTuned, BaseException | None]:
    """Fit a linear probe on embeddings and train encoder and classifier from there.

    To start from the probe keeps what the encoder has learned from being distorted while the
    classifier is still random (Kumar et al., "Fine-tuning can distort pretrained features and
    underperform out-of-distribution", ICLR 2022).

    Parameters
    ----------
    settings : Settings
        Parameters of the classifier; ``pretrainer`` and ``labels`` identify what they start from.
    encoder : FittedEncoder
    source : ImageSource
    embedding : ndarray of shape (n, C)
    problems : sequence of Unusable
        Rows that cannot be used.
    labels : Labels
    patients : ndarray of int, shape (n,)
    num_workers : int or "auto"
    fitted : callable
        Makes a fitted estimator of what was learned so far.
    """
    processes = join_processes(encoder.device)
    if processes.count > 1:
        raise ValueError("a classifier trains in one process: start the script without torchrun")
    seed = draw_seed(settings.random_state)
    size = encoder.architecture["image_size"]
    describe = partial(describe_run, settings, source, seed, patients, None)
    with open_run(settings, source, seed, processes, describe) as run:
        held_out = hold_out(patients, settings.validation_fraction, run.seed)
        known = np.asarray(~np.isnan(labels.columns).all(1))
        known[[problem.row for problem in problems]] = False
        training = np.setdiff1d(np.flatnonzero(known), held_out)
        held_out = np.intersect1d(np.flatnonzero(known), held_out)
        run.keep_scan(Scan(encoder.mean, encoder.std, list(problems)), len(training))
        _require_all_classes(labels, training)
        chosen = Labels(labels.values[training], labels.n_classes, labels.weights)
        linear = probe(embedding[training], chosen)
        if settings.frozen:
            return FineTuned(encoder.weights, linear, {}), None
        random = Randomness(run.seed, processes.device)
        network = ClassifyingNetwork(encoder.load().encoder, linear, labels, settings.layer_decay)
        draw = LabelledDraw(
            settings.views,
            encoder.mean,
            encoder.std,
            run.seed,
            processes.device,
            torch.from_numpy(chosen.values).to(processes.device),
        )

        def learned(network: Any, history: Mapping[str, Sequence[float]]) -> FineTuned:
            weights = with_encoder(encoder.weights, network.encoder)
            kept = {name: list(values) for name, values in history.items()}
            return FineTuned(weights, network.linear(), kept)

        def so_far(state: TrainingState) -> Any:
            return fitted(learned(state.network, state.history))

        def validate(network: Any) -> dict[str, float]:
            scores = _scores(network, Selection(source, held_out), draw, encoder, num_workers)
            return _validation(network, scores, torch.from_numpy(labels.values[held_out]))

        trainer = Trainer(
            draw=draw,
            objective=CrossEntropy(),
            optimizer=settings.optimizer,
            size=size,
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
        failure: BaseException | None = None
        try:
            images = Selection(source, training)
            history = trainer.fit(network, images, run.checkpoints, run.start, random)
        except NonFiniteLossError as error:
            if not error.epoch:
                raise
            history, failure = error.history, error
        except TrainingInterrupted as error:
            history, failure = error.history, error
        return learned(network, history), failure


def _require_all_classes(labels: Labels, training: NDArray[np.intp]) -> None:
    if not labels.several and len(np.unique(labels.values[training])) < labels.n_classes:
        raise ValueError(
            "the images that are neither held out nor left out lack a class: lower "
            "validation_fraction, or label more images"
        )


def with_encoder(weights: Weights, encoder: nn.Module) -> Weights:
    """Return packed weights of a network, its encoder replaced."""
    own = {f"encoder.{name}": value.contiguous() for name, value in encoder.state_dict().items()}
    return np.frombuffer(save({**unpack(weights), **own}), dtype=np.uint8)


def _scores(
    network: ClassifyingNetwork,
    source: ImageSource,
    draw: LabelledDraw,
    encoder: FittedEncoder,
    num_workers: int | str,
) -> Tensor:
    """Return the scores (n, K) of images, which are taken as they are."""
    put_on(draw.device, network.eval())
    dtype = choose_precision(encoder.precision, draw.device)
    batches = np.array_split(np.arange(len(source)), -(-len(source) // encoder.batch_size))
    size, found = encoder.architecture["image_size"], []
    with closing(read_batches(source, batches, size, num_workers, draw.device)) as images:
        for batch in images:
            mixed = torch.autocast(draw.device.type, dtype, enabled=dtype != torch.float32)
            with inference(), mixed:
                pooled = pool(network.encoder(draw.standardized(batch))[1])
            with inference():
                found.append(network.classify(pooled).cpu())
    return torch.cat(found)


def _validation(network: ClassifyingNetwork, scores: Tensor, labels: Tensor) -> dict[str, float]:
    there = network.weights.device
    losses, weights = network.losses(scores.to(there), labels.to(there))
    loss = float((losses * weights).sum() / weights.sum())
    if not np.isfinite(loss):
        raise NonFiniteLossError("the validation loss is not finite")
    return {"validation_loss": loss, "validation_auc": mean_auc(scores, labels)}


def mean_auc(scores: Tensor, labels: Tensor) -> float:
    """Return the AUC of each class against all others, or of each label, averaged.

    Those without two classes among known labels are left out; NaN if none is left.
    """
    truth, told = labels.numpy(), scores.numpy()
    if told.shape[1] > 1 and truth.ndim == 1:
        truth = truth[:, None] == np.arange(told.shape[1])
    truth = truth.reshape(told.shape).astype(float)
    found = []
    for y, score in zip(truth.T, told.T, strict=True):
        known = ~np.isnan(y)
        if len(np.unique(y[known])) == 2:
            found.append(roc_auc_score(y[known], score[known]))
    return float(np.mean(found)) if found else float("nan")


def digest_of(values: NDArray[Any]) -> str:
    """Identify labels without naming them."""
    return sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:16]
