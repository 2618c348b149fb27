"""NIH ChestX-ray14."""

import os
from pathlib import Path

import numpy as np

from otcxr_sk._quote import quoted
from otcxr_sk.datasets._radiographs import Radiographs
from otcxr_sk.datasets._tables import read_table, read_text, shown
from otcxr_sk.datasets.published._collect import boxes, collect, corners, one_hot
from otcxr_sk.datasets.published._download import Download, Located, images_below

SOURCE = (
    "NIH ChestX-ray14, from the NIH Clinical Center's Box folder CXR8 "
    "(nihcc.app.box.com/v/ChestXray-NIHCC)"
)
FINDINGS = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
_LISTS = {"train_val_list": "train", "test_list": "test"}


def load_nih(folder: str | os.PathLike[str], *, missing: str = "raise") -> Radiographs:
    """Read NIH ChestX-ray14: 112,120 frontal radiographs of 30,805 patients, 14 findings.

    The labels were mined from reports and are noisy. The view (AP or PA) is a strong shortcut.

    Parameters
    ----------
    folder : path
        Folder with ``Data_Entry_2017_v2020.csv`` (or ``Data_Entry_2017.csv``, where some ages are
        wrong), ``train_val_list.txt``, ``test_list.txt``, optionally ``BBox_List_2017.csv``, and
        the unpacked images, in any folders below.
    missing : {"raise", "drop"}, default="raise"
        Whether images that a table names but the folder lacks raise an error or are left out.

    Returns
    -------
    data : Radiographs
        In the order of the table, with

        labels : shape (n, 14)
            0 or 1; all are 0 for "No Finding".
        groups
            Patients ("Patient ID").
        split
            "train" (the official list for training and validation) or "test", by patient.
        boxes : dict of str to ndarray of shape (m,), or None
            `row` of the image, `label` (a label name), and `x_min`, `y_min`, `x_max`, `y_max` in
            pixels of the 1024 x 1024 image. None without ``BBox_List_2017.csv``.

    See Also
    --------
    load_rsna_pneumonia, load_siim_pneumothorax : Other labels for some of these images.
    check_leakage : Check that a split keeps patients apart.

    References
    ----------
    Wang et al., ChestX-ray8, CVPR 2017.
    """
    download = Download(folder, SOURCE)
    table = read_table(download.find("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv"))
    names, findings, patients = table["Image Index"], table["Finding Labels"], table["Patient ID"]
    for row, value in enumerate(findings):
        if unknown := {*value.split("|")} - {*FINDINGS, "No Finding"}:
            raise ValueError(f"{table.at(row)}: {quoted(min(unknown))} is not a known finding")
    split_of: dict[str, str] = {}
    for listed, part in _LISTS.items():
        file = download.find(f"{listed}.txt", f"{listed}_NIH.txt")
        split_of |= dict.fromkeys(read_text(file).split(), part)
    if unlisted := [name for name in names if name not in split_of]:
        raise ValueError(
            f"{shown(download.root)}: {quoted(unlisted[0])} is in neither {' nor '.join(_LISTS)}"
        )
    found = images_below(download.root, ".png", key=lambda path: path.name)
    located = download.locate(names, map(found.get, names), missing)
    boxes_file = download.look_for("BBox_List_2017.csv")
    return collect(
        located,
        patients,
        labels=one_hot(findings, FINDINGS),
        label_names=FINDINGS,
        split=[split_of[name] for name in names],
        table=table,
        boxes=boxes_file and _boxes(boxes_file, located),
    )


def _boxes(file: Path, located: Located) -> dict[str, np.ndarray]:
    table = read_table(file)
    # Only this table spells it differently.
    labels = [
        "Infiltration" if label == "Infiltrate" else label for label in table["Finding Label"]
    ]
    sides = corners(table, "Bbox [x", "y", "w", "h]")
    return boxes(located, table, table["Image Index"], sides, label=labels)
