"""From published tables to labels, boxes and the result of a reader."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otcxr_sk._columns import is_no_id
from otcxr_sk._quote import quoted
from otcxr_sk._warning import warn_user
from otcxr_sk.datasets._radiographs import Radiographs
from otcxr_sk.datasets._tables import LONGEST_ID, Table, and_more, shown
from otcxr_sk.datasets.published._download import Located

# Far more than the edges of an image.
_FARTHEST = 1e6


class PatientsUnknownWarning(UserWarning):
    """A data set is published without patient IDs, so each image is its own group.

    A patient with several images can then be in both training and test, unnoticed.
    """


def warn_no_patients(name: str, advice: str = "") -> None:
    """Warn that each image of a data set is its own group."""
    warn_user(
        f"{name} is published without patient IDs, so each image is its own group, and a patient "
        "with several images can be in both training and test" + (advice and f"; {advice}"),
        PatientsUnknownWarning,
    )


def one_hot(values: Sequence[str], names: Sequence[str]) -> NDArray[np.float64]:
    """Encode values such as "Mass|Nodule" as labels (n, k) of 0 and 1."""
    given = [value.split("|") for value in values]
    return np.array([[name in row for name in names] for row in given], dtype=float)


def edges(table: Table, *columns: str) -> NDArray[np.float64]:
    """Return columns of left, top, right and bottom, in pixels, as float64 of shape (m, 4)."""
    return _near(table, table.numbers(*columns))


def corners(table: Table, *columns: str) -> NDArray[np.float64]:
    """Convert columns of x, y, width and height to left, top, right and bottom (m, 4)."""
    x, y, width, height = _near(table, table.numbers(*columns)).T
    return np.stack([x, y, x + width, y + height], axis=1)


def _near(table: Table, sides: NDArray[np.float64]) -> NDArray[np.float64]:
    if odd := np.flatnonzero(~(abs(sides) <= _FARTHEST).all(axis=1)).tolist():
        raise ValueError(f"{table.first(odd)}: the box is not four numbers of pixels")
    return sides


def boxes(
    located: Located,
    table: Table,
    boxed: Sequence[str],
    sides: NDArray[np.float64],
    **columns: Sequence[str],
) -> dict[str, NDArray[Any]]:
    """Return the boxes as columns, with the row of each box's image.

    Parameters
    ----------
    located : Located
        Images; boxes of those that are missing are left out.
    table : Table
        Where the boxes are from, for messages.
    boxed : sequence of str, length m
        Image of each box.
    sides : ndarray of float64, shape (m, 4)
        Left, top, right and bottom, in pixels.
    **columns : sequence of str, length m
        Further columns.

    Raises
    ------
    ValueError
        If a box is in an image that is neither found nor missing.
    """
    row_of = {name: row for row, name in enumerate(located.names)}
    if unknown := set(boxed) - set(row_of) - set(located.missing):
        raise ValueError(f"{table} has a box in {quoted(min(unknown))}, which no other table lists")
    kept = [i for i, name in enumerate(boxed) if name in row_of]
    return {
        "row": np.array([row_of[boxed[i]] for i in kept], np.intp),
        **{name: np.array(values, dtype=object)[kept] for name, values in columns.items()},
        **dict(zip(("x_min", "y_min", "x_max", "y_max"), sides[kept].T, strict=True)),
    }


def collect(
    located: Located,
    groups: Sequence[str],
    *,
    labels: NDArray[np.float64],
    split: Sequence[str],
    table: Table | dict[str, list[str]],
    **fields: Any,
) -> Radiographs:
    """Build the result of a reader from values of all images that the tables name.

    Raises
    ------
    ValueError
        If an image has no patient, or an absurd one.
    """
    rows = located.rows
    patients = [groups[row] for row in rows]
    if blank := [row for row, patient in enumerate(patients) if is_no_id(patient)]:
        raise ValueError(
            f"{shown(located.paths[blank[0]])}{and_more(blank)} has no patient ID in the table, "
            "so its patient could be in both training and test; correct the table or remove the "
            "image"
        )
    if long := [row for row, patient in enumerate(patients) if len(patient) > LONGEST_ID]:
        raise ValueError(
            f"{shown(located.paths[long[0]])}{and_more(long)} has a patient ID of more than "
            f"{LONGEST_ID} characters in the table; correct the table or remove the image"
        )
    return Radiographs(
        paths=located.paths,
        groups=patients,
        labels=labels[rows],
        split=[split[row] for row in rows],
        table={name: [values[row] for row in rows] for name, values in table.items()},
        missing=located.missing,
        **fields,
    )
