"""What an object holds, however it is wrapped: paths, arrays, or items of a data set."""

import os
import sys
from collections import deque
from collections.abc import ItemsView, Iterator, KeysView, Mapping, Sequence, Set
from numbers import Integral, Number
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from otcxr_sk._paths import as_path
from otcxr_sk._quote import counted, few, quoted
from otcxr_sk.images._folder import list_images
from otcxr_sk.images._values import is_no_path, is_path, shown, values_of
from otcxr_sk.images.sources._arrays import (
    as_array,
    as_rows,
    is_lazy,
    layout_of,
)
from otcxr_sk.images.sources._hugging_face import hugging_face_items
from otcxr_sk.images.sources._items import NAMES, image_of, is_array, is_image
from otcxr_sk.images.sources._source import ImageSource

# How the names of types of numbers begin, in lower case.
_NUMBERS = ("bool", "decimal", "double", "float", "half", "int", "sparse", "uint")

# Tensors without numbers that NumPy knows, by the attribute that tells.
_TENSORS = {
    "is_nested": "a nested tensor; pass a list of its images, X.unbind()",
    "is_quantized": "a quantized tensor; pass X.dequantize()",
    "is_meta": "a tensor on the device 'meta', which has no numbers",
}

# An image that is this high and wide, but has as many pixels as channels in its last axis.
_LARGE = 16


class Content(NamedTuple):
    """What an object holds.

    Parameters
    ----------
    kind : {"source", "paths", "items", "stack", "rows"}
        An `ImageSource`, paths, items of a data set, an array of images with an axis for each
        dimension, or numbers with one or two axes.
    values : object
        For `PathSource`, `DatasetSource` or `ArraySource`, whichever it is. Rows may be a data
        frame or a list.
    """

    kind: Literal["source", "paths", "items", "stack", "rows"]
    values: Any


def recognize(X: Any) -> Content:
    """Find out what `X` holds, without copying arrays and without reading files or items.

    Raises
    ------
    ValueError
        It is one image, can be read only once, has no order, or is nothing that is known; the
        message says what to pass instead.
    """
    if isinstance(X, type):
        raise unknown()
    if isinstance(X, ImageSource):
        return Content("source", X)
    if isinstance(X, np.ndarray) and X.shape == () and X.dtype.kind in "OSUT":
        X = X.item()
    if is_path(X):
        return Content("paths", _in_folder(as_path(X)))
    _refuse_what_has_no_rows(X)
    # Sparse matrices, of which some are mappings, are left to scikit-learn's own error.
    if hasattr(X, "tocsr"):
        return Content("rows", X)
    items = hugging_face_items(X)
    if items is not None:
        return Content("items", items)
    if isinstance(X, _torch_classes("Dataset")):
        _length(X)
        return Content("items", X)
    shape = _shape(X)
    # Zarr's groups are no mappings, but have keys.
    if isinstance(X, Mapping) or (shape is None and callable(getattr(X, "keys", None))):
        return _of_mapping(X)
    if shape is None and hasattr(X, "__len__"):
        return _of_sequence(X)
    if is_array(X):
        return recognize(as_array(X))
    if not shape:
        raise unknown()
    if not all(isinstance(length, Integral) for length in shape):
        raise ValueError("how many images there are is not known yet: compute them, X.compute()")
    if len(shape) == 1:
        return _of_sequence(X)
    return _of_table(X, shape[1]) if len(shape) == 2 else _of_stack(X)


def unknown() -> ValueError:
    """Return the error that says what images may be."""
    return ValueError(
        "this is nothing that images can be read from; pass an array of images (n, height, width), "
        "(n, 1 or 3, height, width) or (n, height, width, 1 or 3), flattened rows (n, height * "
        "width), a list or column of paths, a folder, a list of images, or a data set with a "
        "length and an image for every index"
    )


def _shape(X: Any) -> tuple[Any, ...] | None:
    try:
        shape = getattr(X, "shape", None)
    except Exception as error:
        raise ValueError(
            "this array does not tell its shape; if it is in a file, open the file again"
        ) from error
    return tuple(shape) if isinstance(shape, tuple) else None


