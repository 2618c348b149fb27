"""Kermany's chest X-rays of children."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
from sklearn.utils import Bunch

from ._published import Pictures, collect, files_below, find, look_for, open_folder

SOURCE = (
    "Chest X-Ray Images (Pneumonia), from Kaggle (paultimothymooney/chest-xray-pneumonia), or "
    "Mendeley Data, doi 10.17632/rscbjbr9sj"
)
_SPLIT = {"train": "train", "val": "valid", "test": "test"}
_NAMES = (
    re.compile(r"(?P<patient>person\d+_(?P<kind>bacteria|virus))_\d+"),
    re.compile(r"(?P<patient>(?:NORMAL2-)?IM-\d+)-\d+(?P<kind>)"),
    re.compile(r"(?P<kind>BACTERIA|VIRUS|NORMAL)-(?P<patient>\d+)-\d+"),
)


def load_kermany(folder: str | os.PathLike[str]) -> Bunch:
    """Read Kermany's set: 5,856 frontal radiographs of children, normal or with pneumonia.

    Normal against pneumonia is confounded: the size of the picture alone tells most of it.
    Bacteria against virus, among the pictures with pneumonia, is the better task.

    Patients are in the names: ``person110_virus_205.jpeg`` is of patient 110 of those with a
    virus (bacteria are numbered apart), ``IM-0115-0001.jpeg`` and ``NORMAL2-IM-0117-0001.jpeg``
    are of normal ones. Of the later version on Mendeley Data, ``VIRUS-1000468-0001.jpeg`` is of
    patient 1000468.

    Parameters
    ----------
    folder : path
        With ``train``, ``test`` and optionally ``val`` (Kaggle's, 16 pictures), in each of them
        ``NORMAL`` and ``PNEUMONIA``.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        X, paths : list of str
            Pictures, in the order of folders and names.
        images : None
        labels : ndarray of float64, shape (n, 3)
            1 with pneumonia, with bacteria, with a virus, else 0.
        label_names : list of str
            pneumonia, bacteria, virus.
        groups : ndarray of str, shape (n,)
            Patients.
        split : ndarray of str, shape (n,)
            "train", "valid" or "test".
        table : dict of str to ndarray of object, shape (n,)
            `name` of the file.
        missing : list of str
            Empty.

    Raises
    ------
    FileNotFoundError
        If something is missing; the message says what to download.
    ValueError
        If a name is not as published, or in the wrong folder.

    References
    ----------
    Kermany et al., Cell 172(5), 1122 (2018).
    """
    root = open_folder(folder, SOURCE)
    files, split = [], []
    for part in ("train", "val", "test"):
        if part == "val" and not look_for(root, part):
            continue
        within = find(root, SOURCE, part)
        for kind in ("NORMAL", "PNEUMONIA"):
            found = list(files_below(find(within, SOURCE, kind), ".jpeg", ".jpg", ".png"))
            files += found
            split += [_SPLIT[part]] * len(found)
    if not files:
        raise FileNotFoundError(f"{root} has no pictures; download them: {SOURCE}")
    described = [_describe(file) for file in files]
    kinds = np.array([kind for _, kind in described])
    return collect(
        Pictures(list(range(len(files))), [str(file) for file in files], []),
        np.stack([kinds != "normal", kinds == "bacteria", kinds == "virus"], axis=1).astype(float),
        ["pneumonia", "bacteria", "virus"],
        [patient for patient, _ in described],
        split,
        {"name": [file.name for file in files]},
    )


def _describe(file: Path) -> tuple[str, str]:
    """Patient, and normal, bacteria or virus."""
    for pattern in _NAMES:
        if match := pattern.match(file.stem):
            kind = match["kind"].lower() or "normal"
            if (kind == "normal") != (file.parent.name == "NORMAL"):
                raise ValueError(f"{file} is in {file.parent.name}, by its name it is {kind}")
            return match["patient"], kind
    raise ValueError(f"{file}: the name tells no patient; rename it as published or leave it out")
