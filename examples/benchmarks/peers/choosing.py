"""Scores that a setting is chosen by, never of test patients."""

import numpy as np
from sklearn.model_selection import GroupKFold

from otcxr_sk.evaluation import label_efficiency

FOLDS, DRAWS = 4, 5


def scores_in_folds(collection, features):
    """Return AUCs of linear probes by task and share of labeled patients, means over folds.

    The folds are of the training patients and share none.

    Parameters
    ----------
    collection : Collection
        With test patients.
    features : ndarray of shape (n, d)
        Those of test patients are not looked at.

    Returns
    -------
    scores : dict of str to dict of str to float
        By task, then by share of labels, a string as JSON needs it.
    """
    rows, _ = collection.parts()
    scores = {}
    for task, y in collection.tasks.items():
        known = rows[~np.isnan(y[rows])]
        found = [
            label_efficiency(
                features,
                y,
                collection.patients,
                train=known[fitted],
                test=known[tested],
                fractions=collection.shares,
                draws=DRAWS,
                random_state=0,
            )
            for fitted, tested in GroupKFold(FOLDS).split(known, groups=collection.patients[known])
        ]
        means = np.mean([fold.mean for fold in found], axis=0)
        scores[task] = dict(zip(map(str, found[0].fractions), means.tolist(), strict=True))
    return scores


def mean_in_folds(collection, features):
    """Return the mean over tasks and shares of what `scores_in_folds` returns."""
    scores = scores_in_folds(collection, features)
    return float(np.mean([list(shares.values()) for shares in scores.values()]))