def _length(X: Any) -> int:
    try:
        return len(X) if _shape(X) is None else X.shape[0]
    except Exception as error:
        raise ValueError(
            "this does not tell how many images it has; pass a list, list(X), or a data set with a "
            "length and an image for every index"
        ) from error


def _torch_classes(*names: str) -> tuple[type, ...]:
    # Importing this package loads no torch, but whoever has such an object has loaded it.
    data = getattr(sys.modules.get("torch.utils"), "data", None)
    return tuple(getattr(data, name) for name in names) if data is not None else ()


def _in_folder(path: str) -> list[str]:
    if os.path.isdir(path):
        return list_images(path)
    if os.path.exists(path):
        raise ValueError(f"Expected a folder or a sequence of paths, got one path; use [{path!r}]")
    raise FileNotFoundError(f"there is no file and no folder {quoted(path)}; check the path")


def _refuse_what_has_no_rows(X: Any) -> None:
    if isinstance(X, Image.Image):
        raise ValueError("this is one image; pass it in a list, [X]")
    if isinstance(X, Set) and not isinstance(X, KeysView | ItemsView):
        raise ValueError("a set has no order, but rows have; pass a list, such as sorted(X)")
    if isinstance(X, _torch_classes("DataLoader")):
        raise ValueError("a loader returns batches; pass its data set, X.dataset")
    for attribute, what in _TENSORS.items():
        if getattr(X, attribute, False) is True:
            raise ValueError(f"this is {what}")
    # Asked of the type, because a delayed object has any attribute.
    for method in ("compute", "collect"):
        if hasattr(type(X), method) and not isinstance(X, Mapping) and _shape(X) is None:
            raise ValueError(f"this is not computed yet; pass X.{method}()")
    if _is_file(X):
        raise ValueError("this is an open file; pass its path in a list")
    unsized = hasattr(X, "__iter__") and not hasattr(X, "__len__") and _shape(X) is None
    if unsized or isinstance(X, (Iterator, *_torch_classes("IterableDataset"))):
        raise ValueError(
            "this can be read only from start to end, as generators and streams are, but images "
            "are read more than once, in any order; pass a list, list(X), or a data set with a "
            "length and an image for every index"
        )


def _is_file(X: Any) -> bool:
    return hasattr(X, "read") and hasattr(X, "seek")


def _of_mapping(X: Any) -> Content:
    names = [name for name in NAMES if name in X]
    if len(names) == 1:
        return recognize(X[names[0]])
    keys = list(X)
    if not keys:
        raise ValueError("there are no images")
    raise ValueError(
        f"this is a mapping of {few(keys, show=shown)}; pass one of its values, such as "
        f"X[{shown(keys[0])}], or a list of them, list(X.values())"
    )


def _of_stack(X: Any) -> Content:
    """Recognize something with three or more axes."""
    rows = as_rows(X)
    if rows.dtype.kind == "O":
        rows = from_objects(rows)
    if rows.dtype.kind not in "biuf":
        raise ValueError(f"images must be real numbers, got an array of {rows.dtype}")
    layout_of(rows.shape)
    n, height, width = rows.shape[:3]
    if len(rows.shape) == 3 and width in (1, 3, 4) and min(n, height) >= _LARGE:
        channels = ", ..., :3" if width == 4 else ""
        raise ValueError(
            f"an array of shape {rows.shape} would be {counted(n, 'image')} of {height} x {width} "
            f"pixels; if it is one image with channels, pass X[np.newaxis{channels}]"
        )
    return Content("stack", rows)


def from_objects(rows: Any) -> Any:
    """Return objects as numbers."""
    try:
        return np.asarray(rows).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError("images must be real numbers, got an array of other objects") from error


def _of_table(X: Any, n_columns: int) -> Content:
    """Recognize something with two axes."""
    if is_lazy(X):
        if X.dtype.kind in "biufcV":
            return Content("rows", as_rows(X))
        X = np.asarray(X[:])
    if n_columns == 1 and X.shape[0]:
        # ColumnTransformer selects a data frame with one column.
        content = _of_values(_column(X, 0))
        if content is not None:
            return content
    elif any(_holds_other_than_numbers(_column(X, place)) for place in _odd_columns(X)):
        raise ValueError(
            f"X has {n_columns} columns, some of them text or other than numbers; pass the column "
            "of paths alone, X['path'], or select it with a ColumnTransformer"
        )
    types = _types(X)
    if types is None:
        return Content("rows", as_rows(X))
    if 0 in X.shape:
        raise ValueError("there are no images in an empty data frame")
    return Content("rows", _without_masks(X, set(types)))


