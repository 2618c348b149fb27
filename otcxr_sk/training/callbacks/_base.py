"""The base class of callbacks, and the state that they are given."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otcxr_sk.training._progress import Progress


class TrainingState:
    """A run as a callback sees it.

    Attributes
    ----------
    ended : bool
        Whether training ended, early or not, without an error or Ctrl-C. For `on_fit_end`.

    See Also
    --------
    Callback : Gets it at every event.
    """

    def __init__(
        self,
        progress: Progress,
        epochs: int,
        fitted: Callable[[TrainingState], Any] | None = None,
    ) -> None:
        self._progress, self._epochs, self._fitted = progress, epochs, fitted
        self.ended = False

    @property
    def epoch(self) -> int:
        """Epochs completed."""
        return self._progress.epoch

    @property
    def epochs(self) -> int:
        """Epochs that the run is planned with."""
        return self._epochs

    @property
    def seconds(self) -> float:
        """Time that the run has taken, including earlier parts of a resumed one."""
        return self._progress.seconds

    @property
    def history(self) -> Mapping[str, Sequence[float]]:
        """By name, a number for every epoch completed; NaN for epochs without one."""
        return self._progress.history

    @property
    def stopping(self) -> bool:
        """Whether a callback has ended the run."""
        return self._progress.stopped

    def pause(self) -> None:
        """End this call of `fit` after the epoch; a later one continues from its checkpoints.

        A run that a callback ends by returning True, in contrast, has ended for good.
        """
        self._progress.paused = True

    @property
    def is_main_process(self) -> bool:
        """Whether this is the process that may write files, of several or alone."""
        from torch import distributed

        alone = not (distributed.is_available() and distributed.is_initialized())
        return alone or distributed.get_rank() == 0

    @property
    def network(self) -> Any:
        """The network that training returns if it ends here."""
        return self._progress.outcome

    def estimator(self) -> Any:
        """Return a fitted copy of the estimator, as if `fit` had ended here.

        Returns
        -------
        estimator : OTCXRPretrainer, OTCXRClassifier or OTCXRSegmenter
            It can do all that a fitted estimator can, and does not affect training.
        """
        if self._fitted is None:
            raise RuntimeError("this run belongs to no estimator")
        return self._fitted(self)

    def record(self, name: str, number: float) -> None:
        """Add a number for the epoch that has ended to the history.

        Parameters
        ----------
        name : str
            Name in the history.
        number : float
            The number.

        Raises
        ------
        ValueError
            If the epoch already has a number of that name, or no epoch has ended yet.
        """
        if not self.epoch:
            raise ValueError(f"{name!r} is of no epoch yet; record numbers in on_epoch_end")
        values = self._progress.history.setdefault(name, [math.nan] * self.epoch)
        if not math.isnan(values[-1]):
            raise ValueError(f"this epoch already has a {name!r} in the history; use another name")
        values[-1] = float(number)

    def keep_weights(self) -> None:
        """Keep the weights at the end of this epoch, also in checkpoints."""
        self._progress.kept = self._progress.good

    def restore_weights(self) -> None:
        """Restore the weights that were kept, if there are any."""
        if self._progress.kept:
            for network in {self._progress.model, self._progress.outcome}:
                network.load_state_dict(self._progress.kept)


class Callback:
    """Base class of callbacks; its methods do nothing until they are overridden.

    Callbacks are called in the order in which they are given, and an error in one of them stops
    training. Since an estimator may be fitted again, reset what a callback remembers in
    `on_fit_begin`. If several processes train together, each of them calls the callbacks: they
    must come to the same decision in all, and only the one where `state.is_main_process` is True
    may write files.

    See Also
    --------
    TrainingState : What each method is given.
    EarlyStopping : Stop when a number no longer improves.
    TimeLimit : Stop after some minutes.
    CSVLogger : Write the history to a CSV file.
    TensorBoardLogger : Write the history for TensorBoard.
    otcxr_sk.evaluation.KNNProbe : Record how well the embedding predicts a label.

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
        """Run before training starts or continues.

        Parameters
        ----------
        state : TrainingState
            The run.
        """

    def on_epoch_end(self, state: TrainingState) -> bool | None:
        """Run after an epoch, before it is saved.

        Parameters
        ----------
        state : TrainingState
            The run.

        Returns
        -------
        over : bool or None
            True ends training for good.
        """
        return None

    def on_fit_end(self, state: TrainingState) -> None:
        """Run when training ends, for whatever reason.

        Parameters
        ----------
        state : TrainingState
            The run; its `ended` is True if nothing failed.
        """


@contextmanager
def calling(callbacks: Sequence[Callback], state: TrainingState) -> Iterator[None]:
    """Call `on_fit_begin` before the block and `on_fit_end` after it, also if it fails."""
    begun: list[Callback] = []
    try:
        for callback in callbacks:
            callback.on_fit_begin(state)
            begun.append(callback)
        yield
    finally:
        # All are called, in the order given, even if one fails.
        with ExitStack() as ends:
            for callback in reversed(begun):
                ends.callback(callback.on_fit_end, state)
