"""ChestMNIST and PneumoniaMNIST, downloaded."""

import hashlib
import os
import shutil
import zipfile
import zlib
from contextlib import ExitStack
from functools import partial
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
from numpy.lib import format as npy
from tqdm.auto import tqdm

from otcxr_sk._files import replacing
from otcxr_sk._paths import as_path
from otcxr_sk.datasets._radiographs import Radiographs
from otcxr_sk.datasets.published._collect import warn_no_patients
from otcxr_sk.datasets.published._nih import FINDINGS

_URL = "https://zenodo.org/records/10519652/files/"
_LABELS = {"chestmnist": FINDINGS, "pneumoniamnist": ("pneumonia",)}
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
    """Return the folder that data sets are downloaded to, and create it if it does not exist.

    Parameters
    ----------
    data_home : path, optional
        By default, the environment variable ``OTCXR_SK_DATA``, or else ``~/otcxr_sk_data``.

    Returns
    -------
    pathlib.Path
    """
    chosen = data_home or os.environ.get("OTCXR_SK_DATA") or Path("~", "otcxr_sk_data")
    path = Path(as_path(chosen))
    path.mkdir(parents=True, exist_ok=True)
    return path


def fetch_medmnist(
    name: str, *, size: int = 28, data_home: str | os.PathLike[str] | None = None
) -> Radiographs:
    """Download ChestMNIST or PneumoniaMNIST, or load them from the cache.

    An interrupted download is resumed, and the file is verified on every call: by its published
    MD5, or where the machine forbids MD5 (FIPS), by the checksums within the file. Needs the extra
    `data`.

    Neither comes with patients. ChestMNIST was made from NIH ChestX-ray14, where many patients
    have several images, with a split other than the NIH's. PneumoniaMNIST was made from Kermany's
    set, whose training images were divided into "train" and "valid". For results to rely on, use
    `load_nih` and `load_kermany`, whose splits can be checked.

    Parameters
    ----------
    name : {"chestmnist", "pneumoniamnist"}
        112,120 images with 14 findings, or 5,856 images of children with or without pneumonia.
    size : {28, 64, 128, 224}, default=28
        Height and width in pixels.
    data_home : path, optional
        See `get_data_home`.

    Returns
    -------
    data : Radiographs
        Images instead of paths, with

        images : memmap of uint8, shape (n, size, size)
            Mapped from the cache.
        labels : shape (n, 14) or (n, 1)
            The findings of NIH ChestX-ray14, or pneumonia.
        groups
            Row numbers, since no patients are published.
        split
            "train", "valid" or "test".
        table
            Empty.

    Raises
    ------
    ImportError
        If pooch is not installed.
    OSError
        If the download fails; the message says how to do it by hand.
    ValueError
        If the name or size is unknown, or the checksum of the download is wrong.

    Warns
    -----
    PatientsUnknownWarning
        Always.

    See Also
    --------
    load_nih, load_kermany : The originals, with patients.

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
    warn_no_patients({"chestmnist": "ChestMNIST", "pneumoniamnist": "PneumoniaMNIST"}[name])
    return Radiographs(
        images=images,
        labels=np.concatenate(labels).astype(float),
        label_names=_LABELS[name],
        groups=np.arange(len(images)),
        split=np.repeat(list(_SPLIT.values()), [len(part) for part in labels]),
    )


def _retrieve(file: str, md5: str, folder: Path) -> Path:
    if find_spec("pooch") is None:
        raise ImportError('downloads need pooch: pip install "otcxr-sk[data]"')
    import pooch

    url = _URL + file
    download = partial(_download, part=folder / f"{file}.part")
    known = f"md5:{md5}" if _allows_md5() else None
    try:
        path = Path(pooch.retrieve(url, known, fname=file, path=folder, downloader=download))
    except (OSError, HTTPException) as error:
        code = (
            f"the server answers {error.code}" if isinstance(error, HTTPError) else "it broke off"
        )
        raise OSError(
            f"cannot download {url} ({code}); call again to resume, or download it by hand to "
            f"{folder / file}"
        ) from error
    if known is None and not _is_whole(path):
        path.unlink()
        raise ValueError(f"{path} was damaged, and is removed; call again to download it anew")
    return path


def _allows_md5() -> bool:
    try:
        hashlib.md5()
    except (AttributeError, ValueError):
        return False
    return True


def _is_whole(archive: Path) -> bool:
    try:
        with zipfile.ZipFile(archive) as members:
            return members.testzip() is None
    except (zipfile.BadZipFile, zlib.error, EOFError):
        return False


def _download(url: str, output: str, _: Any, *, part: Path) -> None:
    """Download to `part`, which remains if the connection breaks and is appended to next time."""
    done = part.stat().st_size if part.exists() else 0
    request = Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        answer = urlopen(request, timeout=60)
    except HTTPError as error:
        # No bytes are left: the download was complete, but stopped before it was verified.
        if error.code != 416:
            raise
        error.close()
    else:
        with answer:
            resumed = answer.status == 206
            total = int(answer.headers.get("Content-Length") or 0) + done * resumed
            with (
                open(part, "ab" if resumed else "wb") as file,
                tqdm.wrapattr(
                    answer, "read", total=total, initial=file.tell(), desc=part.stem, disable=None
                ) as stream,
            ):
                shutil.copyfileobj(stream, file, 2**20)
        if part.stat().st_size < total:
            raise ConnectionError(f"{part.stat().st_size} of {total} bytes received")
    shutil.move(part, output)


def _unpack(archive: Path, size: int, out: Path) -> None:
    """Write the images of all parts to one NPY file, a megabyte at a time."""
    with ExitStack() as stack:
        members = stack.enter_context(zipfile.ZipFile(archive))
        streams = [stack.enter_context(members.open(f"{part}_images.npy")) for part in _SPLIT]
        total = 0
        for stream in streams:
            npy.read_magic(stream)
            shape, fortran, dtype = npy.read_array_header_1_0(stream)
            if fortran or dtype != np.uint8 or shape[1:] != (size, size):
                raise ValueError(f"{archive} holds {dtype} {shape}, not uint8 (n, {size}, {size})")
            total += shape[0]
        file = stack.enter_context(replacing(out))
        described = {"descr": "|u1", "fortran_order": False, "shape": (total, size, size)}
        npy.write_array_header_1_0(file, described)
        for stream in streams:
            shutil.copyfileobj(stream, file, 2**20)
