"""What looks at a run as it goes: the events, and what is told at each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otcxr_sk.images import ImageSource
    from otcxr_sk.training.progress import Progress


class TrainingState:
    """A run as a callback sees it.

    Attributes
    ----------
    ended : bool
        Whether training came to its end, be it an early one, and did not fail. For `on_fit_end`.
    """

    def __init__(
        self, progress: Progress, epochs: int, fitted: Callable[[TrainingState], Any]
    ) -> None:
        self._progress, self._epochs, self._fitted = progress, epochs, fitted
        self.ended = False

    @property
    def epoch(self) -> int:
        """Epochs completed."""
        return self._progress.epoch

    @property
    def epochs(self) -> int:
        """Epochs that the run is to have."""
        return self._epochs

    @property
    def seconds(self) -> float:
        """Time that the run has taken, earlier parts of a resumed one included."""
        return self._progress.seconds

    @property
    def history(self) -> Mapping[str, Sequence[float]]:
        """A number for every epoch completed, NaN where there is none."""
        return self._progress.history

    @property
    def stopping(self) -> bool:
        """Whether a callback has asked to stop."""
        return self._progress.stopped

    @property
    def is_main_process(self) -> bool:
        """Whether this process is the one that may write files."""
        from torch import distributed

        alone = not (distributed.is_available() and distributed.is_initialized())
        return alone or distributed.get_rank() == 0

    @property
    def network(self) -> Any:
        """The network that training gives if it ends here."""
        return self._progress.outcome

    def estimator(self) -> Any:
        """Give a fitted copy of the estimator, as if `fit` had stopped here.

        It can do whatever the estimator can once it is fitted, and leaves training alone.
        """
        return self._fitted(self)

    def record(self, name: str, number: float) -> None:
        """Write a number of the epoch that has ended into the history.

        Raises
        ------
        ValueError
            It has a number of that name already.
        """
        values = self._progress.history.setdefault(name, [math.nan] * self.epoch)
        if not math.isnan(values[-1]):
            raise ValueError(f"the history has a {name!r} of this epoch already; use another name")
        values[-1] = float(number)

    def keep_weights(self) -> None:
        """Keep the weights that the epoch ended with, in checkpoints, too."""
        self._progress.kept = self._progress.good

    def restore_weights(self) -> None:
        """Put back the weights that were kept, if any were."""
        if self._progress.kept:
            for network in {self._progress.model, self._progress.outcome}:
                network.load_state_dict(self._progress.kept)

    def aside(self) -> AbstractContextManager[None]:
        """Keep what the block draws at random from what training draws."""
        from otcxr_sk.training.runtime import private_randomness

        device = next(self._progress.model.parameters()).device
        return private_randomness(self.epoch, device)


class Callback:
    """Base class of callbacks; each of its methods does nothing until it is overridden.

    Callbacks are called in the order in which they are given, and what one of them raises stops
    training. `OTCXRPretrainer` may be cloned and fitted again: what a callback remembers must
    start anew in `on_fit_begin`. Where several processes train together, each calls them, so that
    all must come to the same decision, and `TrainingState.is_main_process` says which may write.

    Examples
    --------
    >>> from otcxr_sk import OTCXRPretrainer
    >>> from otcxr_sk.training import Callback
    >>> class Enough(Callback):
    ...     def on_epoch_end(self, state):
    ...         return state.history["matching_accuracy"][-1] > 0.8
    >>> encoder = OTCXRPretrainer(callbacks=[Enough()])
    """

    def on_fit_begin(self, state: TrainingState) -> None:
        """Before training starts or goes on."""

    def on_epoch_end(self, state: TrainingState) -> bool | None:
        """After an epoch, before it is saved. True ends training."""
        return None

    def on_fit_end(self, state: TrainingState) -> None:
        """When training ends, whatever ended it; `state.ended` says whether all went well."""


def _nothing(state: TrainingState) -> Any:
    raise RuntimeError("there is no estimator in this run")


@dataclass(frozen=True)
class Watch:
    """What looks at a run.

    Parameters
    ----------
    callbacks : sequence of Callback
    validation : ImageSource or None
        Images whose loss is computed after every epoch.
    fitted : callable
        Makes the estimator of `TrainingState.estimator`.
    """

    callbacks: Sequence[Callback] = ()
    validation: ImageSource | None = None
    fitted: Callable[[TrainingState], Any] = _nothing

    @contextmanager
    def over(self, state: TrainingState) -> Iterator[None]:
        """Tell the callbacks when the block begins, and when it ends, however it does."""
        begun: list[Callback] = []
        try:
            with state.aside():
                for callback in self.callbacks:
                    callback.on_fit_begin(state)
                    begun.append(callback)
            yield
        finally:
            # Each is told, even if another fails, and in the order given.
            with ExitStack() as ends:
                for callback in reversed(begun):
                    ends.callback(callback.on_fit_end, state)
