"""MIMIC-CXR-JPG."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch

from ._chexpert import OBSERVATIONS, check_policies, read_mentions
from ._published import collect, find, locate, open_folder, take
from ._tables import need, read_table

SOURCE = "MIMIC-CXR-JPG, from PhysioNet (credentialed access)"
_SPLIT = {"train": "train", "validate": "valid", "test": "test"}
# In the order of the published tables.
_LABELS = tuple(sorted(OBSERVATIONS))


def load_mimic_cxr(
    folder: str | os.PathLike[str],
    *,
    labeler: str = "chexpert",
    uncertain: str = "nan",
    unmentioned: str = "nan",
    missing: str = "raise",
) -> Bunch:
    """Read MIMIC-CXR-JPG: 377,110 radiographs of 65,379 patients, 14 labels from reports.

    Parameters
    ----------
    folder : path
        With ``mimic-cxr-2.0.0-metadata.csv.gz``, ``mimic-cxr-2.0.0-split.csv.gz``,
        ``mimic-cxr-2.0.0-chexpert.csv.gz`` or ``mimic-cxr-2.0.0-negbio.csv.gz`` (or the same
        without ``.gz``) and ``files/p10/p10000032/s50414267/DICOM_ID.jpg``.
    labeler : {"chexpert", "negbio"}, default="chexpert"
        Whose labels.
    uncertain, unmentioned : str, default="nan"
        As for `load_chexpert`. Studies without labels stay unknown.
    missing : {"raise", "drop"}, default="raise"
        What to do about pictures that the tables name and the folder lacks: stop, or leave out
        their rows.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        X, paths : list of str
            Pictures, of all views (``data.table["ViewPosition"]``).
        images : None
        labels : ndarray of float64, shape (n, 14)
            0, 1 or NaN, of the study that the picture belongs to.
        label_names : list of str
        groups : ndarray of str, shape (n,)
            Patients (`subject_id`).
        split : ndarray of str, shape (n,)
            "train", "valid" or "test", by patient.
        table : dict of str to ndarray of object, shape (n,)
            Columns of the metadata, as text.
        missing : list of str
            Pictures that were left out.

    Raises
    ------
    FileNotFoundError
        If something is missing; the message says what to download.
    ValueError
        If a parameter is unknown, or a table is not as published.

    References
    ----------
    Johnson et al., MIMIC-CXR-JPG, arXiv:1901.07042 (2019).
    """
    if labeler not in ("chexpert", "negbio"):
        raise ValueError(f"labeler must be 'chexpert' or 'negbio', got {labeler!r}")
    check_policies(uncertain, unmentioned)
    root = open_folder(folder, SOURCE)
    metadata, split_file, label_file = (
        find(root, SOURCE, f"mimic-cxr-2.0.0-{name}.csv.gz", f"mimic-cxr-2.0.0-{name}.csv")
        for name in ("metadata", "split", labeler)
    )
    table, _ = read_table(metadata)
    names = need(table, "dicom_id", metadata)
    patients, studies = need(table, "subject_id", metadata), need(table, "study_id", metadata)
    split_of = _split(split_file)
    if unlisted := [name for name in names if name not in split_of]:
        raise ValueError(f"{split_file} lacks {unlisted[0]}, which {metadata} has")
    files = metadata.parent / "files"
    paths = (
        str(files / f"p{patient[:2]}" / f"p{patient}" / f"s{study}" / f"{name}.jpg")
        for name, patient, study in zip(names, patients, studies, strict=True)
    )
    there = (path if os.path.isfile(path) else None for path in paths)
    pictures = locate(names, there, root, SOURCE, missing)
    table = take(table, pictures.rows)

    columns, lines = read_table(label_file)
    given = read_mentions(columns, _LABELS, uncertain, unmentioned, label_file, lines)
    row_of = {study: row for row, study in enumerate(need(columns, "study_id", label_file))}
    rows = np.array([row_of.get(study, -1) for study in table["study_id"]])
    return collect(
        pictures,
        np.where(rows[:, None] < 0, np.nan, given[rows]),
        _LABELS,
        table["subject_id"],
        [split_of[name] for name in table["dicom_id"]],
        table,
    )


def _split(file: Path) -> dict[str, str]:
    table, lines = read_table(file)
    parts = need(table, "split", file)
    for part, line in zip(parts, lines, strict=True):
        if part not in _SPLIT:
            raise ValueError(f"{file}, row {line}: split is {part!r}, none of {', '.join(_SPLIT)}")
    named = need(table, "dicom_id", file)
    return {name: _SPLIT[part] for name, part in zip(named, parts, strict=True)}
