"""SIIM-ACR Pneumothorax Segmentation (2019)."""

import os
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from otcxr_sk._quote import quoted
from otcxr_sk.datasets._radiographs import Radiographs
from otcxr_sk.datasets._tables import read_table
from otcxr_sk.datasets.published._collect import collect
from otcxr_sk.datasets.published._download import Download, Located, images_below
from otcxr_sk.datasets.published._masks import LazyMasks, Mask
from otcxr_sk.images import ImageReadError, Unusable, read_dicom_texts, require_usable

SOURCE = (
    "SIIM-ACR Pneumothorax Segmentation, from Kaggle (siim-acr-pneumothorax-segmentation) or "
    "SIIM's page of the challenge"
)
_HEADER = ("PatientID", "PatientSex", "PatientAge", "ViewPosition", "Rows", "Columns")
_NONE = "-1"
_NUMBER = re.compile(r"\d{1,9}", re.ASCII)
# How often the masks of an image may cover all of it.
_MOST_OVERLAPS = 8
_TRAIN = "dicom-images-train"


class _Runs(NamedTuple):
    """Description of a mask: its image, run-length codes, and (height, width) in pixels."""

    name: str
    encoded: tuple[str, ...]
    shape: tuple[int, int]


def load_siim_pneumothorax(
    folder: str | os.PathLike[str], *, missing: str = "raise"
) -> Radiographs:
    """Read SIIM-ACR Pneumothorax: 12,000 frontal radiographs with masks of the pneumothorax.

    The images are from NIH ChestX-ray14, but which is which is not published. Patients are those
    of the DICOM headers; de-identification may have given each image its own. Run
    `find_near_duplicates` before you trust a split.

    Parameters
    ----------
    folder : path
        Folder with ``train-rle.csv`` (or ``stage_2_train.csv``), ``dicom-images-train/`` and
        optionally ``dicom-images-test/``, with the DICOM files at any depth.
    missing : {"raise", "drop"}, default="raise"
        Whether images that a table names but the folder lacks, or whose file cannot be read, raise
        an error or are left out.

    Returns
    -------
    data : Radiographs
        DICOM files, those in the table first, with

        labels : shape (n, 1)
            pneumothorax: 1 with a mask, 0 without; NaN for images that the table does not name.
        groups
            Patient ID of the header.
        split
            "train" for images that the table names or ``dicom-images-train`` contains, else "test".
        table
            `ImageId` and, from the header, `PatientID`, `PatientSex`, `PatientAge`,
            `ViewPosition`, `Rows`, `Columns`.
        lesion_masks : LazyMasks of length n
            ``data.lesion_masks[i]`` is bool of shape (1, height, width), empty where the label is
            0 and None where it is unknown. Several masks of an image are joined.

    Raises
    ------
    ImageReadError
        If files are not DICOM files. The message names up to 20.
    ValueError
        On decoding, if a mask does not fit its image.

    See Also
    --------
    load_nih : The source of the images.
    check_leakage : Check that a split keeps patients apart.
    find_near_duplicates : Find images that appear more than once.
    """
    download = Download(folder, SOURCE)
    table = read_table(download.find("train-rle.csv", "stage_2_train.csv"))
    runs: dict[str, list[str]] = {}
    for name, encoded in zip(table["ImageId"], table["EncodedPixels"], strict=True):
        runs.setdefault(name, []).append(encoded)
    found = images_below(download.root, ".dcm")
    if not found:
        raise download.lack("DICOM files")
    in_train = {
        name: name in runs or _TRAIN in Path(path).relative_to(download.root).parts
        for name, path in found.items()
    }
    others = [name for name in found if name not in runs]
    names = [*runs, *sorted(others, key=lambda name: not in_train[name])]
    located = download.locate(names, map(found.get, names), missing)
    headers: list[list[str]] = []
    kept: list[int] = []
    problems: list[Unusable] = []
    for row, path in enumerate(located.paths):
        try:
            headers.append(_header(path))
            kept.append(row)
        except ImageReadError as error:
            problems.append(Unusable(row, path, error))
    if missing == "raise" or not headers:
        require_usable(problems, len(located.paths))
    names = [located.names[row] for row in kept]
    columns = {key: [one[place] for one in headers] for place, key in enumerate(_HEADER)}
    shapes = zip(map(int, columns["Rows"]), map(int, columns["Columns"]), strict=True)
    known = [
        _Runs(name, tuple(runs[name]), shape) if name in runs else None
        for name, shape in zip(names, shapes, strict=True)
    ]
    labels = [
        any(code != _NONE for code in runs[name]) if name in runs else np.nan for name in names
    ]
    return collect(
        # What follows is of these images only.
        Located(
            paths=[located.paths[row] for row in kept],
            names=names,
            rows=list(range(len(names))),
            missing=[*located.missing, *(located.names[problem.row] for problem in problems)],
        ),
        columns["PatientID"],
        labels=np.array(labels, dtype=float)[:, None],
        label_names=["pneumothorax"],
        split=["train" if in_train[name] else "test" for name in names],
        table={"ImageId": names, **columns},
        lesion_masks=LazyMasks(_decode, known),
    )


def _header(path: str) -> list[str]:
    values = read_dicom_texts(path, _HEADER)
    rows, columns = values[-2:]
    most = Image.MAX_IMAGE_PIXELS
    if (
        not (_NUMBER.fullmatch(rows) and _NUMBER.fullmatch(columns))
        or not int(rows) * int(columns)
        or (most is not None and int(rows) * int(columns) > most)
    ):
        raise ImageReadError(
            f"cannot read {path!r}: its header has no number of rows or columns, or one that is no "
            "image's; replace it with an intact copy or leave it out"
        )
    return values


def _decode(runs: _Runs) -> Mask:
    """Decode runs down the columns, each given by its distance from the end of the last one."""
    height, width = runs.shape
    mask = np.zeros(height * width, dtype=bool)
    painted = 0
    for encoded in runs.encoded:
        if encoded == _NONE:
            continue
        texts = encoded.split()
        if not texts or len(texts) % 2 or not all(map(_NUMBER.fullmatch, texts)):
            raise ValueError(
                f"the mask of {quoted(runs.name)} is not a list of distances and lengths"
            )
        numbers = np.array([int(text) for text in texts], dtype=np.int64)
        stops = numbers.cumsum()[1::2]
        if stops[-1] > len(mask):
            raise ValueError(
                f"the mask of {quoted(runs.name)} ends at pixel {stops[-1]}, but the image has "
                f"{height} x {width}"
            )
        painted += int(numbers[1::2].sum())
        if painted > _MOST_OVERLAPS * len(mask):
            raise ValueError(f"the masks of {quoted(runs.name)} are more than its image can have")
        for stop, length in zip(stops, numbers[1::2], strict=True):
            mask[stop - length : stop] = True
    return mask.reshape(width, height).T[None]
