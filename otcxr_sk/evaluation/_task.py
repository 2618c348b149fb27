"""What is asked of an embedding: labels, patients, rows to learn from and rows to judge on."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array, check_consistent_length, column_or_1d


def is_known(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell which labels are there, whatever their dtype: NaN alone differs from itself."""
    return np.asarray(values == values, dtype=bool)


def check_labels(y: ArrayLike) -> NDArray[Any]:
    """Labels as (n, k): one column of any classes, or several of 0, 1 and NaN."""
    labels = check_array(
        y, ensure_2d=False, dtype=None, ensure_all_finite="allow-nan", input_name="y"
    )
    if labels.ndim == 1:
        return labels[:, None]
    for index, column in enumerate(labels.T):
        values = np.unique(column[is_known(column)])
        if not np.isin(values, [0, 1]).all():
            raise ValueError(
                f"y of shape {labels.shape} must have 0, 1 or NaN in every column; column {index} "
                f"has {', '.join(map(str, values[:5]))}"
            )
    return labels.astype(float)


def check_task(
    y: ArrayLike, groups: ArrayLike, train: ArrayLike, test: ArrayLike
) -> tuple[NDArray[Any], NDArray[Any], NDArray[np.intp], NDArray[np.intp]]:
    """Labels (n, k), patients (n,), and rows of both parts; ValueError says what is wrong."""
    labels = check_labels(y)
    patients = check_patients(groups, labels)
    fitted, judged = check_rows("train", train, len(labels)), check_rows("test", test, len(labels))
    shared = np.intersect1d(patients[fitted], patients[judged])
    if len(shared):
        raise ValueError(
            f"{len(shared)} patients are both in train and in test, {shared[0]} among them; "
            "split by patient, for instance with GroupShuffleSplit"
        )
    for index, column in enumerate(labels.T):
        classes, asked = (
            np.unique(column[rows][is_known(column[rows])]) for rows in (fitted, judged)
        )
        if len(classes) < 2 or not np.array_equal(classes, asked):
            of_label = f" of label {index}" if labels.shape[1] > 1 else ""
            raise ValueError(
                f"train and test must have the same two or more classes{of_label}; train has "
                f"{classes.tolist()}, test has {asked.tolist()}"
            )
    return labels, patients, fitted, judged


def check_patients(groups: ArrayLike, labels: NDArray[Any]) -> NDArray[Any]:
    """Patient of each row of the labels."""
    patients = check_array(groups, ensure_2d=False, dtype=None, input_name="groups")
    check_consistent_length(labels, patients)
    return column_or_1d(patients)


def check_rows(name: str, rows: ArrayLike, n: int) -> NDArray[np.intp]:
    """Row numbers, one or more of 0 to n - 1."""
    found = np.asarray(rows)
    if found.ndim != 1 or found.dtype.kind not in "iu" or not len(found):
        raise ValueError(
            f"{name} must be one or more row numbers, got {found.dtype} of shape {found.shape}"
        )
    if found.min() < 0 or found.max() >= n:
        raise ValueError(f"{name} must be rows in 0 to {n - 1}, got {found.min()} to {found.max()}")
    return found.astype(np.intp)


def check_features(Z: ArrayLike, labels: NDArray[Any], name: str = "Z") -> NDArray[Any]:
    """Features (n, d), finite, a row for each of the labels."""
    features = check_array(Z, input_name=name)
    if len(features) != len(labels):
        raise ValueError(f"{name} has {len(features)} rows, y has {len(labels)}")
    return features
