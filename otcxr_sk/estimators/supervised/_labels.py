"""The labels of images: as users give them, and their classes as JSON holds them."""

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import issparse
from sklearn.utils import assert_all_finite, check_array
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from otcxr_sk._columns import is_missing
from otcxr_sk._quote import brief, quoted
from otcxr_sk._warning import keeping_filters
from otcxr_sk.estimators.sharing import refuse
from otcxr_sk.estimators.supervised._linear import Labels, weigh

# Arrays of classes that are shared, and what JSON has for them.
_DTYPE = re.compile(r"[<>|](b1|[iu][1248]|f[248]|O|U[1-9]\d{0,2})")
_TYPES = {"b": bool, "i": int, "u": int, "f": float, "O": str, "U": str}
_MOST_CLASSES = 2**16


def read_classes(values: Any, dtype: Any) -> NDArray[Any]:
    """Return classes as they were before JSON.

    Raises
    ------
    ValueError
        They are not the different numbers, texts or booleans, sorted, that such an array holds.
    """
    match = _DTYPE.fullmatch(dtype) if isinstance(dtype, str) else None
    if match is None:
        refuse("classes_dtype", f"is {quoted(dtype)}: only numbers, texts and booleans are shared")
    expected = _TYPES[match[1][0]]
    if not isinstance(values, list) or not 2 <= len(values) <= _MOST_CLASSES:
        refuse("classes", f"must be a list of 2 to {_MOST_CLASSES}")
    if any(type(one) is not expected for one in values):
        refuse("classes", f"are not all of the kind {quoted(dtype)}")
    try:
        with np.errstate(over="ignore"):
            classes = np.array(values, dtype)
    except OverflowError:
        refuse("classes", f"are too large for {dtype}")
    if classes.tolist() != values or sorted(set(values)) != values:
        refuse("classes", f"are not sorted and different values of {dtype}")
    return classes


@keeping_filters()
def check_labels(y: Any, n_images: int, class_weight: Any) -> tuple[Labels, NDArray[Any]]:
    """Return the labels and the classes that they are indices of.

    Raises
    ------
    ValueError
        They are not as many as the images, not labels, or all the same.
    """
    if y is None:
        raise ValueError(
            "OTCXRClassifier requires y to be passed, but the target y is None: the labels"
        )
    y = check_array(
        y,
        accept_sparse="csr",
        ensure_2d=False,
        dtype=None,
        ensure_all_finite="allow-nan",
        input_name="y",
    )
    if issparse(y):
        y = y.toarray()
    if len(y) != n_images:
        raise ValueError(
            f"Found input variables with inconsistent numbers of samples: [{n_images}, {len(y)}], "
            "images and labels"
        )
    if y.ndim == 2 and y.shape[1] > 1:
        if isinstance(class_weight, dict):
            raise ValueError("class_weight of several labels must be None or 'balanced'")
        findings = _several(y)
        return Labels(findings, 2, weigh(findings, 2, class_weight)), np.arange(y.shape[1])
    y = column_or_1d(y, warn=True)
    missing = [row for row, one in enumerate(y) if is_missing(one)] if y.dtype == object else []
    if missing:
        raise ValueError(f"y has no class in row {missing[0]}; leave out images without a label")
    assert_all_finite(y, input_name="y")
    check_classification_targets(y)
    classes, values = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"y has only one class, {brief(classes[0])}; at least two are needed")
    if isinstance(class_weight, dict):
        names = {name: index for index, name in enumerate(classes.tolist())}
        unknown = [name for name in class_weight if name not in names]
        if unknown:
            raise ValueError(f"class_weight names {brief(unknown[0])}, which is no class of y")
        class_weight = {names[name]: weight for name, weight in class_weight.items()}
    weights = weigh(values, len(classes), class_weight)
    return Labels(values, len(classes), weights), classes


def _several(y: NDArray[Any]) -> NDArray[np.float64]:
    values = np.frompyfunc(_number, 1, 1)(y).astype(float)
    odd = ~(np.isnan(values) | (values == 0) | (values == 1))
    if odd.any():
        row, column = np.argwhere(odd)[0]
        raise ValueError(
            f"y of shape {y.shape} must have 0, 1 or NaN in every column; row {row} of column "
            f"{column} is {brief(y[row, column])}"
        )
    unknown = np.isnan(values).all(0)
    if unknown.any():
        raise ValueError(f"column {unknown.argmax()} of y is NaN for every image: leave it out")
    return values


def _number(value: Any) -> float:
    """Return a label as a number: NaN if it is missing, and -1 if it is none."""
    try:
        return np.nan if is_missing(value) else float(value)
    except (TypeError, ValueError):
        return -1.0
