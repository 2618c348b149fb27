"""Bridge to scikit-learn's callbacks, which are experimental in its version 1.9."""

from collections.abc import Callable
from typing import Any, TypeVar

from otcxr_sk.training import Callback, TrainingState

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
    "with_callbacks",
]


class SklearnCallbacks(Callback):
    """Passes events on to callbacks that were set with scikit-learn's `set_callbacks`.

    To them, a run is a task, and each of its epochs a subtask.

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
        """Return the bridge, if this scikit-learn has callbacks."""
        return [cls(estimator, X, y)] if hasattr(estimator, "_init_callback_context") else []

    def on_fit_begin(self, state: TrainingState) -> None:
        """Begin the run and its first epoch."""
        left = 0 if state.stopping else state.epochs - state.epoch
        self._run = self._estimator._init_callback_context(max_subtasks=left)
        self._run.call_on_fit_task_begin(**self._given)
        self._begin_epoch(state)

    def on_epoch_end(self, state: TrainingState) -> bool:
        """End an epoch, which may end the run, and begin the next one."""
        stop = self._epoch.call_on_fit_task_end(
            **self._given, reconstruction_attributes=lambda: _learned(state)
        )
        if not stop:
            self._begin_epoch(state)
        return bool(stop)

    def on_fit_end(self, state: TrainingState) -> None:
        """End the run, unless it failed."""
        if state.ended:
            self._run.call_on_fit_task_end(
                **self._given, reconstruction_attributes=lambda: _learned(state)
            )

    def _begin_epoch(self, state: TrainingState) -> None:
        if state.epoch < state.epochs and not state.stopping:
            self._epoch = self._run.subcontext(task_name="epoch")
            self._epoch.call_on_fit_task_begin(**self._given)


def _learned(state: TrainingState) -> dict[str, Any]:
    fitted = vars(state.estimator())
    return {name: value for name, value in fitted.items() if name.endswith("_")} | {
        "_architecture": fitted["_architecture"]
    }
