"""VinDr-CXR, as on PhysioNet and as in Kaggle's VinBigData competition."""

import os
from collections import Counter
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from otcxr_sk.datasets._radiographs import Radiographs
from otcxr_sk.datasets._tables import Table, read_table
from otcxr_sk.datasets.published._collect import boxes, collect, edges, warn_no_patients
from otcxr_sk.datasets.published._download import Download, Located, images_below

SOURCE = (
    "VinDr-CXR, from PhysioNet, or VinBigData Chest X-ray Abnormalities Detection, from Kaggle "
    "(vinbigdata-chest-xray-abnormalities-detection)"
)
_SUFFIXES = (".dicom", ".dcm", ".png", ".jpg", ".jpeg")
_NO_FINDING = "No finding"
_EDGES = ("x_min", "y_min", "x_max", "y_max")
# Of classes; the published ones have 15.
_MOST = 50


class _Part(NamedTuple):
    """Images of one part of the split, with the share of readers who gave each label."""

    names: list[str]
    votes: NDArray[np.float64]
    readers: list[int]


def load_vindr_cxr(folder: str | os.PathLike[str], *, missing: str = "raise") -> Radiographs:
    """Read VinDr-CXR: 18,000 frontal radiographs with labels and boxes by radiologists.

    Three radiologists read each training image independently. A label is 1 if **more than half of
    the readers** gave it, else 0. Use `votes`, the share of readers, for other rules:
    ``data.votes > 0`` means "any reader". For the test images, five radiologists reached a
    consensus.

    Parameters
    ----------
    folder : path
        PhysioNet's, with ``annotations/`` (``image_labels_train.csv``, ``image_labels_test.csv``,
        ``annotations_train.csv``, ``annotations_test.csv``), ``train/`` and ``test/``; or
        Kaggle's, with ``train.csv``, ``train/`` and optionally ``test/``, without labels.
        Images are DICOM, PNG or JPEG files named by `image_id`.
    missing : {"raise", "drop"}, default="raise"
        Whether images that a table names but the folder lacks raise an error or are left out.

    Returns
    -------
    data : Radiographs
        Train before test, with

        labels : shape (n, 28) or (n, 15)
            0 or 1 by the rule above; NaN for Kaggle's test images. "No finding" comes last.
        votes : ndarray of float64, same shape
            Share of readers who gave the label, in [0, 1], or NaN.
        groups
            Images.
        split
            "train" or "test".
        table
            `image_id`, and the number of `readers`: "1" for a consensus, "0" without labels.
        boxes : dict of str to ndarray of shape (m,)
            `row` of the image, `label`, `reader` ("" for a consensus), and `x_min`, `y_min`,
            `x_max`, `y_max` in pixels of the original DICOM image: scale them if yours are
            resized. Contains every reader's boxes, even if the others disagree.

    Warns
    -----
    PatientsUnknownWarning
        Always, since no patients are published.

    See Also
    --------
    find_near_duplicates : Find images that appear more than once.

    References
    ----------
    Nguyen et al., VinDr-CXR, Scientific Data 9, 429 (2022).
    """
    download = Download(folder, SOURCE)
    kaggle = download.root / "train.csv"
    if os.path.exists(kaggle):
        drawn = [read_table(kaggle)]
        label_names, parts = _from_boxes(download, drawn[0])
    else:
        drawn = _tables(download, "annotations")
        label_names, parts = _from_labels(_tables(download, "image_labels"))
    names, split, paths = [], [], []
    for part, found in parts.items():
        files = _images(download, part)
        names += found.names
        split += [part] * len(found.names)
        paths += [files.get(name) for name in found.names]
    located = download.locate(names, paths, missing)
    votes = np.concatenate([part.votes for part in parts.values()])
    warn_no_patients("VinDr-CXR")
    return collect(
        located,
        names,
        labels=np.where(np.isnan(votes), np.nan, votes > 0.5),
        label_names=label_names,
        split=split,
        table={
            "image_id": names,
            "readers": [str(count) for part in parts.values() for count in part.readers],
        },
        votes=votes[located.rows],
        boxes=_boxes(drawn, located),
    )


