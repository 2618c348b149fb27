"""What becomes of images that cannot be used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from otcxr_sk.images import ImageSource
from otcxr_sk.images._problems import Unusable, listing
from otcxr_sk.images._source import Selection
from otcxr_sk.training.warning import warn_user

ON_ERROR = ("raise", "warn", "nan")

_reports: WeakKeyDictionary[Any, list[dict[str, Any]]] = WeakKeyDictionary()


class UnusableImageWarning(UserWarning):
    """Some images cannot be used and were left out, or embedded as NaN."""


def as_table(problems: Sequence[Unusable]) -> list[dict[str, Any]]:
    """Row, file and reason of images that cannot be used, as plain data."""
    return [
        {"row": problem.row, "file": problem.file, "reason": problem.reason}
        for problem in sorted(problems, key=lambda problem: problem.row)
    ]


def warn_of(problems: Sequence[Unusable], n_images: int, on_error: str, fate: str) -> None:
    """Warn of images that cannot be used, where that is wanted, and of what became of them."""
    if problems and on_error == "warn":
        warn_user(f"{listing(problems, n_images)}\n{fate}", UnusableImageWarning)


def leave_out(source: ImageSource, problems: Sequence[Unusable]) -> ImageSource:
    """Give the images that can be used; an error if fewer than two can."""
    if not problems:
        return source
    rows = np.setdiff1d(np.arange(len(source)), [problem.row for problem in problems])
    if len(rows) < 2:
        raise ValueError(
            f"at least 2 images are needed, found {len(rows)} sample(s) that can be used; "
            f"{listing(problems, len(source))}"
        )
    return Selection(source, rows)


def keep_report(owner: object, problems: Sequence[Unusable]) -> None:
    """Keep a report beside its estimator, which embedding must not change."""
    _reports[owner] = as_table(problems)


def last_report(owner: object) -> list[dict[str, Any]]:
    """Give the report kept last."""
    if owner not in _reports:
        raise AttributeError("unreadable_ is there after transform, transform_dense or score")
    return _reports[owner]
