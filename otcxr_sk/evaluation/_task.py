"""Checks of what an embedding is evaluated on: labels, patients, training and test rows."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array

from otcxr_sk._columns import check_patients, plain, same_kind, warn_of_seen
from otcxr_sk._quote import counted, listed
from otcxr_sk._warning import keeping_filters

# Distinct values or rows that a message names.
_NAMED = 5
# What programs write for a missing value when they turn it into text.
_UNKNOWN = {"nan", "nat", "<na>"}


def is_known(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which labels are not NaN, the only value of any dtype that differs from itself."""
    return np.asarray(values == values, dtype=bool)


def classes_of(labels: NDArray[Any]) -> NDArray[Any]:
    """Return the distinct known labels, sorted."""
    return np.unique(labels[is_known(labels)])


def check_labels(y: ArrayLike) -> NDArray[Any]:
    """Return labels as (n, k), NaN where unknown: one column of any classes, or several of 0 and 1.

    Equal labels in any wrapping give equal arrays.
    """
    values = plain("y", y)
    if values.ndim not in (1, 2) or not values.size:
        raise ValueError(
            "y must have a label of each image, shape (n,), or several as columns, shape (n, k), "
            f"got shape {values.shape}"
        )
    values = values.reshape(len(values), -1)
    return _classes(values) if values.shape[1] == 1 else _zero_one(values)


def _classes(values: NDArray[np.object_]) -> NDArray[Any]:
    known = np.array([not _is_unknown(value) for value in values[:, 0]])
    if not known.any():
        return np.full(values.shape, np.nan)
    classes = same_kind("y", values[known, 0], np.flatnonzero(known))
    if classes.dtype.kind == "f" and not np.isfinite(classes).all():
        row = np.flatnonzero(known)[np.isinf(classes).argmax()]
        raise ValueError(f"y: row {row} is infinite, which is no class; use NaN if it is unknown")
    if known.all():
        return classes[:, None]
    labels = np.full(values.shape, np.nan, dtype=float if classes.dtype.kind in "if" else object)
    labels[known, 0] = classes
    return labels


def _zero_one(values: NDArray[np.object_]) -> NDArray[np.float64]:
    odd = ~np.frompyfunc(_is_zero_one, 1, 1)(values).astype(bool)
    if odd.any():
        row, column = np.argwhere(odd)[0]
        value = values[row, column]
        shown = repr(value) if isinstance(value, str | int | float) else "something else"
        raise ValueError(
            f"y of shape {values.shape} must have 0, 1 or NaN in every column; row {row} of "
            f"column {column} is {shown}"
        )
    return values.astype(float)


def _is_zero_one(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and value in (0, 1))


def _is_unknown(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value.casefold() in _UNKNOWN)


def check_task(
    y: ArrayLike,
    groups: ArrayLike,
    train: ArrayLike,
    test: ArrayLike,
    seen: ArrayLike | None = None,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.intp], NDArray[np.intp]]:
    """Return labels (n, k), patients (n,), training rows and test rows, all of them checked."""
    labels = check_labels(y)
    patients = check_patients(groups, len(labels))
    train_rows = check_rows("train", train, len(labels))
    test_rows = check_rows("test", test, len(labels))
    check_apart(patients, train_rows, test_rows)
    for index, column in enumerate(labels.T):
        in_train, in_test = classes_of(column[train_rows]), classes_of(column[test_rows])
        if len(in_train) < 2 or not np.array_equal(in_train, in_test):
            several = labels.shape[1] > 1
            raise ValueError(
                f"y{f'[:, {index}]' if several else ''} must have the same two or more classes in "
                f"train and in test; train has {named_classes(in_train)}, test has "
                f"{named_classes(in_test)}"
                + ("; leave it out, or use probe_auc, which passes over it" if several else "")
            )
    warn_of_seen(seen, patients, test_rows)
    return labels, patients, train_rows, test_rows


def check_apart(patients: NDArray[Any], train: NDArray[np.intp], test: NDArray[np.intp]) -> None:
    """Raise ValueError if rows to fit on and rows to judge on share patients."""
    shared = np.intersect1d(patients[train], patients[test])
    if len(shared):
        a, b = (rows[patients[rows] == shared[0]][0] for rows in (train, test))
        raise ValueError(
            f"train and test share {counted(len(shared), 'patient')}, such as in rows {a} and {b}; "
            "split by patient, for instance with GroupShuffleSplit"
        )


def check_rows(name: str, rows: ArrayLike, n: int) -> NDArray[np.intp]:
    """Return one or more row numbers, each from 0 to n - 1."""
    found = np.asarray(rows)
    if found.dtype.kind == "O":
        found = np.array(plain(name, rows).tolist())
    if found.ndim != 1 or found.dtype.kind not in "iu" or not len(found):
        advice = "; pass np.flatnonzero of it" if found.dtype.kind == "b" else ""
        raise ValueError(
            f"{name} must be one or more row numbers, got {found.dtype} of shape "
            f"{found.shape}{advice}"
        )
    if found.min() < 0 or found.max() >= n:
        raise ValueError(
            f"{name} must be row numbers from 0 to {n - 1}, got {found.min()} to {found.max()}"
        )
    return found.astype(np.intp)


class NotFiniteError(ValueError):
    """Features of images that are used are NaN or infinite."""


def check_features(
    Z: ArrayLike, labels: NDArray[Any], used: NDArray[np.intp], name: str = "Z"
) -> NDArray[Any]:
    """Return features (n, d), one row for each row of the labels, finite in the rows that are used.

    Raises
    ------
    NotFiniteError
        A row that is used is not finite.
    """
    features = as_features(Z, name)
    if len(features) != len(labels):
        raise ValueError(f"{name} has {counted(len(features), 'row')}, y has {len(labels)}")
    require_finite(features, used, name, "of train and test: train[np.isfinite({}[train]).all(1)]")
    return features


def as_features(Z: ArrayLike, name: str) -> NDArray[Any]:
    """Return features as an array (n, d) of numbers, finite or not."""
    try:
        with keeping_filters():
            return check_array(Z, ensure_all_finite=False)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must be numbers, with a row of features for each image: an array or a data "
            "frame of shape (n, d)"
        ) from error


def require_finite(
    features: NDArray[Any], rows: NDArray[np.intp] | slice, name: str, advice: str
) -> None:
    """Raise `NotFiniteError` if one of some rows of features has NaN or infinity.

    `advice` says what to leave such rows out of, with ``{}`` for the name.
    """
    bad = np.arange(len(features))[rows][~np.isfinite(features[rows]).all(axis=1)]
    if len(bad):
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        raise NotFiniteError(
            f"{name}: row {bad[0]}{more} has NaN or infinity, as for an image that cannot "
            f"be used; leave such rows out {advice.format(name)}"
        )


def named_classes(classes: NDArray[Any]) -> str:
    """Return the first of some classes, for a message."""
    more = f" and {len(classes) - _NAMED} more" if len(classes) > _NAMED else ""
    return f"[{listed(classes[:_NAMED].tolist())}]{more}"
