"""Base classes of the displays."""

from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from io import BytesIO
from typing import Any, Self, TypeVar

from numpy.typing import ArrayLike

from otcxr_sk._warning import warn_user

Measured = TypeVar("Measured")

# Okabe and Ito's colors, distinct with any color vision, without the yellow that white hides.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


class Display:
    """Base of displays. matplotlib is loaded when one is drawn."""

    figure_: Any

    def _repr_html_(self) -> str | None:
        """Show in a notebook what was drawn."""
        if not hasattr(self, "figure_"):
            return None
        picture = BytesIO()
        self.figure_.savefig(picture, format="png")
        encoded = b64encode(picture.getvalue()).decode()
        return f'<img alt="{type(self).__name__}" src="data:image/png;base64,{encoded}">'

    @staticmethod
    def require_matplotlib() -> None:
        """Raise ImportError, with the command to run, if matplotlib is not installed."""
        if find_spec("matplotlib") is None:
            raise ImportError('displays need matplotlib: pip install "otcxr-sk[plots]"')


class AxesDisplay(Display, ABC):
    """Base of displays that fit into one pair of axes."""

    ax_: Any

    def plot(self, ax: Any = None) -> Self:
        """Draw the display.

        Parameters
        ----------
        ax : matplotlib.axes.Axes, optional
            Where to draw; by default on a new figure.

        Returns
        -------
        display
            The same display, with the attributes `ax_` and `figure_` (matplotlib's Axes and
            Figure).
        """
        if ax is None:
            ax = new_figure(*self._size()).add_subplot()
        self.ax_, self.figure_ = ax, ax.figure
        ax.spines[["top", "right"]].set_visible(False)
        ax.set_axisbelow(True)
        self._draw(ax)
        return self

    def _size(self) -> tuple[float, float]:
        """Return width and height of a new figure, in inches."""
        return 6, 3.6

    @abstractmethod
    def _draw(self, ax: Any) -> None:
        """Draw on axes whose frame is set."""


class TaskDisplay(AxesDisplay):
    """Base of displays of named embeddings that were evaluated on the same task."""

    @classmethod
    def from_features(
        cls,
        features: Mapping[str, ArrayLike],
        y: ArrayLike,
        groups: ArrayLike,
        *,
        train: ArrayLike,
        test: ArrayLike,
        ax: Any = None,
        **options: Any,
    ) -> Self:
        """Evaluate several embeddings of the same images and draw the result.

        One that has NaN in rows of `train` or `test`, although others have not, is left out, or
        has no scores, with a warning.

        Parameters
        ----------
        features : mapping of str to array-like of shape (n, d)
            Embeddings by name.
        y, groups, train, test
            As for `linear_probe`.
        ax : matplotlib.axes.Axes, optional
            As for `plot`.
        **options
            Further parameters of the function that the display names, for example `probe`.

        Returns
        -------
        display
            The new display, drawn.
        """
        return cls._evaluate(features, y, groups, train=train, test=test, **options).plot(ax)

    @classmethod
    @abstractmethod
    def _evaluate(cls, features: Mapping[str, ArrayLike], *task: Any, **options: Any) -> Self:
        """Return a display of embeddings evaluated on a task."""


def new_figure(width: float, height: float) -> Any:
    """Return an empty figure of that many inches, which pyplot does not know."""
    Display.require_matplotlib()
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def of_each(
    measure: Callable[[ArrayLike], Measured], features: Mapping[str, ArrayLike]
) -> dict[str, Measured]:
    """Return what `measure` returns for each embedding, by name.

    An embedding that cannot be measured, although others can, is left out with a warning.
    """
    found: dict[str, Measured] = {}
    failed: dict[str, ValueError] = {}
    for name, Z in features.items():
        try:
            found[name] = measure(Z)
        except ValueError as error:
            failed[name] = error
    for name, failure in failed.items():
        if not found:
            raise failure
        warn_user(f"{name} is not drawn: {failure}")
    return found


def legend_beside(ax: Any, **style: Any) -> None:
    """Draw a legend beside axes if their figure makes room for it, and within them otherwise."""
    if ax.figure.get_layout_engine() is None:
        style |= {"loc": "best"}
    else:
        style |= {"frameon": False, "loc": "center left", "bbox_to_anchor": (1, 0.5)}
    show_as_written(ax.legend(**style))


def show_as_written(legend: Any) -> None:
    """Take no name in a legend for a formula, even if it has dollars."""
    for text in legend.get_texts():
        text.set_parse_math(False)


def color_of(index: int) -> str:
    """Return the color of one of several lines."""
    return PALETTE[index % len(PALETTE)]


def percent(share: float) -> str:
    """Return a share as a percentage with no more digits than it has."""
    return f"{100 * share:g} %"
