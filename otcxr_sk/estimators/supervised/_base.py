"""What estimators that learn from labels have in common."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, ClassVar, Self

from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils import Tags
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from otcxr_sk.estimators._encoder import FittedEncoder
from otcxr_sk.estimators._estimator import ImageEstimator
from otcxr_sk.estimators._fit import draw_seed
from otcxr_sk.estimators._inputs import check_groups, take_features
from otcxr_sk.estimators._parameters import (
    CONSTRAINTS,
    Settings,
    check_callbacks,
    check_group,
)
from otcxr_sk.estimators._pretrainer import OTCXRPretrainer
from otcxr_sk.estimators._run import digest_of
from otcxr_sk.estimators._state import Learned
from otcxr_sk.estimators.sharing import ModelFolder, Tuning, describe, load_tuned
from otcxr_sk.estimators.supervised._training import (
    FineTuned,
    Task,
    calibrated,
    fine_tune,
)
from otcxr_sk.images import ImageSource, Unusable, unusable_table
from otcxr_sk.method import DenseEncoder, Views
from otcxr_sk.training import Callback, Optimizer

_SHARED = (
    *("batch_size", "optimizer", "views", "validation_fraction", "callbacks", "checkpoint"),
    *("random_state", "verbose"),
)


class Supervised(ImageEstimator):
    """An encoder that is trained on with labels."""

    pretrainer_: OTCXRPretrainer

    _parts: ClassVar[tuple[str, ...]] = (*ImageEstimator._parts, "head")
    # What the configuration of a folder holds of what was learned from labels.
    _learns: ClassVar[tuple[str, ...]]

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **{name: CONSTRAINTS[name] for name in _SHARED},
        "pretrainer": [None, str, HasMethods(["__fspath__"]), HasMethods(["fit", "transform"])],
        "frozen": ["boolean"],
        "epochs": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
        "learning_rate": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "layer_decay": [Interval(Real, 0, 1, closed="right")],
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
        validation_fraction: float = 0.0,
        callbacks: Sequence[Callback] | None = None,
        checkpoint: Any = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.pretrainer = pretrainer
        self.frozen = frozen
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.layer_decay = layer_decay
        self.optimizer = optimizer
        self.views = views
        self.validation_fraction = validation_fraction
        self.callbacks = callbacks
        self.checkpoint = checkpoint
        self.random_state = random_state
        self.verbose = verbose

    def forget_patients(self) -> Self:
        """Forget who was trained on, before a copy is given away.

        Returns
        -------
        self : object
            Without `patients_`, here and in `pretrainer_`, so `seen` is an error. A fitted
            `pretrainer` is replaced by a copy that has forgotten, too. Nothing else changes.
        """
        check_is_fitted(self)
        self.pretrainer_.forget_patients()
        return super().forget_patients()

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags

    @classmethod
    def _from_folder(cls, folder: ModelFolder) -> Self:
        return load_tuned(cls, OTCXRPretrainer, folder)

    def _tuning(self) -> Tuning:
        learned, head = self._shared()
        return Tuning({**describe(self), "learned": learned}, head)

    @abstractmethod
    def _check_labels(self, y: Any, n_images: int, base: OTCXRPretrainer) -> Any:
        """Return the labels, checked, before any long work."""

    @abstractmethod
    def _task(
        self, labels: Any, encoder: FittedEncoder, source: ImageSource, base: OTCXRPretrainer
    ) -> tuple[Task, list[Unusable]]:
        """Return what is to be learned, and the images that cannot be used."""

    @abstractmethod
    def _take(self, network: Any, labels: Any) -> None:
        """Take what a network has learned."""

    @abstractmethod
    def _shared(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return what was learned, as JSON holds it and as weights."""

    @abstractmethod
    def _check_learned(self, learned: Mapping[str, Any]) -> None:
        """Take the former from a folder; raise a ValueError if it is not as it was written."""

    @abstractmethod
    def _head_of(self, encoder: DenseEncoder) -> dict[str, Tensor]:
        """Return tensors of the shapes and dtypes that the latter has with an encoder."""

    @abstractmethod
    def _take_head(self, head: dict[str, Tensor]) -> None:
        """Take the latter from a folder."""

    def _fit(self, X: Any, y: Any, groups: Any) -> Self:
        self._validate_params()
        settings = self._settings()
        base, twin = self._start(), copy(self)
        source = base._source(X, fitting=True, asked_by=twin)
        patients = check_groups(groups, len(source))
        labels = self._check_labels(y, len(source), base)
        if not hasattr(base, "weights_"):
            base.fit(X, groups=groups)
        with base._within_memory():
            encoder = calibrated(base._encoder(), source, base.num_workers)
            task, problems = self._task(labels, encoder, source, base)
            if self.learning_rate == "auto":
                settings.learning_rate = base.learning_rate
            settings.pretrainer, settings.labels = base, digest_of(task.labels.tobytes())
            # Of the pretrainer, what its weights do not tell.
            for name in ("encoder", "image_size", "resize", "pooling"):
                setattr(settings, name, encoder.architecture[name])
            for name in ("precision", "mean", "std"):
                setattr(settings, name, getattr(encoder, name))

            def fitted(learned: FineTuned) -> Any:
                found = copy(twin)
                seen = base.patients_ if self.frozen else learned.patients
                found.pretrainer_ = base._copy(
                    replace(Learned.by(base), weights_=learned.weights, patients_=seen)
                )
                found.history_, found.patients_ = learned.history, learned.patients
                found.n_images_, found.n_patients_ = learned.n_images, learned.n_patients
                found.skipped_ = unusable_table(problems)
                found._take(learned.network, labels)
                return found

            learned, failure = fine_tune(
                settings,
                encoder,
                source,
                problems,
                task,
                patients,
                num_workers=base.num_workers,
                fitted=fitted,
            )
        take_features(self, twin)
        self.__dict__.update(vars(fitted(learned)))
        if failure is not None:
            raise failure
        return self

    def _settings(self) -> Settings:
        parameters = self.get_params(deep=False)
        groups = {name: check_group(name, parameters[name]) for name in ("optimizer", "checkpoint")}
        views = Views(crop_scale=(0.7, 1.0)) if self.views is None else self.views
        callbacks = check_callbacks(self.callbacks, self.validation_fraction)
        changes = {"views": check_group("views", views), "callbacks": callbacks, "weights": None}
        return Settings(**{**parameters, **groups, **changes})

    def _start(self) -> OTCXRPretrainer:
        """Return the pretrainer as it is, if it is fitted, or a copy that is to be fitted."""
        given = self.pretrainer
        if isinstance(given, FrozenEstimator):
            given = given.estimator
            check_is_fitted(given)
        if given is None:
            given = OTCXRPretrainer(epochs=0)
        if isinstance(given, str | os.PathLike):
            given = OTCXRPretrainer.from_pretrained(given)
        if not isinstance(given, OTCXRPretrainer):
            raise TypeError(f"pretrainer must be an OTCXRPretrainer, got {type(given).__name__}")
        if hasattr(given, "weights_"):
            return given
        found = clone(given)
        if found.random_state is None:
            found.random_state = draw_seed(self.random_state)
        return found
