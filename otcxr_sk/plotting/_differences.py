"""Differences between embeddings, with confidence intervals."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from otcxr_sk.evaluation import Comparison, compare
from otcxr_sk.plotting._display import TaskDisplay, percent


class ComparisonDisplay(TaskDisplay):
    """Differences in AUC from the reference, with confidence intervals.

    The AUC of each embedding stands on the right. If an interval does not include 0, the
    difference is unlikely to be due to the choice of test patients.

    Parameters
    ----------
    comparison : Comparison
        Result of `compare`.

    See Also
    --------
    otcxr_sk.evaluation.compare : The function that `from_features` calls; `reference` is needed.

    Examples
    --------
    >>> import numpy as np
    >>> from otcxr_sk.plotting import ComparisonDisplay
    >>> y = np.tile([0, 1], 100)
    >>> noise = np.random.default_rng(0).normal(size=(200, 5))
    >>> display = ComparisonDisplay.from_features(
    ...     {"noise": noise, "signal": noise + y[:, None]}, y, np.arange(200), reference="noise",
    ...     train=range(100), test=range(100, 200), draws=2, random_state=0,
    ... )
    >>> [text.get_text() for text in display.ax_.get_yticklabels()]
    ['noise', 'signal']
    """

    def __init__(self, comparison: Comparison) -> None:
        self.comparison = comparison

    @classmethod
    def _evaluate(cls, features: Mapping[str, ArrayLike], *task: Any, **options: Any) -> Self:
        return cls(compare(features, *task, **options))

    def _size(self) -> tuple[float, float]:
        rows = len(self.comparison.names) * (len(self.comparison.fractions) + 1)
        return 6, 1.1 + 0.25 * rows

    def _draw(self, ax: Any) -> None:
        from matplotlib import colormaps

        found, shares = self.comparison, len(self.comparison.fractions)
        ax.axvline(0, color="0.5", linewidth=1)
        middle = np.arange(len(found.names))
        # The more labels, the darker. An empty row separates one embedding from the next.
        colors = colormaps["Blues"](np.linspace(0.95, 0.45, shares))[::-1]
        for j, share in enumerate(found.fractions):
            rows = middle + (j - (shares - 1) / 2) / (shares + 1)
            ax.hlines(rows, found.low[:, j], found.high[:, j], color=colors[j])
            label = f"{percent(share)} of labels"
            ax.plot(found.difference[:, j], rows, "o", color=colors[j], markersize=5, label=label)
            for row, score in zip(rows, found.score[:, j], strict=True):
                self._write_beside(row, f"{score:.3f}")
        self._write_beside(-0.5, "AUC")
        ax.set_yticks(middle, found.names, parse_math=False)
        ax.set_ylim(len(found.names) - 0.5, -0.5)
        ax.tick_params(axis="y", length=0)
        ax.locator_params(axis="x", nbins=6)
        level = f"{percent(found.confidence_level)} interval"
        ax.set_xlabel(f"difference in AUC from {found.reference} ({level})", parse_math=False)
        ax.grid(axis="x", color="0.9")
        ax.legend(frameon=False, ncols=shares, loc="lower center", bbox_to_anchor=(0.5, 1))

    def _write_beside(self, row: float, text: str) -> None:
        place = {"xycoords": ("axes fraction", "data"), "va": "center"}
        self.ax_.annotate(text, (1.02, row), color="0.3", fontsize=8, **place)
