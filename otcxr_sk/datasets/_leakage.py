"""Check that a split keeps patients apart."""

from collections.abc import Iterable
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from otcxr_sk._columns import check_parts, check_patients, warn_of_seen
from otcxr_sk._quote import brief, counted

_NAMED = 5


class LeakageError(ValueError):
    """Patients are in more than one part of a split.

    Attributes
    ----------
    shared : list of dict
        For each such patient and pair of parts: `fold`, `patient`, `parts` (two names) and
        `images` (the patient's number of images in each); ``pandas.DataFrame(error.shared)``.
    """

    def __init__(self, message: str, shared: list[dict[str, Any]]) -> None:
        super().__init__(message)
        self.shared = shared

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep `shared` when pickled, for example by worker processes."""
        return type(self), (str(self), self.shared)


def check_leakage(
    groups: ArrayLike,
    splits: ArrayLike | Iterable[tuple[ArrayLike, ArrayLike]],
    *,
    seen: ArrayLike | None = None,
) -> None:
    """Raise an error if a patient is in more than one part of a split.

    Parameters
    ----------
    groups : array-like of shape (n,)
        Patient of each image, none of them missing.
    splits : array-like of str, shape (n,), or iterable of (train, test)
        Name of the part that each image is in, as in `split` of :class:`Radiographs`; or row
        numbers of two parts per fold, as from ``splitter.split(X, y, groups)``.
    seen : array-like of shape (n,), bool, default=None
        Whether an encoder was pre-trained on the patient of each image, as
        :meth:`OTCXRPretrainer.seen` tells.

    Raises
    ------
    LeakageError
        If parts share patients. The message counts them and names rows of some; `shared` lists
        them all.
    ValueError
        If an image has no patient or part, or `groups` and `splits` do not match.

    Warns
    -----
    UserWarning
        Patients were `seen` who are in another part than "train".

    See Also
    --------
    find_near_duplicates : Find images that appear more than once, whatever the patient IDs say.

    Examples
    --------
    >>> from otcxr_sk.datasets import check_leakage
    >>> check_leakage(["a", "a", "b"], ["train", "train", "test"])
    >>> check_leakage(["a", "a", "b"], ["train", "test", "test"])
    Traceback (most recent call last):
    otcxr_sk.datasets._leakage.LeakageError: 1 of 2 patients is in both train and test, such as \
in rows 0 and 1; split by patient, for example with GroupKFold
    >>> from sklearn.model_selection import GroupKFold
    >>> check_leakage([7, 7, 8, 9], GroupKFold(3).split([0] * 4, groups=[7, 7, 8, 9]))
    """
    patients = check_patients(groups)
    messages, shared = [], []
    for fold, (where, parts) in enumerate(_folds(splits, len(patients))):
        for part, rows in parts.items():
            if part != "train":
                warn_of_seen(seen, patients, rows, f"{where}{brief(part)}")
        for (first, rows), (second, others) in combinations(parts.items(), 2):
            both = np.intersect1d(patients[rows], patients[others])
            if not len(both):
                continue
            shown = []
            for patient in both.tolist():
                a, b = (part[patients[part] == patient] for part in (rows, others))
                counts = len(a), len(b)
                shared.append(
                    {"fold": fold, "patient": patient, "parts": (first, second), "images": counts}
                )
                shown.append(f"{a[0]} and {b[0]}")
            total = len(np.union1d(patients[rows], patients[others]))
            messages.append(
                f"{where}{len(both)} of {total} patients {'are' if len(both) > 1 else 'is'} in "
                f"both {brief(first)} and {brief(second)}, such as in rows "
                f"{', '.join(shown[:_NAMED])}"
            )
    if messages:
        advice = "; split by patient, for example with GroupKFold"
        raise LeakageError("\n".join(messages) + advice, shared)


def _folds(splits: Any, n: int) -> Iterable[tuple[str, dict[str, NDArray[np.intp]]]]:
    """Yield the name of each fold in messages, and the rows of its parts."""
    items = splits if hasattr(splits, "shape") else list(splits)
    folds = [isinstance(item, tuple | list) for item in items]
    if not any(folds):
        names = check_parts("splits", items, n)
        if names.dtype.kind == "U":
            rows = {name: np.flatnonzero(names == name) for name in dict.fromkeys(names.tolist())}
            yield "", rows
            return
    for fold, item in enumerate(items):
        if not folds[fold] or len(item) != 2:
            raise ValueError(
                "splits must contain the name of each image's part, or a pair (train, test) of "
                f"row numbers for each fold; at position {fold} is neither"
            )
        train, test = (_rows(part, n, fold) for part in item)
        yield f"fold {fold}: " * (len(items) > 1), {"train": train, "test": test}


def _rows(rows: ArrayLike, n: int, fold: int) -> NDArray[np.intp]:
    found = np.asarray(rows)
    if found.dtype.kind not in "iu" or found.ndim != 1:
        raise ValueError(f"fold {fold} must be row numbers, got {found.dtype} {found.shape}")
    if len(found) and not 0 <= found.min() <= found.max() < n:
        raise ValueError(
            f"fold {fold} has rows {found.min()} to {found.max()}, but groups has "
            f"{counted(n, 'image')}"
        )
    return found.astype(np.intp)
