"""What estimators that learn from labels have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, ClassVar, Self

from sklearn.base import BaseEstimator, clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils import Tags
from sklearn.utils._param_validation import HasMethods, Interval
from sklearn.utils.validation import check_is_fitted

from otcxr_sk.estimators._encoder import FittedEncoder
from otcxr_sk.estimators._fit import draw_seed
from otcxr_sk.estimators._inputs import check_groups, numbered, take_features
from otcxr_sk.estimators._parameters import (
    CONSTRAINTS,
    Settings,
    check_callbacks,
    check_group,
    with_groups,
)
from otcxr_sk.estimators._pretrainer import OTCXRPretrainer
from otcxr_sk.estimators._state import Learned
from otcxr_sk.estimators.supervised._training import (
    FineTuned,
    Task,
    calibrated,
    digest_of,
    fine_tune,
)
from otcxr_sk.images import ImageSource, Unusable, unusable_table, without_names
from otcxr_sk.method import Views
from otcxr_sk.training import Callback, Optimizer

_SHARED = (
    *("batch_size", "optimizer", "views", "validation_fraction", "callbacks", "checkpoint"),
    *("random_state", "verbose"),
)


class Supervised(BaseEstimator):
    """An encoder that is trained on with labels."""

    pretrainer_: OTCXRPretrainer
    history_: dict[str, list[float]]
    skipped_: list[dict[str, Any]]

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        **{name: CONSTRAINTS[name] for name in _SHARED},
        "pretrainer": [None, HasMethods(["fit", "transform"])],
        "frozen": ["boolean"],
        "epochs": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "layer_decay": [Interval(Real, 0, 1, closed="right")],
    }

    def __init__(
        self,
        pretrainer: Any = None,
        *,
        frozen: bool = False,
        epochs: int = 30,
        batch_size: int = 32,
        learning_rate: float = 5e-4,
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

    def set_params(self, **params: Any) -> Self:
        """Set parameters, those of groups by names such as ``views__blur``.

        Parameters
        ----------
        **params : dict

        Returns
        -------
        self : object
        """
        return super().set_params(**with_groups(self, params))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        tags.target_tags.required = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "skipped_" in state:
            state["skipped_"] = [without_names(problem) for problem in state["skipped_"]]
        return state

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

    def _fit(self, X: Any, y: Any, groups: Any) -> Self:
        self._validate_params()
        settings = self._settings()
        base, twin = self._start(), copy(self)
        source = base._source(X, fitting=True, asked_by=twin)
        patients = numbered(check_groups(groups, len(source)), len(source))
        labels = self._check_labels(y, len(source), base)
        if not hasattr(base, "weights_"):
            base.fit(X, groups=groups)
        with base._within_memory():
            encoder = calibrated(base._encoder(), source, base.num_workers)
            task, problems = self._task(labels, encoder, source, base)
            settings.image_size = encoder.architecture["image_size"]
            settings.pretrainer, settings.labels = base, digest_of(task.labels)

            def fitted(learned: FineTuned) -> Any:
                found = copy(twin)
                found.pretrainer_ = base._copy(replace(Learned.by(base), weights_=learned.weights))
                found.history_ = learned.history
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
        if not isinstance(given, OTCXRPretrainer):
            raise TypeError(f"pretrainer must be an OTCXRPretrainer, got {type(given).__name__}")
        if hasattr(given, "weights_"):
            return given
        found = clone(given)
        if found.random_state is None:
            found.random_state = draw_seed(self.random_state)
        return found
