"""Dense features as colors."""

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.decomposition import PCA

from otcxr_sk._ordinary import ordinary
from otcxr_sk._warning import keeping_filters
from otcxr_sk.plotting._display import Display, new_figure
from otcxr_sk.plotting._images import INCHES, as_seen, show_image, show_over


class DenseDisplay(Display):
    """Images, and below each the first three principal components of its dense map as colors.

    Red, green and blue are the components, which are those of the regions of all images together:
    regions of one color look alike to the encoder, in whichever image they are.

    Parameters
    ----------
    images : array-like of shape (n, height, width)
        The images.
    dense : array-like of shape (n, h, w, C)
        Their dense maps, from `transform_dense`.

    Examples
    --------
    >>> from otcxr_sk import OTCXRPretrainer
    >>> from otcxr_sk.datasets import make_chest_phantoms
    >>> from otcxr_sk.plotting import DenseDisplay
    >>> images = make_chest_phantoms(4, image_size=32, random_state=0).images
    >>> encoder = OTCXRPretrainer("resnet10t", image_size=32, epochs=0).fit(images)
    >>> len(DenseDisplay.from_estimator(encoder, images[:3]).figure_.axes)
    6
    """

    def __init__(self, images: ArrayLike, dense: ArrayLike) -> None:
        self.images = images
        self.dense = dense

    @classmethod
    def from_estimator(cls, estimator: Any, X: Any) -> Self:
        """Compute dense maps of a few images with a fitted encoder and draw them.

        Parameters
        ----------
        estimator : OTCXRPretrainer
            Fitted.
        X : array-like or sequence of paths
            Images, preferably three to eight.

        Returns
        -------
        display : DenseDisplay
            The new display, drawn.
        """
        images = as_seen(estimator, X)
        return cls(images, estimator.transform_dense(images)).plot()

    def plot(self) -> Self:
        """Draw the figure.

        Returns
        -------
        display : DenseDisplay
            The same display, with the attribute `figure_` (matplotlib's Figure).
        """
        images, colors = np.asarray(self.images), _colors(np.asarray(self.dense))
        self.figure_ = new_figure(INCHES * len(images), 2 * INCHES)
        axes = self.figure_.subplots(2, len(images), squeeze=False)
        for image, color, (above, below) in zip(images, colors, axes.T, strict=True):
            show_image(above, image)
            show_image(below, image)
            show_over(below, color, alpha=0.6)
        return self


@ordinary()
@keeping_filters()
def _colors(dense: NDArray[Any]) -> NDArray[np.float64]:
    """Return colors (n, h, w, 3) in [0, 1]."""
    vectors = dense.reshape(-1, dense.shape[-1]).astype(np.float64)
    n_components = min(3, *vectors.shape)
    # Equal vectors have no variance to take shares of.
    with np.errstate(divide="ignore", invalid="ignore"):
        found = PCA(n_components, random_state=0).fit_transform(vectors)
    low, high = np.percentile(found, [1, 99], axis=0)
    middle, half = (low + high) / 2, (high - low) / 2
    # A component that hardly varies is rounding errors.
    half[half <= 1e-6 * np.abs(vectors).max()] = np.inf
    colors = np.full((len(found), 3), 0.5)
    colors[:, :n_components] += (found - middle) / half / 2
    return colors.clip(0, 1).reshape(*dense.shape[:3], 3)
