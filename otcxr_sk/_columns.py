"""Patients and other values of each image, however they are wrapped."""

import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal
from numbers import Number
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otcxr_sk._quote import brief, counted, few
from otcxr_sk._warning import warn_user

# What programs write for a missing value when they turn it into text.
_NO_ID = {"", "NAN", "NAT", "NA", "N/A", "#N/A", "<NA>", "NONE", "NULL"}

_VISIBLE_ASCII = re.compile(r"[!-~]*")
# What nobody sees, beside control and format characters: joiners, fillers, selectors of variants.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\ufe00-\ufe0f\U000e0000-\U000e0fff]"
)
# Spreadsheet programs put them in the place of a hyphen.
_DASH = re.compile("[\u2010-\u2015\u2212]")


def plain(name: str, values: Any) -> NDArray[np.object_]:
    """Return values as Python objects, in an array of the same shape.

    Parameters
    ----------
    name : str
        Of the parameter, for messages.
    values : array-like
        List, array, masked array, or column or table of pandas, polars or Arrow.

    Returns
    -------
    ndarray of object
        Bytes as text, text without the spaces around it, and None where a value is missing: None,
        NaN, NaT, pandas.NA, masked or blank.
    """
    if isinstance(values, list | tuple) and any(hasattr(value, "as_py") for value in values):
        # NumPy would take text of Arrow for a sequence of characters.
        values = [_plain(value) for value in values]
    try:
        found = np.asarray(values, dtype=object)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be a list, an array or columns of a data frame") from error
    if isinstance(values, np.ma.MaskedArray):
        found = found.copy()
        found[np.ma.getmaskarray(values)] = None
    return np.asarray(np.frompyfunc(_plain, 1, 1)(found), dtype=object)


def _plain(value: Any) -> Any:
    # Most values, among hundreds of thousands.
    if type(value) is str:
        return value.strip() or None
    if type(value) is int:
        return value
    if hasattr(value, "as_py"):
        value = value.as_py()
    # NumPy's numbers, and arrays and tensors of one number.
    elif getattr(value, "ndim", None) == 0 and value is not np.ma.masked:
        value = value.item()
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    if isinstance(value, str):
        return str(value).strip() or None
    return None if is_missing(value) else value


def is_missing(value: Any) -> bool:
    """Return whether a value is None, masked, NaN, NaT or NA, of any library."""
    # Those of pandas may have no truth value.
    if value is None or value is np.ma.masked or type(value).__name__ in ("NAType", "NaTType"):
        return True
    # A signaling NaN cannot even be compared.
    if isinstance(value, Decimal):
        return value.is_nan()
    # Nor can arrays of arrays.
    if getattr(value, "ndim", 0):
        return False
    # NaN and NaT are not equal to themselves.
    differs = value != value
    return isinstance(differs, bool | np.bool_) and bool(differs)


def check_patients(groups: Any, n_images: int | None = None, name: str = "groups") -> NDArray[Any]:
    """Return the patient of each image as an array of text or numbers.

    Equal patients in any wrapping give equal arrays. Text that differs in nothing but its spelling,
    as `normal_id` has it, is one patient, under the spelling of the first image.

    Parameters
    ----------
    groups : array-like of shape (n,) or (n, 1)
    n_images : int, optional
        Number of images.
    name : str
        What messages call `groups`.

    Raises
    ------
    ValueError
        An image has no patient: its group is missing, infinite, or a word for missing, such as
        "nan". Or text and numbers are mixed, or the shape is wrong.
    """
    patients = check_column(name, "patient", groups, n_images)
    missing = [row for row, one in enumerate(patients) if is_no_id(one)]
    if missing:
        raise ValueError(
            f"{_lacking(name, 'patient', missing, len(patients))}; leave such images out, or "
            "give each an id of its own if no other image is of that patient"
        )
    found = same_kind(name, patients)
    if found.dtype.kind != "U":
        return found
    texts = found.tolist()
    first: dict[str, str] = {}
    spelling = {text: first.setdefault(normal_id(text), text) for text in dict.fromkeys(texts)}
    return np.array([spelling[text] for text in texts])


def names_of_labels(y: Any, n: int, given: Sequence[str] | None) -> list[str]:
    """Return the name of each of n labels, by default its column's; a single one's may be blank."""
    if given is None:
        given = getattr(y, "columns", None)
    if given is None:
        given = [f"label {j}" for j in range(n)] if n > 1 else [getattr(y, "name", None) or ""]
    names = [str(name) for name in given]
    if len(names) != n:
        raise ValueError(
            f"label_names has {counted(len(names), 'name')}, but y has {counted(n, 'column')}"
        )
    return names


def judged_classes(name: str, classes: NDArray[Any]) -> list[tuple[str, Any]]:
    """Return title and class of each class of a label that is judged: the second of two, or all."""
    judged = classes[1:] if len(classes) == 2 else classes
    if set(classes.tolist()) <= {0, 1}:
        return [(name or "label", one) for one in judged]
    return [(f"{name}: {brief(one)}" if name else brief(one), one) for one in judged]


