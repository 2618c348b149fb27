"""Read the headers of DICOM files as a table."""

import hmac
import os
import re
from collections.abc import Iterable, Sequence
from datetime import date
from os import PathLike
from typing import Any, BinaryIO

import numpy as np

from otcxr_sk._columns import is_no_id, normal_id
from otcxr_sk._files import open_file
from otcxr_sk._paths import as_path
from otcxr_sk._warning import warn_user
from otcxr_sk.images._errors import (
    ImageReadError,
    ImageReadWarning,
    damaged,
    reading,
    require_content,
)
from otcxr_sk.images._values import is_no_path, is_path, require_paths, shown, values_of
from otcxr_sk.images.dicom._decode import syntax_name
from otcxr_sk.images.dicom._file import DicomFile, find_dicom, looks_like_dicom
from otcxr_sk.images.dicom._header import Header
from otcxr_sk.images.dicom._read import require_readable

_DAYS_PER_YEAR = 365.25
_PER_YEAR = {"D": _DAYS_PER_YEAR, "W": _DAYS_PER_YEAR / 7, "M": 12.0, "Y": 1.0}
_AGE = re.compile(r"(\d{1,4})([DWMY])", re.ASCII)
# With points in between, as before version 3 of the standard.
_DATE = re.compile(r"(\d{4})\.?(\d{2})\.?(\d{2})", re.ASCII)

_LEAST_SALT, _LEAST_VARIETY = 16, 4
# Whoever is older is rare enough to be found by age (HIPAA, 45 CFR 164.514).
_OLDEST = 90
_MOST_DAYS = 365


