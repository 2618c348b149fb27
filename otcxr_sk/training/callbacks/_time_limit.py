"""Stopping after some time."""

from dataclasses import dataclass
from numbers import Real

from otcxr_sk.training.callbacks._base import Callback, TrainingState


@dataclass(frozen=True)
class TimeLimit(Callback):
    """Start no further epoch after some minutes.

    The learning rate falls over all `epochs`. A run that ends before them never trains at a low
    one, and gives worse weights than a run planned with as many epochs as there is time for. With
    checkpoints, calling `fit` again with a higher limit continues the run.

    Parameters
    ----------
    minutes : float
        Time that the run may take, including earlier parts of a resumed run. An epoch that has
        begun is completed.

    See Also
    --------
    otcxr_sk.Checkpoint : Where a run is saved.
    EarlyStopping : Stop when a number no longer improves.

    Examples
    --------
    >>> from otcxr_sk import OTCXRPretrainer
    >>> from otcxr_sk.training import TimeLimit
    >>> encoder = OTCXRPretrainer(callbacks=[TimeLimit(minutes=90)])
    """

    minutes: float

    def __post_init__(self) -> None:
        if not isinstance(self.minutes, Real) or not self.minutes > 0:
            raise ValueError(f"minutes must be more than 0, got {self.minutes!r}")

    def on_fit_begin(self, state: TrainingState) -> None:
        """Start no epoch of a resumed run whose time is over."""
        if state.epoch:
            self.on_epoch_end(state)

    def on_epoch_end(self, state: TrainingState) -> None:
        """Pause the run if its time is over."""
        if state.seconds >= 60 * self.minutes:
            state.pause()
