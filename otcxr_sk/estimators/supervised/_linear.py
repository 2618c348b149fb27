"""A linear classifier of embeddings: as a probe, and as the last layer of a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from otcxr_sk._warning import keeping_filters
from otcxr_sk.estimators.supervised._training import TunedNetwork
from otcxr_sk.method import DenseEncoder
from otcxr_sk.training import LabelledDraw

# As in `otcxr_sk.evaluation`: embeddings are wide, and labels are few.
PROBE_C = 0.01


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


@keeping_filters()
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
        model = _logistic(dict(enumerate(labels.weights))).fit(z, labels.values)
        coef, intercept = model.coef_, model.intercept_
    return Linear(scaler.mean_, scaler.scale_, coef, intercept)


def _fit_column(z: Any, y: Any, weights: Mapping[int, float]) -> tuple[Any, Any]:
    if len(np.unique(y)) < 2:
        share = (y.sum() + 0.5) / (len(y) + 1)
        return np.zeros(z.shape[1]), np.log(share / (1 - share))
    model = _logistic(weights).fit(z, y.astype(int))
    return model.coef_[0], model.intercept_[0]


def _logistic(weights: Mapping[int, float]) -> LogisticRegression:
    return LogisticRegression(C=PROBE_C, class_weight=dict(weights), max_iter=1000)


class ClassifyingNetwork(TunedNetwork):
    """An encoder and a linear classifier of its embedding.

    Parameters
    ----------
    encoder : DenseEncoder
    linear : Linear
        Where the classifier starts.
    labels : Labels
        Their kind decides the loss: softmax for three classes or more, a logistic loss for each
        label otherwise. It is the weighted mean over all known labels.
    layer_decay : float
        See `TunedNetwork`.
    """

    shift: Tensor
    scale: Tensor
    weights: Tensor
    terms = ("cross_entropy",)

    def __init__(
        self, encoder: DenseEncoder, linear: Linear, labels: Labels, layer_decay: float
    ) -> None:
        super().__init__(encoder, layer_decay)
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

    def _encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        *_, embedding = self.encoder(images)
        return embedding, embedding

    def _scores(self, encoded: Tensor) -> Tensor:
        return self.head((encoded.float() - self.shift) / self.scale)

    def losses(self, scores: Tensor, labels: Tensor) -> tuple[Tensor]:
        """Return the loss of scores (B, K) with labels (B,) or (B, k), NaN where unknown."""
        if self.softmax:
            losses, weights = cross_entropy(scores, labels, reduction="none"), self.weights[labels]
        else:
            labels = labels.reshape(scores.shape).float()
            known = ~labels.isnan()
            labels = labels.nan_to_num()
            weights = torch.where(labels > 0.5, self.weights[:, 1], self.weights[:, 0]) * known
            losses = binary_cross_entropy_with_logits(scores, labels, reduction="none")
        return ((losses * weights).sum() / weights.sum(),)

    def linear(self) -> Linear:
        """Return the classifier."""
        parts = self.shift, self.scale, self.head.weight, self.head.bias
        return Linear(*(part.detach().cpu().double().numpy() for part in parts))


def _require_all_classes(labels: Labels, training: NDArray[np.intp]) -> None:
    if not labels.several and len(np.unique(labels.values[training])) < labels.n_classes:
        raise ValueError(
            "the images that are neither held out nor left out lack a class: lower "
            "validation_fraction, or label more images"
        )


@keeping_filters()
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


class Classification:
    """To tell classes: the `Task` of a classifier.

    Parameters
    ----------
    classes : Labels
    embedding : ndarray of shape (n, C)
        That of every image before training; NaN for those that cannot be used.
    layer_decay : float
    """

    draw: type[LabelledDraw] = LabelledDraw

    def __init__(self, classes: Labels, embedding: NDArray[np.float32], layer_decay: float) -> None:
        self.labels = classes.values
        self.known = np.asarray(~np.isnan(classes.columns).all(1))
        self._classes, self._embedding, self._layer_decay = classes, embedding, layer_decay

    def network(self, encoder: DenseEncoder, training: NDArray[np.intp]) -> ClassifyingNetwork:
        """Fit a linear probe on the embeddings of some rows, and put it on the encoder.

        To start from the probe keeps what the encoder has learned from being distorted while the
        classifier is still random (Kumar et al., "Fine-tuning can distort pretrained features and
        underperform out-of-distribution", ICLR 2022).
        """
        classes = self._classes
        _require_all_classes(classes, training)
        chosen = Labels(classes.values[training], classes.n_classes, classes.weights)
        linear = probe(self._embedding[training], chosen)
        return ClassifyingNetwork(encoder, linear, classes, self._layer_decay)

    def validate(
        self, outputs: Tensor, rows: NDArray[np.intp], network: ClassifyingNetwork
    ) -> dict[str, float]:
        """Return loss and AUC of scores."""
        labels, there = torch.from_numpy(self.labels[rows]), network.weights.device
        (loss,) = network.losses(outputs.to(there), labels.to(there))
        return {"validation_loss": float(loss), "validation_auc": mean_auc(outputs, labels)}
