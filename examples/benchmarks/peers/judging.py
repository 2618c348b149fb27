"""Scores of features on test patients or in folds, and how far two methods are apart."""

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold
from study import has_mean, mean_of

from otcxr_sk.evaluation import few_labels
from otcxr_sk.evaluation._efficiency import draw_rows
from otcxr_sk.evaluation._probe import mean_auc, score_test_rows
from otcxr_sk.evaluation._resampling import resample, resampled_auc
from otcxr_sk.evaluation._task import check_task

from .dense import dense_features, dice_of_head
from .features import resized

PROBES = ("linear", "knn")
# With few labels, the score depends on which patients are labeled.
DRAWS = 10
# Masks cost more than labels: nobody annotates all images.
MASK_SHARES = (0.01, 0.1)
# Collections without test patients are small: cross-validation, repeated.
FOLDS, REPEATS = 5, 10
# Resamples of the patients, for intervals.
RESAMPLES = 1000


def judge(collection, features, seed):
    """Return the scores of features, and AUCs of the linear probe in resamples of the patients.

    The resamples are the same for every task, share and method. Without a class they have NaN.

    Parameters
    ----------
    collection : Collection
    features : ndarray of shape (n, d)
    seed : int
        Draws who is labeled, and the resamples.

    Returns
    -------
    judged : dict
        ``scores``, a list of rows; ``resampled``, of shape (m, `RESAMPLES`) for the m scores of the
        linear probe.
    """
    scores, resampled = [], []
    for task, y in collection.tasks.items():
        for probe in PROBES:
            measure = _in_folds if collection.in_folds else _on_test_patients
            for share, n_patients, found in measure(collection, features, y, probe, seed):
                aucs, of_resamples = zip(*found, strict=True)
                scores.append(_row(task, probe, share, aucs, n_patients))
                if probe == "linear":
                    resampled.append(np.mean(of_resamples, axis=0))
    return {"scores": scores, "resampled": np.array(resampled)}


def _on_test_patients(collection, features, y, probe, seed):
    """Yield share, number of patients labeled, and AUC and resampled AUC of each draw of them."""
    labels, patients, train, test = check_task(y, collection.patients, *collection.parts())
    random = np.random.RandomState(seed)
    drawn = draw_rows(labels, patients, train, collection.shares, DRAWS, random)
    index, counts = resample(patients[test], RESAMPLES, random)
    for share, sets in drawn.items():
        n_patients = np.mean([len(np.unique(patients[rows])) for rows in sets])
        yield (
            share,
            n_patients,
            [_score(probe, features, labels, rows, test, index, counts) for rows in sets],
        )


def _in_folds(collection, features, y, probe, seed):
    """Yield the same of repeated folds, each a mean over folds."""
    index, counts = resample(collection.patients, RESAMPLES, np.random.RandomState(seed))
    known, found = np.flatnonzero(~np.isnan(y)), []
    patients = collection.patients[known]
    for repeat in range(REPEATS):
        folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=repeat)
        of_folds = []
        for parts in folds.split(known, y[known], patients):
            labels, _, train, test = check_task(y, collection.patients, *map(known.take, parts))
            of_folds.append(_score(probe, features, labels, train, test, index[test], counts))
        aucs, of_resamples = zip(*of_folds, strict=True)
        found.append((np.mean(aucs), np.mean(of_resamples, axis=0)))
    yield 1.0, len(np.unique(patients)) * (1 - 1 / FOLDS), found


def _score(probe, features, labels, train, test, index, counts):
    found = score_test_rows(probe, features, labels, train, test)
    # Nobody compares neighbors.
    of_resamples = resampled_auc(*found, index, counts) if probe == "linear" else np.nan
    return mean_auc(*found), of_resamples


def judge_masks(collection, frozen, image_size):
    """Return the Dice coefficients of linear heads on the dense maps of a frozen encoder."""
    features = dense_features(frozen, resized(collection.images, image_size))
    y = np.stack(list(collection.tasks.values()), axis=1)
    train, test = collection.parts()
    scores = []
    for share in MASK_SHARES:
        drawn = [
            few_labels(y, collection.patients, train=train, fraction=share, random_state=draw)
            for draw in range(DRAWS)
        ]
        n_patients = np.mean([len(np.unique(collection.patients[rows])) for rows in drawn])
        for task, truth in collection.masks.items():
            found = [dice_of_head(features, truth, rows, test).mean() for rows in drawn]
            scores.append(_row(task, "dense", share, found, n_patients))
    return scores


def _row(task, probe, share, found, n_patients):
    deviation = np.std(found, ddof=1) if len(found) > 1 else 0.0
    numbers = {"labels": share, "score": np.mean(found), "std_of_draws": deviation}
    numbers["labelled_patients"] = n_patients
    return {
        "task": task,
        "probe": probe,
        **{column: float(number) for column, number in numbers.items()},
    }


def mean_score(name, collection, scores):
    """Return a row with the mean over all tasks and shares, linear probe.

    None if there is only one of them, or not each of them is among the scores.
    """
    found = [row for row in scores if row["probe"] == "linear" and row["task"] in collection.tasks]
    if not has_mean(collection) or len(found) < len(collection.tasks) * len(collection.shares):
        return None
    return {
        **found[0],
        "task": mean_of(name),
        "labels": None,
        "score": float(np.mean([float(row["score"]) for row in found])),
        "std_of_draws": None,
        "labelled_patients": None,
    }


def differences(name, collection, ours, other):
    """Return how much better ours is than another method, with 95 % intervals by patient.

    Parameters
    ----------
    name : str
    collection : Collection
    ours, other : dict
        From `judge`.

    Returns
    -------
    found : dict
        ``difference``, ``low`` and ``high`` by task and share of labels, and of their mean.
    """
    scores = [
        [row for row in judged["scores"] if row["probe"] == "linear"] for judged in (ours, other)
    ]
    gaps = ours["resampled"] - other["resampled"]
    found = {
        (a["task"], a["labels"]): {"difference": a["score"] - b["score"], **interval(gap)}
        for a, b, gap in zip(*scores, gaps, strict=True)
    }
    if has_mean(collection):
        mean = np.mean([row["difference"] for row in found.values()])
        found[mean_of(name), None] = {"difference": float(mean), **interval(gaps.mean(0))}
    return found


def interval(gaps):
    """Return the 95 % interval of a difference; none if most resamples lack a class."""
    known = gaps[~np.isnan(gaps)]
    if 2 * len(known) < len(gaps):
        return {"low": None, "high": None}
    low, high = np.quantile(known, (0.025, 0.975)).tolist()
    return {"low": low, "high": high}
