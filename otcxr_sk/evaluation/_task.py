"""Checks of what an embedding is evaluated on: labels, patients, training and test rows."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array, check_consistent_length, column_or_1d


def is_known(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which labels are not NaN, the only value of any dtype that differs from itself."""
    return np.asarray(values == values, dtype=bool)


def classes_of(labels: NDArray[Any]) -> NDArray[Any]:
    """Return the distinct known labels, sorted."""
    return np.unique(labels[is_known(labels)])


def check_labels(y: ArrayLike) -> NDArray[Any]:
    """Return labels as (n, k): one column of any classes, or several of 0, 1 and NaN."""
    labels = check_array(
        y, ensure_2d=False, dtype=None, ensure_all_finite="allow-nan", input_name="y"
    )
    if labels.ndim == 1:
        return labels[:, None]
    for index, column in enumerate(labels.T):
        values = classes_of(column)
        if not np.isin(values, [0, 1]).all():
            raise ValueError(
                f"y of shape {labels.shape} must have 0, 1 or NaN in every column; column {index} "
                f"has {', '.join(map(str, values[:5]))}"
            )
    return labels.astype(float)


def check_task(
    y: ArrayLike, groups: ArrayLike, train: ArrayLike, test: ArrayLike
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.intp], NDArray[np.intp]]:
    """Return labels (n, k), patients (n,), training rows and test rows, all of them checked."""
    labels = check_labels(y)
    patients = check_patients(groups, labels)
    train_rows = check_rows("train", train, len(labels))
    test_rows = check_rows("test", test, len(labels))
    shared = np.intersect1d(patients[train_rows], patients[test_rows])
    if len(shared):
        raise ValueError(
            f"{len(shared)} patients are both in train and in test, {shared[0]} among them; "
            "split by patient, for instance with GroupShuffleSplit"
        )
    for index, column in enumerate(labels.T):
        in_train, in_test = classes_of(column[train_rows]), classes_of(column[test_rows])
        if len(in_train) < 2 or not np.array_equal(in_train, in_test):
            of_label = f"[:, {index}]" if labels.shape[1] > 1 else ""
            raise ValueError(
                f"y{of_label} must have the same two or more classes in train and in test; train "
                f"has {in_train.tolist()}, test has {in_test.tolist()}"
            )
    return labels, patients, train_rows, test_rows


def check_patients(groups: ArrayLike, labels: NDArray[Any]) -> NDArray[Any]:
    """Return the patient of each row of the labels."""
    patients = check_array(groups, ensure_2d=False, dtype=None, input_name="groups")
    check_consistent_length(labels, patients)
    return column_or_1d(patients)


def check_rows(name: str, rows: ArrayLike, n: int) -> NDArray[np.intp]:
    """Return one or more row numbers, each from 0 to n - 1."""
    found = np.asarray(rows)
    if found.ndim != 1 or found.dtype.kind not in "iu" or not len(found):
        raise ValueError(
            f"{name} must be one or more row numbers, got {found.dtype} of shape {found.shape}"
        )
    if found.min() < 0 or found.max() >= n:
        raise ValueError(
            f"{name} must be row numbers from 0 to {n - 1}, got {found.min()} to {found.max()}"
        )
    return found.astype(np.intp)


def check_features(Z: ArrayLike, labels: NDArray[Any], name: str = "Z") -> NDArray[Any]:
    """Return finite features (n, d), one row for each row of the labels."""
    features = check_array(Z, input_name=name)
    if len(features) != len(labels):
        raise ValueError(f"{name} has {len(features)} rows, y has {len(labels)}")
    return features
