"""Probes fitted with few labels."""

import math
from collections.abc import Sequence
from fractions import Fraction
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import Bunch, check_random_state, check_scalar

from otcxr_sk._columns import check_patients
from otcxr_sk._ordinary import ordinary
from otcxr_sk.evaluation._probe import mean_auc, score_test_rows
from otcxr_sk.evaluation._task import (
    check_features,
    check_labels,
    check_rows,
    check_task,
    classes_of,
)


@ordinary()
def few_labels(
    y: ArrayLike,
    groups: ArrayLike,
    *,
    train: ArrayLike,
    fraction: float,
    random_state: Any = None,
) -> NDArray[np.intp]:
    """Draw a fraction of the training patients, with patients of every class.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, k)
        Classes; or k labels of 0 and 1. NaN where unknown: patients without a known label are
        not drawn.
    groups : array-like of shape (n,)
        Patient of each image.
    train : array-like of int
        Rows to draw from.
    fraction : float
        Share of the patients of each class of each label, in (0, 1], rounded up to whole
        patients. With several labels, the drawn share of all patients can be larger.
    random_state : int, RandomState instance or None, default=None
        Decides which patients are drawn. With the same int, a larger fraction includes the
        patients of a smaller one.

    Returns
    -------
    rows : ndarray of int
        All training rows of the drawn patients.

    See Also
    --------
    label_efficiency : AUC of a probe fitted on such draws.

    Examples
    --------
    >>> from otcxr_sk.evaluation import few_labels
    >>> y, patients = [0, 0, 0, 1, 1, 1], ["a", "a", "b", "c", "d", "d"]
    >>> rows = few_labels(y, patients, train=range(6), fraction=0.5, random_state=0)
    >>> sorted({y[row] for row in rows}), len({patients[row] for row in rows})
    ([0, 1], 2)
    """
    labels = check_labels(y)
    rows = check_rows("train", train, len(labels))
    return _draw(labels, check_patients(groups, len(labels)), rows, fraction, random_state)


def _draw(
    labels: NDArray[Any],
    groups: NDArray[Any],
    rows: NDArray[np.intp],
    fraction: float,
    random_state: Any,
) -> NDArray[np.intp]:
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1], got {fraction}")
    patients = groups[rows]
    order = check_random_state(random_state).permutation(np.unique(patients))
    # In binary, 0.07 of 100 patients would be more than 7.
    share = Fraction(str(float(fraction)))
    drawn = []
    for column in labels[rows].T:
        for label in classes_of(column):
            candidates = order[np.isin(order, patients[column == label])]
            drawn.append(candidates[: math.ceil(share * len(candidates))])
    if not drawn:
        raise ValueError("y has no known label in the rows of train")
    return rows[np.isin(patients, np.concatenate(drawn))]


@ordinary()
def label_efficiency(
    Z: ArrayLike,
    y: ArrayLike,
    groups: ArrayLike,
    *,
    train: ArrayLike,
    test: ArrayLike,
    fractions: Sequence[float] = (0.01, 0.1, 1.0),
    draws: int = 10,
    probe: str = "linear",
    seen: ArrayLike | None = None,
    random_state: Any = None,
) -> Bunch:
    """Measure the AUC on test patients as a function of the share of labeled training patients.

    Parameters
    ----------
    Z, y, groups, train, test, seen
        As for `linear_probe`.
    fractions : sequence of float, default=(0.01, 0.1, 1.0)
        Shares in (0, 1], as for `few_labels`.
    draws : int, default=10
        How often patients are drawn for each fraction, at least 2. The fraction 1 needs only one
        draw.
    probe : {"linear", "knn"}, default="linear"
        `linear_probe` or `knn_probe`.
    random_state : int, RandomState instance or None, default=None
        Decides which patients are drawn. Pass an int to draw the same ones for another `Z`.

    Returns
    -------
    efficiency : :class:`~sklearn.utils.Bunch`
        fractions : ndarray of shape (f,)
            Ascending, without repetition.
        scores : ndarray of shape (f, draws)
            AUC, in [0, 1]. In each column, the patients drawn for a fraction include those drawn
            for the smaller ones.
        mean, std : ndarray of shape (f,)
            Mean and standard deviation of each row of `scores`. The deviation is due to which
            patients are labeled (the test patients stay the same); it is 0 for the fraction 1.
        n_patients : ndarray of shape (f,)
            Mean number of patients drawn.

    Raises
    ------
    ValueError
        As for `linear_probe`, or `fractions`, `draws` or `probe` is invalid.

    See Also
    --------
    few_labels : Draw the rows yourself.
    compare : Differences between embeddings, with confidence intervals.
    otcxr_sk.plotting.LabelEfficiencyDisplay : Plot the curves of several embeddings.

    Examples
    --------
    >>> import numpy as np
    >>> from otcxr_sk.evaluation import label_efficiency
    >>> y = np.tile([0, 1], 100)
    >>> Z = y[:, None] + np.random.default_rng(0).normal(size=(200, 20))
    >>> parts = {"train": range(100), "test": range(100, 200)}
    >>> few, all_labels = label_efficiency(
    ...     Z, y, np.arange(200), **parts, fractions=(0.02, 1), random_state=0
    ... ).mean
    >>> bool(0.5 < few < all_labels)
    True
    """
    labels, patients, train_rows, test_rows = check_task(y, groups, train, test, seen)
    features = check_features(Z, labels, np.union1d(train_rows, test_rows))
    random = check_random_state(random_state)
    drawn = draw_rows(labels, patients, train_rows, fractions, draws, random)
    scores = np.empty((len(drawn), draws))
    n_patients = np.empty(len(drawn))
    for index, sets in enumerate(drawn.values()):
        scores[index] = [
            mean_auc(*score_test_rows(probe, features, labels, rows, test_rows)) for rows in sets
        ]
        n_patients[index] = np.mean([len(np.unique(patients[rows])) for rows in sets])
    return Bunch(
        fractions=np.array(list(drawn)),
        scores=scores,
        mean=scores.mean(1),
        # Equal scores have no deviation, although their mean is rounded.
        std=(scores - scores[:, :1]).std(1, ddof=1),
        n_patients=n_patients,
    )


def draw_rows(
    labels: NDArray[Any],
    patients: NDArray[Any],
    train: NDArray[np.intp],
    fractions: Sequence[float],
    draws: int,
    random: np.random.RandomState,
) -> dict[float, list[NDArray[np.intp]]]:
    """Return the rows of each draw by fraction, ascending; a single draw for the fraction 1."""
    check_scalar(draws, "draws", Integral, min_val=2)
    shares = np.unique(fractions).tolist()
    if not shares:
        raise ValueError("fractions must not be empty")
    seeds = random.randint(np.iinfo(np.int32).max, size=draws)
    return {
        share: [
            _draw(labels, patients, train, share, seed)
            for seed in (seeds[:1] if share == 1 else seeds)
        ]
        for share in shares
    }
