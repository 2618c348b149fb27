"""Linear probe: what a linear classifier makes of fixed features."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_array, check_consistent_length, check_random_state, column_or_1d

# Strong and fixed: nothing is tuned, on test labels least of all.
PENALTY = 0.01


def make_probe() -> Pipeline:
    """Standardisation and logistic regression with ``C=0.01``, the same for all features."""
    return make_pipeline(StandardScaler(), LogisticRegression(C=PENALTY, max_iter=2000))


def linear_probe(
    Z: ArrayLike, y: ArrayLike, groups: ArrayLike, *, train: ArrayLike, test: ArrayLike
) -> float:
    """AUC on test patients of a logistic regression fitted on training patients.

    The classifier is `make_probe`.

    Parameters
    ----------
    Z : array-like of shape (n, d)
        Features, one image a row.
    y : array-like of shape (n,)
        Classes; two or more.
    groups : array-like of shape (n,)
        Patient of each image.
    train, test : array-like of int
        Rows to fit on and to judge on. Their patients must differ.

    Returns
    -------
    auc : float
        Area under the ROC curve; of each class against the rest, averaged, if there are more
        than two.

    Raises
    ------
    ValueError
        A patient is in both parts, or a class is missing in one of them.

    Examples
    --------
    >>> import numpy as np
    >>> from otcxr_sk.evaluation import linear_probe
    >>> y = np.tile([0, 1], 20)
    >>> linear_probe(y[:, None], y, np.arange(40), train=range(20), test=range(20, 40))
    1.0
    """
    features, labels, patients = check_array(Z), column_or_1d(y), column_or_1d(groups)
    check_consistent_length(features, labels, patients)
    fitted, judged = np.asarray(train), np.asarray(test)
    shared = np.intersect1d(patients[fitted], patients[judged])
    if len(shared):
        raise ValueError(
            f"{len(shared)} patients are both in train and in test, {shared[0]} among them; "
            "split by patient, for instance with GroupShuffleSplit"
        )
    known, asked = np.unique(labels[fitted]), np.unique(labels[judged])
    if len(known) < 2 or not np.array_equal(known, asked):
        raise ValueError(
            f"train and test must have the same two or more classes; train has {known.tolist()}, "
            f"test has {asked.tolist()}"
        )
    probe = make_probe().fit(features[fitted], labels[fitted])
    probability = probe.predict_proba(features[judged])
    if len(known) == 2:
        return float(roc_auc_score(labels[judged] == known[1], probability[:, 1]))
    return float(roc_auc_score(labels[judged], probability, multi_class="ovr"))


def few_labels(
    y: ArrayLike,
    groups: ArrayLike,
    *,
    train: ArrayLike,
    fraction: float,
    random_state: Any = None,
) -> NDArray[np.intp]:
    """Draw a fraction of the training patients, some of every class.

    Parameters
    ----------
    y : array-like of shape (n,)
        Classes.
    groups : array-like of shape (n,)
        Patient of each image.
    train : array-like of int
        Rows to draw from.
    fraction : float
        Share of the patients of every class, in (0, 1]; at least one patient of each is drawn.
    random_state : int, RandomState instance or None, default=None
        Who is drawn. A larger fraction contains the smaller ones of the same state.

    Returns
    -------
    rows : ndarray of int
        All training images of the patients drawn.
    """
    labels, rows = column_or_1d(y), np.asarray(train)
    owners = column_or_1d(groups)[rows]
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1], got {fraction}")
    patients = check_random_state(random_state).permutation(np.unique(owners))
    drawn = []
    for label in np.unique(labels[rows]):
        having = patients[np.isin(patients, owners[labels[rows] == label])]
        drawn.append(having[: math.ceil(fraction * len(having))])
    return rows[np.isin(owners, np.concatenate(drawn))]
