"""Intervals by patient: from resamples of patients, or exact where all resamples would agree."""

from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.utils import check_scalar

# Patients to compute an interval from.
LEAST_PATIENTS = 5
# Resamples held in memory at once, with a weight for each test row.
_BLOCK = 100

Interval = tuple[float, float]
UNKNOWN: Interval = (np.nan, np.nan)


def check_resampling(n_resamples: Any, confidence_level: Any) -> None:
    """Raise an error unless these are a number of resamples and a confidence level."""
    check_scalar(n_resamples, "n_resamples", Integral, min_val=1)
    if not 0 < confidence_level < 1:
        raise ValueError(f"confidence_level must be in (0, 1), got {confidence_level}")


def resample(
    patients: NDArray[Any], n_resamples: int, random: np.random.RandomState
) -> tuple[NDArray[np.intp], NDArray[np.int_]]:
    """Return the index of each row's patient, and how often each resample has each patient."""
    names, index = np.unique(patients, return_inverse=True)
    n = len(names)
    return index, random.multinomial(n, np.full(n, 1 / n), size=n_resamples)


def resampled_auc(
    truth: NDArray[np.float64],
    score: NDArray[np.float64],
    patient: NDArray[np.intp],
    counts: NDArray[np.int_],
) -> NDArray[np.float64]:
    """Return the mean AUC over labels (m, k) in each resample; NaN where a class is missing.

    The AUC is the share of pairs of a positive and a negative that are in order; ties count half
    (Hanley and McNeil 1982). With the negatives sorted once, a running sum of their counts gives
    the number of negatives below each positive, for all resamples at once.
    """
    total = np.zeros(len(counts))
    for actual, scored in zip(truth.T, score.T, strict=True):
        positive, negative = np.flatnonzero(actual == 1), np.flatnonzero(actual == 0)
        negative = negative[np.argsort(scored[negative])]
        below = np.searchsorted(scored[negative], scored[positive], "left")
        up_to = np.searchsorted(scored[negative], scored[positive], "right")
        for start in range(0, len(counts), _BLOCK):
            block = slice(start, start + _BLOCK)
            weights = counts[block].T.astype(float)
            positives, negatives = weights[patient[positive]], weights[patient[negative]]
            running = np.pad(negatives.cumsum(0), [(1, 0), (0, 0)])
            in_order = (positives * (running[below] + running[up_to])).sum(0) / 2
            with np.errstate(invalid="ignore"):
                total[block] += in_order / (positives.sum(0) * running[-1])
    return total / truth.shape[1]


def count_pairs(truth: NDArray[np.float64], patient: NDArray[np.intp]) -> int:
    """Return how many pairs patients make of one with a positive and one with a negative image.

    No patient is in two pairs. Of several labels (m, k), it is the least of their numbers.
    """
    found = []
    for column in truth.T:
        positive, negative = (np.unique(patient[column == value]) for value in (1, 0))
        everyone = np.union1d(positive, negative)
        found.append(min(len(positive), len(negative), len(everyone) // 2))
    return min(found)


def interval(
    value: float, resampled: NDArray[np.float64], n: int, confidence_level: float
) -> Interval:
    """Return the confidence interval of a share, such as a sensitivity or an AUC.

    It is the percentile bootstrap interval of the values in resamples that are not NaN. All
    resamples agree on a share of 0 or 1, which has the exact interval of Clopper and Pearson (1934)
    for `n` independent trials instead. It is NaN where there is neither.
    """
    if n and value in (0, 1):
        low, high = binomtest(round(value * n), n).proportion_ci(confidence_level)
    elif np.isnan(resampled).all():
        return UNKNOWN
    else:
        tail = (1 - confidence_level) / 2
        low, high = np.nanquantile(resampled, (tail, 1 - tail))
    return float(low), float(high)


def shown(value: float, low: float, high: float) -> str:
    """Return a number with its interval, as text."""
    return f"{value:.3f} ({low:.3f} to {high:.3f})"
