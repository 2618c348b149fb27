"""An alarm for embeddings that no longer tell images apart."""

from __future__ import annotations

import math

from otcxr_sk.training.callbacks import Callback, TrainingState
from otcxr_sk.training.plan import WARMUP
from otcxr_sk.training.warning import warn_user

# Below these an embedding is taken for collapsed: all images alike, or alike but for one number.
_LEAST_SPREAD = 0.01
_LEAST_RANK = 1.5


class CollapseWarning(UserWarning):
    """The embeddings of a run hardly tell images apart."""


class CollapseAlarm(Callback):
    """Warn once, at the first epoch after warm-up whose embeddings have collapsed.

    Parameters
    ----------
    n_images : int
        Few images have few directions, collapsed or not.
    """

    def __init__(self, n_images: int) -> None:
        self._least_rank = _LEAST_RANK if n_images > 8 else 0.0
        self._warned = False

    def on_epoch_end(self, state: TrainingState) -> None:
        """Look once the learning rate has had its peak."""
        if state.epoch > math.ceil(WARMUP * state.epochs):
            self._look(state)

    def on_fit_end(self, state: TrainingState) -> None:
        """Look at the end of a run that ended before that, or had ended already."""
        if state.ended and state.epoch:
            self._look(state)

    def _look(self, state: TrainingState) -> None:
        spread, rank = (state.history[name][-1] for name in ("spread", "effective_rank"))
        if self._warned or (spread >= _LEAST_SPREAD and rank >= self._least_rank):
            return
        self._warned = True
        warn_user(
            f"after epoch {state.epoch} of {state.epochs} the embeddings have collapsed (spread "
            f"{spread:.3g}, effective rank {rank:.3g}): they hardly differ between images. Raise "
            "beta or global_weight, lower learning_rate, or check that the images differ",
            CollapseWarning,
        )
