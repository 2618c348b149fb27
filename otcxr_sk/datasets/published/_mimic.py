"""MIMIC-CXR-JPG."""

import os
import re

import numpy as np

from otcxr_sk._quote import quoted
from otcxr_sk.datasets._radiographs import Radiographs
from otcxr_sk.datasets._tables import below, read_table, shown
from otcxr_sk.datasets.published._chexpert import OBSERVATIONS, check_policies, read_mentions
from otcxr_sk.datasets.published._collect import collect
from otcxr_sk.datasets.published._download import Download

SOURCE = "MIMIC-CXR-JPG, from PhysioNet (credentialed access)"
_SPLIT = {"train": "train", "validate": "valid", "test": "test"}
_ID = re.compile(r"[\w-]+", re.ASCII)
# In the order of the published tables.
_LABELS = tuple(sorted(OBSERVATIONS))


def load_mimic_cxr(
    folder: str | os.PathLike[str],
    *,
    labeler: str = "chexpert",
    uncertain: str = "nan",
    unmentioned: str = "nan",
    missing: str = "raise",
) -> Radiographs:
    """Read MIMIC-CXR-JPG: 377,110 radiographs of 65,379 patients, 14 labels from reports.

    A report is about a study: all of its images have the same labels.

    Parameters
    ----------
    folder : path
        Folder with ``mimic-cxr-2.0.0-metadata.csv.gz``, ``mimic-cxr-2.0.0-split.csv.gz``,
        ``mimic-cxr-2.0.0-chexpert.csv.gz`` or ``mimic-cxr-2.0.0-negbio.csv.gz`` (or the same
        without ``.gz``) and ``files/p10/p10000032/s50414267/DICOM_ID.jpg``.
    labeler : {"chexpert", "negbio"}, default="chexpert"
        Whose labels to read.
    uncertain, unmentioned : str, default="nan"
        See `load_chexpert`. Studies without labels are always unknown.
    missing : {"raise", "drop"}, default="raise"
        Whether images that a table names but the folder lacks raise an error or are left out.

    Returns
    -------
    data : Radiographs
        Images of all views (``data.table["ViewPosition"]``), with

        labels : shape (n, 14)
            The observations of CheXpert, in alphabetical order.
        groups
            Patients (`subject_id`).
        split
            "train", "valid" or "test", by patient.
        table
            The metadata.

    See Also
    --------
    load_chexpert : More radiographs with labels of the same kind.
    check_leakage : Check that a split keeps patients apart.

    References
    ----------
    Johnson et al., MIMIC-CXR-JPG, arXiv:1901.07042 (2019).
    """
    if labeler not in ("chexpert", "negbio"):
        raise ValueError(f"labeler must be 'chexpert' or 'negbio', got {labeler!r}")
    check_policies(uncertain, unmentioned)
    download = Download(folder, SOURCE)
    table, parts, mentions = (
        read_table(download.find(f"mimic-cxr-2.0.0-{name}.csv.gz", f"mimic-cxr-2.0.0-{name}.csv"))
        for name in ("metadata", "split", labeler)
    )
    names, patients, studies = table["dicom_id"], table["subject_id"], table["study_id"]
    for row, part in enumerate(parts["split"]):
        if part not in _SPLIT:
            raise ValueError(
                f"{parts.at(row)}: split is {quoted(part)}, not one of {', '.join(_SPLIT)}"
            )
    split_of = dict(zip(parts["dicom_id"], parts["split"], strict=True))
    if unlisted := [name for name in names if name not in split_of]:
        raise ValueError(f"{parts} lacks {quoted(unlisted[0])}, which is in {table}")
    files = table.file.parent / "files"
    paths = []
    for row, (name, patient, study) in enumerate(zip(names, patients, studies, strict=True)):
        path = below(files, f"p{patient[:2]}/p{patient}/s{study}/{name}.jpg")
        # Two ids must not lead to one image.
        if path is None or not all(map(_ID.fullmatch, (name, patient, study))):
            raise ValueError(f"{table.at(row)}: {quoted(name)} is outside {shown(files)}")
        paths.append(path if os.path.isfile(path) else None)
    given = read_mentions(mentions, _LABELS, uncertain, unmentioned)
    row_of = {study: row for row, study in enumerate(mentions["study_id"])}
    rows = np.array([row_of.get(study, -1) for study in studies])
    return collect(
        download.locate(names, paths, missing),
        patients,
        labels=np.where(rows[:, None] < 0, np.nan, given[rows]),
        label_names=_LABELS,
        split=[_SPLIT[split_of[name]] for name in names],
        table=table,
    )
