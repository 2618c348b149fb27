"""Tokens of one view and their matches in the other."""

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch

from otcxr_sk.plotting._display import PALETTE, Display

# One for each token shown: those that are visible on gray.
_COLORS = PALETTE[2:6]


class MatchingDisplay(Display):
    """Tokens of one view of an image, and where the transport plan sends them in another view.

    Each row is an image. On the left is the first view, with up to four of its tokens framed in
    color. On the right is the second view: each token has the color of the framed token that sends
    it the most mass, the stronger the more it is. A cross marks the true place.

    Parameters
    ----------
    matching : Bunch
        Result of `OTCXRPretrainer.match`.

    Examples
    --------
    >>> from otcxr_sk import OTCXRPretrainer
    >>> from otcxr_sk.datasets import make_chest_phantoms
    >>> from otcxr_sk.plotting import MatchingDisplay
    >>> images = make_chest_phantoms(4, image_size=32, random_state=0).images
    >>> encoder = OTCXRPretrainer("resnet10t", image_size=32, epochs=0).fit(images)
    >>> display = MatchingDisplay.from_estimator(encoder, images[:2], random_state=0)
    >>> len(display.figure_.axes)
    4
    """

    def __init__(self, matching: Bunch) -> None:
        self.matching = matching

    @classmethod
    def from_estimator(cls, estimator: Any, X: Any, *, random_state: Any = None) -> Self:
        """Match two views of a few images with a fitted estimator and draw the result.

        Parameters
        ----------
        estimator : OTCXRPretrainer
            Fitted.
        X : array-like or sequence of paths
            Images, preferably two to six.
        random_state : int, RandomState instance or None, default=None
            Draws the views.

        Returns
        -------
        display : MatchingDisplay
            The new display, drawn.
        """
        return cls(estimator.match(X, random_state=random_state)).plot()

    def plot(self) -> Self:
        """Draw the figure.

        Returns
        -------
        display : MatchingDisplay
            The same display, with the attribute `figure_` (matplotlib's Figure).
        """
        found = self.matching
        self.figure_ = self._new_figure(6, 3 * len(found.views) + 0.5)
        rows = self.figure_.subplots(len(found.views), 2, squeeze=False)
        for index, axes in enumerate(rows):
            self._plot_pair(index, axes)
        rows[0][0].set_title("first view: four of its regions", fontsize=9)
        second = "second view: where transport sends them\n+ marks the true place"
        rows[0][1].set_title(second, fontsize=9)
        title = f"matching accuracy {found.accuracy:.2f} (chance {found.chance:.2f})"
        self.figure_.suptitle(title, fontsize=10)
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

        examples = self._examples(affine_s, affine_t, size)
        tokens = [token for token, _, _ in examples]
        share = plan[tokens] / plan[tokens].sum(1, keepdims=True)
        # Several translucent colors on one token would mix to one that stands for none of them.
        for target, most in enumerate(share.max(0, initial=0)):
            if most > 0.02:
                color = _COLORS[share[:, target].argmax()]
                axes[1].add_patch(frame(target, facecolor=color, alpha=0.85 * most**0.5))
        for token, place, color in examples:
            axes[0].add_patch(frame(token, fill=False, edgecolor=color, linewidth=2))
            axes[1].plot(*place, "+", color="white", markersize=13, markeredgewidth=4)
            axes[1].plot(*place, "+", color=color, markersize=11, markeredgewidth=2)

    def _examples(
        self, affine_s: NDArray[Any], affine_t: NDArray[Any], size: int
    ) -> list[tuple[int, NDArray[Any], str]]:
        """Choose tokens, far apart, that lie in both views; return them with places in `t`."""
        y, x = (2 * (np.arange(cells) + 0.5) / cells - 1 for cells in self.matching.grid)
        here = np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)
        original = here * affine_s[:, :2].diagonal() + affine_s[:, 2]
        there = (original - affine_t[:, 2]) / affine_t[:, :2].diagonal()
        visible = np.flatnonzero((np.abs(there) < 1).all(1))
        # First the most central token, then always the one farthest from those chosen.
        chosen: list[int] = []
        away = [-np.linalg.norm(here[visible], axis=1)]
        for _ in range(min(len(_COLORS), len(visible))):
            chosen.append(int(visible[np.min(away, axis=0).argmax()]))
            away = [np.linalg.norm(here[visible] - here[token], axis=1) for token in chosen]
        places = (there[chosen] + 1) * size / 2
        return list(zip(chosen, places, _COLORS, strict=False))
