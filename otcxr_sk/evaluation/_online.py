"""A probe of the encoder while it is trained."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

from otcxr_sk.evaluation._probe import knn_probe
from otcxr_sk.evaluation._task import check_labels, check_patients, check_task, is_known
from otcxr_sk.training.callbacks import Callback, TrainingState

_PARTS = 5


@dataclass(frozen=True, eq=False)
class KNNProbe(Callback):
    """Record after an epoch how well neighbours of an image in the embedding tell its label.

    The number is the AUC of `knn_probe`, with its fixed settings, averaged over a 5-fold
    cross-validation by patient, and stands in `history_`. It costs what `transform` of the
    labelled images costs; training is left alone. They are part of a pickle of the estimator,
    unless `callbacks` is set to None before. Choosing by it, as `EarlyStopping` does when
    it watches it, uses the labels: judge on other patients.

    Parameters
    ----------
    X : array-like or sequence of paths
        Labelled images, of any kind that the estimator takes. Each must be usable.
    y : array-like of shape (n,) or (n, k)
        Classes, or k labels of 0 and 1, NaN where unknown, as for `knn_probe`.
    groups : array-like of shape (n,), default=None
        Patient of each image. Without it every image is taken for another patient.
    every : int, default=1
        Epochs from one probe to the next; the last epoch is probed in any case.
    name : str, default="knn_probe"
        Of the number in the history.

    Raises
    ------
    ValueError
        An array is not as described, or a part of the cross-validation lacks a class.

    Examples
    --------
    >>> from otcxr_sk import OTCXRPretrainer
    >>> from otcxr_sk.datasets import make_chest_phantoms
    >>> from otcxr_sk.evaluation import KNNProbe
    >>> data = make_chest_phantoms(30, image_size=32, random_state=0)
    >>> probe = KNNProbe(data.images, data.labels[:, 2], data.groups)
    >>> encoder = OTCXRPretrainer("resnet10t", image_size=32, epochs=2, callbacks=[probe])
    >>> len(encoder.fit(data.images).history_["knn_probe"])
    2
    """

    X: Any = field(repr=False)
    y: Any = field(repr=False)
    groups: Any = field(default=None, repr=False)
    every: int = 1
    name: str = "knn_probe"

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every must be at least 1 epoch, got {self.every!r}")
        labels = check_labels(self.y)
        if not isinstance(self.X, str | os.PathLike) and len(self.X) != len(labels):
            raise ValueError(f"KNNProbe has {len(self.X)} images and {len(labels)} rows of labels")
        try:
            for train, test in self._folds():
                check_task(self.y, self._patients(), train, test)
        except ValueError as error:
            raise ValueError(
                f"KNNProbe cannot cross-validate in {_PARTS} parts by patient: {error}"
            ) from error

    def on_epoch_end(self, state: TrainingState) -> None:
        """Embed the images and record the probe."""
        if state.epoch % self.every and state.epoch != state.epochs:
            return
        Z = state.estimator().transform(self.X)
        aucs = [
            knn_probe(Z, self.y, self._patients(), train=train, test=test)
            for train, test in self._folds()
        ]
        state.record(self.name, float(np.mean(aucs)))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # scikit-learn's clone copies parameters, and images are many. There is no state to share.
        return self

    def _patients(self) -> NDArray[Any]:
        labels = check_labels(self.y)
        return (
            np.arange(len(labels)) if self.groups is None else check_patients(self.groups, labels)
        )

    def _folds(self) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        labels = check_labels(self.y)
        # Several labels, or unknown ones, cannot be stratified by.
        stratified = labels.shape[1] == 1 and bool(is_known(labels).all())
        splitter = StratifiedGroupKFold(_PARTS) if stratified else GroupKFold(_PARTS)
        return splitter.split(labels, labels[:, 0] if stratified else None, self._patients())
