"""Probes: what a simple classifier makes of fixed features."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import Bunch

from otcxr_sk.evaluation._task import check_features, check_task, is_known

# Strong and fixed: nothing is tuned, on test labels least of all.
PENALTY = 0.01
NEIGHBOURS = 20
TEMPERATURE = 0.07


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
    y : array-like of shape (n,) or (n, k)
        Classes, two or more; or k labels of 0 and 1, for each of which a classifier is fitted.
        NaN where a label is unknown: there it is neither fitted nor judged.
    groups : array-like of shape (n,)
        Patient of each image.
    train, test : array-like of int
        Rows to fit on and to judge on. Their patients must differ.

    Returns
    -------
    auc : float
        Area under the ROC curve, in [0, 1]; of each class against the rest, averaged, if there
        are more than two; averaged over labels if there are several. That of label ``j`` alone
        is the probe of ``y[:, j]``.

    Raises
    ------
    ValueError
        A patient is in both parts, a class of a label is missing in one of them, or an array is
        not as described.

    Examples
    --------
    >>> import numpy as np
    >>> from otcxr_sk.evaluation import linear_probe
    >>> y = np.tile([0, 1], 20)
    >>> linear_probe(y[:, None], y, np.arange(40), train=range(20), test=range(20, 40))
    1.0
    """
    return _auc_of_probe("linear", Z, y, groups, train, test)


def knn_probe(
    Z: ArrayLike, y: ArrayLike, groups: ArrayLike, *, train: ArrayLike, test: ArrayLike
) -> float:
    """AUC on test patients of the vote of the most similar images of training patients.

    The 20 neighbours of the smallest cosine distance `d` (all, if there are fewer) vote with the
    weight ``exp(-d / 0.07)``: Wu et al. (2018), "Unsupervised feature learning via
    non-parametric instance discrimination", with 20 neighbours as in Caron et al. (2021). Unlike
    `linear_probe` it takes features as they are: a column of large values counts for more.

    Parameters
    ----------
    Z, y, groups, train, test
        As for `linear_probe`.

    Returns
    -------
    auc : float
        As from `linear_probe`.

    Raises
    ------
    ValueError
        As by `linear_probe`.

    Examples
    --------
    >>> import numpy as np
    >>> from otcxr_sk.evaluation import knn_probe
    >>> y = np.tile(["bacteria", "virus", "none"], 20)
    >>> Z = np.tile(np.eye(3), (20, 1))
    >>> knn_probe(Z, y, np.arange(60), train=range(30), test=range(30, 60))
    1.0
    """
    return _auc_of_probe("knn", Z, y, groups, train, test)


def _auc_of_probe(
    probe: str, Z: ArrayLike, y: ArrayLike, groups: ArrayLike, train: ArrayLike, test: ArrayLike
) -> float:
    labels, _, fitted, judged = check_task(y, groups, train, test)
    return mean_auc(*judge(probe, check_features(Z, labels), labels, fitted, judged))


def probe_roc(
    Z: ArrayLike,
    y: ArrayLike,
    groups: ArrayLike,
    *,
    train: ArrayLike,
    test: ArrayLike,
    probe: str = "linear",
) -> Bunch:
    """ROC curve of a probe on test patients.

    Parameters
    ----------
    Z, y, groups, train, test
        As for `linear_probe`.
    probe : {"linear", "knn"}, default="linear"
        `linear_probe` or `knn_probe`.

    Returns
    -------
    roc : :class:`~sklearn.utils.Bunch`
        fpr, tpr : ndarray of shape (m,)
            False and true positive rate, in [0, 1], ascending. Of several labels, or of each of
            several classes against the rest, `tpr` is the mean at every `fpr` (Fawcett 2006,
            "An introduction to ROC analysis", section 8.1).
        auc : float
            Area under that curve: what `linear_probe` or `knn_probe` returns.

    Raises
    ------
    ValueError
        As by `linear_probe`, or `probe` is neither of the two.

    Examples
    --------
    >>> import numpy as np
    >>> from otcxr_sk.evaluation import probe_roc
    >>> y = np.tile([0, 1], 20)
    >>> roc = probe_roc(y[:, None], y, np.arange(40), train=range(20), test=range(20, 40))
    >>> roc.fpr.tolist(), roc.tpr.tolist(), roc.auc
    ([0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, 1.0], 1.0)
    """
    labels, _, fitted, judged = check_task(y, groups, train, test)
    truth, score = judge(probe, check_features(Z, labels), labels, fitted, judged)
    known = is_known(truth).T
    curves = [roc_curve(t[k], s[k])[:2] for t, s, k in zip(truth.T, score.T, known, strict=True)]
    fpr = np.unique(np.concatenate([f for f, _ in curves]))
    # Curves jump. `interp` gives the last of several values: read backwards, the one before.
    before = np.mean([np.interp(-fpr, -f[::-1], t[::-1]) for f, t in curves], axis=0)
    after = np.mean([np.interp(fpr, f, t) for f, t in curves], axis=0)
    return Bunch(
        fpr=fpr.repeat(2),
        tpr=np.stack([before, after], axis=1).ravel(),
        auc=mean_auc(truth, score),
    )


def judge(
    probe: str,
    Z: NDArray[Any],
    labels: NDArray[Any],
    train: NDArray[np.intp],
    test: NDArray[np.intp],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit a probe for each label and score the test rows.

    Returns truth (0, 1, or NaN where unknown) and score, both (m, k): a column for each binary
    label, or for each of several classes against the rest.
    """
    truth, score = [], []
    for column in labels.T:
        rows = train[is_known(column[train])]
        probability = (
            _classifier(probe, len(rows)).fit(Z[rows], column[rows]).predict_proba(Z[test])
        )
        classes = np.unique(column[rows])
        # Of two classes, one column says it all.
        first = 1 if len(classes) == 2 else 0
        told = column[test][:, None]
        truth.append(np.where(is_known(told), told == classes[first:], np.nan))
        score.append(probability[:, first:])
    return np.hstack(truth), np.hstack(score)


def mean_auc(truth: NDArray[np.float64], score: NDArray[np.float64]) -> float:
    """Average over labels, or classes against the rest, of the AUC where truth is known."""
    known = is_known(truth).T
    each = [roc_auc_score(t[k], s[k]) for t, s, k in zip(truth.T, score.T, known, strict=True)]
    return float(np.mean(each))


def _classifier(probe: str, n: int) -> Any:
    if probe == "linear":
        return make_probe()
    if probe == "knn":
        return KNeighborsClassifier(min(NEIGHBOURS, n), metric="cosine", weights=_similarity)
    raise ValueError(f"probe must be 'linear' or 'knn', got {probe!r}")


def _similarity(distance: NDArray[Any]) -> NDArray[Any]:
    return np.exp(-distance / TEMPERATURE)
