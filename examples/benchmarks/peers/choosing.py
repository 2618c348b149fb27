"""Scores that a setting is chosen by, never of test patients."""

import numpy as np
from sklearn.model_selection import GroupKFold

from otcxr_sk.evaluation import label_efficiency

FOLDS, DRAWS = 4, 5


def scores_in_folds(study, rows, features):
    """Return AUCs of linear probes by task and share of labeled patients, means over folds.

    Parameters
    ----------
    study : Study
    rows : ndarray of int
        Images to fit and to evaluate on, in folds that share no patient.
    features : ndarray of shape (n, d)
        Features of these rows.

    Returns
    -------
    scores : dict of str to dict of str to float
        By task, then by share of labels, a string as JSON needs it.
    """
    patients, scores = study.patients[rows], {}
    for task, labels in study.tasks.items():
        y = labels[rows]
        known = np.flatnonzero(~np.isnan(y).reshape(len(y), -1).all(1))
        found = [
            label_efficiency(
                features,
                y,
                patients,
                train=known[fitted],
                test=known[tested],
                draws=DRAWS,
                random_state=0,
            )
            for fitted, tested in GroupKFold(FOLDS).split(known, groups=patients[known])
        ]
        means = np.mean([fold.mean for fold in found], axis=0)
        scores[task] = dict(zip(map(str, found[0].fractions), means.tolist(), strict=True))
    return scores
