"""How many labels it takes: probes by share of labelled patients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import Bunch, check_random_state, check_scalar

from otcxr_sk.evaluation._probe import judge, mean_auc
from otcxr_sk.evaluation._task import (
    check_features,
    check_labels,
    check_patients,
    check_rows,
    check_task,
    is_known,
)


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
    y : array-like of shape (n,) or (n, k)
        Classes; or k labels of 0 and 1. NaN where unknown: who has no label is not drawn.
    groups : array-like of shape (n,)
        Patient of each image.
    train : array-like of int
        Rows to draw from.
    fraction : float
        Share of the patients of every class of every label, in (0, 1]; at least one patient of
        each is drawn. Of several labels, rare ones make it a larger share of all patients.
    random_state : int, RandomState instance or None, default=None
        Who is drawn. A larger fraction contains the smaller ones of the same state.

    Returns
    -------
    rows : ndarray of int
        All training images of the patients drawn.

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
    return _draw(labels, check_patients(groups, labels), rows, fraction, random_state)


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
    random_state: Any = None,
) -> Bunch:
    """AUC on test patients by the share of training patients whose labels are used.

    Parameters
    ----------
    Z, y, groups, train, test
        As for `linear_probe`.
    fractions : sequence of float
        Shares in (0, 1], as for `few_labels`.
    draws : int, default=10
        How often patients are drawn for each fraction; two or more. All patients are one draw.
    probe : {"linear", "knn"}, default="linear"
        `linear_probe` or `knn_probe`.
    random_state : int, RandomState instance or None, default=None
        Draws the patients: the same for all features of one int.

    Returns
    -------
    efficiency : :class:`~sklearn.utils.Bunch`
        fractions : ndarray of shape (f,)
            Ascending, each once.
        scores : ndarray of shape (f, draws)
            AUC, in [0, 1]. The patients of a draw are among those of the same draw below it.
        mean, std : ndarray of shape (f,)
            Mean and standard deviation of a row. The spread is that of the choice of patients to
            label; the test patients stay the same. 0 where all are labelled.
        n_patients : ndarray of shape (f,)
            Patients drawn, on average.

    Raises
    ------
    ValueError
        As by `linear_probe`, or a fraction, `draws` or `probe` is not what it can be.

    Examples
    --------
    >>> import numpy as np
    >>> from otcxr_sk.evaluation import label_efficiency
    >>> y = np.tile([0, 1], 100)
    >>> Z = y[:, None] + np.random.default_rng(0).normal(size=(200, 20))
    >>> parts = {"train": range(100), "test": range(100, 200)}
    >>> few, all_of_them = label_efficiency(
    ...     Z, y, np.arange(200), **parts, fractions=(0.02, 1), random_state=0
    ... ).mean
    >>> bool(0.5 < few < all_of_them)
    True
    """
    labels, patients, fitted, judged = check_task(y, groups, train, test)
    features = check_features(Z, labels)
    random = check_random_state(random_state)
    drawn = draw_rows(labels, patients, fitted, fractions, draws, random)
    scores = np.empty((len(drawn), draws))
    for index, sets in enumerate(drawn.values()):
        scores[index] = [mean_auc(*judge(probe, features, labels, rows, judged)) for rows in sets]
    return Bunch(
        fractions=np.array(list(drawn)),
        scores=scores,
        mean=scores.mean(1),
        std=scores.std(1, ddof=1),
        n_patients=np.array(
            [np.mean([len(np.unique(patients[rows])) for rows in sets]) for sets in drawn.values()]
        ),
    )


def draw_rows(
    labels: NDArray[Any],
    patients: NDArray[Any],
    train: NDArray[np.intp],
    fractions: Sequence[float],
    draws: int,
    random: np.random.RandomState,
) -> dict[float, list[NDArray[np.intp]]]:
    """Rows of every draw by fraction, ascending; one draw where all patients are taken."""
    check_scalar(draws, "draws", Integral, min_val=2)
    shares = np.unique(fractions).tolist()
    if not shares:
        raise ValueError("fractions must be one or more, got none")
    seeds = random.randint(np.iinfo(np.int32).max, size=draws)
    return {
        fraction: [
            _draw(labels, patients, train, fraction, seed)
            for seed in seeds[: 1 if fraction == 1 else draws]
        ]
        for fraction in shares
    }


def _draw(
    labels: NDArray[Any],
    patients: NDArray[Any],
    rows: NDArray[np.intp],
    fraction: float,
    random_state: Any,
) -> NDArray[np.intp]:
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction must be in (0, 1], got {fraction}")
    owners = patients[rows]
    order = check_random_state(random_state).permutation(np.unique(owners))
    drawn = []
    for column in labels[rows].T:
        for label in np.unique(column[is_known(column)]):
            having = order[np.isin(order, owners[column == label])]
            drawn.append(having[: math.ceil(fraction * len(having))])
    if not drawn:
        raise ValueError("no label of a train row is known")
    return rows[np.isin(owners, np.concatenate(drawn))]
