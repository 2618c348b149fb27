"""Embeddings in two dimensions."""

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.utils import check_array

from otcxr_sk._columns import plain, same_kind
from otcxr_sk._ordinary import ordinary
from otcxr_sk._quote import brief, counted
from otcxr_sk._warning import keeping_filters, warn_user
from otcxr_sk.images import ImageSource, as_source
from otcxr_sk.plotting._display import PALETTE, AxesDisplay, color_of, legend_beside
from otcxr_sk.plotting._images import gray

_UNKNOWN = "0.6"

# Side of a small image, as a share of the wider side of the plot.
_SHARE = 1 / 11
_SIZE = 64


class EmbeddingDisplay(AxesDisplay):
    """Embeddings as points of a plane, some of them with their images.

    An image is centered on its point. Images are drawn in the order of their rows, each unless it
    would cover a part of another. A frame has the color of the label.

    Parameters
    ----------
    places : ndarray of shape (n, 2)
        Points; NaN for those that are not drawn.
    images : ImageSource, default=None
        Images of these points.
    labels : ndarray of str, shape (n,), default=None
        Class of each point; blank where it is unknown.
    names : tuple of str
        What the two axes are.

    Examples
    --------
    >>> import numpy as np
    >>> from otcxr_sk.datasets import make_chest_phantoms
    >>> from otcxr_sk.evaluation import pixel_features
    >>> from otcxr_sk.plotting import EmbeddingDisplay
    >>> data = make_chest_phantoms(20, image_size=32, random_state=0)
    >>> Z = pixel_features(data.images)
    >>> y = np.where(data.labels.any(axis=1), "sick", "healthy")
    >>> display = EmbeddingDisplay.from_features(Z, data.images, y)
    >>> [text.get_text() for text in display.ax_.get_legend().get_texts()]
    ['healthy', 'sick']
    """

    def __init__(
        self,
        places: NDArray[np.float64],
        images: ImageSource | None = None,
        labels: NDArray[Any] | None = None,
        names: tuple[str, str] = ("first dimension", "second dimension"),
    ) -> None:
        self.places = places
        self.images = images
        self.labels = labels
        self.names = names

    @classmethod
    @ordinary()
    @keeping_filters()
    def from_features(
        cls, Z: ArrayLike, X: Any = None, y: Any = None, *, transformer: Any = None, ax: Any = None
    ) -> Self:
        """Project embeddings onto a plane and draw them.

        Parameters
        ----------
        Z : array-like of shape (n, d)
            Embeddings. Rows that are not finite are left out, with a warning.
        X : array-like of shape (n, h, w), or sequence of paths, default=None
            Their images; only those that are drawn are read.
        y : array-like of shape (n,), default=None
            Classes, at most seven; gray where missing.
        transformer : scikit-learn transformer, default=None
            A copy of it is fitted, and has to return two columns: for example
            ``TSNE(random_state=0)``. None is PCA.
        ax : matplotlib.axes.Axes, optional
            As for `plot`.

        Returns
        -------
        display : EmbeddingDisplay
            The new display, drawn.

        Raises
        ------
        ValueError
            Lengths differ, fewer than two rows are finite, there are more than seven classes, or
            the transformer returns another number of columns.
        """
        embedding = check_array(Z, dtype=[np.float64, np.float32], ensure_all_finite=False)
        n = len(embedding)
        source = None if X is None else as_source(X)
        if source is not None and len(source) != n:
            raise ValueError(f"Z has {counted(n, 'row')} for {counted(len(source), 'image')}")
        labels = None if y is None else _check_labels(y, n)
        usable = np.isfinite(embedding).all(axis=1)
        if usable.sum() < 2:
            raise ValueError(f"Z has {usable.sum()} finite rows, and at least 2 are needed")
        if not usable.all():
            warn_user(f"{(~usable).sum()} of {n} rows of Z are not finite and not drawn")
        projection = PCA(2, random_state=0) if transformer is None else clone(transformer)
        # Equal rows have no variance to take shares of.
        with np.errstate(invalid="ignore"):
            found = np.asarray(projection.fit_transform(embedding[usable]))
        if found.shape != (usable.sum(), 2):
            raise ValueError(
                f"transformer must return two columns for each row, but {usable.sum()} rows became "
                f"an array of shape {found.shape}"
            )
        places = np.full((n, 2), np.nan)
        places[usable] = found
        return cls(places, source, labels, _names(projection)).plot(ax)

    def _size(self) -> tuple[float, float]:
        return 7, 6

    def _draw(self, ax: Any) -> None:
        low, high = np.nanmin(self.places, axis=0), np.nanmax(self.places, axis=0)
        side = _SHARE * (high - low).max() or 1.0
        ax.set_xlim(low[0] - side, high[0] + side)
        ax.set_ylim(low[1] - side, high[1] + side)
        colors = np.full(len(self.places), PALETTE[0], dtype=object)
        for name, color in self._colors().items():
            members = self.labels == name
            colors[members] = color
            self._scatter(ax, members, color, label=name or "unknown")
        if self.labels is None:
            self._scatter(ax, slice(None), PALETTE[0])
        else:
            legend_beside(ax, markerscale=2)
        if self.images is not None:
            for row in _apart(self.places, 1.05 * side):
                self._thumbnail(ax, row, side, colors[row])
        ax.set_aspect("equal")
        ax.set_xlabel(self.names[0])
        ax.set_ylabel(self.names[1])

    def _colors(self) -> dict[str, str]:
        if self.labels is None:
            return {}
        names = set(self.labels.tolist())
        colors = {name: color_of(index) for index, name in enumerate(sorted(names - {""}))}
        return colors | ({"": _UNKNOWN} if "" in names else {})

    def _scatter(self, ax: Any, members: Any, color: str, **style: Any) -> None:
        points = self.places[members]
        ax.plot(*points.T, "o", color=color, markersize=3, rasterized=True, **style)

    def _thumbnail(self, ax: Any, row: int, side: float, color: str) -> None:
        from matplotlib.patches import Rectangle

        assert self.images is not None
        image = self.images.read([row], _SIZE)[0, 0]
        left, bottom = self.places[row] - side / 2
        extent = (left, left + side, bottom, bottom + side)
        ax.imshow(image, **gray(image), extent=extent, zorder=3)
        frame = Rectangle((left, bottom), side, side, fill=False, color=color, zorder=4)
        ax.add_patch(frame)


