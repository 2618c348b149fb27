"""What looks at a run of an estimator: its callbacks, the alarm, and scikit-learn's callbacks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from otcxr_sk.training.callbacks import Callback, TrainingState
from otcxr_sk.training.early_stopping import EarlyStopping

F = TypeVar("F", bound=Callable[..., Any])

try:
    from sklearn.callback import CallbackSupportMixin, with_callbacks
except ImportError:  # scikit-learn before 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """Nothing to support."""

    def with_callbacks(method: F) -> F:
        """Leave a method as it is."""
        return method


__all__ = [
    "CallbackSupportMixin",
    "SklearnCallbacks",
    "check_callbacks",
    "early_stopping",
    "with_callbacks",
]


def check_callbacks(callbacks: Any, validation_fraction: float) -> list[Callback]:
    """Refuse what is no callback, or can never do what it is for."""
    found = list(callbacks or ())
    for callback in found:
        if not isinstance(callback, Callback):
            raise TypeError(
                f"callbacks must be objects of otcxr_sk.training.Callback, got {callback!r}; "
                "those of scikit-learn go to set_callbacks"
            )
    early = [callback for callback in found if isinstance(callback, EarlyStopping)]
    if sum(callback.restore_best for callback in early) > 1:
        raise ValueError("of several EarlyStopping only one can have restore_best=True")
    if not validation_fraction and any(each.monitor == "validation_loss" for each in early):
        raise ValueError(
            "EarlyStopping watches 'validation_loss', but no images are held out: set "
            "validation_fraction, or watch another number, such as 'effective_rank'"
        )
    return found


def early_stopping(callbacks: Any) -> list[str] | None:
    """Tell what decides when a run ends and with which weights."""
    return [repr(each) for each in callbacks or () if isinstance(each, EarlyStopping)] or None


class SklearnCallbacks(Callback):
    """Pass events on to callbacks that were set by scikit-learn's `set_callbacks`.

    A run is a task of theirs, and each of its epochs a subtask.

    Parameters
    ----------
    estimator : OTCXRPretrainer
    X, y : object
        What its `fit` was given.
    """

    def __init__(self, estimator: Any, X: Any, y: Any) -> None:
        self._estimator = estimator
        self._given = {"estimator": estimator, "X": X, "y": y}
        self._run: Any = None
        self._epoch: Any = None

    @classmethod
    def of(cls, estimator: Any, X: Any, y: Any) -> list[Callback]:
        """Give what passes events on, if this scikit-learn has callbacks."""
        return [cls(estimator, X, y)] if hasattr(estimator, "_init_callback_context") else []

    def on_fit_begin(self, state: TrainingState) -> None:
        """Begin the run and its first epoch."""
        left = 0 if state.stopping else state.epochs - state.epoch
        self._run = self._estimator._init_callback_context(max_subtasks=left)
        self._run.call_on_fit_task_begin(**self._given)
        self._begin_epoch(state)

    def on_epoch_end(self, state: TrainingState) -> bool:
        """End an epoch, which may end the run, and begin the next."""
        stop = self._epoch.call_on_fit_task_end(
            **self._given, reconstruction_attributes=lambda: _learnt(state)
        )
        if not stop:
            self._begin_epoch(state)
        return bool(stop)

    def on_fit_end(self, state: TrainingState) -> None:
        """End the run, if it did not fail."""
        if state.ended:
            self._run.call_on_fit_task_end(
                **self._given, reconstruction_attributes=lambda: _learnt(state)
            )

    def _begin_epoch(self, state: TrainingState) -> None:
        if state.epoch < state.epochs and not state.stopping:
            self._epoch = self._run.subcontext(task_name="epoch")
            self._epoch.call_on_fit_task_begin(**self._given)


def _learnt(state: TrainingState) -> dict[str, Any]:
    fitted = vars(state.estimator())
    return {name: value for name, value in fitted.items() if name.endswith("_")} | {
        "_architecture": fitted["_architecture"]
    }
