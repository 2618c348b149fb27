"""VinDr-CXR, as on PhysioNet and as in Kaggle's VinBigData competition."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import Bunch

from ._published import (
    boxes,
    by_key,
    collect,
    files_below,
    find,
    locate,
    open_folder,
    warn_without_patients,
)
from ._tables import need, numbers, read_table

SOURCE = (
    "VinDr-CXR, from PhysioNet, or VinBigData Chest X-ray Abnormalities Detection, from Kaggle "
    "(vinbigdata-chest-xray-abnormalities-detection)"
)
_SUFFIXES = (".dicom", ".dcm", ".png", ".jpg", ".jpeg")
_NO_FINDING = "No finding"


class _Part(NamedTuple):
    """Pictures of one part of the split, in the order of its table, with what readers said."""

    names: list[str]
    votes: NDArray[np.float64]
    readers: NDArray[np.float64]


def load_vindr_cxr(folder: str | os.PathLike[str], *, missing: str = "raise") -> Bunch:
    """Read VinDr-CXR: 18,000 frontal radiographs that radiologists labelled and drew boxes in.

    Each picture for training was read by three radiologists, independently. A label is 1 where
    **more than half of its readers** gave it, else 0; `votes` has the share of readers, for other
    rules (``data.votes > 0`` is "any reader"). Five radiologists agreed on the pictures for test.

    Parameters
    ----------
    folder : path
        PhysioNet's, with ``annotations/`` (``image_labels_train.csv``, ``image_labels_test.csv``,
        ``annotations_train.csv``, ``annotations_test.csv``), ``train/`` and ``test/``; or
        Kaggle's, with ``train.csv``, ``train/`` and, optionally, ``test/``, without labels there.
        Pictures are DICOM, PNG or JPEG, called by `image_id`.
    missing : {"raise", "drop"}, default="raise"
        What to do about pictures that the tables name and the folder lacks: stop, or leave out
        their rows.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        X, paths : list of str
            Pictures.
        images : None
        labels : ndarray of float64, shape (n, 28) or (n, 15)
            0 or 1 by the rule above; NaN in Kaggle's test pictures.
        label_names : list of str
            As published, "No finding" the last one.
        votes : ndarray of float64, shape (n, 28) or (n, 15)
            Share of readers who gave the label, in [0, 1].
        groups : ndarray of str, shape (n,)
            Pictures, since patients are not published; a warning says so.
        split : ndarray of str, shape (n,)
            "train" or "test".
        table : dict of str to ndarray of object, shape (n,)
            `image_id`, and the number of `readers` as text: 1 for labels agreed on, 0 where
            none are published.
        boxes : dict of str to ndarray of shape (m,)
            `row` of the picture, `label`, `reader` ("" for those agreed on), and `x_min`,
            `y_min`, `x_max`, `y_max` in pixels of the original DICOM picture: scale them if
            yours are resized. Every reader's boxes are there, whatever the consensus.
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
        Always.

    References
    ----------
    Nguyen et al., VinDr-CXR, Scientific Data 9, 429 (2022).
    """
    root = open_folder(folder, SOURCE)
    kaggle = (root / "train.csv").exists()
    if kaggle:
        tables = {"train": root / "train.csv"}
        label_names, parts = _from_boxes(root)
    else:
        tables = {
            part: find(
                root, SOURCE, f"annotations/annotations_{part}.csv", f"annotations_{part}.csv"
            )
            for part in ("train", "test")
        }
        label_names, parts = _from_labels(root)
    files = {part: _pictures(root, part) for part in parts}
    names = [name for part in parts.values() for name in part.names]
    split = [part for part, found in parts.items() for _ in found.names]
    pictures = locate(
        names,
        [files[part].get(name) for part, name in zip(split, names, strict=True)],
        root,
        SOURCE,
        missing,
    )
    rows = pictures.rows
    votes = np.concatenate([part.votes for part in parts.values()])[rows]
    readers = np.concatenate([part.readers for part in parts.values()])[rows]
    names = [names[row] for row in rows]
    warn_without_patients("VinDr-CXR")
    return collect(
        pictures,
        np.where(np.isnan(votes), np.nan, votes > 0.5),
        label_names,
        names,
        [split[row] for row in rows],
        {"image_id": names, "readers": [f"{count:g}" for count in readers]},
        votes=votes,
        boxes=_boxes(tables, names, pictures.missing),
    )


def _pictures(root: Path, part: str) -> dict[str, str]:
    return by_key(files_below(find(root, SOURCE, part), *_SUFFIXES), lambda path: path.stem)


def _from_labels(root: Path) -> tuple[list[str], dict[str, _Part]]:
    """PhysioNet's tables: a row for every picture and reader, a column for every label."""
    label_names: list[str] = []
    parts = {}
    for part in ("train", "test"):
        name = f"image_labels_{part}.csv"
        file = find(root, SOURCE, f"annotations/{name}", name)
        table, lines = read_table(file)
        # The last but one is called so in one of the tables and otherwise in the other.
        if "Other disease" in table:
            table["Other diseases"] = table.pop("Other disease")
        images = need(table, "image_id", file)
        if not label_names:
            label_names = [key for key in table if key not in ("image_id", "rad_id", _NO_FINDING)]
            label_names.append(_NO_FINDING)
        given = np.stack([numbers(table, key, file, lines) for key in label_names], axis=1)
        names = list(dict.fromkeys(images))
        row_of = {image: row for row, image in enumerate(names)}
        rows = np.array([row_of[image] for image in images])
        readers = np.bincount(rows).astype(float)
        votes = np.zeros((len(names), len(label_names)))
        np.add.at(votes, rows, np.nan_to_num(given))
        parts[part] = _Part(names, votes / readers[:, None], readers)
    return label_names, parts


