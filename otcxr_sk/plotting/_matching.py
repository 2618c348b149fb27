"""Tokens of one view and their matches in the other."""

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch

from otcxr_sk.plotting._display import PALETTE, Display, new_figure
from otcxr_sk.plotting._images import show_image
from otcxr_sk.plotting._regions import box_of, centers, draw_box, true_places

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
        self.figure_ = new_figure(6, 3 * len(found.views) + 0.5)
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
        first, second = axes
        for view, ax in zip(self.matching.views[index], axes, strict=True):
            show_image(ax, view)
        plan, grid = self.matching.plan[index], self.matching.grid
        places = true_places(self.matching.affine[index], grid)
        tokens = _examples(places, grid)
        share = plan[tokens] / plan[tokens].sum(1, keepdims=True)
        # Several translucent colors on one token would mix to one that stands for none of them.
        for target, most in enumerate(share.max(0, initial=0)):
            if most > 0.02:
                color = _COLORS[share[:, target].argmax()]
                draw_box(second, box_of(target, grid), facecolor=color, alpha=0.85 * most**0.5)
        for token, color in zip(tokens, _COLORS, strict=False):
            draw_box(first, box_of(token, grid), fill=False, edgecolor=color, linewidth=2)
            second.plot(*places[token], "+", color="white", markersize=13, markeredgewidth=4)
            second.plot(*places[token], "+", color=color, markersize=11, markeredgewidth=2)


def _examples(places: NDArray[np.float64], grid: tuple[int, int]) -> list[int]:
    """Choose tokens, far apart, whose places in the other view are seen there."""
    visible = np.flatnonzero(((places > 0) & (places < 1)).all(1))
    here = centers(grid)
    # First the most central token, then always the one farthest from those chosen.
    chosen: list[int] = []
    away = [-np.linalg.norm(here[visible] - 0.5, axis=1)]
    for _ in range(min(len(_COLORS), len(visible))):
        chosen.append(int(visible[np.min(away, axis=0).argmax()]))
        away = [np.linalg.norm(here[visible] - here[token], axis=1) for token in chosen]
    return chosen
