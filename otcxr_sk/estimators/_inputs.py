"""Recognition and validation of `X` and `groups`."""

import math
import os
from numbers import Integral
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.base import BaseEstimator
from sklearn.utils import check_array, column_or_1d
from sklearn.utils.validation import validate_data
from torch.utils.data import Dataset

from otcxr_sk.images import (
    DEFAULT_RESIZE,
    ArraySource,
    DatasetSource,
    ImageCache,
    ImageSource,
    PathSource,
    Resize,
    first_member,
    is_lazy,
    list_images,
)

# Rows in which a path is looked for, since the first paths of a column may be missing.
_HEAD = 10


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
    paths = _as_paths(X)
    least = least or (2 if fitting else 1)
    if paths is not None:
        _forget_features(estimator, fitting)
        _require_samples(len(paths), least, estimator, "paths")
        return PathSource(paths, resize=resize, cache=cache, allow_missing=allow_unusable)
    if _is_dataset(X):
        _forget_features(estimator, fitting)
        dataset = DatasetSource(X, resize=resize)
        _require_samples(len(dataset), least, estimator, "a data set")
        return dataset
    X = _refuse_mixed_shapes(X)
    lazy = is_lazy(X)
    finite = not allow_unusable
    n_axes = len(X.shape) if lazy else getattr(X, "ndim", 0)
    if lazy:
        _require_samples(X.shape[0], least, estimator, "an array")
    if n_axes in (3, 4):
        _forget_features(estimator, fitting)
        if not lazy:
            X = check_array(
                X,
                allow_nd=True,
                ensure_all_finite=finite,
                ensure_min_samples=least,
                estimator=estimator,
                input_name="X",
            )
        if n_axes == 3:
            return ArraySource(X, resize=resize)
        return ArraySource(X, layout=_layout(X.shape), resize=resize)
    if n_axes > 4:
        raise ValueError(
            f"images come as (n, h, w), (n, 1 or 3, h, w) or (n, h, w, 1 or 3), got {X.shape}"
        )
    if lazy:
        validate_data(estimator, X, reset=fitting, skip_check_array=True)
    else:
        X = validate_data(
            estimator, X, reset=fitting, ensure_all_finite=finite, ensure_min_samples=least
        )
    return ArraySource(X, image_shape=_row_shape(X.shape[1], image_shape), resize=resize)


def _as_paths(X: Any) -> Any | None:
    """Return a one-dimensional sequence if `X` holds file names, otherwise None."""
    if isinstance(X, str | os.PathLike):
        if os.path.isdir(X):
            return list_images(X)
        raise ValueError(
            f"Expected a folder or a sequence of paths, got one path; use [{os.fspath(X)!r}]"
        )
    if isinstance(X, list | tuple):
        return X if any(map(_is_path, X)) else None
    # polars data frames have a shape, but no ndim.
    shape: tuple[int, ...] = getattr(X, "shape", ())
    kind = getattr(getattr(X, "dtype", None), "kind", "O")
    if len(shape) not in (1, 2) or kind in "biufc" or not hasattr(X, "__getitem__"):
        return None
    # Not only the first row, whose path may be missing.
    if not any(map(_is_path, np.asarray(X[:_HEAD], dtype=object).flat)):
        return None
    if len(shape) == 1:
        return X
    if shape[1] == 1:
        # ColumnTransformer selects a data frame with one column.
        return np.asarray(X, dtype=object)[:, 0]
    raise ValueError(
        f"X has {shape[1]} columns, some of them text; pass the column of paths alone, X['path'], "
        "or select it with a ColumnTransformer"
    )


def _is_path(value: Any) -> bool:
    return isinstance(value, str | os.PathLike)


def _is_dataset(X: Any) -> bool:
    """Whether `X` is a torch data set, or a list of items, which scikit-learn makes of one."""
    if not isinstance(X, list | tuple):
        return isinstance(X, Dataset)
    if not len(X):
        return False
    image = first_member(X[0])
    if isinstance(image, Image.Image):
        return True
    item = isinstance(X[0], tuple) or hasattr(image, "detach")
    return item and getattr(image, "ndim", 0) > 1


def _require_samples(found: int, least: int, estimator: BaseEstimator, what: str) -> None:
    if found < least:
        raise ValueError(
            f"Found {what} of {found} sample(s) while a minimum of {least} is required "
            f"by {type(estimator).__name__}."
        )


def _refuse_mixed_shapes(X: Any) -> Any:
    """Stack a list of images, which must have the same shape."""
    if not isinstance(X, list | tuple) or not len(X) or not hasattr(X[0], "shape"):
        return X
    for row, image in enumerate(X):
        if np.shape(image) != X[0].shape:
            raise ValueError(
                f"images in a list must have the same shape: row 0 has {X[0].shape}, row {row} has "
                f"{np.shape(image)}; resize them, or pass files, whose sizes may differ"
            )
    return np.asarray(X)


def _forget_features(estimator: BaseEstimator, fitting: bool) -> None:
    if fitting:
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(estimator, name):
                delattr(estimator, name)


def _layout(shape: tuple[int, ...]) -> Literal["nchw", "nhwc"]:
    first, last = shape[1] in (1, 3), shape[3] in (1, 3)
    if first and last:
        raise ValueError(
            f"cannot tell which axis of images of shape {shape} has the channels: pass "
            "np.moveaxis(X, 1, 3) if it is axis 1, np.moveaxis(X, 3, 1) if it is axis 3"
        )
    if not (first or last):
        raise ValueError(
            f"images of shape {shape} have no axis of 1 or 3 channels; expected "
            "(n, 1 or 3, h, w) or (n, h, w, 1 or 3)"
        )
    return "nchw" if first else "nhwc"


def _row_shape(n_features: int, image_shape: tuple[int, int] | None) -> tuple[int, int]:
    if image_shape is None:
        side = math.isqrt(n_features)
        return (side, side) if side * side == n_features else (1, n_features)
    if len(image_shape) != 2 or not all(isinstance(n, Integral) and n > 0 for n in image_shape):
        raise ValueError(f"image_shape must be (height, width) in pixels, got {image_shape!r}")
    height, width = image_shape
    if height * width != n_features:
        raise ValueError(
            f"image_shape={tuple(image_shape)} needs rows of {height * width} pixels, but X has "
            f"{n_features} features"
        )
    return height, width


def check_groups(groups: Any, n_images: int) -> NDArray[np.intp]:
    """Return the patient of each image as a number; without groups, each image has its own."""
    if groups is None:
        return np.arange(n_images)
    patients = column_or_1d(check_array(groups, ensure_2d=False, dtype=None, input_name="groups"))
    if len(patients) != n_images:
        raise ValueError(f"groups has {len(patients)} rows, but there are {n_images} images")
    return np.unique(patients, return_inverse=True)[1]
