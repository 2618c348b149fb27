"""SIIM-ACR Pneumothorax Segmentation (2019)."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
from sklearn.utils import Bunch

from otcxr_sk.images import ImageReadError

from ._masks import LazyMasks, Mask
from ._published import by_key, collect, files_below, find, locate, open_folder
from ._tables import need, read_table

SOURCE = (
    "SIIM-ACR Pneumothorax Segmentation, from Kaggle (siim-acr-pneumothorax-segmentation) or "
    "SIIM's page of the challenge"
)
_HEADER = ("PatientID", "PatientSex", "PatientAge", "ViewPosition", "Rows", "Columns")
_NONE = "-1"
_TRAIN = "dicom-images-train"


class _Runs(NamedTuple):
    """What a mask is made of."""

    name: str
    encoded: tuple[str, ...]
    shape: tuple[int, int]


def load_siim_pneumothorax(folder: str | os.PathLike[str], *, missing: str = "raise") -> Bunch:
    """Read SIIM-ACR Pneumothorax: 12,000 frontal radiographs with masks of the pneumothorax.

    The pictures are from NIH ChestX-ray14; which is which is not published. Patients are those
    of the DICOM headers, which de-identification may have made one for each picture: run
    `find_near_duplicates` before trusting a split.

    Parameters
    ----------
    folder : path
        With ``train-rle.csv`` (or ``stage_2_train.csv``) and ``dicom-images-train/``, optionally
        ``dicom-images-test/``, whatever folders the DICOM files are nested in.
    missing : {"raise", "drop"}, default="raise"
        What to do about pictures that the table names and the folder lacks: stop, or leave out
        their rows.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        X, paths : list of str
            Pictures, DICOM.
        images : None
        labels : ndarray of float64, shape (n, 1)
            1 with a mask, 0 without; NaN for pictures that the table does not name.
        label_names : list of str
            pneumothorax.
        groups : ndarray of str, shape (n,)
            Patient ID of the header.
        split : ndarray of str, shape (n,)
            "train" for what the table names or ``dicom-images-train`` holds, else "test".
        table : dict of str to ndarray of object, shape (n,)
            `ImageId` and, from the header, `PatientID`, `PatientSex`, `PatientAge`,
            `ViewPosition`, `Rows`, `Columns`, as text.
        lesion_masks : LazyMasks of n
            ``data.lesion_masks[i]`` is bool of shape (1, rows, columns), empty where the label is
            0 and None where it is unknown. Several masks of a picture are joined.
        missing : list of str
            Pictures that were left out.

    Raises
    ------
    FileNotFoundError
        If something is missing; the message says what to download.
    ImageReadError
        If a file is no DICOM.
    ValueError
        If a table is not as published, or, on decoding, if a mask leaves its picture.
    """
    root = open_folder(folder, SOURCE)
    file = find(root, SOURCE, "train-rle.csv", "stage_2_train.csv")
    table, _ = read_table(file)
    runs: dict[str, list[str]] = {}
    for name, encoded in zip(
        need(table, "ImageId", file), need(table, "EncodedPixels", file), strict=True
    ):
        runs.setdefault(name, []).append(encoded)
    found = by_key(files_below(root, ".dcm"), lambda path: path.stem)
    if not found:
        raise FileNotFoundError(f"{root} has no DICOM files; download them: {SOURCE}")
    others = [name for name in found if name not in runs]
    in_train = {name: _TRAIN in Path(found[name]).relative_to(root).parts for name in others}
    names = [*runs, *sorted(others, key=lambda name: not in_train[name])]
    pictures = locate(names, map(found.get, names), root, SOURCE, missing)
    names = [names[row] for row in pictures.rows]
    headers = [_header(path) for path in pictures.paths]
    columns = {key: [header[i] for header in headers] for i, key in enumerate(_HEADER)}
    known = [
        None if name not in runs else _Runs(name, tuple(runs[name]), (int(rows), int(columns_)))
        for name, rows, columns_ in zip(names, columns["Rows"], columns["Columns"], strict=True)
    ]
    labels = [
        np.nan if one is None else any(encoded != _NONE for encoded in one.encoded) for one in known
    ]
    return collect(
        pictures,
        np.array(labels, dtype=float)[:, None],
        ["pneumothorax"],
        columns["PatientID"],
        ["train" if in_train.get(name, True) else "test" for name in names],
        {"ImageId": names, **columns},
        lesion_masks=LazyMasks(_decode, known),
    )


def _header(path: str) -> list[str]:
    try:
        with warnings.catch_warnings():
            # The ages are not as the standard has them.
            warnings.simplefilter("ignore")
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_HEADER))
            values = [str(header.get(key, "") or "").strip() for key in _HEADER]
        int(values[-1]), int(values[-2])
    # pydicom meets a damaged file with errors of every type.
    except Exception as error:
        raise ImageReadError(
            f"cannot read the header of {path!r} ({error}); replace it with an intact copy"
        ) from error
    return values


def _decode(runs: _Runs) -> Mask:
    """Mask of runs down the columns, each given by its distance from the last one's end."""
    height, width = runs.shape
    mask = np.zeros(height * width, dtype=bool)
    for encoded in runs.encoded:
        if encoded == _NONE:
            continue
        try:
            numbers = np.array(encoded.split(), dtype=np.int64)
        except (ValueError, OverflowError):
            numbers = np.array([-1])
        if not len(numbers) or len(numbers) % 2 or numbers.min() < 0:
            raise ValueError(f"the mask of {runs.name} is not pairs of distance and length")
        stops = numbers.cumsum()[1::2]
        if stops[-1] > len(mask):
            raise ValueError(
                f"the mask of {runs.name} ends at pixel {stops[-1]} of a picture of "
                f"{height} x {width}"
            )
        for stop, length in zip(stops, numbers[1::2], strict=True):
            mask[stop - length : stop] = True
    return mask.reshape(width, height).T[None]
