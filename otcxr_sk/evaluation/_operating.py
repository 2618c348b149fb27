"""What a threshold does to patients that it was not chosen on."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state

from otcxr_sk._columns import check_patients
from otcxr_sk._ordinary import ordinary
from otcxr_sk._warning import warn_user
from otcxr_sk.evaluation._resampling import (
    LEAST_PATIENTS,
    UNKNOWN,
    Interval,
    check_resampling,
    interval,
    resample,
    shown,
)
from otcxr_sk.evaluation._task import as_features, check_labels, is_known, require_finite


@dataclass(frozen=True)
class OperatingPoint:
    """Sensitivity and specificity at a threshold. Print it to see both.

    Attributes
    ----------
    threshold : float
        Images with at least this score are called positive.
    sensitivity, specificity : float
        Share of positive images that are called positive, and of negative ones that are not.
    sensitivity_interval, specificity_interval : tuple of float (low, high)
        Their confidence intervals.
    confidence_level : float
        Confidence level of the intervals.
    """

    threshold: float
    sensitivity: float
    sensitivity_interval: tuple[float, float]
    specificity: float
    specificity_interval: tuple[float, float]
    confidence_level: float

    def __str__(self) -> str:
        return (
            f"at {self.threshold:.3g}: "
            f"sensitivity {shown(self.sensitivity, *self.sensitivity_interval)}, "
            f"specificity {shown(self.specificity, *self.specificity_interval)}, "
            f"{100 * self.confidence_level:g} % intervals"
        )


@ordinary()
def operating_point(
    y: ArrayLike,
    score: ArrayLike,
    threshold: float,
    groups: ArrayLike | None = None,
    *,
    n_resamples: int = 1000,
    confidence_level: float = 0.95,
    random_state: Any = None,
) -> OperatingPoint:
    """Compute sensitivity and specificity at a threshold, with intervals by patient.

    Choose the threshold on other patients than these, for instance with
    :class:`~sklearn.model_selection.TunedThresholdClassifierCV`.

    Parameters
    ----------
    y : array-like of shape (n,)
        0 or 1; images with NaN, of which it is unknown, are left out.
    score : array-like of shape (n,)
        Higher for positive images; of `predict_proba` or `decision_function`.
    threshold : float
        Scores of at least this are called positive, as by scikit-learn.
    groups : array-like of shape (n,), default=None
        Patient of each image. By default, each image is a patient of its own.
    n_resamples : int, default=1000
        Number of resamples of the patients.
    confidence_level : float, default=0.95
        Confidence level of the intervals, in (0, 1).
    random_state : int, RandomState instance or None, default=None
        Draws the resamples.

    Returns
    -------
    point : OperatingPoint
        Its intervals are percentile bootstrap intervals in which patients are drawn with
        replacement. A rate of 0 or 1 has the exact interval of Clopper and Pearson (1934) for as
        many images as there are patients with such images: all resamples would agree.

    Raises
    ------
    ValueError
        There is no positive or no negative image, or an array is not as described.

    Warns
    -----
    UserWarning
        Fewer than 5 patients have positive (negative) images, and the rate is neither 0 nor 1: its
        interval is NaN.

    Examples
    --------
    >>> from otcxr_sk.evaluation import operating_point
    >>> y = [0, 0, 0, 0, 1, 1, 1, 1] * 20
    >>> score = [0.1, 0.2, 0.3, 0.7, 0.6, 0.8, 0.9, 0.9] * 20
    >>> print(operating_point(y, score, 0.5, random_state=0))
    at 0.5: sensitivity 1.000 (0.955 to 1.000), specificity 0.750 (0.657 to 0.835), 95 % intervals
    """
    check_resampling(n_resamples, confidence_level)
    labels = check_labels(y)
    if labels.shape[1] > 1:
        raise ValueError("y has several columns; pass one of them, such as y[:, 0]")
    truth = labels[:, 0]
    known = is_known(truth)
    if set(np.unique(truth[known]).tolist()) != {0, 1}:
        raise ValueError(
            "y must have images of 0 and of 1; for named classes, pass y == 'the positive one'"
        )
    scores = as_features(score if np.ndim(score) > 1 else np.reshape(score, (-1, 1)), "score")
    if scores.shape[1] > 1:
        raise ValueError("score has several columns; pass one of them, such as score[:, 1]")
    if len(scores) != len(truth):
        raise ValueError(f"score has {len(scores)} rows, y has {len(truth)}")
    require_finite(scores, np.flatnonzero(known), "score", "of y and score")
    if not np.isfinite(threshold):
        raise ValueError(f"threshold must be a finite number, got {threshold}")
    patients = check_patients(np.arange(len(truth)) if groups is None else groups, len(truth))
    patient, counts = resample(patients[known], n_resamples, check_random_state(random_state))
    called, positive = scores[known, 0] >= threshold, truth[known] == 1

    def rate(right: NDArray[np.bool_], of: NDArray[np.bool_], what: str) -> tuple[float, Interval]:
        share = float(right.sum() / of.sum())
        of_patient = [np.bincount(patient[part], minlength=counts.shape[1]) for part in (right, of)]
        n = int((of_patient[1] > 0).sum())
        if n < LEAST_PATIENTS and share not in (0, 1):
            warn_user(f"too few patients ({n}) have {what} images for an interval, which is NaN")
            return share, UNKNOWN
        hits, number = (counts @ each for each in of_patient)
        resampled = np.where(number > 0, hits / np.maximum(number, 1), np.nan)
        return share, interval(share, resampled, n, confidence_level)

    sensitivity, of_sensitivity = rate(called & positive, positive, "positive")
    specificity, of_specificity = rate(~called & ~positive, ~positive, "negative")
    return OperatingPoint(
        float(threshold), sensitivity, of_sensitivity, specificity, of_specificity, confidence_level
    )
