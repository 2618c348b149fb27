"""Whether a split keeps patients apart."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array, column_or_1d

_NAMED = 5


class LeakageError(ValueError):
    """Patients are in two parts of a split.

    Attributes
    ----------
    shared : list of dict
        For each patient and pair of parts: `fold`, `patient`, `parts` (their two names) and
        `pictures` (how many of the patient are in each); ``pandas.DataFrame(error.shared)``.
    """

    def __init__(self, message: str, shared: list[dict[str, Any]]) -> None:
        super().__init__(message)
        self.shared = shared

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with what is shared, for use in processes."""
        return type(self), (str(self), self.shared)


def check_leakage(
    groups: ArrayLike, splits: ArrayLike | Iterable[tuple[ArrayLike, ArrayLike]]
) -> None:
    """Raise if a patient is in two parts of a split.

    Parameters
    ----------
    groups : array-like of shape (n,)
        Patient of each picture.
    splits : array-like of str, shape (n,), or iterable of (train, test)
        Name of the part that each picture is in, as readers return in `split`; or row numbers of
        two parts for each fold, as ``splitter.split(X, y, groups)`` yields.

    Raises
    ------
    LeakageError
        If patients are shared. The message counts and names them; `shared` lists them all.
    ValueError
        If `groups` and `splits` do not belong together.

    Examples
    --------
    >>> from otcxr_sk.datasets import check_leakage
    >>> check_leakage(["a", "a", "b"], ["train", "train", "test"])
    >>> check_leakage(["a", "a", "b"], ["train", "test", "test"])
    Traceback (most recent call last):
    otcxr_sk.datasets._leakage.LeakageError: 1 of 2 patients is in train and in test: a (1 and 1 \
pictures); split by patient, for instance with GroupKFold
    >>> from sklearn.model_selection import GroupKFold
    >>> check_leakage([7, 7, 8, 9], GroupKFold(3).split([0] * 4, groups=[7, 7, 8, 9]))
    """
    patients = column_or_1d(check_array(groups, ensure_2d=False, dtype=None, input_name="groups"))
    messages, shared = [], []
    for fold, (where, parts) in enumerate(_folds(splits, len(patients))):
        for (first, rows), (second, others) in combinations(parts.items(), 2):
            both = np.intersect1d(patients[rows], patients[others])
            if not len(both):
                continue
            counts = [
                tuple(int((patients[part] == patient).sum()) for part in (rows, others))
                for patient in both
            ]
            shared += [
                {"fold": fold, "patient": patient, "parts": (first, second), "pictures": count}
                for patient, count in zip(both.tolist(), counts, strict=True)
            ]
            named = [
                f"{patient} ({a} and {b} pictures)"
                for patient, (a, b) in zip(both[:_NAMED], counts[:_NAMED], strict=True)
            ]
            total = len(np.union1d(patients[rows], patients[others]))
            messages.append(
                f"{where}{len(both)} of {total} patients {'are' if len(both) > 1 else 'is'} in "
                f"{first} and in {second}: {', '.join(named)}"
                + (f" and {len(both) - _NAMED} more" if len(both) > _NAMED else "")
            )
    if messages:
        advice = "; split by patient, for instance with GroupKFold"
        raise LeakageError("\n".join(messages) + advice, shared)


def _folds(splits: Any, n: int) -> Iterable[tuple[str, dict[str, NDArray[np.intp]]]]:
    """How messages call a fold, and the rows of each of its parts."""
    items = list(splits)
    if all(isinstance(item, str) for item in items):
        names = np.array(items, dtype=str)
        if len(names) != n:
            raise ValueError(f"splits names the part of {len(names)} pictures, groups has {n}")
        yield "", {str(name): np.flatnonzero(names == name) for name in dict.fromkeys(items)}
        return
    for fold, item in enumerate(items):
        parts = item if isinstance(item, tuple | list) else ()
        if len(parts) != 2:
            raise ValueError(
                "splits must hold the name of each picture's part, or a pair (train, test) of row "
                f"numbers for each fold, got {item!r} in place {fold}"
            )
        train, test = (_rows(part, n, fold) for part in parts)
        yield f"fold {fold}: ", {"train": train, "test": test}


def _rows(rows: ArrayLike, n: int, fold: int) -> NDArray[np.intp]:
    found = np.asarray(rows)
    if found.dtype.kind not in "iu" or found.ndim != 1:
        raise ValueError(f"fold {fold} must be row numbers, got {found.dtype} of {found.shape}")
    if len(found) and not 0 <= found.min() <= found.max() < n:
        raise ValueError(
            f"fold {fold} has rows {found.min()} to {found.max()}, groups has {n} pictures"
        )
    return found.astype(np.intp)
