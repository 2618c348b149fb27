"""An end to training that no longer helps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral

from otcxr_sk.training.callbacks import Callback, TrainingState

_HIGHER_IS_BETTER = {"effective_rank", "spread", "matching_accuracy", "knn_probe"}


@dataclass(frozen=True)
class EarlyStopping(Callback):
    """Stop when a number of the history has not improved for some epochs.

    What is decided follows from the history alone, so a run that was interrupted stops where it
    would have stopped.

    Parameters
    ----------
    monitor : str, default="validation_loss"
        What to watch: any number of `history_`. ``"validation_loss"`` needs
        `validation_fraction`. ``"effective_rank"`` needs no images held out, but may be highest
        before much has been learnt: look at the curve of a whole run first.
    patience : int, default=10
        Epochs without a new best before training stops. Those without a number do not count.
    restore_best : bool, default=True
        Whether the estimator gets the weights of the best epoch instead of the last. They are
        kept beside the network and in checkpoints, which become larger by up to a third. An
        interruption by Ctrl-C leaves the latest ones.
    mode : {"min", "max"}, default=None
        Whether lower or higher is better. None takes "max" for ``effective_rank``, ``spread``,
        ``matching_accuracy`` and ``knn_probe``, and "min" for all else.

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
        if self.mode not in (None, "min", "max"):
            raise ValueError(f"mode must be 'min', 'max' or None, got {self.mode!r}")

    def best_epoch(self, history: Mapping[str, Sequence[float]]) -> int | None:
        """Give the first epoch of the best number, counted from 1; None if there is no number."""
        told = self._told(history)
        return min(told)[1] if told else None

    def is_over(self, history: Mapping[str, Sequence[float]]) -> bool:
        """Whether a run of that history has lost its patience."""
        told = self._told(history)
        return bool(told) and told[::-1].index(min(told)) >= self.patience

    def on_epoch_end(self, state: TrainingState) -> bool:
        """Keep the best weights, and stop when none better have come for long enough."""
        if self.restore_best and self.best_epoch(state.history) == state.epoch:
            state.keep_weights()
        return self.is_over(state.history)

    def on_fit_end(self, state: TrainingState) -> None:
        """Give the network the best weights."""
        if self.restore_best and state.ended:
            state.restore_weights()

    def _told(self, history: Mapping[str, Sequence[float]]) -> list[tuple[float, int]]:
        """Pairs of a number, lower being better, and its epoch."""
        if self.monitor not in history and history:
            raise ValueError(
                f"EarlyStopping watches {self.monitor!r}, which the history has not, only "
                f"{', '.join(sorted(history))}; a callback that records it must come before it"
            )
        sign = -1 if (self.mode or self._usual_mode()) == "max" else 1
        numbers = enumerate(history.get(self.monitor, ()), 1)
        return [(sign * number, epoch) for epoch, number in numbers if not math.isnan(number)]

    def _usual_mode(self) -> str:
        return "max" if self.monitor in _HIGHER_IS_BETTER else "min"
