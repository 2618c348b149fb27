"""Curves of training."""

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from sklearn.utils.validation import check_is_fitted

from otcxr_sk.plotting._display import Display, color_of, new_figure, show_as_written

# Title of each panel, the column of `history_` that is drawn, and one to compare it with.
_PANELS = (
    ("loss", "loss", None),
    ("held-out loss", "validation_loss", None),
    ("read-out error", "read_out", ("validation_read_out", "held out")),
    ("matching accuracy", "matching_accuracy", ("matching_chance", "chance")),
    ("spread of embeddings", "spread", None),
    ("effective rank", "effective_rank", None),
)
_COLUMNS = 3


class HistoryDisplay(Display):
    """Curves of one or several runs, epoch by epoch, a panel each for what they recorded.

    The panels are the loss, the loss on held-out images, the error of the read-out (dashed: on
    held-out images), the accuracy of matching (dashed: by chance), and spread and effective rank
    of the embeddings. Losses can be compared between runs whose objectives have the same weights.

    Parameters
    ----------
    histories : mapping of str to mapping
        `history_` of each named run.

    Examples
    --------
    >>> from otcxr_sk import OTCXRPretrainer
    >>> from otcxr_sk.datasets import make_chest_phantoms
    >>> from otcxr_sk.plotting import HistoryDisplay
    >>> images = make_chest_phantoms(4, image_size=32, random_state=0).images
    >>> encoder = OTCXRPretrainer("test_resnet", image_size=32, epochs=1).fit(images)
    >>> display = HistoryDisplay.from_estimator(encoder)
    >>> [ax.get_title() for ax in display.figure_.axes][:2]
    ['loss', 'read-out error']
    """

    def __init__(self, histories: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
        self.histories = histories

    @classmethod
    def from_estimator(cls, estimator: Any) -> Self:
        """Draw the history of a fitted estimator, or of several by name.

        Parameters
        ----------
        estimator : OTCXRPretrainer, or mapping of str to OTCXRPretrainer
            Fitted.

        Returns
        -------
        display : HistoryDisplay
            The new display, drawn.
        """
        runs = estimator if isinstance(estimator, Mapping) else {"": estimator}
        for run in runs.values():
            check_is_fitted(run)
        return cls({name: run.history_ for name, run in runs.items()}).plot()

    def plot(self) -> Self:
        """Draw the figure.

        Returns
        -------
        display : HistoryDisplay
            The same display, with the attribute `figure_` (matplotlib's Figure).

        Raises
        ------
        ValueError
            No run has an epoch.
        """
        runs = self.histories.values()
        panels = [panel for panel in _PANELS if any(len(run.get(panel[1], ())) for run in runs)]
        if not panels:
            raise ValueError("there are no epochs to draw: history_ is empty after epochs=0")
        columns = min(_COLUMNS, len(panels))
        rows = -(-len(panels) // columns)
        self.figure_ = new_figure(2.8 * columns, 2.2 * rows + 0.4)
        for index, panel in enumerate(panels):
            self._plot_panel(self.figure_.add_subplot(rows, columns, index + 1), *panel)
        if len(self.histories) > 1:
            # Not every run has a line in every panel.
            lines = {line.get_label(): line for ax in self.figure_.axes for line in ax.lines}
            shown = [lines[name] for name in self.histories if name in lines]
            place = {"loc": "outside upper center", "ncols": 4, "frameon": False}
            show_as_written(self.figure_.legend(handles=shown, **place))
        return self

    def _plot_panel(self, ax: Any, title: str, column: str, beside: tuple[str, str] | None) -> None:
        dashed, meaning = beside or ("", "")
        for index, (name, run) in enumerate(self.histories.items()):
            _line(ax, run.get(column, ()), color=color_of(index), label=name)
            _line(ax, run.get(dashed, ()), color=color_of(index), linestyle="--")
        if any(len(run.get(dashed, ())) for run in self.histories.values()):
            title += f" (dashed: {meaning})"
        ax.set_title(title, fontsize=8.5)
        ax.set_xlabel("epoch", fontsize=8)
        ax.tick_params(labelsize=8)
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", color="0.9")


def _line(ax: Any, values: Sequence[float], **style: Any) -> None:
    if len(values):
        marker = {"marker": "o", "markersize": 3} if len(values) == 1 else {}
        ax.plot(np.arange(1, len(values) + 1), values, **marker, **style)