def read_dicom_table(
    paths: Iterable[str | bytes | PathLike[Any] | None], *, salt: str | bytes | None = None
) -> dict[str, Any]:
    """Read the headers of DICOM files, without their pixels, as a table.

    Use it to choose images, such as frontal views, and to group the images of each patient.
    ``pandas.DataFrame(table)`` and ``polars.DataFrame(table)`` make a data frame of it.

    By default, ids, dates and ages are as in the files: whoever gets the table can tell who the
    patients are. A `salt` hides these three columns, and no other. Before you give the table away,
    drop ``path`` and ``error`` as well: paths often name patients. So may the warning.

    Parameters
    ----------
    paths : iterable of str, bytes or path-like
        The files. A row without a path is one that cannot be read.
    salt : str or bytes, default=None
        A secret of at least 16 bytes, such as ``secrets.token_hex(16)`` makes. If given,

        - ids are replaced by their HMAC-SHA256 under it, in hexadecimal;
        - ages are whole years, and 90 stands for all above;
        - study dates are 1 to 365 days early, by as many for all images of a patient, so that the
          days between them are true. They are missing without an id, and from the age of 90 on.

        The same salt gives the same ids and dates in every call. Other columns are unchanged.

    Returns
    -------
    dict of str to list, or to ndarray for ``study_date``
        One row per file, in the order given. Text is in upper case, except for manufacturers
        and paths. Missing values, and those that are not in the format of the standard, are None
        (NaT in ``study_date``).

        - ``path``: as given, with ``~`` as the home folder
        - ``modality``: DX, CR, ...
        - ``view_position``: AP, PA, LL, ...; else the meaning of the view's code
        - ``laterality``: R, L, U or B
        - ``body_part``: CHEST, ...
        - ``patient_id``: text in the form in which ids are compared
          (``docs/guide/datasets.md``), unique within one hospital at best. None also where the
          header has a word for a missing id, such as "None". None must not be passed on as a
          group: leave such images out, or if no other image is of that patient, give each an id
          of its own, in pandas ``frame["patient_id"].fillna(frame["path"])``
        - ``study_date``: datetime64[D]
        - ``age``: in years; else from birth date and study date
        - ``sex``: M, F or O
        - ``burned_in``: whether the header says that text is burned into the image
        - ``presentation_intent``: FOR PRESENTATION, or FOR PROCESSING for raw data
        - ``photometric``: MONOCHROME1, ...
        - ``rows``, ``columns``, ``frames``: height and width in pixels, and number of frames
        - ``manufacturer``: often tells hospitals apart
        - ``transfer_syntax``: how the pixels are stored, by its name in the standard
        - ``readable``: whether, by their header, estimators read the pixels: one frame of a
          projection radiograph. Only reading tells whether they are whole, and their codec
          installed
        - ``error``: why the file could not be read, in which case all other columns but ``path``
          are None, and ``readable`` is False; otherwise None

    Raises
    ------
    TypeError
        If `paths` are not several values, or `salt` is neither text nor bytes.
    ValueError
        If `paths` is a single path, or `salt` is too short or uniform to be a secret.

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
    require_paths(paths)
    key = None if salt is None else _key(salt)
    rows = [_read_row(row, path) for row, path in enumerate(values_of(_column(paths)))]
    names = ("path", *_nothing(), "error")
    table: dict[str, Any] = {name: [row[name] for row in rows] for name in names}
    failed = [problem for problem in table["error"] if problem is not None]
    if failed:
        warn_user(
            f"{len(failed)} of {len(rows)} files could not be read, see the column 'error'; the "
            f"first: {failed[0]}",
            ImageReadWarning,
        )
    table["study_date"] = np.array(table["study_date"], dtype="datetime64[D]")
    return table if key is None else _hidden(table, key)


def read_dicom_texts(path: str, keywords: Sequence[str]) -> list[str]:
    """Return elements of a header as text, empty where they are absent.

    Raises
    ------
    ImageReadError
        If the file is not a DICOM file, or ends within its header.
    """
    with reading(path), open_file(path) as file:
        header = _read_dicom(file).header
        return [header.text(keyword) for keyword in keywords]


def _key(salt: Any) -> bytes:
    if not isinstance(salt, str | bytes | bytearray):
        raise TypeError("salt must be text or bytes, or None to keep ids, dates and ages")
    key = salt.encode("utf-8", "surrogatepass") if isinstance(salt, str) else bytes(salt)
    if len(key) < _LEAST_SALT or len(set(key)) < _LEAST_VARIETY:
        raise ValueError(
            f"such a salt can be guessed: it needs at least {_LEAST_SALT} bytes, {_LEAST_VARIETY} "
            f"of them different; make one with secrets.token_hex({_LEAST_SALT}) and keep it "
            "secret, or pass None to keep ids, dates and ages"
        )
    return key


def _hidden(table: dict[str, Any], key: bytes) -> dict[str, Any]:
    """Return a table that takes the key to tell who its patients are."""
    patients, ages = table["patient_id"], table["age"]
    hidden = [None if one is None else hmac.digest(key, one.encode(), "sha256") for one in patients]
    # The years between two dates would tell an age beyond the oldest.
    early = [
        None if one is None or (age is not None and age >= _OLDEST) else _days(key, one)
        for one, age in zip(patients, ages, strict=True)
    ]
    return table | {
        "patient_id": [None if one is None else one.hex() for one in hidden],
        "study_date": table["study_date"] - np.array(early, dtype="timedelta64[D]"),
        "age": [None if age is None else min(int(age), _OLDEST) for age in ages],
    }


def _days(key: bytes, patient: str) -> int:
    # No id has a control character, so no id that is hidden gives these bytes away.
    digest = hmac.digest(key, b"study_date\0" + patient.encode(), "sha256")
    return 1 + int.from_bytes(digest) % _MOST_DAYS


def _column(paths: Any) -> Any:
    shape: tuple[int, ...] = getattr(paths, "shape", (0,))
    if len(shape) == 1:
        return paths
    if len(shape) == 2 and shape[1] == 1:
        return np.asarray(paths, dtype=object)[:, 0]
    raise ValueError(f"expected one column of paths, got a table or array of shape {shape}")


def _read_row(row: int, given: Any) -> dict[str, Any]:
    path, found, problem = None, _nothing(), None
    try:
        if is_no_path(given):
            raise ImageReadError(f"row {row}: there is no path")
        if not is_path(given):
            raise ImageReadError(f"row {row} is {shown(given)}, not the path of a file")
        if "\0" in os.fsdecode(given):
            raise ImageReadError(f"row {row}: no path has a character NUL")
        path = as_path(given)
        with reading(path), open_file(path) as file:
            dicom = _read_dicom(file)
            columns = _columns(dicom.header)
            if all(value is None for value in columns.values()):
                raise ImageReadError(
                    "its header has none of the values of this table; if it is an image, replace "
                    "it with an intact copy, otherwise leave it out"
                )
            syntax = syntax_name(dicom.syntax) if dicom.syntax else None
            found = columns | {"transfer_syntax": syntax, "readable": _is_readable(dicom)}
    # Also where `as_path` finds no home folder.
    except ValueError as error:
        problem = str(error)
    return {"path": path, **found, "error": problem}


def _nothing() -> dict[str, Any]:
    """Return the columns of a file that cannot be read: those of an empty header."""
    return _columns(Header()) | {"transfer_syntax": None, "readable": False}


def _read_dicom(file: BinaryIO) -> DicomFile:
    head = file.read(132)
    require_content(head)
    if not looks_like_dicom(head):
        raise ImageReadError("this is not a DICOM file; leave it out")
    dicom = find_dicom(file)
    if dicom.ends_early and dicom.pixels is None:
        raise damaged("the file ends within its header: it was cut short")
    return dicom


def _is_readable(dicom: DicomFile) -> bool:
    try:
        require_readable(dicom)
    except ImageReadError:
        return False
    return True


def _columns(header: Header) -> dict[str, Any]:
    return {
        "modality": header.code("Modality") or None,
        "view_position": header.code("ViewPosition") or _view_meaning(header),
        "laterality": header.code("ImageLaterality") or header.code("Laterality") or None,
        "body_part": header.code("BodyPartExamined") or None,
        "patient_id": _patient(header),
        "study_date": _date(header, "StudyDate"),
        "age": _age(header),
        "sex": header.code("PatientSex") or None,
        "burned_in": {"YES": True, "NO": False}.get(header.code("BurnedInAnnotation")),
        "presentation_intent": header.code("PresentationIntentType") or None,
        "photometric": header.code("PhotometricInterpretation") or None,
        "rows": _number(header, "Rows"),
        "columns": _number(header, "Columns"),
        "frames": _number(header, "NumberOfFrames"),
        "manufacturer": header.text("Manufacturer") or None,
    }


def _patient(header: Header) -> str | None:
    # All files with the same word for a missing id would become one patient.
    patient = normal_id(header.text("PatientID"))
    return None if is_no_id(patient) else patient


def _number(header: Header, keyword: str) -> int | None:
    try:
        return header.integer(keyword)
    except ImageReadError:
        return None


def _view_meaning(header: Header) -> str | None:
    try:
        codes = header.items("ViewCodeSequence")
    except ImageReadError:
        return None
    return codes[0].code("CodeMeaning") or None if codes else None


def _date(header: Header, keyword: str) -> date | None:
    found = _DATE.fullmatch(header.code(keyword))
    try:
        return date(*map(int, found.groups())) if found else None
    except ValueError:
        return None


def _age(header: Header) -> float | None:
    found = _AGE.fullmatch(header.code("PatientAge"))
    if found:
        return int(found[1]) / _PER_YEAR[found[2]]
    born, seen = _date(header, "PatientBirthDate"), _date(header, "StudyDate")
    if born is None or seen is None or seen < born:
        return None
    return (seen - born).days / _DAYS_PER_YEAR
