"""A warning when embeddings collapse."""

import math

from otcxr_sk._warning import warn_user
from otcxr_sk.training._optimizer import WARMUP
from otcxr_sk.training.callbacks._base import Callback, TrainingState

# Below these, images have nearly the same embedding, or differ along one direction only.
_LEAST_SPREAD = 0.01
_LEAST_RANK = 1.5


class CollapseWarning(UserWarning):
    """The embeddings of a run hardly differ between images, or its tokens between places."""


class CollapseAlarm(Callback):
    """Warn once, after the first epoch past warm-up whose embeddings or tokens have collapsed.

    Parameters
    ----------
    n_images : int
        Number of training images. The effective rank of few images is low in any case, and is
        ignored for up to 8.
    """

    def __init__(self, n_images: int) -> None:
        self._least_rank = _LEAST_RANK if n_images > 8 else 0.0
        self._warned = False

    def on_epoch_end(self, state: TrainingState) -> None:
        """Check them if warm-up is over."""
        if state.epoch > math.ceil(WARMUP * state.epochs):
            self._check(state)

    def on_fit_end(self, state: TrainingState) -> None:
        """Check those of a run that ended within warm-up, or had ended before."""
        if state.ended and state.epoch:
            self._check(state)

    def _check(self, state: TrainingState) -> None:
        if self._warned:
            return
        spread, rank = (state.history[name][-1] for name in ("spread", "effective_rank"))
        tokens = state.history.get("token_spread", [math.inf])[-1]
        if spread < _LEAST_SPREAD or rank < self._least_rank:
            found = (
                f"the embeddings have collapsed (spread {spread:.3g}, effective rank {rank:.3g}): "
                "they hardly differ between images. Raise beta or global_weight of the objective"
            )
        # A map of a single token has a spread of exactly 0.
        elif 0 < tokens < _LEAST_SPREAD:
            found = (
                f"the tokens have collapsed (spread {tokens:.3g}): they hardly differ within an "
                "image, so that there is nothing to read out. Raise alpha of the objective"
            )
        else:
            return
        self._warned = True
        warn_user(
            f"after epoch {state.epoch} of {state.epochs} {found}, lower learning_rate, or check "
            "that the images differ",
            CollapseWarning,
        )
