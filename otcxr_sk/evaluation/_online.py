"""A probe of the encoder during pre-training."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

from otcxr_sk._columns import check_patients
from otcxr_sk._quote import brief, counted
from otcxr_sk._warning import keeping_filters, warn_user
from otcxr_sk.evaluation._probe import knn_probe
from otcxr_sk.evaluation._task import check_labels, check_task, is_known
from otcxr_sk.training import Callback, TrainingState

_FOLDS = 5


@dataclass(frozen=True, eq=False)
class KNNProbe(Callback):
    """Callback that records the AUC of `knn_probe` after each epoch.

    The AUC is averaged over a 5-fold cross-validation by patient and appears in `history_`. It
    costs one `transform` of the labeled images and does not change training. The images are
    pickled with the estimator, unless you set `callbacks` to None first. If you choose by this
    number, for example with `EarlyStopping`, you have used the labels: judge the result on other
    patients.

    Parameters
    ----------
    X : array-like or sequence of paths
        Labeled images, of any kind that the estimator takes. If one cannot be used, it is left out
        of the probe, or with the estimator's ``on_error="raise"`` ends the training.
    y : array-like of shape (n,) or (n, k)
        Classes, or k labels of 0 and 1, NaN where unknown, as for `knn_probe`.
    groups : array-like of shape (n,), default=None
        Patient of each image. By default, each image is a patient of its own.
    every : int, default=1
        Number of epochs from one probe to the next. The last of all `epochs` is always
        probed; if the run ends before it, the last one may not be.
    name : str, default="knn_probe"
        Key in `history_`.

    Raises
    ------
    ValueError
        An array is not as described, or a fold of the cross-validation lacks a class.

    See Also
    --------
    knn_probe : The same probe of any features.
    otcxr_sk.training.EarlyStopping : Stop when it no longer improves.

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
        self._patients(len(labels))
        if not isinstance(self.X, str | os.PathLike) and len(self.X) != len(labels):
            raise ValueError(
                f"KNNProbe got {counted(len(self.X), 'image')} but labels of {len(labels)}"
            )
        try:
            for fold in self._folds():
                check_task(self.y, *fold)
        except ValueError as error:
            raise ValueError(
                f"KNNProbe cannot run a {_FOLDS}-fold cross-validation by patient: {error}"
            ) from error

    def on_epoch_end(self, state: TrainingState) -> None:
        """Embed the images and record the AUC."""
        if state.epoch % self.every and state.epoch != state.epochs:
            return
        Z = state.estimator().transform(self.X)
        usable = np.isfinite(Z).all(axis=1)
        try:
            aucs = [
                knn_probe(Z, self.y, patients, train=train[usable[train]], test=test[usable[test]])
                for patients, train, test in self._folds()
            ]
        except ValueError as error:
            if state.is_main_process:
                warn_user(f"{self.name} is NaN after epoch {state.epoch}: {error}")
            aucs = [math.nan]
        state.record(self.name, float(np.mean(aucs)))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # scikit-learn's clone would copy the images; without state, one probe can serve all clones.
        return self

    def _patients(self, n_images: int) -> NDArray[Any]:
        return check_patients(np.arange(n_images) if self.groups is None else self.groups, n_images)

    def _folds(self) -> Iterator[tuple[NDArray[Any], NDArray[np.intp], NDArray[np.intp]]]:
        """Yield the patients of all images, and the training and test rows of each fold."""
        labels = check_labels(self.y)
        patients = self._patients(len(labels))
        if (count := len(np.unique(patients))) < _FOLDS:
            raise ValueError(f"there must be at least {_FOLDS} patients, got {count}")
        splitter, classes = GroupKFold(_FOLDS), None
        # Only one label, known for all images, can be stratified by.
        if labels.shape[1] == 1 and is_known(labels).all():
            column = labels[:, 0]
            names, classes, sizes = np.unique(column, return_inverse=True, return_counts=True)
            if sizes.min() < _FOLDS:
                raise ValueError(
                    f"class {brief(names[sizes.argmin()])} has only {counted(sizes.min(), 'image')}"
                )
            splitter = StratifiedGroupKFold(_FOLDS)
        with keeping_filters():
            folds = list(splitter.split(patients, classes, patients))
        for train, test in folds:
            yield patients, train, test
