"""Data sets of Hugging Face's library `datasets`, known by their interface alone."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from otcxr_sk.images._values import shown

# Classes of features that are arrays with two or more axes.
_ARRAYS = ("Array2D", "Array3D")


def hugging_face_items(X: Any) -> Any | None:
    """Return the images of such a data set or column as items, or None if `X` is neither.

    Other columns are not read.

    Raises
    ------
    ValueError
        There is no column of images, or several.
    """
    if hasattr(X, "column_name") and _is_data_set(getattr(X, "source", None)):
        features = X.source.features
        return _Images(X.source, X.column_name) if _holds_images(features[X.column_name]) else None
    if not _is_data_set(X):
        return None
    # What a transform returns is known only from its items.
    if X.format["type"] == "custom":
        return X
    names = [name for name, feature in X.features.items() if _holds_images(feature)]
    if len(names) == 1:
        return _Images(X, names[0])
    if names:
        raise ValueError(
            f"there are several columns of images, {', '.join(map(shown, names))}; pass one of "
            f"them, X.select_columns([{names[0]!r}])"
        )
    raise ValueError(
        f"none of the columns {', '.join(map(shown, X.features))} has images; pass a column of "
        "paths as X['path'], or convert it, X.cast_column('path', datasets.Image())"
    )


class _Images:
    """A column of images: PIL images, or arrays of the type that the data set declares."""

    def __init__(self, data: Any, name: str) -> None:
        feature = data.features[name]
        if not getattr(feature, "decode", True):
            raise ValueError(
                f"the images of column {name!r} are not decoded; pass "
                f"X.cast_column({name!r}, datasets.Image())"
            )
        self._name = name
        self._dtype = None if type(feature).__name__ == "Image" else _dtype(feature)
        kind = None if self._dtype is None else "numpy"
        self._data = data.with_format(kind).select_columns([name])

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, row: int) -> dict[str, Any]:
        value = self._data[row][self._name]
        return {"image": value if self._dtype is None else np.asarray(value, self._dtype)}


def _is_data_set(X: Any) -> bool:
    return (
        isinstance(getattr(X, "features", None), Mapping)
        and hasattr(X, "column_names")
        and hasattr(X, "select_columns")
        and hasattr(X, "__getitem__")
        and hasattr(X, "__len__")
    )


def _holds_images(feature: Any) -> bool:
    if type(feature).__name__ in ("Image", *_ARRAYS):
        return True
    # Lists of lists of numbers.
    return hasattr(getattr(feature, "feature", None), "feature") and _dtype(feature) is not None


def _dtype(feature: Any) -> np.dtype[Any] | None:
    """Return the type of the numbers in an array or in nested lists."""
    while hasattr(feature, "feature"):
        feature = feature.feature
    try:
        dtype = np.dtype(feature.dtype)
    except (AttributeError, TypeError):
        return None
    return dtype if dtype.kind in "biuf" else None