def warn_of_seen(
    seen: Any, patients: NDArray[Any], rows: NDArray[np.intp], part: str = "test"
) -> None:
    """Warn if rows of a part are of patients that an encoder was trained on.

    `seen` says so of every image, or is None.
    """
    if seen is None:
        return
    found = np.asarray(seen)
    if found.dtype != bool or found.shape != patients.shape:
        raise ValueError(
            f"seen must be True or False for each of {len(patients)} images, as "
            f"encoder.seen(groups) returns, got {found.dtype} of shape {found.shape}"
        )
    rows = rows[found[rows]]
    if len(rows):
        known = counted(len(np.unique(patients[rows])), "patient")
        images = counted(len(rows), "image")
        warn_user(
            f"the encoder was trained on {known} of {part} ({images}, rows {few(rows.tolist())}), "
            "so their images say little of how it does on new patients; leave out the rows where "
            "seen is True"
        )


def check_parts(name: str, split: Any, n_images: int) -> NDArray[Any]:
    """Return the part of a split that each image is in, as an array of text or numbers."""
    parts = check_column(name, "part", split, n_images)
    missing = [row for row, one in enumerate(parts) if one is None]
    if missing:
        raise ValueError(
            f"{_lacking(name, 'part', missing, n_images)}; leave such images out, or name a part "
            "for them"
        )
    return same_kind(name, parts)


def check_column(name: str, what: str, values: Any, n_images: int | None) -> NDArray[np.object_]:
    """Return one value for each image, as `plain` does."""
    column = plain(name, values)
    if column.ndim == 2 and column.shape[1] == 1:
        column = column[:, 0]
    if column.ndim != 1:
        shape = f", got shape {column.shape}" if column.ndim else ""
        raise ValueError(
            f"{name} must be a list, an array or a column with the {what} of each image{shape}"
        )
    if not len(column):
        raise ValueError(f"{name} is empty")
    if n_images is not None and len(column) != n_images:
        raise ValueError(
            f"{name} has {counted(len(column), 'row')} for {counted(n_images, 'image')}"
        )
    return column


def same_kind(
    name: str, values: NDArray[np.object_], rows: Sequence[int] | NDArray[np.intp] | None = None
) -> NDArray[Any]:
    """Return values, none of them missing, as an array of text or numbers.

    Messages name their `rows`, by default 0, 1, ...

    Raises
    ------
    ValueError
        They are neither, or both, so that equal ones, such as 7 and "007", would not be equal.
    """
    first: dict[str, int] = {}
    for place, value in enumerate(values):
        first.setdefault(_kind(value), place)
    shown = [
        f"row {place if rows is None else rows[place]} is {kind}" for kind, place in first.items()
    ]
    if len(shown) > 1:
        raise ValueError(
            f"{name}: {shown[0]}, but {shown[1]}; make all of them text or all of them numbers "
            "(pandas reads text only with dtype=str)"
        )
    if "text" in first:
        return np.array(values.tolist())
    if "a number" in first and all(isinstance(value, int) for value in values):
        try:
            return np.array(values.tolist(), dtype=np.int64)
        except OverflowError:
            return values
    if "a number" in first and all(isinstance(value, int | float) for value in values):
        return values.astype(np.float64)
    try:
        # Of other kinds, those that can be told apart and sorted: dates, for one.
        set(values)
        np.unique(values)
    except (TypeError, ValueError):
        raise ValueError(f"{name}: {shown[0]}, not text or a number") from None
    return values


def is_no_id(value: Any) -> bool:
    """Whether a value that `plain` returns identifies no patient."""
    if isinstance(value, str):
        return normal_id(value) in _NO_ID
    return value is None or (isinstance(value, float) and np.isinf(value))


def normal_id(text: str) -> str:
    """Return the one spelling of an id by which patients are told apart.

    That is Unicode's form NFKC in upper case, without characters that nobody sees, with single
    spaces and one kind of hyphen. Two patients taken for one cost little; one patient taken for two
    may be in both training and test.
    """
    # Most ids, among hundreds of thousands.
    if _VISIBLE_ASCII.fullmatch(text):
        return text.upper()
    text = unicodedata.normalize("NFKC", text)
    if not text.isprintable() or _UNSEEN.search(text):
        text = "".join(filter(_is_seen, text))
    text = _DASH.sub("-", unicodedata.normalize("NFKC", text.casefold().upper()))
    return " ".join(text.split())


def _is_seen(character: str) -> bool:
    # Some control characters are spaces.
    return character.isspace() or not (
        unicodedata.category(character) in ("Cc", "Cf") or _UNSEEN.match(character)
    )


def _lacking(name: str, what: str, rows: Sequence[int], n: int) -> str:
    others = f" ({len(rows)} of {n} rows have none: {few(rows)})" if len(rows) > 1 else ""
    return f"{name}: row {rows[0]} has no {what}{others}"


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return "text"
    real = isinstance(value, Number) and not isinstance(value, complex)
    return "a number" if real else "something else"
