"""RSNA Pneumonia Detection Challenge (2018)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch

from ._published import (
    boxes,
    by_key,
    collect,
    files_below,
    find,
    locate,
    look_for,
    one_hot,
    open_folder,
    take,
    warn_without_patients,
)
from ._tables import need, numbers, read_table

SOURCE = (
    "RSNA Pneumonia Detection Challenge, from Kaggle (rsna-pneumonia-detection-challenge) or "
    "RSNA's page of the challenge"
)
CLASSES = ("Lung Opacity", "No Lung Opacity / Not Normal", "Normal")
_MAPPING = "pneumonia-challenge-dataset-mappings_2018.json"


def load_rsna_pneumonia(folder: str | os.PathLike[str], *, missing: str = "raise") -> Bunch:
    """Read the RSNA Pneumonia set: 30,000 frontal radiographs, boxes around lung opacities.

    The column `patientId` names a picture, not a patient: the pictures are from NIH
    ChestX-ray14, where many patients have several. RSNA publishes which is which in
    ``pneumonia-challenge-dataset-mappings_2018.json``; with that file in the folder, groups are
    the patients of the NIH, by the same ids as `load_nih` has.

    Parameters
    ----------
    folder : path
        With ``stage_2_train_labels.csv``, ``stage_2_detailed_class_info.csv`` and
        ``stage_2_train_images/``; optionally ``stage_2_test_images/``, whose labels are not
        published, and the mapping.
    missing : {"raise", "drop"}, default="raise"
        What to do about pictures that the tables name and the folder lacks: stop, or leave out
        their rows.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        X, paths : list of str
            Pictures, DICOM.
        images : None
        labels : ndarray of float64, shape (n, 3)
            One of three classes; NaN in the test pictures. "Lung Opacity" is the challenge's
            `Target`, pneumonia suspected.
        label_names : list of str
            Lung Opacity, No Lung Opacity / Not Normal, Normal.
        groups : ndarray of str, shape (n,)
            Patients of the NIH; without the mapping, pictures, and a warning says so.
        split : ndarray of str, shape (n,)
            "train" or "test", as published; not by patient.
        table : dict of str to ndarray of object, shape (n,)
            `patientId` and `class`.
        boxes : dict of str to ndarray of shape (m,)
            `row` of the picture, `label`, and `x_min`, `y_min`, `x_max`, `y_max` in pixels of
            the 1024 x 1024 picture.
        missing : list of str
            Pictures that were left out.

    Raises
    ------
    FileNotFoundError
        If something is missing; the message says what to download.
    ValueError
        If a table is not as published; the message names the file and the row.

    Warns
    -----
    PatientsUnknownWarning
        Without the mapping.

    References
    ----------
    Shih et al., Radiology: Artificial Intelligence 1(1), e180041 (2019).
    """
    root = open_folder(folder, SOURCE)
    class_of = _classes(find(root, SOURCE, "stage_2_detailed_class_info.csv"))
    file = find(root, SOURCE, "stage_2_train_labels.csv")
    table, lines = read_table(file)
    boxed, target = need(table, "patientId", file), numbers(table, "Target", file, lines)
    for name, sick, line in zip(boxed, target, lines, strict=True):
        if (class_of.get(name) == CLASSES[0]) != (sick == 1):
            raise ValueError(
                f"{file}, row {line}: Target is {sick:g}, the class of {name} is "
                f"{class_of.get(name)!r}"
            )
    names = list(dict.fromkeys(boxed))
    found = _pictures(find(root, SOURCE, "stage_2_train_images"))
    split = ["train"] * len(names)
    if test := look_for(root, "stage_2_test_images"):
        unlabelled = _pictures(test)
        found |= unlabelled
        names += unlabelled
        split += ["test"] * len(unlabelled)
    pictures = locate(names, map(found.get, names), root, SOURCE, missing)
    columns = {"patientId": names, "class": [class_of.get(name, "") for name in names]}
    columns = take(columns, pictures.rows)
    names = columns["patientId"]
    labels = one_hot(columns["class"], CLASSES)
    labels[[not name for name in columns["class"]]] = np.nan
    x, y, width, height = (
        numbers(table, name, file, lines) for name in ("x", "y", "width", "height")
    )
    drawn = np.flatnonzero(target == 1)
    patients = _patients(root, names)
    if patients is None:
        advice = f"{_MAPPING}, from RSNA's page of the challenge, put into {root}, tells them"
        warn_without_patients("RSNA Pneumonia", advice)
    return collect(
        pictures,
        labels,
        CLASSES,
        names if patients is None else patients,
        [split[row] for row in pictures.rows],
        columns,
        boxes=boxes(
            {name: row for row, name in enumerate(names)},
            [boxed[row] for row in drawn],
            np.stack([x, y, x + width, y + height], axis=1)[drawn],
            pictures.missing,
            file,
            label=[CLASSES[0]] * len(drawn),
        ),
    )


def _pictures(folder: Path) -> dict[str, str]:
    return by_key(files_below(folder, ".dcm"), lambda path: path.stem)


def _classes(file: Path) -> dict[str, str]:
    table, lines = read_table(file)
    named = need(table, "class", file)
    for value, line in zip(named, lines, strict=True):
        if value not in CLASSES:
            raise ValueError(f"{file}, row {line}: {value!r} is none of {', '.join(CLASSES)}")
    return dict(zip(need(table, "patientId", file), named, strict=True))


def _patients(root: Path, names: list[str]) -> list[str] | None:
    """Patients of the NIH; None without the file that maps one to the other."""
    file = look_for(root, _MAPPING)
    if file is None:
        return None
    try:
        with open(file, encoding="utf-8") as stream:
            # NIH's names are PATIENT_NUMBER.png, with zeros before the patient.
            patient_of = {
                entry["subset_img_id"]: str(int(entry["img_id"].split("_")[0]))
                for entry in json.load(stream)
            }
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} is not a list of subset_img_id and img_id ({error}); download it again"
        ) from error
    if unknown := [name for name in names if name not in patient_of]:
        raise ValueError(f"{file} lacks {len(unknown)} pictures, {unknown[0]} among them")
    return [patient_of[name] for name in names]