def _column(X: Any, place: int) -> Any:
    """Return a column of an array, or of a data frame of pandas, polars or Arrow."""
    if hasattr(X, "iloc"):
        return X.iloc[:, place]
    for method in ("to_series", "column"):
        if hasattr(X, method):
            return getattr(X, method)(place)
    return X[:, place]


def _odd_columns(X: Any) -> Sequence[int]:
    """Return the columns that may hold something else than numbers."""
    types = _types(X)
    if types is not None:
        names = [str(kind).lower() for kind in types]
        return [place for place, name in enumerate(names) if not name.startswith(_NUMBERS)]
    kind = getattr(getattr(X, "dtype", None), "kind", "f")
    return range(X.shape[1]) if kind in "OSUT" else ()


def _types(X: Any) -> Any | None:
    """Return the types of the columns of a data frame."""
    types = getattr(X, "dtypes", None)
    return types if types is not None else getattr(getattr(X, "schema", None), "types", None)


def _without_masks(X: Any, types: set[Any]) -> Any:
    """Return a data frame of pandas whose integers keep their type when it becomes an array."""
    plain = getattr(next(iter(types)), "numpy_dtype", None) if len(types) == 1 else None
    return X if plain is None or X.isna().any(axis=None) else X.astype(plain)


def _holds_other_than_numbers(column: Any) -> bool:
    first = _first(column)
    return first is not None and not isinstance(first, Number | np.bool_)


def _of_sequence(X: Any) -> Content:
    """Recognize something with one axis."""
    content = _of_values(X)
    if content is not None:
        return content
    return Content("rows", np.asarray([*values_of(X)]) if _shape(X) is None else as_array(X))


def _of_values(X: Any) -> Content | None:
    """Recognize values one by one; return None if they are numbers."""
    if not _length(X):
        raise ValueError("there are no images")
    try:
        first = _first(X)
    except Exception:
        # An item of a data set that cannot be used is found by reading.
        return Content("items", X)
    if first is None or is_path(first):
        return Content("paths", X)
    image = image_of(first)
    if is_path(image):
        raise ValueError(
            f"the items hold more than a path each, as the one with {shown(image)}; pass a list "
            "of the paths alone"
        )
    if is_image(image):
        return Content("items", [*values_of(X)] if _is_column(X) else X)
    if _is_file(first):
        raise ValueError(
            "these are open files; pass their paths, or the images in them, "
            "[PIL.Image.open(file) for file in X]"
        )
    if isinstance(first, Number | np.bool_) or (hasattr(first, "detach") and not first.ndim):
        return None
    if isinstance(first, list | tuple) or len(_shape(first) or ()) == 1:
        return _of_nested([*values_of(X)])
    raise unknown()


def _is_column(X: Any) -> bool:
    """Return whether X[0], X[1], ... are not its values, or take long."""
    # Those of pandas are found by labels.
    in_order = hasattr(X, "__getitem__") and not isinstance(X, deque)
    return not in_order or _shape(X) is not None or hasattr(X, "to_pylist")


def _first(column: Any) -> Any:
    """Return the first value that is there, or None."""
    return next((value for value in values_of(column) if not is_no_path(value)), None)


def _of_nested(values: list[Any]) -> Content:
    """Recognize rows of numbers, or images in nested lists."""
    try:
        array = np.asarray([_numbers(value) for value in values])
    except ValueError as error:
        raise ValueError(
            "rows, and images in nested lists, must have the same size; pass images that do not as "
            "a list of arrays (height, width)"
        ) from error
    if array.ndim < 2 or array.dtype.kind not in "biufcO":
        raise unknown()
    return Content("rows", array) if array.ndim == 2 else _of_stack(array)


def _numbers(value: Any) -> NDArray[Any]:
    """Return nested sequences, such as arrays of arrays, as one array."""
    array = as_array(value)
    if array.dtype.kind == "O" and array.ndim:
        # Not of the array: polars before 1.9 makes a wrong one of lists of lists.
        array = np.asarray([_numbers(one) for one in value])
    return array
