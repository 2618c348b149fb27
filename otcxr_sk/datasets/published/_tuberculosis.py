"""The two tuberculosis sets of the National Library of Medicine: Shenzhen and Montgomery."""

import os
import re
from pathlib import Path
from typing import Any

import numpy as np

from otcxr_sk.datasets._radiographs import Radiographs
from otcxr_sk.datasets._tables import read_text, shown
from otcxr_sk.datasets.published._download import Download, files_below
from otcxr_sk.datasets.published._masks import LazyMasks, read_masks

_PAGE = "from the National Library of Medicine's page of Tuberculosis Chest X-ray Datasets"
SHENZHEN = f"Shenzhen Hospital CXR Set (ChinaSet_AllFiles), {_PAGE}"
MONTGOMERY = f"Montgomery County CXR Set (MontgomerySet), {_PAGE}"


def load_shenzhen(folder: str | os.PathLike[str]) -> Radiographs:
    """Read the Shenzhen set: 662 frontal radiographs, half of them with tuberculosis.

    Parameters
    ----------
    folder : path
        ``ChinaSet_AllFiles``, with ``CXR_png/CHNCXR_0001_0.png`` and so on, where the last digit
        is the label, and optionally ``ClinicalReadings/``. Lung masks are published elsewhere
        (Stirenko et al. 2018, Kaggle's shcxr-lung-mask): put their folder, ``mask`` or ``masks``,
        into this one.

    Returns
    -------
    data : Radiographs
        In the order of their names, with

        labels : shape (n, 1)
            tuberculosis.
        groups
            Patients, by the number in the name: one image each.
        split
            None.
        table
            `name`, and `reading`, the text of the clinical reading or "".
        lung_masks : LazyMasks of length n
            ``data.lung_masks[i]`` is bool of shape (height, width), both lungs; None if there is
            no mask.

    See Also
    --------
    load_montgomery : More radiographs with labels of the same kind.

    References
    ----------
    Jaeger et al., Quantitative Imaging in Medicine and Surgery 4(6), 475 (2014).
    """
    download = Download(folder, SHENZHEN)
    files = _files(download, "CHNCXR")
    masks: dict[str, str] = {}
    for name in ("mask", "masks"):
        if os.path.isdir(within := download.root / name):
            masks |= {
                file.stem.removesuffix("_mask"): str(file) for file in files_below(within, ".png")
            }
    known = [masks.get(file.stem) for file in files]
    return _collect(download, files, lung_masks=LazyMasks(read_masks, known))


def load_montgomery(folder: str | os.PathLike[str]) -> Radiographs:
    """Read the Montgomery set: 138 frontal radiographs with masks of both lungs.

    Parameters
    ----------
    folder : path
        ``MontgomerySet``, with ``CXR_png/MCUCXR_0001_0.png`` and so on, where the last digit is
        the label, ``ManualMask/leftMask/``, ``ManualMask/rightMask/`` and optionally
        ``ClinicalReadings/``.

    Returns
    -------
    data : Radiographs
        As from `load_shenzhen`, but with

        left_lung_masks, right_lung_masks, lung_masks : LazyMasks of length n
            The patient's left lung, the right one, and both: ``data.lung_masks[i]`` is bool of
            shape (height, width).

    References
    ----------
    Jaeger et al., Quantitative Imaging in Medicine and Surgery 4(6), 475 (2014).
    """
    download = Download(folder, MONTGOMERY)
    files = _files(download, "MCUCXR")
    sides = []
    for side in ("leftMask", "rightMask"):
        within = download.find(f"ManualMask/{side}")
        masks = [within / f"{file.stem}.png" for file in files]
        if absent := [mask for mask in masks if not os.path.isfile(mask)]:
            raise FileNotFoundError(f"{shown(absent[0])} does not exist; download {MONTGOMERY}")
        sides.append([str(mask) for mask in masks])
    left, right = sides
    return _collect(
        download,
        files,
        left_lung_masks=LazyMasks(read_masks, left),
        right_lung_masks=LazyMasks(read_masks, right),
        lung_masks=LazyMasks(read_masks, list(zip(left, right, strict=True))),
    )


def _files(download: Download, prefix: str) -> list[Path]:
    files = [
        file
        for file in files_below(download.find("CXR_png"), ".png")
        if re.fullmatch(rf"{prefix}_\d+_[01]", file.stem)
    ]
    if not files:
        raise download.lack(f"{prefix}_*.png")
    return files


def _collect(download: Download, files: list[Path], **masks: Any) -> Radiographs:
    names = [file.stem for file in files]
    texts = [download.root / "ClinicalReadings" / f"{name}.txt" for name in names]
    readings = [
        read_text(text, "replace").strip() if os.path.exists(text) else "" for text in texts
    ]
    _, patients, labels = zip(*(name.split("_") for name in names), strict=True)
    return Radiographs(
        paths=[str(file) for file in files],
        groups=patients,
        labels=np.array(labels, dtype=float)[:, None],
        label_names=["tuberculosis"],
        table={"name": names, "reading": readings},
        **masks,
    )
