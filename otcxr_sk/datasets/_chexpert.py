"""CheXpert, and labels as its labeller writes them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch

from ._published import by_key, collect, files_below, find, locate, open_folder, take
from ._tables import Table, need, numbers, read_table

SOURCE = "CheXpert-v1.0 or CheXpert-v1.0-small, from the Stanford AIMI Center's page of CheXpert"
OBSERVATIONS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
_POLICIES = {"nan": np.nan, "zeros": 0.0, "ones": 1.0}


def load_chexpert(
    folder: str | os.PathLike[str],
    *,
    uncertain: str = "nan",
    unmentioned: str = "nan",
    missing: str = "raise",
) -> Bunch:
    """Read CheXpert: 224,316 radiographs of 65,240 patients, 14 observations from reports.

    Parameters
    ----------
    folder : path
        With ``train.csv``, ``valid.csv`` and the folders of patients, at whatever depth.
    uncertain : {"nan", "zeros", "ones"}, default="nan"
        What an uncertain mention (-1) becomes: unknown, 0 or 1 (the paper's U-Ignore, U-Zeros,
        U-Ones).
    unmentioned : {"nan", "zeros"}, default="nan"
        What an observation becomes that the report does not mention: unknown, or 0. In train,
        "No Finding" is never 0 without "zeros".
    missing : {"raise", "drop"}, default="raise"
        What to do about pictures that the tables name and the folder lacks: stop, or leave out
        their rows.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        X, paths : list of str
            Pictures, frontal and lateral ones (``data.table["Frontal/Lateral"]``).
        images : None
        labels : ndarray of float64, shape (n, 14)
            0, 1 or NaN.
        label_names : list of str
        groups : ndarray of str, shape (n,)
            Patients.
        split : ndarray of str, shape (n,)
            "train" or "valid", by patient; the labels of "valid" are radiologists'.
        table : dict of str to ndarray of object, shape (n,)
            Columns as published, as text: `Path`, `Sex`, `Age`, `Frontal/Lateral`, `AP/PA`, and
            the observations.
        missing : list of str
            Pictures that were left out.

    Raises
    ------
    FileNotFoundError
        If something is missing; the message says what to download.
    ValueError
        If a policy is unknown, or a table is not as published.

    References
    ----------
    Irvin et al., CheXpert, AAAI 2019.
    """
    check_policies(uncertain, unmentioned)
    root = open_folder(folder, SOURCE)
    found = by_key(files_below(root, ".jpg", ".jpeg", ".png"), lambda path: _tail(path.as_posix()))
    table: Table = {}
    labels, split = [], []
    for part in ("train", "valid"):
        file = find(root, SOURCE, f"{part}.csv")
        columns, lines = read_table(file)
        for path, line in zip(need(columns, "Path", file), lines, strict=True):
            if len(path.split("/")) < 3 or not _tail(path).startswith("patient"):
                raise ValueError(
                    f"{file}, row {line}: Path {path!r} does not end in patient/study/view"
                )
        labels.append(read_mentions(columns, OBSERVATIONS, uncertain, unmentioned, file, lines))
        split += [part] * len(lines)
        if table and set(columns) != set(table):
            raise ValueError(f"{file} has other columns than train.csv: {', '.join(columns)}")
        table = {name: [*table.get(name, []), *values] for name, values in columns.items()}
    tails = [_tail(path) for path in table["Path"]]
    pictures = locate(tails, map(found.get, tails), root, SOURCE, missing)
    return collect(
        pictures,
        np.concatenate(labels)[pictures.rows],
        OBSERVATIONS,
        [tails[row].split("/")[0] for row in pictures.rows],
        [split[row] for row in pictures.rows],
        take(table, pictures.rows),
    )


def check_policies(uncertain: str, unmentioned: str) -> None:
    """Raise ValueError for a policy that is not there."""
    if uncertain not in _POLICIES:
        raise ValueError(f"uncertain must be 'nan', 'zeros' or 'ones', got {uncertain!r}")
    if unmentioned not in ("nan", "zeros"):
        raise ValueError(f"unmentioned must be 'nan' or 'zeros', got {unmentioned!r}")


def read_mentions(
    table: Table,
    names: tuple[str, ...],
    uncertain: str,
    unmentioned: str,
    file: Path,
    lines: list[int],
) -> NDArray[np.float64]:
    """Labels (n, k) from 1 (present), 0 (absent), -1 (uncertain) and blanks (not mentioned)."""
    said = np.stack([numbers(table, name, file, lines) for name in names], axis=1)
    silent = np.isnan(said)
    if (odd := ~silent & ~np.isin(said, (-1, 0, 1))).any():
        row, column = np.argwhere(odd)[0]
        raise ValueError(
            f"{file}, row {lines[row]}: {names[column]} is {said[row, column]:g}, not 1, 0, -1 or "
            "blank"
        )
    said[said == -1] = _POLICIES[uncertain]
    said[silent] = _POLICIES[unmentioned]
    return said


def _tail(path: str) -> str:
    """Patient, study and file: the same however the folders above are called."""
    return "/".join(path.split("/")[-3:])
