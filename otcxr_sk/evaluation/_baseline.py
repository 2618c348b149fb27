"""The embedding that needs no encoder."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_scalar

from otcxr_sk._ordinary import ordinary
from otcxr_sk.images import ImageSource, as_source, require_usable, warn_unusable


@ordinary()
def pixel_features(
    X: ImageSource | ArrayLike | Sequence[Any], size: int = 16
) -> NDArray[np.float32]:
    """Return small images as features: the baseline that a learned embedding has to beat.

    Parameters
    ----------
    X : array-like of shape (n, h, w), sequence of paths, or ImageSource
        Images.
    size : int, default=16
        Height and width in pixels that each image is resized to.

    Returns
    -------
    features : ndarray of shape (n, size * size), float32
        Pixels in row-major order. 8- and 16-bit integers are scaled to [0, 1]; other values are
        kept. NaN for images that cannot be used.

    Raises
    ------
    ValueError
        No image can be used, or `size` is below 1.

    Warns
    -----
    UnusableImageWarning
        Some images cannot be read, or have NaN.

    See Also
    --------
    compare : Compare embeddings of the same images with one of them, such as this one.

    Examples
    --------
    >>> from otcxr_sk.datasets import make_chest_phantoms
    >>> from otcxr_sk.evaluation import pixel_features
    >>> images = make_chest_phantoms(3, image_size=32, random_state=0).images
    >>> pixel_features(images).shape == (len(images), 256)
    True
    """
    check_scalar(size, "size", Integral, min_val=1)
    source = as_source(X)
    images, problems = source.read_usable(np.arange(len(source)), size)
    if len(problems) == len(source):
        require_usable(problems, len(source))
    warn_unusable(problems, len(source), "warn", "Their features are NaN.")
    images[[problem.row for problem in problems]] = np.nan
    return images.reshape(len(source), -1)
