"""AUC of a probe, label by label, with confidence intervals by patient."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.model_selection import check_cv
from sklearn.utils import check_random_state

from otcxr_sk._columns import check_patients, judged_classes, names_of_labels, warn_of_seen
from otcxr_sk._ordinary import ordinary
from otcxr_sk._quote import brief
from otcxr_sk._warning import warn_user
from otcxr_sk.evaluation._probe import mean_auc, score_test_rows
from otcxr_sk.evaluation._resampling import (
    LEAST_PATIENTS,
    UNKNOWN,
    Interval,
    check_resampling,
    count_pairs,
    interval,
    resample,
    resampled_auc,
    shown,
)
from otcxr_sk.evaluation._split import MultilabelStratifiedGroupKFold
from otcxr_sk.evaluation._task import (
    check_apart,
    check_features,
    check_labels,
    check_rows,
    classes_of,
    is_known,
    named_classes,
)

# Reasons that a message gives.
_NAMED = 5

Fold = tuple[NDArray[np.intp], NDArray[np.intp]]


@dataclass(frozen=True, eq=False)
class ProbeAUC:
    """AUC of a probe for each label, with confidence intervals. Print it to see a table.

    Attributes
    ----------
    names : tuple of str, of length k
        The labels that were judged; of several classes, each against the rest.
    auc, low, high : ndarray of shape (k,)
        AUC of each, in [0, 1], and its confidence interval.
    n_positive, n_images : ndarray of int, shape (k,)
        Test images that have the label, and those of which it is known, in each fold anew.
    mean : float
        Mean of `auc`.
    mean_interval : tuple of float (low, high)
        Its confidence interval.
    skipped : dict of str to str
        Labels that could not be judged, and why.
    confidence_level : float
        Confidence level of the intervals.
    """

    names: tuple[str, ...]
    auc: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    n_positive: NDArray[np.intp]
    n_images: NDArray[np.intp]
    mean: float
    mean_interval: tuple[float, float]
    skipped: Mapping[str, str]
    confidence_level: float

    def rows(self) -> list[dict[str, Any]]:
        """Return the numbers as a table.

        Returns
        -------
        rows : list of dict
            One for each label: ``pandas.DataFrame(found.rows())``.
        """
        columns = ("auc", "low", "high", "n_positive", "n_images")
        return [
            {"label": name} | {column: getattr(self, column)[j].item() for column in columns}
            for j, name in enumerate(self.names)
        ]

    def __str__(self) -> str:
        # Of tables that others have written.
        names = [brief(name) for name in self.names]
        width = max(map(len, ("label", *names)))
        level = f"AUC ({100 * self.confidence_level:g} % interval)"
        lines = [f"{'label':<{width}}  {level:<24}  positive of images"]
        for name, row in zip(names, self.rows(), strict=True):
            auc = shown(row["auc"], row["low"], row["high"])
            lines.append(f"{name:<{width}}  {auc:<24}  {row['n_positive']:>8} of {row['n_images']}")
        if len(self.names) > 1:
            lines.append(f"{'mean':<{width}}  {shown(self.mean, *self.mean_interval)}")
        lines += [f"{brief(name)} is left out: {why}" for name, why in self.skipped.items()]
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class _Judged:
    """A label, and truth (m, 1), score (m, 1) and patient (a number) of test images, by fold."""

    name: str
    parts: list[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.intp]]]

    def auc(self) -> float:
        return float(np.mean([mean_auc(truth, score) for truth, score, _ in self.parts]))

    def resampled(self, counts: NDArray[np.int_]) -> NDArray[np.float64]:
        """Return the mean over the folds that have both classes, in each resample."""
        each = np.stack([resampled_auc(*part, counts) for part in self.parts])
        whole = is_known(each)
        with np.errstate(invalid="ignore"):
            return np.where(whole, each, 0).sum(0) / whole.sum(0)

    def fewest(self) -> int:
        """Return how many patients have images of the class that fewer of them have."""
        return min(
            len(np.unique(np.concatenate([p[t[:, 0] == value] for t, _, p in self.parts])))
            for value in (0, 1)
        )

    def pairs(self) -> int:
        """Return how many pairs the patients make within folds, none of them in two pairs."""
        total, paired = 0, np.array([], np.intp)
        for truth, _, patient in self.parts:
            # Repeated cross-validation judges a patient again.
            new = ~np.isin(patient, paired)
            total += count_pairs(truth[new], patient[new])
            paired = np.union1d(paired, patient[is_known(truth[:, 0])])
        return total

    def interval(self, resampled: NDArray[np.float64], confidence_level: float) -> Interval:
        """Return the interval of the AUC; NaN, with a warning, if it is of too few patients."""
        value, n, fewest = self.auc(), self.pairs(), self.fewest()
        if fewest < LEAST_PATIENTS and not (n and value in (0, 1)):
            warn_user(
                f"{self.name}: too few test patients ({fewest}) have positive images, or "
                "negative ones, for an interval, which is NaN"
            )
            return UNKNOWN
        return interval(value, resampled, n, confidence_level)

    def counted(self, value: float | None = None) -> int:
        """Return the number of images of which it is known, or those with that value."""
        truth = np.concatenate([t for t, _, _ in self.parts])
        return int((is_known(truth) if value is None else truth == value).sum())


@ordinary()
def probe_auc(
    Z: ArrayLike,
    y: ArrayLike,
    groups: ArrayLike,
    *,
    train: ArrayLike | None = None,
    test: ArrayLike | None = None,
    cv: Any = None,
    label_names: Sequence[str] | None = None,
    probe: str = "linear",
    seen: ArrayLike | None = None,
    n_resamples: int = 1000,
    confidence_level: float = 0.95,
    random_state: Any = None,
) -> ProbeAUC:
    """Judge a probe label by label, with intervals, on test patients or by cross-validation.

    A label that lacks a class in `train` or `test` is passed over, and named in the result.

    Parameters
    ----------
    Z, y, groups, seen
        As for `linear_probe`.
    train, test : array-like of int, default=None
        Rows to fit on and rows to judge on. They must not share patients.
    cv : int, splitter or iterable of (train, test), default=None
        Cross-validation instead of `train` and `test`; an int is the number of folds of
        `MultilabelStratifiedGroupKFold`. The AUC is then the mean over the folds, since scores of
        different classifiers cannot be ranked together (LeDell, Petersen and van der Laan 2015,
        "Computationally efficient confidence intervals for cross-validated area under the ROC
        curve estimates"). Folds that lack a class of a label are passed over for that label.
    label_names : sequence of str, default=None
        Names of the labels. None takes those of a data frame's columns.
    probe : {"linear", "knn"}, default="linear"
        `linear_probe` or `knn_probe`.
    n_resamples : int, default=1000
        Number of resamples of the test patients.
    confidence_level : float, default=0.95
        Confidence level of the intervals, in (0, 1).
    random_state : int, RandomState instance or None, default=None
        Draws the resamples.

    Returns
    -------
    found : ProbeAUC
        Its intervals are percentile bootstrap intervals in which test patients, not images, are
        drawn with replacement: they say how much the AUC of these classifiers would vary with other
        test patients. All resamples agree on an AUC of 0 or 1. It has the exact interval of Clopper
        and Pearson (1934) of as many successes, or failures, as the patients make pairs of one
        with a positive and one with a negative image, no patient being in two pairs.

    Raises
    ------
    ValueError
        A patient is in both parts of a split, no label can be judged, or an array is not as
        described.

    Warns
    -----
    UserWarning
        Fewer than 5 test patients have positive, or negative, images of a label, and its AUC is
        neither 0 nor 1: its interval is NaN, and so is that of the mean. Or test patients were
        `seen`.

    See Also
    --------
    linear_probe, knn_probe : The AUC alone.
    compare : Differences between embeddings, with intervals.
    operating_point : Sensitivity and specificity, with intervals.

    Notes
    -----
    Intervals of `cv` are too narrow. Scores of different folds depend on each other through what
    the classifiers were fitted on, and no resampling of them shows that (Bengio and Grandvalet
    2004, "No unbiased estimator of the variance of K-fold cross-validation"). In 200 draws each of
    100 or 300 patients, intervals of 95 % covered the AUC on very many patients in 82 to 87 % where
    there was nothing to learn, and in 88 to 91 % where there was; those of `train` and `test`,
    which judge fewer patients and so are wider, in 91 to 97 %.

    Examples
    --------
    >>> import numpy as np
    >>> from otcxr_sk.evaluation import probe_auc
    >>> y = np.tile([0, 1], 40)
    >>> Z = y[:, None] + np.random.default_rng(0).normal(size=(80, 3))
    >>> labels = np.stack([y, np.zeros(80)], axis=1)
    >>> found = probe_auc(
    ...     Z, labels, np.arange(80), cv=2, label_names=["nodule", "hernia"], random_state=0
    ... )
    >>> print(found)
    label   AUC (95 % interval)       positive of images
    nodule  0.865 (0.780 to 0.937)          40 of 80
    hernia is left out: it has one class only, [0.0]
    """
    check_resampling(n_resamples, confidence_level)
    labels = check_labels(y)
    patients = check_patients(groups, len(labels))
    names = names_of_labels(y, labels.shape[1], label_names)
    folds = _folds(labels, patients, train, test, cv)
    used = np.unique(np.concatenate([rows for fold in folds for rows in fold]))
    features = check_features(Z, labels, used)
    judged = np.concatenate([rows for _, rows in folds])
    warn_of_seen(seen, patients, np.unique(judged))
    patient, counts = resample(patients[judged], n_resamples, check_random_state(random_state))
    of_fold = np.split(patient, np.cumsum([len(rows) for _, rows in folds])[:-1])

    found: list[_Judged] = []
    skipped: dict[str, str] = {}
    for name, column in zip(names, labels.T, strict=True):
        classes = classes_of(column[used])
        whole = [_has_all(column, classes, fold) for fold in folds]
        if not any(whole):
            skipped[name or "label"] = _why(column, classes, folds)
            continue
        of_column = [_Judged(title, []) for title, _ in judged_classes(name, classes)]
        for fold, where, complete in zip(folds, of_fold, whole, strict=True):
            if complete:
                truth, score = score_test_rows(probe, features, column[:, None], *fold)
                for j, one in enumerate(of_column):
                    one.parts.append((truth[:, [j]], score[:, [j]], where))
        found += of_column
    if not found:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(skipped.items())[:_NAMED])
        raise ValueError(f"no label of y can be judged: {reasons}")

    auc = np.array([one.auc() for one in found])
    resampled = np.stack([one.resampled(counts) for one in found])
    intervals = [
        one.interval(values, confidence_level) for one, values in zip(found, resampled, strict=True)
    ]
    low, high = np.array(intervals).T
    mean, of_mean = float(auc.mean()), UNKNOWN
    if is_known(low).all():
        pairs = min(one.pairs() for one in found)
        of_mean = interval(mean, resampled.mean(0), pairs, confidence_level)
    return ProbeAUC(
        names=tuple(one.name for one in found),
        auc=auc,
        low=low,
        high=high,
        n_positive=np.array([one.counted(1) for one in found]),
        n_images=np.array([one.counted() for one in found]),
        mean=mean,
        mean_interval=of_mean,
        skipped=skipped,
        confidence_level=confidence_level,
    )


def _folds(
    labels: NDArray[Any], patients: NDArray[Any], train: Any, test: Any, cv: Any
) -> list[Fold]:
    """Return training and test rows of each fold, which share no patients."""
    if (cv is None) == (train is None) or (train is None) != (test is None):
        raise ValueError("pass either train and test, or cv")
    if cv is None:
        parts = [(train, test)]
    else:
        splitter = MultilabelStratifiedGroupKFold(cv) if isinstance(cv, Integral) else check_cv(cv)
        y = labels[:, 0] if labels.shape[1] == 1 else labels
        parts = list(splitter.split(y, y, patients))
    if not parts:
        raise ValueError("cv has no folds; pass a number of them, such as 5")
    n = len(labels)
    folds = [(check_rows("train", one, n), check_rows("test", other, n)) for one, other in parts]
    for fold in folds:
        check_apart(patients, *fold)
    return folds


def _has_all(column: NDArray[Any], classes: NDArray[Any], fold: Fold) -> bool:
    return len(classes) > 1 and all(
        np.array_equal(classes_of(column[rows]), classes) for rows in fold
    )


def _why(column: NDArray[Any], classes: NDArray[Any], folds: list[Fold]) -> str:
    if len(classes) < 2:
        return (
            f"it has one class only, {named_classes(classes)}" if len(classes) else "it is unknown"
        )
    if len(folds) > 1:
        return "no fold has all its classes both in training and in test"
    train, test = (named_classes(classes_of(column[rows])) for rows in folds[0])
    return f"train has {train}, test has {test}"
