"""Kermany's chest X-rays of children."""

import os
import re
from pathlib import Path

import numpy as np

from otcxr_sk.datasets._radiographs import Radiographs
from otcxr_sk.datasets._tables import shown
from otcxr_sk.datasets.published._download import Download, files_below

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


def load_kermany(folder: str | os.PathLike[str]) -> Radiographs:
    """Read Kermany's set: 5,856 frontal radiographs of children, normal or with pneumonia.

    Normal versus pneumonia is confounded: the size of the image alone almost gives it away.
    Bacteria versus virus, among the images with pneumonia, is the better task.

    File names contain the patient. ``person110_virus_205.jpeg`` is patient 110 of those with a
    virus; those with bacteria are numbered separately. ``IM-0115-0001.jpeg`` and
    ``NORMAL2-IM-0117-0001.jpeg`` are normal. In the later version on Mendeley Data,
    ``VIRUS-1000468-0001.jpeg`` is patient 1000468.

    Parameters
    ----------
    folder : path
        Folder with ``train``, ``test`` and optionally ``val`` (Kaggle's, 16 images), each with
        ``NORMAL`` and ``PNEUMONIA``.

    Returns
    -------
    data : Radiographs
        In the order of folders and names, with

        labels : shape (n, 3)
            pneumonia, bacteria, virus.
        groups
            Patients, such as "person110_virus".
        split
            "train", "valid" or "test".
        table
            `name` of the file.

    Raises
    ------
    ValueError
        If the name of a file is not as published, or contradicts its folder.

    See Also
    --------
    check_leakage : Check that a split keeps patients apart.

    References
    ----------
    Kermany et al., Cell 172(5), 1122 (2018).
    """
    download = Download(folder, SOURCE)
    files, split = [], []
    for part in ("train", "val", "test"):
        if part == "val" and not download.look_for(part):
            continue
        within = Download(download.find(part), SOURCE)
        for kind in ("NORMAL", "PNEUMONIA"):
            found = list(files_below(within.find(kind), ".jpeg", ".jpg", ".png"))
            files += found
            split += [_SPLIT[part]] * len(found)
    if not files:
        raise download.lack("images")
    described = [_describe(file) for file in files]
    kinds = np.array([kind for _, kind in described])
    labels = np.stack([kinds != "normal", kinds == "bacteria", kinds == "virus"], axis=1)
    return Radiographs(
        paths=[str(file) for file in files],
        groups=[patient for patient, _ in described],
        labels=labels.astype(float),
        label_names=["pneumonia", "bacteria", "virus"],
        split=split,
        table={"name": [file.name for file in files]},
    )


def _describe(file: Path) -> tuple[str, str]:
    """Return the patient, and "normal", "bacteria" or "virus"."""
    for pattern in _NAMES:
        if match := pattern.match(file.stem):
            kind = match["kind"].lower() or "normal"
            if (kind == "normal") != (file.parent.name == "NORMAL"):
                raise ValueError(
                    f"{shown(file)} is in {shown(file.parent.name)}, but its name says {kind}"
                )
            return match["patient"], kind
    raise ValueError(f"{shown(file)}: the name has no patient; rename it as published or remove it")
