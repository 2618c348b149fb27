"""What was matched with what, as a picture."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch

from otcxr_sk.plotting._display import Display

# Okabe and Ito's colours, told apart with any colour vision.
_COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#d55e00", "#cc79a7")


class MatchingDisplay(Display):
    """Tokens of one view, and where transport took their mass in the other.

    A row for every image. On the left, the first view with some of its tokens framed in colour.
    On the right, the second view: a token is filled as strongly as it received mass from the
    framed token of that colour, and a cross marks the true place.

    Parameters
    ----------
    matching : Bunch
        As from `OTCXRPretrainer.match`.

    Attributes
    ----------
    figure_ : matplotlib.figure.Figure
        Set by `plot`.
    """

    def __init__(self, matching: Bunch) -> None:
        self.matching = matching

    @classmethod
    def from_estimator(cls, estimator: Any, X: Any, *, random_state: Any = None) -> Self:
        """Match two views of a few images by a fitted `OTCXRPretrainer` and plot them.

        Parameters
        ----------
        estimator : OTCXRPretrainer
        X : array-like or sequence of paths
            Two to six images look best.
        random_state : int, RandomState instance or None, default=None
            Draws the views.

        Returns
        -------
        display : MatchingDisplay
        """
        display = cls(estimator.match(X, random_state=random_state))
        display.plot()
        return display

    def plot(self) -> Self:
        """Draw the figure."""
        self.require_matplotlib()
        from matplotlib.figure import Figure

        height = 3 * len(self.matching.views) + 0.5
        figure = Figure(figsize=(6, height), layout="constrained")
        rows = figure.subplots(len(self.matching.views), 2, squeeze=False)
        for index, axes in enumerate(rows):
            self._plot_pair(index, axes)
        rows[0][0].set_title("view s: some tokens", fontsize=9)
        rows[0][1].set_title("view t: where their mass went (+ true place)", fontsize=9)
        figure.suptitle(
            f"matching accuracy {self.matching.accuracy:.2f} (chance {self.matching.chance:.2f})",
            fontsize=10,
        )
        self.figure_ = figure
        return self

    def _plot_pair(self, index: int, axes: Any) -> None:
        from matplotlib.patches import Rectangle

        views, plan = self.matching.views[index], self.matching.plan[index]
        affine_s, affine_t = self.matching.affine[index]
        size = views.shape[-1]
        height, width = (size / cells for cells in self.matching.grid)
        low, high = np.percentile(views, [1, 99])
        for view, ax in zip(views, axes, strict=True):
            ax.imshow(view, cmap="gray", vmin=low, vmax=high, extent=(0, size, size, 0))
            ax.set_axis_off()

        def frame(token: int, **style: Any) -> Rectangle:
            row, column = divmod(token, self.matching.grid[1])
            return Rectangle((column * width, row * height), width, height, **style)

        for token, place, colour in self._examples(affine_s, affine_t, size):
            axes[0].add_patch(frame(token, fill=False, edgecolor=colour, linewidth=2))
            share = plan[token] / plan[token].sum()
            for target in np.flatnonzero(share > 0.02):
                axes[1].add_patch(
                    frame(int(target), facecolor=colour, alpha=0.85 * share[target] ** 0.5)
                )
            axes[1].plot(*place, "+", color="white", markersize=13, markeredgewidth=4)
            axes[1].plot(*place, "+", color=colour, markersize=11, markeredgewidth=2)

    def _examples(
        self, affine_s: NDArray[Any], affine_t: NDArray[Any], size: int
    ) -> list[tuple[int, NDArray[Any], str]]:
        """Choose tokens that both views show, far from each other, with their places in `t`."""
        y, x = (2 * (np.arange(cells) + 0.5) / cells - 1 for cells in self.matching.grid)
        here = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
        original = here * affine_s[:, :2].diagonal() + affine_s[:, 2]
        there = (original - affine_t[:, 2]) / affine_t[:, :2].diagonal()
        visible = np.flatnonzero((np.abs(there) < 1).all(1))
        chosen: list[int] = []
        while len(chosen) < min(4, len(visible)):
            # The first is the one nearest to the middle, each next the one farthest from all.
            away = [np.linalg.norm(here[visible] - here[token], axis=1) for token in chosen] or [
                -np.linalg.norm(here[visible], axis=1)
            ]
            chosen.append(int(visible[np.min(away, axis=0).argmax()]))
        places = (there[chosen] + 1) * size / 2
        return list(zip(chosen, places, _COLOURS, strict=False))
