"""Which embedding is better, as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from otcxr_sk.evaluation import Comparison, compare
from otcxr_sk.plotting._display import AxesDisplay, percent


class ComparisonDisplay(AxesDisplay):
    """Differences from the reference with their intervals, and the AUC of each on the right.

    An interval that leaves out the line of the reference tells a difference from chance in the
    choice of test patients.

    Parameters
    ----------
    comparison : Comparison
        As from `compare`.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
    figure_ : matplotlib.figure.Figure
        Both are set by `plot`.

    Examples
    --------
    >>> import numpy as np
    >>> from otcxr_sk.plotting import ComparisonDisplay
    >>> y = np.tile([0, 1], 100)
    >>> noise = np.random.default_rng(0).normal(size=(200, 5))
    >>> display = ComparisonDisplay.from_features(
    ...     {"noise": noise, "told": noise + y[:, None]}, y, np.arange(200), reference="noise",
    ...     train=range(100), test=range(100, 200), draws=2, random_state=0,
    ... )
    >>> [text.get_text() for text in display.ax_.get_yticklabels()]
    ['noise', 'told']
    """

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison

    @classmethod
    def from_features(
        cls,
        features: Mapping[str, ArrayLike],
        y: ArrayLike,
        groups: ArrayLike,
        *,
        ax: Any = None,
        **options: Any,
    ) -> Self:
        """Compare several embeddings and plot the differences.

        Parameters
        ----------
        features, y, groups
            As for `compare`.
        ax : matplotlib.axes.Axes, optional
            As for `plot`.
        **options
            `train`, `test`, `reference` and further parameters of `compare`.

        Returns
        -------
        display : ComparisonDisplay
        """
        return cls(compare(features, y, groups, **options)).plot(ax)

    def _size(self) -> tuple[float, float]:
        rows = len(self.comparison.names) * (len(self.comparison.fractions) + 1)
        return 6, 1.1 + 0.25 * rows

    def _draw(self, ax: Any) -> None:
        from matplotlib import colormaps

        found, shares = self.comparison, len(self.comparison.fractions)
        ax.axvline(0, color="0.5", linewidth=1)
        middle = np.arange(len(found.names))
        # All labels are dark, few are pale, and a free row parts one name from the next.
        colours = colormaps["Blues"](np.linspace(0.95, 0.45, shares))[::-1]
        for j, share in enumerate(found.fractions):
            rows = middle + (j - (shares - 1) / 2) / (shares + 1)
            ax.hlines(rows, found.low[:, j], found.high[:, j], color=colours[j])
            label = f"{percent(share)} of labels"
            ax.plot(found.difference[:, j], rows, "o", color=colours[j], markersize=5, label=label)
            for row, score in zip(rows, found.score[:, j], strict=True):
                self._beside(row, f"{score:.3f}")
        self._beside(-0.5, "AUC")
        ax.set_yticks(middle, found.names)
        ax.set_ylim(len(found.names) - 0.5, -0.5)
        ax.tick_params(axis="y", length=0)
        ax.locator_params(axis="x", nbins=6)
        ax.set_xlabel(
            f"AUC less that of {found.reference}, with {percent(found.confidence_level)} intervals"
        )
        ax.grid(axis="x", color="0.9")
        ax.legend(frameon=False, ncols=shares, loc="lower center", bbox_to_anchor=(0.5, 1))

    def _beside(self, row: float, text: str) -> None:
        self.ax_.annotate(
            text,
            (1.02, row),
            xycoords=("axes fraction", "data"),
            color="0.3",
            fontsize=8,
            va="center",
        )
