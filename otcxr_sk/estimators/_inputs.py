"""Recognition and validation of `X` and `groups`."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import validate_data

from otcxr_sk._columns import check_patients
from otcxr_sk._quote import counted
from otcxr_sk._warning import keeping_filters, warn_user
from otcxr_sk.images import (
    DEFAULT_RESIZE,
    ImageCache,
    ImageSource,
    Resize,
    is_lazy,
    open_source,
    recognize,
)

_FEATURES = ("n_features_in_", "feature_names_in_")


def check_images(
    X: Any,
    estimator: BaseEstimator,
    *,
    image_shape: tuple[int, int] | None,
    fitting: bool,
    least: int | None = None,
    resize: Resize = DEFAULT_RESIZE,
    allow_unusable: bool = False,
    cache: ImageCache | None = None,
) -> ImageSource:
    """Recognize `X` and return it as a source of images, without copying arrays or reading files.

    Parameters
    ----------
    X : array-like or sequence of paths
        See `OTCXRPretrainer`.
    estimator : BaseEstimator
        Gets `n_features_in_` and `feature_names_in_` when `fitting` flattened rows; otherwise `X`
        is compared with them.
    image_shape : tuple of int or None
        (height, width) of flattened rows.
    fitting : bool
        Whether the features of `X` replace those that the estimator knows.
    least : int, optional
        Number of images that are needed; by default 2 for fitting, else 1.
    resize : {"squash", "pad", "crop"}
        As in `OTCXRPretrainer`.
    allow_unusable : bool
        Whether missing paths, NaN and infinity are accepted here and found by reading.
    cache : ImageCache or None
        Where decoded images of files are kept.

    Returns
    -------
    source : ImageSource

    Raises
    ------
    ValueError, TypeError
        With scikit-learn's messages where it has them.
    """
    least = least or (2 if fitting else 1)
    content = recognize(X)
    if content.kind == "rows":
        rows = _check_rows(
            content.values,
            estimator,
            image_shape=image_shape,
            fitting=fitting,
            least=least,
            finite=not allow_unusable,
        )
        if fitting and image_shape is None:
            _doubt_rows(*rows.shape)
        return open_source(content._replace(values=rows), image_shape=image_shape, resize=resize)
    if fitting:
        _forget_features(estimator)
    if content.kind == "stack":
        _require_samples(content.values.shape[0], least, estimator)
    source = open_source(content, resize=resize, cache=cache, allow_missing=allow_unusable)
    _require_samples(len(source), least, estimator)
    return source


def _check_rows(
    X: Any,
    estimator: BaseEstimator,
    *,
    image_shape: tuple[int, int] | None,
    fitting: bool,
    least: int,
    finite: bool,
) -> Any:
    """Validate flattened rows as scikit-learn does, unless they may be one image."""
    # Sparse matrices are left to scikit-learn's own error.
    on_images = not (fitting or hasattr(estimator, "n_features_in_") or hasattr(X, "tocsr"))
    n_pixels = None if image_shape is None else math.prod(image_shape)
    if on_images and X.shape[1:] != (n_pixels,):
        raise ValueError(
            f"X of shape {X.shape} has too few axes for several images, and fit saw no flattened "
            "rows: pass one image as X[np.newaxis], or set image_shape=(height, width) for "
            "flattened rows of that shape"
        )
    if is_lazy(X):
        _require_samples(X.shape[0], least, estimator)
        return validate_data(estimator, X, reset=fitting, skip_check_array=True)
    with keeping_filters():
        return validate_data(
            estimator, X, reset=fitting, ensure_all_finite=finite, ensure_min_samples=least
        )


def _doubt_rows(n: int, n_pixels: int) -> None:
    """Warn of rows that may be the lines of one image, or a table of something else than pixels."""
    side = math.isqrt(n_pixels)
    height, width = (side, side) if side**2 == n_pixels else (1, n_pixels)
    if height == 1 or n == n_pixels:
        warn_user(
            f"X of shape ({n}, {n_pixels}) is taken as {counted(n, 'image')} of {height} x "
            f"{width} pixels. If it is one image, pass X[np.newaxis]; if its columns are no "
            "pixels, nothing can be learned from it here; otherwise say so with "
            f"image_shape=({height}, {width})"
        )


def _require_samples(found: int, least: int, estimator: BaseEstimator) -> None:
    if found < least:
        raise ValueError(
            f"Found {found} sample(s) while a minimum of {least} is required by "
            f"{type(estimator).__name__}."
        )


def take_features(estimator: BaseEstimator, other: BaseEstimator) -> None:
    """Make an estimator know the features that another one knows, and no others."""
    _forget_features(estimator)
    vars(estimator).update({name: vars(other)[name] for name in _FEATURES if name in vars(other)})


def _forget_features(estimator: BaseEstimator) -> None:
    for name in _FEATURES:
        if hasattr(estimator, name):
            delattr(estimator, name)


def check_groups(groups: Any, n_images: int) -> NDArray[Any] | None:
    """Return the patient of each image as text or a number, or None without groups."""
    return None if groups is None else check_patients(groups, n_images)


def numbered(patients: NDArray[Any] | None, n_images: int) -> NDArray[np.intp]:
    """Return the patient of each image as a number; if they are unknown, each has its own."""
    if patients is None:
        return np.arange(n_images)
    return np.unique(patients, return_inverse=True)[1]
