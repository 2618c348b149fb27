"""What all pictures share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from importlib.util import find_spec
from typing import Any, Self

# Okabe and Ito's, told apart with any colour vision; those that show on white.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


class Display:
    """Base of pictures: matplotlib is needed, and loaded, when one is drawn."""

    @staticmethod
    def require_matplotlib() -> None:
        """Raise ImportError naming the extra if matplotlib is not installed."""
        if find_spec("matplotlib") is None:
            raise ImportError('pictures need matplotlib: pip install "otcxr-sk[plots]"')


class AxesDisplay(Display, ABC):
    """Base of pictures that fit into one pair of axes, of the user's if wanted."""

    ax_: Any
    figure_: Any

    def plot(self, ax: Any = None) -> Self:
        """Draw the picture.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; by default on a figure of its own.

        Returns
        -------
        display : the same display
        """
        self.require_matplotlib()
        if ax is None:
            from matplotlib.figure import Figure

            ax = Figure(figsize=self._size(), layout="constrained").add_subplot()
        self.ax_, self.figure_ = ax, ax.figure
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_axisbelow(True)
        self._draw(ax)
        return self

    @abstractmethod
    def _size(self) -> tuple[float, float]:
        """Width and height of a figure of its own, in inches."""

    @abstractmethod
    def _draw(self, ax: Any) -> None:
        """Draw on the axes, whose spines are set."""


def colour_of(index: int) -> str:
    """Colour of one of several lines."""
    return _COLOURS[index % len(_COLOURS)]


def percent(share: float) -> str:
    """Write a share as a percentage, with no more digits than it has."""
    return f"{100 * share:g} %"
