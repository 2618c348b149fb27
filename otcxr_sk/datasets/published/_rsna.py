"""RSNA Pneumonia Detection Challenge (2018)."""

import json
import os
from pathlib import Path

import numpy as np

from otcxr_sk._quote import counted, quoted
from otcxr_sk.datasets._radiographs import Radiographs
from otcxr_sk.datasets._tables import read_table, read_text, shown
from otcxr_sk.datasets.published._collect import boxes, collect, corners, one_hot, warn_no_patients
from otcxr_sk.datasets.published._download import Download, images_below

SOURCE = (
    "RSNA Pneumonia Detection Challenge, from Kaggle (rsna-pneumonia-detection-challenge) or "
    "RSNA's page of the challenge"
)
CLASSES = ("Lung Opacity", "No Lung Opacity / Not Normal", "Normal")
_MAPPING = "pneumonia-challenge-dataset-mappings_2018.json"


def load_rsna_pneumonia(folder: str | os.PathLike[str], *, missing: str = "raise") -> Radiographs:
    """Read the RSNA Pneumonia set: 30,000 frontal radiographs, boxes around lung opacities.

    The column `patientId` identifies an image, not a patient: the images are from NIH
    ChestX-ray14, where many patients have several. RSNA publishes which is which in
    ``pneumonia-challenge-dataset-mappings_2018.json``. With that file in the folder, groups are
    the NIH's patients, with the same IDs as from `load_nih`.

    Parameters
    ----------
    folder : path
        Folder with ``stage_2_train_labels.csv``, ``stage_2_detailed_class_info.csv`` and
        ``stage_2_train_images/``; optionally ``stage_2_test_images/``, whose labels are not
        published, and the mapping.
    missing : {"raise", "drop"}, default="raise"
        Whether images that a table names but the folder lacks raise an error or are left out.

    Returns
    -------
    data : Radiographs
        DICOM files, with

        labels : shape (n, 3)
            One of three classes: Lung Opacity, No Lung Opacity / Not Normal, Normal; NaN for the
            test images. "Lung Opacity" is the challenge's `Target`, suspected pneumonia.
        groups
            The NIH's patients; without the mapping, images.
        split
            "train" or "test", as published; not by patient.
        table
            `patientId` and `class`.
        boxes : dict of str to ndarray of shape (m,)
            `row` of the image, `label`, and `x_min`, `y_min`, `x_max`, `y_max` in pixels of the
            1024 x 1024 image.

    Warns
    -----
    PatientsUnknownWarning
        Without the mapping.

    See Also
    --------
    load_nih : The source of the images.
    check_leakage : Check that a split keeps patients apart.

    References
    ----------
    Shih et al., Radiology: Artificial Intelligence 1(1), e180041 (2019).
    """
    download = Download(folder, SOURCE)
    classes = read_table(download.find("stage_2_detailed_class_info.csv"))
    for row, value in enumerate(classes["class"]):
        if value not in CLASSES:
            raise ValueError(
                f"{classes.at(row)}: {quoted(value)} is not one of {', '.join(CLASSES)}"
            )
    class_of = dict(zip(classes["patientId"], classes["class"], strict=True))
    table = read_table(download.find("stage_2_train_labels.csv"))
    boxed, target = table["patientId"], table.numbers("Target")[:, 0]
    for row, (name, sick) in enumerate(zip(boxed, target, strict=True)):
        found_class = class_of.get(name)
        if sick not in (0, 1) or (found_class == CLASSES[0]) != (sick == 1):
            raise ValueError(
                f"{table.at(row)}: Target is {sick:g}, but the class of {quoted(name)} is "
                f"{found_class!r}"
            )
    names = list(dict.fromkeys(boxed))
    split = ["train"] * len(names)
    found = images_below(download.find("stage_2_train_images"), ".dcm")
    if test := download.look_for("stage_2_test_images"):
        unlabeled = images_below(test, ".dcm")
        found |= unlabeled
        names += unlabeled
        split += ["test"] * len(unlabeled)
    located = download.locate(names, map(found.get, names), missing)
    if mapping := download.look_for(_MAPPING):
        patients = _patients(mapping, names, located.names)
    else:
        patients = names
        warn_no_patients(
            "RSNA Pneumonia",
            f"for the patients, put {_MAPPING} from RSNA's page of the challenge into "
            f"{shown(download.root)}",
        )
    given = [class_of.get(name, "") for name in names]
    labels = one_hot(given, CLASSES)
    labels[[not one for one in given]] = np.nan
    drawn = np.flatnonzero(target == 1)
    return collect(
        located,
        patients,
        labels=labels,
        label_names=CLASSES,
        split=split,
        table={"patientId": names, "class": given},
        boxes=boxes(
            located,
            table,
            [boxed[row] for row in drawn],
            corners(table.select(drawn), "x", "y", "width", "height"),
            label=[CLASSES[0]] * len(drawn),
        ),
    )


def _patients(file: Path, names: list[str], needed: list[str]) -> list[str]:
    """Read the NIH's patient of each image; "" for images that the file lacks."""
    text = read_text(file)
    try:
        # The NIH's names are PATIENT_NUMBER.png, the patient with leading zeros.
        patient_of = {
            entry["subset_img_id"]: str(int(entry["img_id"].split("_")[0]))
            for entry in json.loads(text)
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{shown(file)} is not a list of subset_img_id and img_id; download it again"
        ) from error
    if unknown := [name for name in needed if name not in patient_of]:
        raise ValueError(
            f"{shown(file)} lacks {counted(len(unknown), 'image')}, for example "
            f"{quoted(unknown[0])}"
        )
    return [patient_of.get(name, "") for name in names]
