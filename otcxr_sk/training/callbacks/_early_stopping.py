"""Stopping when training no longer helps."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral

from otcxr_sk.training.callbacks._base import Callback, TrainingState

_HIGHER_IS_BETTER = {
    "effective_rank",
    "spread",
    "token_spread",
    "matching_accuracy",
    "knn_probe",
    "validation_auc",
    "validation_dice",
}


@dataclass(frozen=True)
class EarlyStopping(Callback):
    """Stop when a number in the history has not improved for some epochs.

    The decision depends on the history alone, so a run that was interrupted and resumed stops at
    the same epoch.

    Parameters
    ----------
    monitor : str, default="validation_loss"
        The number to monitor: any name in `history_`. ``"validation_loss"`` and
        ``"validation_read_out"`` need `validation_fraction`. ``"effective_rank"`` needs no images
        held out, but may be highest before much has been learned: look at the curve of a whole
        run first.
    patience : int, default=10
        Epochs without a new best before training stops. Epochs without a number do not count.
    restore_best : bool, default=True
        Whether the estimator gets the weights of the best epoch instead of the last. They are
        kept in memory and in checkpoints, which grow by up to a third. After Ctrl-C the estimator
        has the latest weights.
    mode : {"min", "max"}, default=None
        Whether lower or higher is better. None means "max" for ``effective_rank``, ``spread``,
        ``token_spread``, ``matching_accuracy``, ``knn_probe``, ``validation_auc`` and
        ``validation_dice``, and "min" for all others.

    See Also
    --------
    TimeLimit : Stop after some minutes.
    otcxr_sk.evaluation.KNNProbe : Records ``knn_probe``; it must come before this callback.

    Examples
    --------
    >>> from otcxr_sk.training import EarlyStopping
    >>> stopping = EarlyStopping(patience=2)
    >>> stopping.best_epoch({"validation_loss": [3.0, 1.0, 2.0, 1.5]})
    2
    >>> stopping.is_over({"validation_loss": [3.0, 1.0, 2.0, 1.5]})
    True
    """

    monitor: str = "validation_loss"
    patience: int = 10
    restore_best: bool = True
    mode: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.patience, bool) or not isinstance(self.patience, Integral):
            raise TypeError(f"patience must be a number of epochs, got {self.patience!r}")
        if self.patience < 1:
            raise ValueError(f"patience must be at least 1 epoch, got {self.patience}")
        # Runs are compared by the representation of what ends them.
        object.__setattr__(self, "patience", int(self.patience))
        if self.mode not in (None, "min", "max"):
            raise ValueError(f"mode must be 'min', 'max' or None, got {self.mode!r}")

    def best_epoch(self, history: Mapping[str, Sequence[float]]) -> int | None:
        """Return the first epoch with the best number.

        Parameters
        ----------
        history : dict of str to list of float
            By name, a number for every epoch.

        Returns
        -------
        epoch : int or None
            Counted from 1; None if no epoch has a number.
        """
        numbers = self._numbers(history)
        return min(numbers)[1] if numbers else None

    def is_over(self, history: Mapping[str, Sequence[float]]) -> bool:
        """Return whether a run with this history stops.

        Parameters
        ----------
        history : dict of str to list of float
            By name, a number for every epoch.

        Returns
        -------
        over : bool
            Whether the last `patience` epochs brought nothing better.
        """
        numbers = self._numbers(history)
        return bool(numbers) and numbers[::-1].index(min(numbers)) >= self.patience

    def on_epoch_end(self, state: TrainingState) -> bool:
        """Keep the weights of a new best epoch; stop if there has been none for too long."""
        if self.restore_best and self.best_epoch(state.history) == state.epoch:
            state.keep_weights()
        return self.is_over(state.history)

    def on_fit_end(self, state: TrainingState) -> None:
        """Restore the best weights."""
        if self.restore_best and state.ended:
            state.restore_weights()

    def _numbers(self, history: Mapping[str, Sequence[float]]) -> list[tuple[float, int]]:
        """Return pairs of a number and its epoch, with the sign for which lower is better."""
        if self.monitor not in history and history:
            raise ValueError(
                f"EarlyStopping watches {self.monitor!r}, which is not in the history, only "
                f"{', '.join(sorted(history))}; a callback that records it must come before "
                "EarlyStopping"
            )
        mode = self.mode or ("max" if self.monitor in _HIGHER_IS_BETTER else "min")
        sign = -1 if mode == "max" else 1
        values = enumerate(history.get(self.monitor, ()), 1)
        return [(sign * value, epoch) for epoch, value in values if not math.isnan(value)]
