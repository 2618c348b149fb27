"""Whether functions of rows are affine, and as which map."""

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otcxr_sk._warning import keeping_filters

# How far a function may be from affine, relative to the terms of its sums.
_ROUNDING = 1e-5

Affine = tuple[NDArray[np.float64], NDArray[np.float64]]


def anywhere(n: int) -> NDArray[np.float64]:
    """Return random points (m, n), near 0 and far from it, where what is large may be cut off."""
    points = np.random.default_rng(0).standard_normal((8, n))
    return np.vstack([scale * points for scale in (0.01, 1, 1000)])


def composed(
    functions: Iterable[tuple[Callable[[NDArray[Any]], Any], str]], points: NDArray[Any]
) -> Affine:
    """Return what functions compute one after the other, as weights (n, ...) and a constant (...).

    Those of each are its values at the unit vectors and at 0, whatever it calls them. It has to
    agree with them at the points (m, n), or where the functions before have moved these to.

    Parameters
    ----------
    functions : iterable of (callable, str)
        Functions of rows, each with what to say if it is not affine.
    points : ndarray of shape (m, n)

    Raises
    ------
    ValueError
        A function is not affine.
    """
    weights, constant = np.eye(points.shape[1]), np.zeros(points.shape[1])
    for function, refusal in functions:
        width = points.shape[1]
        try:
            values = _quiet(function, np.vstack([np.zeros(width), np.eye(width)]))
            found = _quiet(function, points) if len(points) else values[:0]
        except Exception as error:  # What is not affine may not be defined everywhere.
            raise ValueError(refusal) from error
        slope, offset = values[1:] - values[0], values[0]
        bound = np.abs(points) @ np.abs(slope) + np.abs(offset)
        if not (np.abs(points @ slope + offset - found) <= _ROUNDING * bound).all():
            raise ValueError(refusal)
        weights, constant, points = weights @ slope, constant @ slope + offset, found
    return weights, constant


def _quiet(function: Callable[[NDArray[Any]], Any], points: NDArray[Any]) -> NDArray[np.float64]:
    """Compute without warnings, of overflow or of names that a data frame had in `fit`."""
    with np.errstate(all="ignore"), keeping_filters(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(function(points), dtype=np.float64)
