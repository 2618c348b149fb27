"""Find out which kind of X this is."""

from __future__ import annotations

import math
import os
from numbers import Integral
from typing import Any, Literal

import numpy as np
from PIL import Image
from sklearn.base import BaseEstimator
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data
from torch.utils.data import Dataset

from otcxr_sk.images import (
    ArraySource,
    DatasetSource,
    ImageCache,
    ImageSource,
    PathSource,
    list_images,
)
from otcxr_sk.images._arrays import is_lazy
from otcxr_sk.images._datasets import first
from otcxr_sk.images._resize import Resize
from otcxr_sk.images._source import DEFAULT_RESIZE

_LAYOUTS: dict[str, Literal["nchw", "nhwc"]] = {"first": "nchw", "last": "nhwc"}

# Rows looked at to tell a column of paths, of which some may be missing.
_HEAD = 10


def check_images(
    X: Any,
    estimator: BaseEstimator,
    *,
    image_shape: tuple[int, int] | None,
    channels: str | None,
    fitting: bool,
    resize: Resize = DEFAULT_RESIZE,
    allow_unusable: bool = False,
    cache: ImageCache | None = None,
) -> ImageSource:
    """Recognise `X` and make it a source of images, without copying arrays or reading files.

    Parameters
    ----------
    X : array-like or sequence of paths
        See `OTCXRPretrainer`.
    estimator : BaseEstimator
        Gets `n_features_in_` and `feature_names_in_` when `fitting` flattened rows, and is
        compared with them otherwise.
    image_shape : tuple of int or None
        (height, width) of flattened rows.
    channels : {"first", "last"} or None
        Place of the channel axis in an array of four dimensions.
    fitting : bool
        Whether two images are needed and the estimator's record of features starts anew.
    resize : {"pad", "crop", "squash"}
        How images that are no squares become squares.
    allow_unusable : bool
        Whether missing paths, NaN and infinity are left to whoever reads the images.
    cache : ImageCache or None
        Where images of files are kept.

    Returns
    -------
    source : ImageSource

    Raises
    ------
    ValueError, TypeError
        In scikit-learn's words where it has them.
    """
    paths = _as_paths(X)
    least = 2 if fitting else 1
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
        layout = _LAYOUTS[channels or _guess_channels(X.shape)]
        return ArraySource(X, layout=layout, resize=resize)
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
    """Give a one-dimensional sequence if `X` holds file names, None if it does not."""
    if isinstance(X, str | os.PathLike):
        if os.path.isdir(X):
            return list_images(X)
        raise ValueError(
            f"Expected a folder or a sequence of paths, got one path; use [{os.fspath(X)!r}]"
        )
    if isinstance(X, list | tuple):
        return X if any(map(_is_path, X)) else None
    # Frames of polars have a shape, but no number of dimensions.
    shape: tuple[int, ...] = getattr(X, "shape", ())
    kind = getattr(getattr(X, "dtype", None), "kind", "O")
    if len(shape) not in (1, 2) or kind in "biufc" or not hasattr(X, "__getitem__"):
        return None
    # Not the first row alone, which may lack its path.
    if not any(map(_is_path, np.asarray(X[:_HEAD], dtype=object).flat)):
        return None
    if len(shape) == 1:
        return X
    if shape[1] == 1:
        # A column selector of ColumnTransformer gives a frame of one column.
        return np.asarray(X, dtype=object)[:, 0]
    raise ValueError(
        f"X has {shape[1]} columns, with text among them; pass the one of paths alone, X['path'], "
        "or choose it by a ColumnTransformer"
    )


def _is_path(value: Any) -> bool:
    return isinstance(value, str | os.PathLike)


def _is_dataset(X: Any) -> bool:
    """Whether `X` is a data set of torch, or what scikit-learn makes of one: a list of items."""
    if not isinstance(X, list | tuple):
        return isinstance(X, Dataset)
    if not len(X):
        return False
    image = first(X[0])
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
    """Stack a list of images; a clear error where their shapes differ."""
    if not isinstance(X, list | tuple) or not len(X) or not hasattr(X[0], "shape"):
        return X
    for row, image in enumerate(X):
        if np.shape(image) != X[0].shape:
            raise ValueError(
                f"images in a list must share one shape: row 0 is {X[0].shape}, row {row} is "
                f"{np.shape(image)}; resize them, or pass files, whose sizes may differ"
            )
    return np.asarray(X)


def _forget_features(estimator: BaseEstimator, fitting: bool) -> None:
    if fitting:
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(estimator, name):
                delattr(estimator, name)


def _guess_channels(shape: tuple[int, ...]) -> str:
    first, last = shape[1] in (1, 3), shape[3] in (1, 3)
    if first == last:
        why = "both axes could be the channels" if first else "no axis of 1 or 3 channels"
        raise ValueError(
            f"cannot tell the layout of images of shape {shape}: {why}; expected (n, 1 or 3, h, w) "
            "or (n, h, w, 1 or 3), and channels='first' or channels='last' if both fit"
        )
    return "first" if first else "last"


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
