"""Images that are held out of training, to watch the loss on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import GroupShuffleSplit
from sklearn.utils import check_array, column_or_1d

from otcxr_sk.estimators._unusable import leave_out
from otcxr_sk.images import ImageSource
from otcxr_sk.images._problems import Unusable
from otcxr_sk.images._source import Selection


def check_groups(groups: Any, n_images: int) -> NDArray[np.intp]:
    """Give the patient of every image as a number; without groups, every image has its own."""
    if groups is None:
        return np.arange(n_images)
    patients = column_or_1d(check_array(groups, ensure_2d=False, dtype=None, input_name="groups"))
    if len(patients) != n_images:
        raise ValueError(f"groups has {len(patients)} rows, but there are {n_images} images")
    return np.unique(patients, return_inverse=True)[1]


def hold_out(patients: NDArray[np.intp], fraction: float, seed: int) -> NDArray[np.intp]:
    """Draw the share of patients whose images are held out, and give the rows of these.

    Raises
    ------
    ValueError
        It leaves fewer than two images on a side.
    """
    if not fraction:
        return np.empty(0, np.intp)
    splitter = GroupShuffleSplit(1, test_size=float(fraction), random_state=seed)
    try:
        training, held_out = next(splitter.split(patients, groups=patients))
    except ValueError as error:
        raise ValueError(f"validation_fraction={fraction} cannot be: {error}") from error
    _require_two(training, held_out)
    return np.sort(held_out)


def parts(
    source: ImageSource, held_out: NDArray[np.intp], unusable: Sequence[Unusable]
) -> tuple[ImageSource, ImageSource | None]:
    """Split off the images held out, and leave those out that cannot be used."""
    if not len(held_out):
        return leave_out(source, unusable), None
    usable = np.setdiff1d(np.arange(len(source)), [problem.row for problem in unusable])
    is_held_out = np.isin(usable, held_out)
    _require_two(usable[~is_held_out], usable[is_held_out])
    return Selection(source, usable[~is_held_out]), Selection(source, usable[is_held_out])


def _require_two(training: NDArray[np.intp], held_out: NDArray[np.intp]) -> None:
    if min(len(training), len(held_out)) < 2:
        raise ValueError(
            f"validation_fraction leaves {len(training)} images to train on and {len(held_out)} "
            "held out, and at least 2 of each are needed; change it, or set it to 0"
        )