def _from_boxes(root: Path) -> tuple[list[str], dict[str, _Part]]:
    """Kaggle's table: a row for every box of a reader, or one where a reader found nothing."""
    file = root / "train.csv"
    table, lines = read_table(file)
    images, labels = need(table, "image_id", file), need(table, "class_name", file)
    order = dict(zip(numbers(table, "class_id", file, lines), labels, strict=True))
    label_names = [order[number] for number in sorted(order)]
    column = {label: i for i, label in enumerate(label_names)}
    if len(column) != len(label_names) or not set(labels) <= set(column):
        raise ValueError(f"{file}: class_id and class_name do not go together one to one")
    said: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for image, reader, label in zip(images, need(table, "rad_id", file), labels, strict=True):
        said[image][reader].add(label)
    votes = np.zeros((len(said), len(label_names)))
    for row, opinions in enumerate(said.values()):
        for found in opinions.values():
            votes[row, [column[label] for label in found]] += 1
    readers = np.array([len(opinions) for opinions in said.values()], dtype=float)
    parts = {"train": _Part(list(said), votes / readers[:, None], readers)}
    if (root / "test").is_dir():
        names = sorted(_pictures(root, "test"))
        unknown = np.full((len(names), len(label_names)), np.nan)
        parts["test"] = _Part(names, unknown, np.zeros(len(names)))
    return label_names, parts


def _boxes(
    tables: dict[str, Path], names: list[str], missing: list[str]
) -> dict[str, NDArray[np.generic]]:
    images: list[str] = []
    labels: list[str] = []
    readers: list[str] = []
    corners = []
    for file in tables.values():
        table, lines = read_table(file)
        sides = [numbers(table, side, file, lines) for side in ("x_min", "y_min", "x_max", "y_max")]
        found = np.stack(sides, axis=1)
        drawn = np.flatnonzero(~np.isnan(found).any(axis=1))
        corners.append(found[drawn])
        images += [need(table, "image_id", file)[row] for row in drawn]
        labels += [need(table, "class_name", file)[row] for row in drawn]
        readers += [table["rad_id"][row] if "rad_id" in table else "" for row in drawn]
    row_of = {name: row for row, name in enumerate(names)}
    file = tables["train"]
    return boxes(
        row_of, images, np.concatenate(corners), missing, file, label=labels, reader=readers
    )
