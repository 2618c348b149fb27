"""Headers of DICOM files to a table, for choosing images and for groups of patients."""

import hmac
import os
import warnings
from collections.abc import Callable, Iterable
from datetime import date
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.valuerep import DA

from otcxr_sk.images._dicom import looks_like_dicom
from otcxr_sk.images._dicom_file import DicomFile
from otcxr_sk.images._errors import ImageReadError, ImageReadWarning, reading, require_file

_DAYS_PER_YEAR = 365.25
_PER_YEAR = {"D": _DAYS_PER_YEAR, "W": _DAYS_PER_YEAR / 7, "M": 12.0, "Y": 1.0}


def read_dicom_table(
    paths: Iterable[str | os.PathLike[str]], *, salt: str | bytes | None = None
) -> dict[str, Any]:
    """Read what the headers of DICOM files say, without their pixels.

    The table is for choosing images, such as frontal views, and for keeping the images of a
    patient together. ``pandas.DataFrame(table)`` and ``polars.DataFrame(table)`` take it as it is.

    Parameters
    ----------
    paths : iterable of str or path-like
        The files.
    salt : str or bytes, default=None
        If given, patient ids are replaced by their HMAC-SHA256 under this secret, in hexadecimal:
        the same patient gets the same id, and nobody without the salt can tell which. Other
        columns stay as they are.

    Returns
    -------
    dict of str to list, but for ``study_date``, an ndarray
        One row a file, in the order given. Text in upper case but for manufacturer, paths and
        patient ids; what a file does not say is None (NaT in `study_date`).

        - ``path``: as given
        - ``modality``: DX, CR, ...
        - ``view_position``: AP, PA, LL, ...; else the meaning of the view's code
        - ``laterality``: R, L, U or B
        - ``body_part``: CHEST, ...
        - ``patient_id``: text, which is unique within one hospital at best
        - ``study_date``: datetime64[D]
        - ``age``: in years; else from birth date and study date
        - ``sex``: M, F or O
        - ``burned_in``: whether text is burned into the picture, as far as known
        - ``presentation_intent``: FOR PRESENTATION, or FOR PROCESSING for raw data
        - ``photometric``: MONOCHROME1, ...
        - ``rows``, ``columns``, ``frames``: of pixels
        - ``manufacturer``: by which hospitals can often be told apart
        - ``error``: why a file could not be read, with all else None; None for the others

    Warns
    -----
    ImageReadWarning
        If some of the files could not be read; the message counts them.

    Examples
    --------
    >>> from pydicom.data import get_testdata_file
    >>> from otcxr_sk.images import read_dicom_table
    >>> table = read_dicom_table([get_testdata_file("CT_small.dcm")])
    >>> table["modality"], table["patient_id"], table["study_date"]
    (['CT'], ['1CT1'], array(['2004-01-19'], dtype='datetime64[D]'))
    """
    if isinstance(paths, str | bytes | os.PathLike):
        raise ValueError(f"expected a sequence of paths, got one: [{os.fspath(paths)!r}]")
    if salt is not None and not salt:
        raise ValueError("an empty salt hides nothing: give a secret, or None to keep the ids")
    table: dict[str, Any] = {"path": [], **{column: [] for column in _COLUMNS}, "error": []}
    for path in paths:
        row, problem = _read_row(os.fspath(path))
        table["path"].append(os.fspath(path))
        table["error"].append(problem)
        for column in _COLUMNS:
            table[column].append(row.get(column))
    failed = [problem for problem in table["error"] if problem is not None]
    if failed:
        warnings.warn(
            f"{len(failed)} of {len(table['path'])} files could not be read, see the column "
            f"'error'; the first: {failed[0]}",
            ImageReadWarning,
            stacklevel=2,
        )
    if salt is not None:
        key = salt.encode() if isinstance(salt, str) else salt
        table["patient_id"] = [
            None if known is None else hmac.digest(key, known.encode(), "sha256").hex()
            for known in table["patient_id"]
        ]
    table["study_date"] = np.array(table["study_date"], dtype="datetime64[D]")
    return table


def _read_row(path: str) -> tuple[dict[str, Any], str | None]:
    try:
        with reading(path):
            require_file(path)
            with open(path, "rb") as file:
                if not looks_like_dicom(file.read(132)):
                    raise ImageReadError("this is not a DICOM file; leave it out")
            with DicomFile(path) as dicom:
                return {name: column(dicom.header) for name, column in _COLUMNS.items()}, None
    except ImageReadError as error:
        return {}, str(error)


def _text(header: Dataset, *keywords: str) -> str | None:
    """Value of the first of `keywords` that has one."""
    for keyword in keywords:
        value = header.get(keyword)
        if value not in (None, ""):
            return str(value).strip() or None
    return None


def _code(*keywords: str) -> Callable[[Dataset], str | None]:
    def column(header: Dataset) -> str | None:
        text = _text(header, *keywords)
        return None if text is None else text.upper()

    return column


def _count(keyword: str) -> Callable[[Dataset], int | None]:
    def column(header: Dataset) -> int | None:
        text = _text(header, keyword)
        return None if text is None else int(text)

    return column


def _view_position(header: Dataset) -> str | None:
    text = _text(header, "ViewPosition")
    if text is None and header.get("ViewCodeSequence"):
        text = _text(header.ViewCodeSequence[0], "CodeMeaning")
    return None if text is None else text.upper()


def _date(header: Dataset, keyword: str) -> date | None:
    text = _text(header, keyword)
    try:
        return None if text is None else DA(text)
    except ValueError:
        return None


def _age(header: Dataset) -> float | None:
    text = _text(header, "PatientAge")
    if text is not None and text[:-1].isdecimal() and text[-1].upper() in _PER_YEAR:
        return int(text[:-1]) / _PER_YEAR[text[-1].upper()]
    born, seen = _date(header, "PatientBirthDate"), _date(header, "StudyDate")
    if born is None or seen is None or seen < born:
        return None
    return (seen - born).days / _DAYS_PER_YEAR


def _burned_in(header: Dataset) -> bool | None:
    return {"YES": True, "NO": False}.get(_code("BurnedInAnnotation")(header) or "")


_COLUMNS: dict[str, Callable[[Dataset], Any]] = {
    "modality": _code("Modality"),
    "view_position": _view_position,
    "laterality": _code("ImageLaterality", "Laterality"),
    "body_part": _code("BodyPartExamined"),
    "patient_id": lambda header: _text(header, "PatientID"),
    "study_date": lambda header: _date(header, "StudyDate"),
    "age": _age,
    "sex": _code("PatientSex"),
    "burned_in": _burned_in,
    "presentation_intent": _code("PresentationIntentType"),
    "photometric": _code("PhotometricInterpretation"),
    "rows": _count("Rows"),
    "columns": _count("Columns"),
    "frames": _count("NumberOfFrames"),
    "manufacturer": lambda header: _text(header, "Manufacturer"),
}
