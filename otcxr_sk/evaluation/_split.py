"""A splitter that keeps patients together and balances several labels."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats.contingency import crosstab
from sklearn.model_selection import GroupKFold
from sklearn.utils import check_random_state

from otcxr_sk._columns import check_patients
from otcxr_sk._warning import warn_user
from otcxr_sk.evaluation._task import check_labels, is_known


class MultilabelStratifiedGroupKFold(GroupKFold):
    """Folds that keep patients together and have like shares of several labels.

    :class:`~sklearn.model_selection.StratifiedGroupKFold` does so for one label. Here its algorithm
    counts the classes of all labels side by side, and an unknown label is a class of its own.
    Patients, those with the most uneven counts and then the most images first, go to the fold by
    which the shares of all classes differ least between folds; if several are alike, to the one
    with the fewest images.

    Parameters
    ----------
    n_splits : int, default=5
        Number of folds, at least 2.
    shuffle : bool, default=False
        Whether to draw the order of patients that are alike.
    random_state : int, RandomState instance or None, default=None
        Draws that order; None without `shuffle`.

    Warns
    -----
    UserWarning
        By `split`, if fewer patients than folds have a class of a label: some folds lack it.

    Examples
    --------
    >>> import numpy as np
    >>> from otcxr_sk.evaluation import MultilabelStratifiedGroupKFold
    >>> y = [[1, 0], [1, 0], [0, 1], [0, 1], [0, np.nan], [0, np.nan]]
    >>> splitter = MultilabelStratifiedGroupKFold(2)
    >>> [test.tolist() for _, test in splitter.split(y, y, groups=range(6))]
    [[0, 2, 4], [1, 3, 5]]
    """

    def split(
        self, X: Any, y: Any = None, groups: Any = None
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
        """Yield the training rows and the test rows of each fold.

        Parameters
        ----------
        X : array-like of length n
            Only its length counts.
        y : array-like of shape (n,) or (n, k)
            Classes; or k labels of 0 and 1, NaN where unknown.
        groups : array-like of shape (n,)
            Patient of each image, none of them missing.

        Yields
        ------
        train, test : ndarray of int

        Raises
        ------
        ValueError
            There are fewer patients than folds, or an array is not as described.
        """
        if y is None or groups is None:
            raise ValueError(f"{type(self).__name__} needs {'y' if y is None else 'groups'}")
        return super().split(X, y, groups)

    def _iter_test_indices(self, X: Any, y: Any, groups: Any) -> Iterator[NDArray[np.intp]]:
        labels = check_labels(y)
        names, patient = np.unique(check_patients(groups, len(labels)), return_inverse=True)
        if self.n_splits > len(names):
            raise ValueError(f"there are {len(names)} patients, too few for {self.n_splits} folds")
        counts = np.hstack([_count(column, patient) for column in labels.T])
        if (counts > 0).sum(0).min() < self.n_splits:
            warn_user(
                f"a class of a label, or its being unknown, is that of fewer than {self.n_splits} "
                "patients: some folds lack it"
            )
        order = np.arange(len(names))
        if self.shuffle:
            check_random_state(self.random_state).shuffle(order)
        ordered = counts[order]
        order = order[np.lexsort((-ordered.sum(1), -ordered.std(1)))]
        fold = _assign(counts, order, self.n_splits)[patient]
        for k in range(self.n_splits):
            yield np.flatnonzero(fold == k)


def _count(column: NDArray[Any], patient: NDArray[np.intp]) -> NDArray[np.int_]:
    """Return how many images each patient has of each class of a label, unknown ones first."""
    known = is_known(column)
    code = np.full(len(column), -1)
    code[known] = np.unique(column[known], return_inverse=True)[1]
    return crosstab(patient, code).count


def _assign(counts: NDArray[np.int_], order: NDArray[np.intp], n: int) -> NDArray[np.intp]:
    """Return the fold of each patient, given in their order to where classes are evened most."""
    totals = counts.sum(0)
    folds, fold = np.zeros((n, counts.shape[1])), np.zeros(len(counts), np.intp)
    one_more = np.eye(n)[:, :, None]
    for row in order:
        # (where the patient goes, fold, class)
        shares = (folds + one_more * counts[row]) / totals
        uneven, images = shares.std(1).mean(1).tolist(), folds.sum(1).tolist()
        best = 0
        for k in range(1, n):
            alike = math.isclose(uneven[k], uneven[best], rel_tol=1e-5, abs_tol=1e-8)
            if uneven[k] < uneven[best] or (alike and images[k] < images[best]):
                best = k
        folds[best] += counts[row]
        fold[row] = best
    return fold
