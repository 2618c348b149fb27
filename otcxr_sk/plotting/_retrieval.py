"""Images and those most similar to them."""

from numbers import Integral
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.preprocessing import normalize
from sklearn.utils import check_array, check_scalar

from otcxr_sk._columns import check_patients
from otcxr_sk._ordinary import ordinary
from otcxr_sk._quote import counted
from otcxr_sk._warning import keeping_filters
from otcxr_sk.images import ImageSource, as_source
from otcxr_sk.plotting._display import PALETTE, Display, new_figure
from otcxr_sk.plotting._images import INCHES, SIZE, show_image


class RetrievalDisplay(Display):
    """Images of a collection, each at the left of a row of those that are most similar to it.

    Above each stands its row in the collection, and the cosine similarity to the query.

    Parameters
    ----------
    images : ImageSource
        The collection.
    queries : ndarray of int, shape (q,)
        Rows of the queries.
    neighbors : ndarray of int, shape (q, k)
        Rows of the most similar images, the most similar first; -1 for none.
    similarity : ndarray of shape (q, k)
        In [-1, 1].

    Examples
    --------
    >>> from otcxr_sk.datasets import make_chest_phantoms
    >>> from otcxr_sk.evaluation import pixel_features
    >>> from otcxr_sk.plotting import RetrievalDisplay
    >>> data = make_chest_phantoms(5, image_size=32, random_state=0)
    >>> Z = pixel_features(data.images)
    >>> display = RetrievalDisplay.from_features(Z, data.images, [0, 3], groups=data.groups, k=4)
    >>> display.neighbors.shape
    (2, 4)
    """

    def __init__(
        self,
        images: ImageSource,
        queries: NDArray[np.intp],
        neighbors: NDArray[np.intp],
        similarity: NDArray[np.float64],
    ) -> None:
        self.images = images
        self.queries = queries
        self.neighbors = neighbors
        self.similarity = similarity

    @classmethod
    def from_features(
        cls, Z: ArrayLike, X: Any, queries: ArrayLike, *, groups: Any = None, k: int = 5
    ) -> Self:
        """Find the images whose embeddings are nearest to those of a few of them, and draw them.

        Parameters
        ----------
        Z : array-like of shape (n, d)
            Embeddings. A row that is not finite is nobody's neighbor.
        X : array-like of shape (n, h, w), or sequence of paths
            The images; only those that are drawn are read.
        queries : array-like of int
            Rows of the images to look for, preferably two to six.
        groups : array-like of shape (n,), default=None
            Patient of each image. Other images of the query's patient are left out, since to find
            those is easy. Without, only the query itself is.
        k : int, default=5
            Number of neighbors; fewer are drawn if there are no more.

        Returns
        -------
        display : RetrievalDisplay
            The new display, drawn.

        Raises
        ------
        ValueError
            Lengths differ, a query is no row of `Z` or not finite there, or an image cannot be
            used.
        """
        source = as_source(X)
        rows, neighbors, similarity = _nearest(Z, queries, groups, k, len(source))
        return cls(source, rows, neighbors, similarity).plot()

    def plot(self) -> Self:
        """Draw the figure.

        Returns
        -------
        display : RetrievalDisplay
            The same display, with the attribute `figure_` (matplotlib's Figure).
        """
        n, k = self.neighbors.shape
        self.figure_ = new_figure(INCHES * (k + 1), (INCHES + 0.25) * n)
        axes = self.figure_.subplots(n, k + 1, squeeze=False)
        for query, neighbors, similarity, (first, *others) in zip(
            self.queries, self.neighbors, self.similarity, axes, strict=True
        ):
            self._plot(first, query, f"row {query}", color=PALETTE[1], fontweight="bold")
            for ax, row, value in zip(others, neighbors, similarity, strict=True):
                if row < 0:
                    ax.set_axis_off()
                else:
                    self._plot(ax, row, f"row {row}: {value:.3f}")
        return self

    def _plot(self, ax: Any, row: int, title: str, **style: Any) -> None:
        show_image(ax, self.images.read([int(row)], SIZE)[0, 0])
        ax.set_title(title, fontsize=8, **style)


@ordinary()
@keeping_filters()
def _nearest(
    Z: ArrayLike, queries: ArrayLike, groups: Any, k: int, n: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Return rows of queries (q,), rows of neighbors (q, k), and their similarity (q, k)."""
    embedding = check_array(Z, dtype=[np.float64, np.float32], ensure_all_finite=False)
    if len(embedding) != n:
        raise ValueError(f"Z has {counted(len(embedding), 'row')} for {counted(n, 'image')}")
    check_scalar(k, "k", Integral, min_val=1)
    rows = np.asarray(queries)
    if rows.ndim != 1 or not len(rows) or rows.dtype.kind not in "iu":
        raise ValueError(f"queries must be a list of rows, got {queries!r}")
    if rows.min() < 0 or rows.max() >= n:
        raise ValueError(f"queries must be rows from 0 to {n - 1}, got {rows.tolist()}")
    usable = np.isfinite(embedding).all(axis=1)
    if not usable[rows].all():
        raise ValueError(f"Z is not finite in row {rows[~usable[rows]][0]}, which is a query")
    patients = np.arange(n) if groups is None else check_patients(groups, n)

    directions = normalize(np.where(usable[:, None], embedding, 0))
    similarity = directions[rows] @ directions.T
    similarity[:, ~usable] = -np.inf
    similarity[patients[rows][:, None] == patients] = -np.inf
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
    similarity = np.take_along_axis(similarity, order, axis=1)
    return rows, np.where(np.isfinite(similarity), order, -1), similarity
