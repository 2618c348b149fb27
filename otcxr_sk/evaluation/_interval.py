"""Percentile bootstrap intervals of numbers that were computed in resamples of patients."""

from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_scalar

# Patients to compute an interval from.
LEAST_PATIENTS = 5


def check_resampling(n_resamples: Any, confidence_level: Any) -> None:
    """Raise an error unless these are a number of resamples and a confidence level."""
    check_scalar(n_resamples, "n_resamples", Integral, min_val=1)
    if not 0 < confidence_level < 1:
        raise ValueError(f"confidence_level must be in (0, 1), got {confidence_level}")


def percentile_interval(
    resampled: NDArray[np.float64], confidence_level: float
) -> tuple[float, float]:
    """Return the interval of a number, from its values in resamples that are not NaN."""
    tail = (1 - confidence_level) / 2
    low, high = np.nanquantile(resampled, (tail, 1 - tail))
    return float(low), float(high)