def _tables(download: Download, name: str) -> list[Table]:
    """Read PhysioNet's tables for "train" and "test"."""
    files = [f"{name}_{part}.csv" for part in ("train", "test")]
    return [read_table(download.find(f"annotations/{file}", file)) for file in files]


def _images(download: Download, part: str) -> dict[str, str]:
    return images_below(download.find(part), *_SUFFIXES)


def _from_labels(tables: list[Table]) -> tuple[list[str], dict[str, _Part]]:
    """Convert tables with a row per image and reader, and a column per label."""
    for table in tables:
        # The tables have different names for this label.
        if "Other disease" in table:
            table["Other diseases"] = table.pop("Other disease")
    others = ("image_id", "rad_id", _NO_FINDING)
    label_names = [*(key for key in tables[0] if key not in others), _NO_FINDING]
    parts = {}
    for part, table in zip(("train", "test"), tables, strict=True):
        readers = Counter(table["image_id"])
        row_of = {image: row for row, image in enumerate(readers)}
        given = table.numbers(*label_names)
        if odd := np.flatnonzero(~(np.isnan(given) | np.isin(given, (0, 1))).all(axis=1)).tolist():
            raise ValueError(f"{table.first(odd)}: a label is not 0, 1 or blank")
        votes = np.zeros((len(readers), len(label_names)))
        rows = [row_of[image] for image in table["image_id"]]
        np.add.at(votes, rows, np.nan_to_num(given))
        counts = list(readers.values())
        parts[part] = _Part(list(readers), votes / np.array(counts)[:, None], counts)
    return label_names, parts


def _from_boxes(download: Download, table: Table) -> tuple[list[str], dict[str, _Part]]:
    """Convert Kaggle's table: a row per box of a reader, or one if a reader found nothing."""
    images, readers, labels = table["image_id"], table["rad_id"], table["class_name"]
    numbers = table.numbers("class_id")[:, 0]
    if odd := np.flatnonzero(~np.isin(numbers, range(_MOST))).tolist():
        raise ValueError(f"{table.first(odd)}: class_id is not a number from 0 to {_MOST - 1}")
    order = dict(zip(numbers, labels, strict=True))
    label_names = [order[number] for number in sorted(order)]
    if sorted(set(labels)) != sorted(label_names):
        raise ValueError(f"{table}: class_id and class_name do not correspond one to one")
    names = list(dict.fromkeys(images))
    counts = Counter(image for image, _ in set(zip(images, readers, strict=True)))
    said = Counter(
        (image, label) for image, _, label in set(zip(images, readers, labels, strict=True))
    )
    votes = [[said[image, label] / counts[image] for label in label_names] for image in names]
    parts = {"train": _Part(names, np.array(votes), [counts[image] for image in names])}
    if os.path.isdir(download.root / "test"):
        names = sorted(_images(download, "test"))
        unknown = np.full((len(names), len(label_names)), np.nan)
        parts["test"] = _Part(names, unknown, [0] * len(names))
    return label_names, parts


def _boxes(tables: list[Table], located: Located) -> dict[str, NDArray[np.generic]]:
    images: list[str] = []
    labels: list[str] = []
    readers: list[str] = []
    sides = []
    for table in tables:
        drawn = ~np.isnan(table.numbers(*_EDGES)).all(axis=1)
        boxed = table.select(np.flatnonzero(drawn))
        sides.append(edges(boxed, *_EDGES))
        images += boxed["image_id"]
        labels += boxed["class_name"]
        readers += boxed.get("rad_id", [""] * len(boxed.lines))
    return boxes(located, tables[0], images, np.concatenate(sides), label=labels, reader=readers)