def _check_labels(y: Any, n: int) -> NDArray[Any]:
    """Return the name of each label, in the order of their values; blank if it is missing."""
    values = plain("y", y)
    if values.shape != (n,):
        raise ValueError(f"y must hold a label for each of {n} rows, got the shape {values.shape}")
    known = np.array([value is not None for value in values])
    labels = np.full(n, "", dtype=object)
    if known.any():
        classes, index = np.unique(same_kind("y", values[known]), return_inverse=True)
        if len(classes) > len(PALETTE):
            raise ValueError(
                f"y has {len(classes)} classes, but no more than {len(PALETTE)} can be told apart "
                "by color: merge some of them"
            )
        labels[known] = np.array([brief(name) for name in classes], dtype=object)[index]
    return labels


def _names(projection: Any) -> tuple[str, str]:
    if isinstance(projection, PCA):
        first, second = (
            f"component {index + 1} ({share:.0%} of the variance)"
            for index, share in enumerate(np.nan_to_num(projection.explained_variance_ratio_))
        )
    else:
        first, second = (f"{type(projection).__name__}, dimension {index}" for index in (1, 2))
    return first, second


def _apart(places: NDArray[np.float64], side: float) -> list[int]:
    """Return rows of points around which squares do not overlap; earlier rows come first."""
    chosen: list[int] = []
    rest = np.flatnonzero(np.isfinite(places).all(axis=1))
    while len(rest):
        chosen.append(int(rest[0]))
        rest = rest[np.abs(places[rest] - places[rest[0]]).max(axis=1) >= side]
    return chosen
