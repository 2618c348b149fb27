"""How AUC grows with labels, as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import Bunch, check_random_state

from otcxr_sk.evaluation import label_efficiency
from otcxr_sk.plotting._display import AxesDisplay, colour_of, percent


class LabelEfficiencyDisplay(AxesDisplay):
    """AUC by share of labelled patients: means, and a band of one standard deviation.

    Parameters
    ----------
    curves : mapping of str to Bunch
        Name of each embedding, and what `label_efficiency` found for it.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
    figure_ : matplotlib.figure.Figure
        Both are set by `plot`.

    Examples
    --------
    >>> import numpy as np
    >>> from otcxr_sk.plotting import LabelEfficiencyDisplay
    >>> y = np.tile([0, 1], 100)
    >>> noise = np.random.default_rng(0).normal(size=(200, 5))
    >>> display = LabelEfficiencyDisplay.from_features(
    ...     {"noise": noise, "told": noise + y[:, None]}, y, np.arange(200),
    ...     train=range(100), test=range(100, 200), draws=2, random_state=0,
    ... )
    >>> [text.get_text() for text in display.ax_.get_legend().get_texts()]
    ['noise', 'told']
    """

    def __init__(self, curves: Mapping[str, Bunch]) -> None:
        self.curves = curves

    @classmethod
    def from_features(
        cls,
        features: Mapping[str, ArrayLike],
        y: ArrayLike,
        groups: ArrayLike,
        *,
        random_state: Any = None,
        ax: Any = None,
        **options: Any,
    ) -> Self:
        """Find the label efficiency of several embeddings, with the same patients, and plot it.

        Parameters
        ----------
        features : mapping of str to array-like of shape (n, d)
            Embeddings by name.
        y, groups
            As for `label_efficiency`.
        random_state : int, RandomState instance or None, default=None
            Draws the patients, the same for all embeddings.
        ax : matplotlib.axes.Axes, optional
            As for `plot`.
        **options
            `train`, `test`, `fractions`, `draws` and `probe` of `label_efficiency`.

        Returns
        -------
        display : LabelEfficiencyDisplay
        """
        if not isinstance(random_state, Integral):
            random_state = check_random_state(random_state).randint(np.iinfo(np.int32).max)
        curves = {
            name: label_efficiency(Z, y, groups, random_state=random_state, **options)
            for name, Z in features.items()
        }
        return cls(curves).plot(ax)

    def _size(self) -> tuple[float, float]:
        return 6, 3.6

    def _draw(self, ax: Any) -> None:
        for index, (name, curve) in enumerate(self.curves.items()):
            colour = colour_of(index)
            ax.fill_between(
                curve.fractions,
                curve.mean - curve.std,
                curve.mean + curve.std,
                color=colour,
                alpha=0.15,
                linewidth=0,
            )
            ax.plot(curve.fractions, curve.mean, "o-", color=colour, markersize=5, label=name)
        ticks = {
            float(share): f"{percent(share)}\n{n:.0f}"
            for curve in self.curves.values()
            for share, n in zip(curve.fractions, curve.n_patients, strict=True)
        }
        ax.set_xscale("log")
        ax.set_xticks(list(ticks), list(ticks.values()))
        ax.set_xticks([], minor=True)
        ax.set_xlabel("labelled patients, share and number")
        ax.set_ylabel("AUC on test patients")
        ax.grid(axis="y", color="0.9")
        ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
