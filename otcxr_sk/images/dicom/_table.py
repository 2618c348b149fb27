"""Read the headers of DICOM files as a table."""

import hmac
import os
from collections.abc import Iterable
from datetime import date
from functools import partial
from typing import Any

import numpy as np
from pydicom.dataset import Dataset
from pydicom.valuerep import DA

from otcxr_sk._warning import warn_user
from otcxr_sk.images._errors import ImageReadError, ImageReadWarning, reading
from otcxr_sk.images.dicom._file import looks_like_dicom, open_dicom

_DAYS_PER_YEAR = 365.25
_PER_YEAR = {"D": _DAYS_PER_YEAR, "W": _DAYS_PER_YEAR / 7, "M": 12.0, "Y": 1.0}


def read_dicom_table(
    paths: Iterable[str | os.PathLike[str]], *, salt: str | bytes | None = None
) -> dict[str, Any]:
    """Read the headers of DICOM files, without their pixels, as a table.

    Use it to choose images, such as frontal views, and to group the images of each patient.
    ``pandas.DataFrame(table)`` and ``polars.DataFrame(table)`` make a data frame of it.

    Parameters
    ----------
    paths : iterable of str or path-like
        The files.
    salt : str or bytes, default=None
        If given, patient ids are replaced by their HMAC-SHA256 under this secret, in hexadecimal:
        the same patient keeps the same id, which nobody can trace back without the salt. Other
        columns are unchanged.

    Returns
    -------
    dict of str to list, or to ndarray for ``study_date``
        One row per file, in the order given. Text is in upper case, except for manufacturers,
        paths and patient ids. Missing values are None (NaT in ``study_date``).

        - ``path``: as given
        - ``modality``: DX, CR, ...
        - ``view_position``: AP, PA, LL, ...; else the meaning of the view's code
        - ``laterality``: R, L, U or B
        - ``body_part``: CHEST, ...
        - ``patient_id``: text, which is unique within one hospital at best
        - ``study_date``: datetime64[D]
        - ``age``: in years; else from birth date and study date
        - ``sex``: M, F or O
        - ``burned_in``: whether the header says that text is burned into the image
        - ``presentation_intent``: FOR PRESENTATION, or FOR PROCESSING for raw data
        - ``photometric``: MONOCHROME1, ...
        - ``rows``, ``columns``, ``frames``: height and width in pixels, and number of frames
        - ``manufacturer``: often tells hospitals apart
        - ``error``: why the file could not be read, in which case all other columns but ``path``
          are None; otherwise None

    Raises
    ------
    ValueError
        If `paths` is a single path, or `salt` is empty.

    Warns
    -----
    ImageReadWarning
        If some of the files could not be read. The message gives their number.

    See Also
    --------
    list_images : List the images in a folder.
    read_dicom : Read one file as an image.

    Examples
    --------
    >>> from pydicom.data import get_testdata_file
    >>> from otcxr_sk.images import read_dicom_table
    >>> table = read_dicom_table([get_testdata_file("CT_small.dcm")])
    >>> table["modality"], table["patient_id"], table["study_date"]
    (['CT'], ['1CT1'], array(['2004-01-19'], dtype='datetime64[D]'))
    """
    if isinstance(paths, str | bytes | os.PathLike):
        raise ValueError(f"expected a sequence of paths, got one; use [{os.fspath(paths)!r}]")
    if salt is not None and not salt:
        raise ValueError("an empty salt hides nothing: pass a secret, or None to keep the ids")
    # An empty header has every column, but no values.
    table: dict[str, Any] = {name: [] for name in ("path", *_columns(Dataset()), "error")}
    for path in paths:
        for name, value in _read_row(os.fspath(path)).items():
            table[name].append(value)
    failed = [problem for problem in table["error"] if problem is not None]
    if failed:
        warn_user(
            f"{len(failed)} of {len(table['path'])} files could not be read, see the column "
            f"'error'; the first: {failed[0]}",
            ImageReadWarning,
        )
    if salt is not None:
        key = salt.encode() if isinstance(salt, str) else salt
        table["patient_id"] = [
            None if known is None else hmac.digest(key, known.encode(), "sha256").hex()
            for known in table["patient_id"]
        ]
    table["study_date"] = np.array(table["study_date"], dtype="datetime64[D]")
    return table


def _read_row(path: str) -> dict[str, Any]:
    try:
        with reading(path):
            with open(path, "rb") as file:
                if not looks_like_dicom(file.read(132)):
                    raise ImageReadError("this is not a DICOM file; leave it out")
            with open_dicom(path) as dicom:
                return {"path": path, **_columns(dicom.header), "error": None}
    except ImageReadError as error:
        return {"path": path, **_columns(Dataset()), "error": str(error)}


def _columns(header: Dataset) -> dict[str, Any]:
    code, number = partial(_code, header), partial(_number, header)
    return {
        "modality": code("Modality"),
        "view_position": code("ViewPosition") or _view_meaning(header),
        "laterality": code("ImageLaterality", "Laterality"),
        "body_part": code("BodyPartExamined"),
        "patient_id": _text(header, "PatientID"),
        "study_date": _date(header, "StudyDate"),
        "age": _age(header),
        "sex": code("PatientSex"),
        "burned_in": {"YES": True, "NO": False}.get(code("BurnedInAnnotation") or ""),
        "presentation_intent": code("PresentationIntentType"),
        "photometric": code("PhotometricInterpretation"),
        "rows": number("Rows"),
        "columns": number("Columns"),
        "frames": number("NumberOfFrames"),
        "manufacturer": _text(header, "Manufacturer"),
    }


def _text(header: Dataset, *keywords: str) -> str | None:
    """Return the first value among `keywords` that is not empty."""
    for keyword in keywords:
        value = header.get(keyword)
        if value not in (None, ""):
            return str(value).strip() or None
    return None


def _code(header: Dataset, *keywords: str) -> str | None:
    text = _text(header, *keywords)
    return None if text is None else text.upper()


def _number(header: Dataset, keyword: str) -> int | None:
    text = _text(header, keyword)
    return None if text is None else int(text)


def _view_meaning(header: Dataset) -> str | None:
    codes = header.get("ViewCodeSequence")
    return _code(codes[0], "CodeMeaning") if codes else None


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
