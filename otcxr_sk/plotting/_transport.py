"""Where the mass of regions goes."""

from numbers import Real
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch

from otcxr_sk.plotting._display import PALETTE, Display, new_figure
from otcxr_sk.plotting._images import show_image, show_over
from otcxr_sk.plotting._regions import Box, box_of, centers, draw_box, true_places

_INCHES = 3.0
_COLOR = PALETTE[4]

Region = int | Box | None


class TransportDisplay(Display):
    """Two views of an image, or two images, and the transport of mass from one to the other.

    Each row is such a pair. With a region, the heat map on the right is the share of the region's
    mass that each token of the second one receives. Without, arrows show the whole plan: each
    begins where a token of the first one lies and ends in the middle of where its mass went. The
    wider it is, the fewer tokens receive that mass. In views of one image, an arrow begins at the
    true place, so its length is the error; a token whose place the second view does not show has
    none. In two images, it begins at the same place of the frame.

    Parameters
    ----------
    matching : Bunch
        Result of `OTCXRPretrainer.match` or `OTCXRPretrainer.match_pairs`.
    region : int or tuple (left, top, right, bottom), default=None
        A token of the first one, numbered row by row, or a box in shares of its width and height,
        from the upper left corner; a token that is partly in the box gives that part of its mass.
        None draws the whole plan.

    See Also
    --------
    MatchingDisplay : Several tokens of two views, with their true places.

    Examples
    --------
    >>> from otcxr_sk import OTCXRPretrainer
    >>> from otcxr_sk.datasets import make_chest_phantoms
    >>> from otcxr_sk.plotting import TransportDisplay
    >>> images = make_chest_phantoms(4, image_size=32, random_state=0).images
    >>> encoder = OTCXRPretrainer("resnet10t", image_size=32, epochs=0).fit(images)
    >>> display = TransportDisplay.from_estimator(encoder, images[:1], images[2:3], region=0)
    >>> display.matching.plan.shape
    (1, 4, 4)
    """

    def __init__(self, matching: Bunch, region: Region = None) -> None:
        self.matching = matching
        self.region = region

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        Y: Any = None,
        *,
        region: Region = None,
        random_state: Any = None,
    ) -> Self:
        """Match a few images with a fitted estimator and draw the result.

        Parameters
        ----------
        estimator : OTCXRPretrainer
            Fitted.
        X : array-like or sequence of paths
            Images, preferably one to four.
        Y : array-like or sequence of paths, default=None
            As many others, such as another patient's: whole images are matched, row by row. None
            draws two views of each image of `X`.
        region : int or tuple (left, top, right, bottom), default=None
            As for the class.
        random_state : int, RandomState instance or None, default=None
            Draws the views.

        Returns
        -------
        display : TransportDisplay
            The new display, drawn.
        """
        _check_region(region)
        if Y is None:
            matching = estimator.match(X, random_state=random_state)
        else:
            matching = estimator.match_pairs(X, Y)
        return cls(matching, region).plot()

    def plot(self) -> Self:
        """Draw the figure.

        Returns
        -------
        display : TransportDisplay
            The same display, with the attribute `figure_` (matplotlib's Figure).

        Raises
        ------
        ValueError
            `region` is no token and no box.
        """
        found = self.matching
        weights = None if self.region is None else _weights(self.region, found.grid)
        self.figure_ = new_figure(2 * _INCHES + 0.8, _INCHES * len(found.plan) + 0.4)
        rows = self.figure_.subplots(len(found.plan), 2, squeeze=False)
        for views, axes in zip(found.views, rows, strict=True):
            for view, ax in zip(views, axes, strict=True):
                show_image(ax, view)
        what = "view" if "accuracy" in found else "image"
        if weights is None:
            rows[0][0].set_title(f"first {what}", fontsize=9)
            rows[0][1].set_title(f"second {what}: where transport sends the first", fontsize=9)
            self._plot_flow(rows)
        else:
            rows[0][0].set_title(f"first {what}: the region", fontsize=9)
            rows[0][1].set_title(f"second {what}: where transport sends it", fontsize=9)
            self._plot_region(rows, weights)
        return self

    def _plot_region(self, rows: Any, weights: NDArray[np.float64]) -> None:
        grid = self.matching.grid
        box = _box(self.region, grid)
        mass = weights @ self.matching.plan
        shares = mass / mass.sum(1, keepdims=True)
        for share, (first, second) in zip(shares, rows, strict=True):
            draw_box(first, box, fill=False, color=_COLOR, linewidth=2)
            share = share.reshape(grid)
            drawn = show_over(
                second,
                share,
                cmap="inferno",
                vmin=0,
                vmax=shares.max(),
                alpha=0.75 * np.sqrt(share / shares.max()),
            )
        bar = self.figure_.colorbar(drawn, ax=rows[:, 1], shrink=0.8)
        bar.set_label("share of the region that is sent there", fontsize=8)
        bar.ax.tick_params(labelsize=8)

    def _plot_flow(self, rows: Any) -> None:
        from matplotlib.patches import FancyArrowPatch

        found = self.matching
        middles = centers(found.grid)
        for affine, plan, (first, second) in zip(found.affine, found.plan, rows, strict=True):
            first.plot(*middles.T, ".", color=_COLOR, markersize=3)
            share = plan / plan.sum(1, keepdims=True)
            starts, ends = true_places(affine, found.grid), share @ middles
            for token in np.flatnonzero(((starts >= 0) & (starts <= 1)).all(1)):
                arrow = FancyArrowPatch(
                    starts[token],
                    ends[token],
                    arrowstyle="-|>",
                    mutation_scale=6,
                    shrinkA=0,
                    shrinkB=0,
                    color=_COLOR,
                    linewidth=0.4 + 2.6 * _concentration(share[token]),
                )
                second.add_patch(arrow)


def _check_region(region: Any) -> None:
    if region is None or (isinstance(region, int | np.integer) and not isinstance(region, bool)):
        return
    try:
        left, top, right, bottom = region
        fits = all(isinstance(value, Real) for value in region)
        fits = fits and 0 <= left < right <= 1 and 0 <= top < bottom <= 1
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(
            "region must be None, the number of a token, or (left, top, right, bottom) in shares "
            f"of the image, such as (0.5, 0.5, 1, 1) for its lower right quarter; got {region!r}"
        )


def _box(region: Any, grid: tuple[int, int]) -> Box:
    """Return the region as a box."""
    _check_region(region)
    if not isinstance(region, int | np.integer):
        return region
    rows, columns = grid
    if not 0 <= region < rows * columns:
        raise ValueError(
            f"region is {region}, but the tokens are 0 to {rows * columns - 1}, {columns} in a row"
        )
    return box_of(int(region), grid)


def _weights(region: Any, grid: tuple[int, int]) -> NDArray[np.float64]:
    """Return the part of each token (N,) that lies in a region."""
    left, top, right, bottom = _box(region, grid)

    def inside(cells: int, low: float, high: float) -> NDArray[np.float64]:
        edges = np.arange(cells + 1) / cells
        return np.diff(edges.clip(low, high)) * cells

    return np.outer(inside(grid[0], top, bottom), inside(grid[1], left, right)).ravel()


def _concentration(share: NDArray[np.float64]) -> float:
    """Return 1 if one token receives all the mass, 0 if all receive the same: from the entropy."""
    known = share[share > 0]
    return float(1 + (known * np.log(known)).sum() / np.log(max(2, len(share))))
