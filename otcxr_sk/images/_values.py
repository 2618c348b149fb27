"""Values of columns that may be paths, however they are wrapped."""

import os
from collections.abc import Iterable, Iterator
from numbers import Number
from typing import Any

import numpy as np

from otcxr_sk._columns import is_missing
from otcxr_sk._paths import as_path
from otcxr_sk._quote import quoted

# Values that are read at once from a column in a file.
_BLOCK = 4096


def values_of(column: Any) -> Iterator[Any]:
    """Yield the values of a column of any library as Python objects."""
    if isinstance(getattr(column, "dtype", None), np.dtype) and not _is_in_memory(column):
        # Single values take long to read from a file.
        for start in range(0, column.shape[0], _BLOCK):
            yield from np.asarray(column[start : start + _BLOCK])
    elif hasattr(column, "to_pylist"):
        for scalar in column:
            # Lists keep the type of their numbers.
            numbers: Any = getattr(scalar, "values", None)
            in_list = hasattr(numbers, "to_numpy")
            yield numbers.to_numpy(zero_copy_only=False) if in_list else scalar.as_py()
    elif hasattr(column, "__iter__"):
        yield from column
    else:
        yield from (column[row] for row in range(len(column)))


def _is_in_memory(column: Any) -> bool:
    # A Series of pandas has `iloc`.
    return isinstance(column, np.ndarray) or hasattr(column, "iloc")


def is_path(value: Any) -> bool:
    """Return whether a value can be the path of a file."""
    return isinstance(value, str | bytes | os.PathLike)


def require_paths(paths: Any) -> None:
    """Raise an error for one path, and for what has no paths.

    Raises
    ------
    TypeError
        It cannot be iterated over.
    ValueError
        It is one path.
    """
    if is_path(paths):
        path = as_path(paths)
        advice = f"list_images({path!r})" if os.path.isdir(path) else f"[{path!r}]"
        raise ValueError(f"expected a sequence of paths, got one; use {advice}")
    if not isinstance(paths, Iterable) and not hasattr(paths, "__getitem__"):
        raise TypeError(f"expected a sequence of paths, got {shown(paths)}")


def is_no_path(value: Any) -> bool:
    """Return whether a value stands for a path that is not known."""
    return not value if isinstance(value, str | bytes) else is_missing(value)


def shown(value: Any) -> str:
    """Return a value for a message, or a word for it if what it prints is for programmers."""
    plain = isinstance(value, str | bytes | Number) or is_no_path(value)
    return quoted(value) if plain else "something else"
