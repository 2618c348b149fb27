"""Probes: simple classifiers on fixed features."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import Bunch

from otcxr_sk._ordinary import ordinary
from otcxr_sk._warning import keeping_filters
from otcxr_sk.evaluation._task import check_features, check_task, is_known

# Fixed, so that nothing is tuned on the labels that an embedding is judged by.
_C = 0.01
_NEIGHBORS = 20
_TEMPERATURE = 0.07


def make_probe() -> Pipeline:
    """Return a pipeline of standardization and logistic regression with ``C=0.01``.

    Returns
    -------
    probe : Pipeline
        Not fitted.

    See Also
    --------
    linear_probe : AUC of this pipeline on test patients.
    """
    return make_pipeline(StandardScaler(), LogisticRegression(C=_C, max_iter=2000))


@ordinary()
def linear_probe(
    Z: ArrayLike,
    y: ArrayLike,
    groups: ArrayLike,
    *,
    train: ArrayLike,
    test: ArrayLike,
    seen: ArrayLike | None = None,
) -> float:
    """Return the AUC on test patients of a logistic regression fitted on training patients.

    The classifier is `make_probe`.

    Parameters
    ----------
    Z : array-like of shape (n, d)
        Features, one row per image, finite in `train` and `test`.
    y : array-like of shape (n,) or (n, k)
        Classes, two or more; or k labels of 0 and 1, with one classifier for each label. Images
        with an unknown label (NaN) are neither used to fit nor to judge the classifier of that
        label.
    groups : array-like of shape (n,)
        Patient of each image, none of them missing.
    train, test : array-like of int
        Rows to fit on and rows to judge on. They must not share patients.
    seen : array-like of shape (n,), bool, default=None
        Whether the encoder was pre-trained on the patient of each image, as
        :meth:`OTCXRPretrainer.seen` tells; such test patients are warned of.

    Returns
    -------
    auc : float
        Area under the ROC curve, in [0, 1]. With more than two classes, the mean over classes,
        each against the rest; with several labels, the mean over labels. For label ``j`` alone,
        pass ``y[:, j]``.

    Raises
    ------
    ValueError
        A patient is in both `train` and `test`, a class of a label is missing in one of them, or
        an array is not as described.

    Warns
    -----
    UserWarning
        Test patients were `seen`.

    See Also
    --------
    probe_auc : The same with intervals, label by label, or by cross-validation.
    knn_probe : A nearest-neighbor classifier instead.
    probe_roc : The ROC curve.
    label_efficiency : AUC with few labels.
    compare : Differences between embeddings, with confidence intervals.

    Examples
    --------
    >>> import numpy as np
    >>> from otcxr_sk.evaluation import linear_probe
    >>> y = np.tile([0, 1], 20)
    >>> linear_probe(y[:, None], y, np.arange(40), train=range(20), test=range(20, 40))
    1.0
    """
    return mean_auc(*_check_and_score("linear", Z, y, groups, train, test, seen))


@ordinary()
def knn_probe(
    Z: ArrayLike,
    y: ArrayLike,
    groups: ArrayLike,
    *,
    train: ArrayLike,
    test: ArrayLike,
    seen: ArrayLike | None = None,
) -> float:
    """Return the AUC on test patients of a vote of the most similar training images.

    The 20 neighbors with the smallest cosine distance `d` (all of them, if there are fewer) vote
    with the weight ``exp(-d / 0.07)``: Wu et al. (2018), "Unsupervised feature learning via
    non-parametric instance discrimination", with 20 neighbors as in Caron et al. (2021). Unlike
    in `linear_probe`, features are not standardized: a column of large values counts for more.

    Parameters
    ----------
    Z, y, groups, train, test, seen
        As for `linear_probe`.

    Returns
    -------
    auc : float
        As for `linear_probe`.

    Raises
    ------
    ValueError
        As for `linear_probe`.

    See Also
    --------
    KNNProbe : The same probe after each epoch of pre-training.

    Examples
    --------
    >>> import numpy as np
    >>> from otcxr_sk.evaluation import knn_probe
    >>> y = np.tile(["bacteria", "virus", "none"], 20)
    >>> Z = np.tile(np.eye(3), (20, 1))
    >>> knn_probe(Z, y, np.arange(60), train=range(30), test=range(30, 60))
    1.0
    """
    return mean_auc(*_check_and_score("knn", Z, y, groups, train, test, seen))


@ordinary()
def probe_roc(
    Z: ArrayLike,
    y: ArrayLike,
    groups: ArrayLike,
    *,
    train: ArrayLike,
    test: ArrayLike,
    probe: str = "linear",
    seen: ArrayLike | None = None,
) -> Bunch:
    """Return the ROC curve of a probe on test patients.

    Parameters
    ----------
    Z, y, groups, train, test, seen
        As for `linear_probe`.
    probe : {"linear", "knn"}, default="linear"
        `linear_probe` or `knn_probe`.

    Returns
    -------
    roc : :class:`~sklearn.utils.Bunch`
        fpr, tpr : ndarray of shape (m,)
            False and true positive rate, in [0, 1], ascending. With several labels, or more than
            two classes, `tpr` is the mean of their curves at each `fpr` (Fawcett 2006, "An
            introduction to ROC analysis", section 8.1).
        auc : float
            Area under that curve: what `linear_probe` or `knn_probe` returns.

    Raises
    ------
    ValueError
        As for `linear_probe`, or `probe` is unknown.

    See Also
    --------
    otcxr_sk.plotting.ProbeDisplay : Plot the curves of several embeddings.

    Examples
    --------
    >>> import numpy as np
    >>> from otcxr_sk.evaluation import probe_roc
    >>> y = np.tile([0, 1], 20)
    >>> roc = probe_roc(y[:, None], y, np.arange(40), train=range(20), test=range(20, 40))
    >>> roc.fpr.tolist(), roc.tpr.tolist(), roc.auc
    ([0.0, 0.0, 1.0, 1.0], [0.0, 1.0, 1.0, 1.0], 1.0)
    """
    truth, score = _check_and_score(probe, Z, y, groups, train, test, seen)
    known = is_known(truth).T
    with keeping_filters():
        curves = [
            roc_curve(t[k], s[k])[:2] for t, s, k in zip(truth.T, score.T, known, strict=True)
        ]
    fpr = np.unique(np.concatenate([f for f, _ in curves]))
    # A curve jumps where several of its points share an fpr. There `interp` returns the value
    # after the jump, and on the reversed curve the value before it.
    before = np.mean([np.interp(-fpr, -f[::-1], t[::-1]) for f, t in curves], axis=0)
    after = np.mean([np.interp(fpr, f, t) for f, t in curves], axis=0)
    tpr = np.stack([before, after], axis=1).ravel()
    return Bunch(fpr=fpr.repeat(2), tpr=tpr, auc=mean_auc(truth, score))


@keeping_filters()
def score_test_rows(
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
        classifier = _classifier(probe, len(rows)).fit(Z[rows], column[rows])
        # The two columns of a binary label say the same.
        first = 1 if len(classifier.classes_) == 2 else 0
        actual = column[test][:, None]
        truth.append(np.where(is_known(actual), actual == classifier.classes_[first:], np.nan))
        score.append(classifier.predict_proba(Z[test])[:, first:])
    return np.hstack(truth), np.hstack(score)


@keeping_filters()
def mean_auc(truth: NDArray[np.float64], score: NDArray[np.float64]) -> float:
    """Return the mean over columns of the AUC where truth is known."""
    known = is_known(truth).T
    each = [roc_auc_score(t[k], s[k]) for t, s, k in zip(truth.T, score.T, known, strict=True)]
    return float(np.mean(each))


def _check_and_score(
    probe: str,
    Z: ArrayLike,
    y: ArrayLike,
    groups: ArrayLike,
    train: ArrayLike,
    test: ArrayLike,
    seen: ArrayLike | None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    labels, _, train_rows, test_rows = check_task(y, groups, train, test, seen)
    features = check_features(Z, labels, np.union1d(train_rows, test_rows))
    return score_test_rows(probe, features, labels, train_rows, test_rows)


def _classifier(probe: str, n: int) -> Any:
    if probe == "linear":
        return make_probe()
    if probe == "knn":
        # One thread, whatever joblib's context offers: its threads exchange filters of warnings.
        return KNeighborsClassifier(
            min(_NEIGHBORS, n), metric="cosine", weights=_similarity, n_jobs=1
        )
    raise ValueError(f"probe must be 'linear' or 'knn', got {probe!r}")


def _similarity(distance: NDArray[Any]) -> NDArray[Any]:
    return np.exp(-distance / _TEMPERATURE)
