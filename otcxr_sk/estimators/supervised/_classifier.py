"""OTCXRClassifier: a few labelled chest X-rays to a classifier of findings."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, softmax
from sklearn.base import ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from otcxr_sk._ordinary import ordinary
from otcxr_sk._quote import counted, quoted
from otcxr_sk.estimators._embed import embed
from otcxr_sk.estimators._encoder import FittedEncoder
from otcxr_sk.estimators._parameters import Settings
from otcxr_sk.estimators._pretrainer import OTCXRPretrainer
from otcxr_sk.estimators.sharing import refuse
from otcxr_sk.estimators.supervised._base import Supervised
from otcxr_sk.estimators.supervised._labels import check_labels, read_classes
from otcxr_sk.estimators.supervised._linear import Classification, Labels
from otcxr_sk.estimators.supervised._training import Task
from otcxr_sk.images import ImageSource, Unusable
from otcxr_sk.method import DenseEncoder, Views
from otcxr_sk.training import Callback, Optimizer


class OTCXRClassifier(ClassifierMixin, Supervised):
    """Predict findings from chest X-rays, with an encoder that is fine-tuned for them.

    A linear probe is fitted on the embeddings of `pretrainer` first; then, unless the encoder is
    `frozen`, encoder and classifier are trained on from there with the labels [1]_.

    Parameters
    ----------
    pretrainer : OTCXRPretrainer or path, default=None
        The encoder that is started from, and how images are read: size, resizing, device,
        precision, workers, cache and what happens to unusable images. A fitted one is copied,
        never changed. One that is not fitted is fitted on the images first, without their labels;
        with ``epochs=0`` it only gives the network and its start. A path is a folder of
        ``OTCXRPretrainer.save_pretrained``. scikit-learn's `clone`, and so cross-validation,
        forgets what a pretrainer has learned: each fold then pre-trains on its own training
        images. Pass ``FrozenEstimator(pretrainer)`` or a path to start every fold from the same
        encoder. None is ``OTCXRPretrainer(epochs=0)``, a random start.
    frozen : bool, default=False
        Whether the encoder stays as it is, so that only the linear probe is fitted.
    epochs : int or "auto", default="auto"
        Passes over the labelled images. "auto": as many as make about 300 steps, at
        least 10.
    batch_size : int, default=32
    learning_rate : float or "auto", default="auto"
        Peak of the learning rate of the classifier, after a linear warm-up and before a cosine
        decay to zero. "auto": the `learning_rate` of the pretrainer.
    layer_decay : float, default=0.75
        Each layer of the encoder learns by this factor more slowly than the one above it, in
        (0, 1]. An encoder that is a module of your own learns as a whole.
    optimizer : {"adamw", "lars"} or Optimizer, default="adamw"
    views : Views, default=None
        How images are varied in training; nothing is hidden, whatever `erase` is. None is
        ``Views(crop_scale=(0.7, 1.0))``.
    class_weight : dict or "balanced", default=None
        Weights of the classes, as in `sklearn.linear_model.LogisticRegression`. Of several labels,
        only "balanced".
    validation_fraction : float, default=0.0
        Share of the patients (`groups` in `fit`) whose images are held out to compute
        ``history_["validation_loss"]`` and ``history_["validation_auc"]``.
    callbacks : list of Callback, default=None
        As in `OTCXRPretrainer`: ``EarlyStopping("validation_auc")`` keeps the best weights.
    checkpoint : path or Checkpoint, default=None
        As in `OTCXRPretrainer`.
    random_state : int, RandomState instance or None, default=None
        Of the training, and of a `pretrainer` that is fitted here and has none of its own.
    verbose : int, default=0

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        Of several labels, their indices.
    coef_ : ndarray of shape (1, C) for two classes, otherwise (n_classes, C)
        Of the embeddings that ``pretrainer_.transform`` returns.
    history_ : dict of str to list of float
        Per epoch of fine-tuning; empty if the encoder is frozen.
    intercept_ : ndarray of shape (1,) or (n_classes,)
    n_features_in_ : int
        Number of columns, if `fit` saw flattened rows.
    n_images_ : int
        Images with labels that it was trained on.
    n_patients_ : int or None
        Patients of these images; None without `groups`.
    patients_ : dict or None
        As in `OTCXRPretrainer`, of pre-training and of `fit`: whom `seen` tells.
    pretrainer_ : OTCXRPretrainer
        The fine-tuned encoder: embeds, can be saved and explained. What else it was pre-trained
        with (its heads, for `match` and `score`) does not fit it any more.
    skipped_ : list of dict
        ``row``, ``file`` and ``reason`` of the images that `fit` left out.

    See Also
    --------
    OTCXRPretrainer : What `X` may be, in every method.
    otcxr_sk.evaluation.compare : Whether it is better than another, by patient.

    References
    ----------
    .. [1] A. Kumar, A. Raghunathan, R. Jones, T. Ma, P. Liang, "Fine-tuning can distort pretrained
       features and underperform out-of-distribution", ICLR 2022.

    Examples
    --------
    >>> from otcxr_sk import OTCXRClassifier, OTCXRPretrainer
    >>> from otcxr_sk.datasets import make_chest_phantoms
    >>> data = make_chest_phantoms(12, image_size=32, random_state=0)
    >>> encoder = OTCXRPretrainer("resnet10t", image_size=32, epochs=1, random_state=0)
    >>> encoder = encoder.fit(data.images)
    >>> classifier = OTCXRClassifier(encoder, epochs=1, random_state=0)
    >>> classifier.fit(data.images, data.labels).predict_proba(data.images[:3]).shape
    (3, 5)
    """

    classes_: NDArray[Any]
    coef_: NDArray[np.float64]
    intercept_: NDArray[np.float64]

    _several: bool
    _kind: ClassVar[str] = "OTCXRClassifier"
    _learns: ClassVar[tuple[str, ...]] = ("classes", "classes_dtype", "several")
    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **Supervised._parameter_constraints,
        "class_weight": [None, dict, StrOptions({"balanced"})],
    }

    def __init__(
        self,
        pretrainer: Any = None,
        *,
        frozen: bool = False,
        epochs: int | str = "auto",
        batch_size: int = 32,
        learning_rate: float | str = "auto",
        layer_decay: float = 0.75,
        optimizer: str | Optimizer = "adamw",
        views: Views | None = None,
        class_weight: Any = None,
        validation_fraction: float = 0.0,
        callbacks: Sequence[Callback] | None = None,
        checkpoint: Any = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        super().__init__(
            pretrainer,
            frozen=frozen,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            layer_decay=layer_decay,
            optimizer=optimizer,
            views=views,
            validation_fraction=validation_fraction,
            callbacks=callbacks,
            checkpoint=checkpoint,
            random_state=random_state,
            verbose=verbose,
        )
        self.class_weight = class_weight

    def fit(self, X: Any, y: Any, groups: Any = None) -> Self:
        """Fit the classifier.

        Parameters
        ----------
        X : array-like or sequence of paths
        y : array-like of shape (n,) or (n, k)
            The class of each image; or k labels, 0 or 1 each, NaN where unknown.
        groups : array-like of shape (n,), default=None
            Patient of each image, none missing, for `validation_fraction` and `seen`.

        Returns
        -------
        self : OTCXRClassifier

        Raises
        ------
        ValueError
            A parameter, a label or an image cannot be used, or there is only one class.
        NonFiniteLossError, TrainingInterrupted
            As by ``OTCXRPretrainer.fit``.
        """
        with ordinary():
            return self._fit(X, y, groups)

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Return the scores of images: log-odds, or their equivalent for several classes.

        Parameters
        ----------
        X : array-like or sequence of paths

        Returns
        -------
        scores : ndarray of shape (n,) for two classes, otherwise (n, n_classes)
            NaN for images that cannot be used, if `on_error` of the pretrainer allows them.
        """
        return self._scores(self._embed(X))

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the probability of each class, or of each of several labels.

        Parameters
        ----------
        X : array-like or sequence of paths

        Returns
        -------
        probabilities : ndarray of shape (n, n_classes)
            NaN for images that cannot be used.
        """
        return self._probability(self._embed(X))

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable class, or which of several labels are more likely than not.

        Parameters
        ----------
        X : array-like or sequence of paths

        Returns
        -------
        y : ndarray of shape (n,), or (n, k) of 0 and 1

        Raises
        ------
        ValueError
            An image cannot be used; `predict_proba` has NaN for it.
        """
        scores = self.decision_function(X)
        unknown = np.isnan(scores.reshape(len(scores), -1)).any(1)
        if unknown.any():
            raise ValueError(
                f"{counted(unknown.sum(), 'image')} cannot be used and so cannot have a class, the "
                f"first in row {unknown.argmax()}; leave such out (pretrainer_.last_unusable lists "
                "them), or use predict_proba, which gives NaN for them"
            )
        if self._several:
            return (scores > 0).astype(int)
        return self.classes_[scores.argmax(1) if scores.ndim == 2 else (scores > 0).astype(int)]

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def _embed(self, X: Any) -> NDArray[np.float32]:
        check_is_fitted(self)
        return self.pretrainer_._embed(X, dense=False, out=None, asked_by=self)

    def _scores(self, embedding: NDArray[Any]) -> NDArray[np.float64]:
        scores = embedding @ self.coef_.T + self.intercept_
        return scores if self._several or scores.shape[1] > 1 else scores[:, 0]

    def _probability(self, embedding: NDArray[Any]) -> NDArray[np.float64]:
        scores = self._scores(embedding)
        if self._several:
            return expit(scores)
        if scores.ndim == 1:
            return np.column_stack([expit(-scores), expit(scores)])
        return softmax(scores, axis=1)

    def _settings(self) -> Settings:
        settings = super()._settings()
        # Classes may be of any kind; as text they are compared with those of another run.
        settings.class_weight = repr(self.class_weight)
        if self.frozen:
            settings.epochs = 0
        return settings

    def _check_labels(
        self, y: Any, n_images: int, base: OTCXRPretrainer
    ) -> tuple[Labels, NDArray[Any]]:
        return check_labels(y, n_images, self.class_weight)

    def _task(
        self, labels: Any, encoder: FittedEncoder, source: ImageSource, base: OTCXRPretrainer
    ) -> tuple[Task, list[Unusable]]:
        embedding, problems = embed(
            encoder,
            encoder.load(),
            source,
            dense=False,
            out=None,
            num_workers=base.num_workers,
            progress=self.verbose > 0,
        )
        return Classification(labels[0], embedding, self.layer_decay), problems

    def _take(self, network: Any, labels: Any) -> None:
        found, self.classes_ = labels
        self._several = found.several
        self.coef_, self.intercept_ = network.linear().of_embeddings()

    def _shared(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        learned = {
            "classes": self.classes_.tolist(),
            "classes_dtype": self.classes_.dtype.str,
            "several": self._several,
        }
        # Some other kinds of classes are nothing that JSON could hold.
        read_classes(learned["classes"], learned["classes_dtype"])
        parts = {"coef": self.coef_, "intercept": self.intercept_}
        return learned, {name: torch.tensor(one) for name, one in parts.items()}

    def _check_learned(self, learned: Mapping[str, Any]) -> None:
        self.classes_ = read_classes(learned["classes"], learned["classes_dtype"])
        self._several = learned["several"]
        if not isinstance(self._several, bool):
            refuse("several", f"is {quoted(self._several)}, neither true nor false")
        if self._several and self.classes_.tolist() != [*range(len(self.classes_))]:
            refuse("classes", "must be the indices of the labels")

    def _head_of(self, encoder: DenseEncoder) -> dict[str, Tensor]:
        n = len(self.classes_)
        rows = n if self._several or n > 2 else 1
        shapes = {"coef": (rows, encoder.last_shape[0]), "intercept": (rows,)}
        blank = torch.device("meta")
        return {
            name: torch.empty(shape, dtype=torch.float64, device=blank)
            for name, shape in shapes.items()
        }

    def _take_head(self, head: dict[str, Tensor]) -> None:
        self.coef_, self.intercept_ = head["coef"].numpy(), head["intercept"].numpy()
