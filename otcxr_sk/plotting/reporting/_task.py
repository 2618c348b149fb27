"""What is predicted for whom: labels, the split of patients, and probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import cross_val_predict

from otcxr_sk._columns import judged_classes, names_of_labels, plain, same_kind
from otcxr_sk._quote import brief
from otcxr_sk._warning import held_warnings, keeping_filters
from otcxr_sk.evaluation import MultilabelStratifiedGroupKFold, few_labels, make_probe

# Patients of a class, in training and in test, without which it is not judged.
LEAST = 5
FOLDS = 5


class Labels(NamedTuple):
    """Labels (n, k) as Python objects, None where unknown, and the names of the columns."""

    values: NDArray[np.object_]
    names: list[str]

    def rows(self, rows: NDArray[np.intp]) -> "Labels":
        """Return those of some images."""
        return Labels(self.values[rows], self.names)

    def findings(self) -> list[tuple[str, NDArray[np.float64]]]:
        """Return name and truth (n,) of each finding: 0, 1, or NaN where unknown.

        That is each of several labels, each of several classes, or the second of two classes.
        """
        if len(self.names) > 1:
            return [
                (name, column.astype(float))
                for name, column in zip(self.names, self.values.T, strict=True)
            ]
        column, (name,) = self.values[:, 0], self.names
        known = np.array([value is not None for value in column])
        if not known.any():
            return []
        classes = np.unique(same_kind("y", column[known]))
        return [
            (title, np.where(known, (column == one).astype(float), np.nan))
            for title, one in judged_classes(name, classes)
        ]


def check_labels(y: Any, n: int, names: Sequence[str] | None) -> Labels:
    """Return the labels of n images; those of several columns are 0, 1 or unknown."""
    values = plain("y", y)
    if values.ndim not in (1, 2) or len(values) != n or not values.size:
        raise ValueError(
            f"y must have a label of each of {n} images, or several as columns, got the shape "
            f"{values.shape}"
        )
    values = values.reshape(n, -1)
    labels = Labels(values, names_of_labels(y, values.shape[1], names))
    if all(value is None for value in values.flat):
        raise ValueError("y has no known label; leave it out")
    # Checks labels as all of evaluation does, here before any image is read.
    few_labels(values, np.arange(n), train=np.arange(n), fraction=1.0, random_state=0)
    return labels


@dataclass(frozen=True)
class Task:
    """Labels of images with a training and a test part, none of whose patients are in both."""

    labels: Labels
    groups: NDArray[Any]
    train: NDArray[np.intp]
    test: NDArray[np.intp]
    left_out: list[str]


def make_task(
    labels: Labels, groups: NDArray[Any], seen: NDArray[np.bool_] | None, seed: int
) -> Task | None:
    """Split the patients; None if no label has enough of them.

    If the encoder was trained on some of the patients, the others are the test patients, or a
    third of them if they are the majority. If the encoder was trained on all or none, or if these
    others are too few, a third of all patients is.
    """
    everyone = np.arange(len(groups))
    pools = [everyone]
    if seen is not None and 0 < seen.sum() < len(seen):
        pools.insert(0, np.flatnonzero(~seen))
    for pool in pools:
        patients = len(np.unique(groups[pool]))
        test = pool
        if 2 * patients > len(np.unique(groups)):
            if patients < 3:
                continue
            folds = MultilabelStratifiedGroupKFold(3, shuffle=True, random_state=seed)
            part = labels.values[pool]
            with held_warnings():
                test = pool[next(folds.split(part, part, groups[pool]))[1]]
        train = np.setdiff1d(everyone, test)
        kept, left_out = _enough(labels, groups, train, test)
        if kept is not None:
            return Task(kept, groups, train, test, left_out)
    return None


def _enough(
    labels: Labels, groups: NDArray[Any], *parts: NDArray[np.intp]
) -> tuple[Labels | None, list[str]]:
    """Return labels without classes that too few patients have in one of the parts."""

    def rare(column: NDArray[np.object_], value: Any) -> bool:
        rows = (part[column[part] == value] for part in parts)
        return min(len(np.unique(groups[each])) for each in rows) < LEAST

    if len(labels.names) > 1:
        lack = [any(rare(column, value) for value in (0, 1)) for column in labels.values.T]
        kept = np.flatnonzero(~np.array(lack))
        left_out = [name for name, missing in zip(labels.names, lack, strict=True) if missing]
        if not len(kept):
            return None, left_out
        return Labels(labels.values[:, kept], [labels.names[one] for one in kept]), left_out
    values = labels.values.copy()
    known = [value for value in values[:, 0] if value is not None]
    classes = np.unique(same_kind("y", np.array(known, dtype=object))).tolist() if known else []
    scarce = [one for one in classes if rare(values[:, 0], one)]
    for one in scarce:
        values[values[:, 0] == one] = None
    left_out = [brief(one) for one in scarce]
    return (Labels(values, labels.names) if len(classes) - len(scarce) > 1 else None), left_out


class Prediction(NamedTuple):
    """Probabilities of a finding: of test images, and of training images by folds.

    Truth and scores are of images of which it is known.
    """

    name: str
    truth: NDArray[np.float64]
    score: NDArray[np.float64]
    groups: NDArray[Any]
    train_truth: NDArray[np.float64]
    train_score: NDArray[np.float64]


@keeping_filters()
def predict(task: Task, Z: NDArray[Any]) -> list[Prediction]:
    """Fit the linear probe for each label, and return what it says of each finding."""
    found = []
    for index, name in enumerate(task.labels.names):
        labels = Labels(task.labels.values[:, [index]], [name])
        column = labels.values[:, 0]
        train, test = (
            part[[value is not None for value in column[part]]] for part in (task.train, task.test)
        )
        y = same_kind("y", column[train])
        with held_warnings():
            folds = list(MultilabelStratifiedGroupKFold(FOLDS).split(train, y, task.groups[train]))
        inner = cross_val_predict(make_probe(), Z[train], y, cv=folds, method="predict_proba")
        outer = make_probe().fit(Z[train], y).predict_proba(Z[test])
        findings = labels.findings()
        first = outer.shape[1] - len(findings)
        for place, (title, truth) in enumerate(findings, first):
            found.append(
                Prediction(
                    title,
                    truth[test],
                    outer[:, place],
                    task.groups[test],
                    truth[train],
                    inner[:, place],
                )
            )
    return found
