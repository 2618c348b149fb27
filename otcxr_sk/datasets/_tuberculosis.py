"""The two tuberculosis sets of the National Library of Medicine: Shenzhen and Montgomery."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.utils import Bunch

from ._masks import LazyMasks, read_masks
from ._published import Pictures, collect, files_below, find, open_folder

_PAGE = "from the National Library of Medicine's page of Tuberculosis Chest X-ray Datasets"
SHENZHEN = f"Shenzhen Hospital CXR Set (ChinaSet_AllFiles), {_PAGE}"
MONTGOMERY = f"Montgomery County CXR Set (MontgomerySet), {_PAGE}"


def load_shenzhen(folder: str | os.PathLike[str]) -> Bunch:
    """Read the Shenzhen set: 662 frontal radiographs, half of them with tuberculosis.

    Parameters
    ----------
    folder : path
        ``ChinaSet_AllFiles``, with ``CXR_png/CHNCXR_0001_0.png`` and so on, whose last digit is
        the label, and optionally ``ClinicalReadings/``. Lung masks are published elsewhere
        (Stirenko et al. 2018, Kaggle's shcxr-lung-mask): put their folder, ``mask`` or ``masks``,
        into this one.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        X, paths : list of str
            Pictures, in the order of their names.
        images : None
        labels : ndarray of float64, shape (n, 1)
            1 with tuberculosis.
        label_names : list of str
            tuberculosis.
        groups : ndarray of str, shape (n,)
            Patients, by the number in the name: one picture of each.
        split : None
            None is published.
        table : dict of str to ndarray of object, shape (n,)
            `name`, and `reading`, the text of the clinical reading or "".
        lung_masks : LazyMasks of n
            ``data.lung_masks[i]`` is bool of shape (rows, columns), both lungs; None without one.
        missing : list of str
            Empty.

    Raises
    ------
    FileNotFoundError
        If something is missing; the message says what to download.

    References
    ----------
    Jaeger et al., Quantitative Imaging in Medicine and Surgery 4(6), 475 (2014).
    """
    root = open_folder(folder, SHENZHEN)
    pictures, columns = _read(root, SHENZHEN, "CHNCXR")
    masks: dict[str, Path] = {}
    for name in ("mask", "masks"):
        if (root / name).is_dir():
            masks |= {
                file.stem.removesuffix("_mask"): file for file in files_below(root / name, ".png")
            }
    known = [str(masks[name]) if name in masks else None for name in columns["name"]]
    return _collect(pictures, columns, lung_masks=LazyMasks(read_masks, known))


def load_montgomery(folder: str | os.PathLike[str]) -> Bunch:
    """Read the Montgomery set: 138 frontal radiographs with masks of both lungs.

    Parameters
    ----------
    folder : path
        ``MontgomerySet``, with ``CXR_png/MCUCXR_0001_0.png`` and so on, whose last digit is the
        label, ``ManualMask/leftMask/``, ``ManualMask/rightMask/`` and optionally
        ``ClinicalReadings/``.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        X, paths : list of str
            Pictures, in the order of their names.
        images : None
        labels : ndarray of float64, shape (n, 1)
            1 with tuberculosis.
        label_names : list of str
            tuberculosis.
        groups : ndarray of str, shape (n,)
            Patients, by the number in the name: one picture of each.
        split : None
            None is published.
        table : dict of str to ndarray of object, shape (n,)
            `name`, and `reading`, the text of the clinical reading or "".
        left_lung_masks, right_lung_masks, lung_masks : LazyMasks of n
            The patient's left lung, the right one, and both: ``data.lung_masks[i]`` is bool of
            shape (rows, columns).
        missing : list of str
            Empty.

    Raises
    ------
    FileNotFoundError
        If something is missing; the message says what to download.

    References
    ----------
    Jaeger et al., Quantitative Imaging in Medicine and Surgery 4(6), 475 (2014).
    """
    root = open_folder(folder, MONTGOMERY)
    pictures, columns = _read(root, MONTGOMERY, "MCUCXR")
    sides = []
    for side in ("leftMask", "rightMask"):
        masks = find(root, MONTGOMERY, f"ManualMask/{side}")
        files = [masks / f"{name}.png" for name in columns["name"]]
        if absent := [file for file in files if not file.is_file()]:
            raise FileNotFoundError(f"{absent[0]} does not exist; download it: {MONTGOMERY}")
        sides.append([str(file) for file in files])
    left, right = sides
    return _collect(
        pictures,
        columns,
        left_lung_masks=LazyMasks(read_masks, left),
        right_lung_masks=LazyMasks(read_masks, right),
        lung_masks=LazyMasks(read_masks, list(zip(left, right, strict=True))),
    )


def _read(root: Path, source: str, prefix: str) -> tuple[Pictures, dict[str, list[str]]]:
    files = [
        file
        for file in files_below(find(root, source, "CXR_png"), ".png")
        if re.fullmatch(rf"{prefix}_\d+_[01]", file.stem)
    ]
    if not files:
        raise FileNotFoundError(f"{root} has no {prefix}_*.png; download them: {source}")
    texts = [root / "ClinicalReadings" / f"{file.stem}.txt" for file in files]
    readings = [
        text.read_text(encoding="utf-8", errors="replace").strip() if text.is_file() else ""
        for text in texts
    ]
    pictures = Pictures(list(range(len(files))), [str(file) for file in files], [])
    return pictures, {"name": [file.stem for file in files], "reading": readings}


def _collect(pictures: Pictures, columns: dict[str, list[str]], **masks: Sequence[Any]) -> Bunch:
    parts = [name.split("_") for name in columns["name"]]
    labels = np.array([[float(label)] for _, _, label in parts])
    groups = [number for _, number, _ in parts]
    return collect(pictures, labels, ["tuberculosis"], groups, None, columns, **masks)
