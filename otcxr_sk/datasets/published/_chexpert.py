"""CheXpert, and labels in the format of its labeler."""

import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from otcxr_sk._quote import listed, quoted
from otcxr_sk.datasets._radiographs import Radiographs
from otcxr_sk.datasets._tables import Table, read_table
from otcxr_sk.datasets.published._collect import collect
from otcxr_sk.datasets.published._download import Download, images_below

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
) -> Radiographs:
    """Read CheXpert: 224,316 radiographs of 65,240 patients, 14 observations from reports.

    Parameters
    ----------
    folder : path
        Folder with ``train.csv``, ``valid.csv`` and the folders of patients, at any depth.
    uncertain : {"nan", "zeros", "ones"}, default="nan"
        Label of an uncertain mention (-1): unknown, 0 or 1 (U-Ignore, U-Zeros, U-Ones in the
        paper).
    unmentioned : {"nan", "zeros"}, default="nan"
        Label of an observation that the report does not mention: unknown, or 0. In "train",
        "No Finding" is never 0 without "zeros".
    missing : {"raise", "drop"}, default="raise"
        Whether images that a table names but the folder lacks raise an error or are left out.

    Returns
    -------
    data : Radiographs
        Frontal and lateral images (``data.table["Frontal/Lateral"]``), with

        labels : shape (n, 14)
            From reports; in "valid", by radiologists.
        groups
            Patients, such as "patient00001".
        split
            "train" or "valid", by patient.
        table
            `Path`, `Sex`, `Age`, `Frontal/Lateral`, `AP/PA`, and the observations.

    See Also
    --------
    load_mimic_cxr : More radiographs with labels of the same kind.
    check_leakage : Check that a split keeps patients apart.

    References
    ----------
    Irvin et al., CheXpert, AAAI 2019.
    """
    check_policies(uncertain, unmentioned)
    download = Download(folder, SOURCE)
    found = images_below(
        download.root, ".jpg", ".jpeg", ".png", key=lambda path: _tail(path.as_posix())
    )
    train = read_table(download.find("train.csv"))
    valid = read_table(download.find("valid.csv"))
    for table in (train, valid):
        for row, path in enumerate(table["Path"]):
            if len(path.split("/")) < 3 or not _tail(path).startswith("patient"):
                raise ValueError(
                    f"{table.at(row)}: Path {quoted(path)} does not end in patient/study/view"
                )
    labels = [read_mentions(one, OBSERVATIONS, uncertain, unmentioned) for one in (train, valid)]
    if set(valid) != set(train):
        raise ValueError(f"{valid} has other columns than train.csv: {listed(valid)}")
    tails = [_tail(path) for path in train["Path"] + valid["Path"]]
    return collect(
        download.locate(tails, map(found.get, tails), missing),
        [tail.split("/")[0] for tail in tails],
        labels=np.concatenate(labels),
        label_names=OBSERVATIONS,
        split=["train"] * len(train.lines) + ["valid"] * len(valid.lines),
        table={name: train[name] + valid[name] for name in valid},
    )


def check_policies(uncertain: str, unmentioned: str) -> None:
    """Raise ValueError if a policy is unknown."""
    if uncertain not in _POLICIES:
        raise ValueError(f"uncertain must be 'nan', 'zeros' or 'ones', got {uncertain!r}")
    if unmentioned not in ("nan", "zeros"):
        raise ValueError(f"unmentioned must be 'nan' or 'zeros', got {unmentioned!r}")


def read_mentions(
    table: Table, names: Sequence[str], uncertain: str, unmentioned: str
) -> NDArray[np.float64]:
    """Read labels (n, k) from 1 (present), 0 (absent), -1 (uncertain) and blank (unmentioned)."""
    said = table.numbers(*names)
    silent = np.isnan(said)
    if (odd := ~silent & ~np.isin(said, (-1, 0, 1))).any():
        row, column = np.argwhere(odd)[0]
        raise ValueError(
            f"{table.at(row)}: {names[column]} is {said[row, column]:g}, not 1, 0, -1 or blank"
        )
    said[said == -1] = _POLICIES[uncertain]
    said[silent] = _POLICIES[unmentioned]
    return said


def _tail(path: str) -> str:
    """Return patient, study and file: the folders above may have any names."""
    return "/".join(path.split("/")[-3:])
