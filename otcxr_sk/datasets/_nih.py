"""NIH ChestX-ray14."""

from __future__ import annotations

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
)
from ._tables import need, numbers, read_table

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


def load_nih(folder: str | os.PathLike[str], *, missing: str = "raise") -> Bunch:
    """Read NIH ChestX-ray14: 112,120 frontal radiographs of 30,805 patients, 14 findings.

    Labels were mined from reports and are noisy; the view (AP or PA) is a strong short cut.

    Parameters
    ----------
    folder : path
        With ``Data_Entry_2017_v2020.csv`` (or ``Data_Entry_2017.csv``, whose ages have errors),
        ``train_val_list.txt``, ``test_list.txt``, optionally ``BBox_List_2017.csv``, and the
        unpacked pictures in any folders below.
    missing : {"raise", "drop"}, default="raise"
        What to do about pictures that the tables name and the folder lacks: stop, or leave out
        their rows.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        X, paths : list of str
            Pictures, in the order of the table.
        images : None
        labels : ndarray of float64, shape (n, 14)
            0 or 1; all 0 is "No Finding".
        label_names : list of str
        groups : ndarray of str, shape (n,)
            Patients.
        split : ndarray of str, shape (n,)
            "train" (the official list of training and validation) or "test"; by patient.
        table : dict of str to ndarray of object, shape (n,)
            Columns as published, as text.
        boxes : dict of str to ndarray of shape (m,), or None
            `row` of the picture, `label` (a label name), and `x_min`, `y_min`, `x_max`, `y_max`
            in pixels of the 1024 x 1024 picture. None without ``BBox_List_2017.csv``.
        missing : list of str
            Pictures that were left out.

    Raises
    ------
    FileNotFoundError
        If something is missing; the message says what to download.
    ValueError
        If a table is not as published; the message names the file and the row.

    References
    ----------
    Wang et al., ChestX-ray8, CVPR 2017.
    """
    root = open_folder(folder, SOURCE)
    file = find(root, SOURCE, "Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
    table, lines = read_table(file)
    names, findings = need(table, "Image Index", file), need(table, "Finding Labels", file)
    need(table, "Patient ID", file)
    known = {*FINDINGS, "No Finding"}
    for value, line in zip(findings, lines, strict=True):
        if unknown := set(value.split("|")) - known:
            raise ValueError(f"{file}, row {line}: {sorted(unknown)[0]!r} is no known finding")
    split_of = {
        name.strip(): part
        for listed, part in _LISTS.items()
        for name in find(root, SOURCE, f"{listed}.txt", f"{listed}_NIH.txt")
        .read_text(encoding="utf-8")
        .split()
    }
    if unlisted := [name for name in names if name not in split_of]:
        raise ValueError(f"{unlisted[0]} is in neither of {' and '.join(_LISTS)} in {root}")
    found = by_key(files_below(root, ".png"), lambda path: path.name)
    pictures = locate(names, map(found.get, names), root, SOURCE, missing)
    table = take(table, pictures.rows)
    names = table["Image Index"]
    return collect(
        pictures,
        one_hot(table["Finding Labels"], FINDINGS, "|"),
        FINDINGS,
        table["Patient ID"],
        [split_of[name] for name in names],
        table,
        boxes=_boxes(root, names, pictures.missing),
    )


def _boxes(root: Path, names: list[str], missing: list[str]) -> dict[str, np.ndarray] | None:
    file = look_for(root, "BBox_List_2017.csv")
    if file is None:
        return None
    table, lines = read_table(file)
    x, y, width, height = (
        numbers(table, name, file, lines) for name in ("Bbox [x", "y", "w", "h]")
    )
    # The boxes alone have it by another name.
    labels = [
        "Infiltration" if label == "Infiltrate" else label
        for label in need(table, "Finding Label", file)
    ]
    return boxes(
        {name: row for row, name in enumerate(names)},
        need(table, "Image Index", file),
        np.stack([x, y, x + width, y + height], axis=1),
        missing,
        file,
        label=labels,
    )
