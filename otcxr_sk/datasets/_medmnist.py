"""ChestMNIST and PneumoniaMNIST, downloaded."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from functools import partial
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
from numpy.lib import format as npy
from sklearn.utils import Bunch
from tqdm.auto import tqdm

from ._nih import FINDINGS
from ._published import warn_without_patients

_URL = "https://zenodo.org/records/10519652/files/"
_LABELS = {"chestmnist": list(FINDINGS), "pneumoniamnist": ["pneumonia"]}
# From the table of the medmnist package, 3.0.2.
_MD5 = {
    "chestmnist": {
        28: "02c8a6516a18b556561a56cbdd36c4a8",
        64: "9de6cd0b934ebb5b7426cfba5efbae16",
        128: "db107e5590b27930b62dbaf558aebee3",
        224: "45bd33e6f06c3e8cdb481c74a89152aa",
    },
    "pneumoniamnist": {
        28: "28209eda62fecd6e6a2d98b1501bb15f",
        64: "8f4eceb4ccffa70c672198ea285246c6",
        128: "05b46931834c231683c68f40c47b2971",
        224: "d6a3c71de1b945ea11211b03746c1fe1",
    },
}
_SPLIT = {"train": "train", "val": "valid", "test": "test"}


def get_data_home(data_home: str | os.PathLike[str] | None = None) -> Path:
    """Folder that data sets are downloaded to; it is made if need be.

    Parameters
    ----------
    data_home : path, optional
        By default the environment variable ``OTCXR_SK_DATA``, or else ``~/otcxr_sk_data``.

    Returns
    -------
    pathlib.Path
    """
    chosen = data_home or os.environ.get("OTCXR_SK_DATA") or Path("~", "otcxr_sk_data")
    path = Path(chosen).expanduser()
    path.mkdir(parents=True, exist_ok=True)
    return path


def fetch_medmnist(
    name: str, *, size: int = 28, data_home: str | os.PathLike[str] | None = None
) -> Bunch:
    """Download ChestMNIST or PneumoniaMNIST, or take them from the cache.

    A download that was cut short goes on where it stopped, and what is downloaded is compared
    with its checksum, each time. Needs the extra `data`.

    No patients are published: ChestMNIST is made of NIH ChestX-ray14, where many patients have
    several pictures, by a split that is not the NIH's; PneumoniaMNIST of Kermany's set, whose
    pictures for training were parted into "train" and "valid". Prefer `load_nih` and
    `load_kermany`, whose splits can be checked, for any figure that is to be believed.

    Parameters
    ----------
    name : {"chestmnist", "pneumoniamnist"}
        112,120 pictures and 14 findings, or 5,856 pictures of children and pneumonia.
    size : {28, 64, 128, 224}, default=28
        Height and width in pixels.
    data_home : path, optional
        As for `get_data_home`.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        X, images : memmap of uint8, shape (n, size, size)
            Pictures, mapped from the cache.
        paths : None
        labels : ndarray of float64, shape (n, 14) or (n, 1)
            0 or 1.
        label_names : list of str
            As of NIH ChestX-ray14; or pneumonia.
        groups : ndarray of intp, shape (n,)
            Each picture is one of its own, since patients are not published; a warning says so.
        split : ndarray of str, shape (n,)
            "train", "valid" or "test".
        table : dict
            Empty.
        missing : list of str
            Empty.

    Raises
    ------
    ImportError
        Without pooch; the message names the extra.
    OSError
        If the download fails; the message says how to do it by hand.
    ValueError
        If there is no such set or size, or the download does not have the checksum.

    Warns
    -----
    PatientsUnknownWarning
        Always.

    References
    ----------
    Yang et al., MedMNIST v2, Scientific Data 10, 41 (2023). CC BY 4.0.
    """
    if name not in _MD5:
        raise ValueError(f"name must be one of {', '.join(map(repr, _MD5))}, got {name!r}")
    if size not in _MD5[name]:
        raise ValueError(f"size must be one of {', '.join(map(str, _MD5[name]))}, got {size!r}")
    folder = get_data_home(data_home) / "medmnist"
    md5 = _MD5[name][size]
    archive = _retrieve(f"{name}.npz" if size == 28 else f"{name}_{size}.npz", md5, folder)
    unpacked = archive.with_name(f"{archive.stem}-{md5[:8]}.npy")
    if not unpacked.exists():
        _unpack(archive, size, unpacked)
    images = np.load(unpacked, mmap_mode="r", allow_pickle=False)
    with np.load(archive, allow_pickle=False) as stored:
        labels = [stored[f"{part}_labels"] for part in _SPLIT]
    warn_without_patients({"chestmnist": "ChestMNIST", "pneumoniamnist": "PneumoniaMNIST"}[name])
    return Bunch(
        X=images,
        images=images,
        paths=None,
        labels=np.concatenate(labels).astype(float),
        label_names=_LABELS[name].copy(),
        groups=np.arange(len(images)),
        split=np.repeat(list(_SPLIT.values()), [len(part) for part in labels]),
        table={},
        missing=[],
    )


def _retrieve(file: str, md5: str, folder: Path) -> Path:
    if find_spec("pooch") is None:
        raise ImportError('downloads need pooch: pip install "otcxr-sk[data]"')
    import pooch

    url = _URL + file
    download = partial(_download, part=folder / f"{file}.part")
    try:
        return Path(pooch.retrieve(url, f"md5:{md5}", fname=file, path=folder, downloader=download))
    except (OSError, HTTPException) as error:
        raise OSError(
            f"cannot download {url} ({error}); call again to go on where it stopped, or download "
            f"it by hand to {folder / file}"
        ) from error


def _download(url: str, output: str, _: Any, *, part: Path) -> None:
    """Download by way of a file that stays if the connection breaks, and is appended to."""
    done = part.stat().st_size if part.exists() else 0
    request = Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        answer = urlopen(request, timeout=60)
    except HTTPError as error:
        # Nothing is left to ask for: the download was whole, and stopped before it was checked.
        if error.code != 416:
            raise
        error.close()
    else:
        with answer:
            goes_on = answer.status == 206
            expected = int(answer.headers.get("Content-Length") or 0) + done * goes_on
            with (
                open(part, "ab" if goes_on else "wb") as file,
                tqdm.wrapattr(
                    answer,
                    "read",
                    total=expected,
                    initial=file.tell(),
                    desc=part.stem,
                    disable=None,
                ) as stream,
            ):
                shutil.copyfileobj(stream, file, 2**20)
        if part.stat().st_size < expected:
            raise ConnectionError(f"{part.stat().st_size} of {expected} bytes came")
    shutil.move(part, output)


def _unpack(archive: Path, size: int, out: Path) -> None:
    """Write the pictures of all parts to one NPY file, a megabyte at a time."""
    with zipfile.ZipFile(archive) as members:
        headers = []
        for part in _SPLIT:
            with members.open(f"{part}_images.npy") as stream:
                headers.append(_read_header(stream))
        for shape, fortran, dtype in headers:
            if fortran or dtype != np.uint8 or shape[1:] != (size, size):
                raise ValueError(f"{archive} holds {dtype} {shape}, not uint8 (n, {size}, {size})")
        handle, scratch = tempfile.mkstemp(dir=out.parent, suffix=".npy")
        try:
            with os.fdopen(handle, "wb") as file:
                total = sum(shape[0] for shape, _, _ in headers)
                described = {"descr": "|u1", "fortran_order": False, "shape": (total, size, size)}
                npy.write_array_header_1_0(file, described)
                for part in _SPLIT:
                    with members.open(f"{part}_images.npy") as stream:
                        _read_header(stream)
                        shutil.copyfileobj(stream, file, 2**20)
            os.replace(scratch, out)
        except BaseException:
            os.unlink(scratch)
            raise


def _read_header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    readers: dict[tuple[int, int], Callable[[Any], Any]] = {
        (1, 0): npy.read_array_header_1_0,
        (2, 0): npy.read_array_header_2_0,
    }
    return readers[npy.read_magic(stream)](stream)
