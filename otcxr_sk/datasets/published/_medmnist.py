"""ChestMNIST and PneumoniaMNIST, downloaded."""

import errno
import os
import zlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from otcxr_sk._files import create_folder, is_own, open_file, remove_leftovers, replacing
from otcxr_sk._paths import as_path, reason
from otcxr_sk.datasets._npz import Npz
from otcxr_sk.datasets._radiographs import Radiographs
from otcxr_sk.datasets._tables import shown
from otcxr_sk.datasets.published._collect import warn_no_patients
from otcxr_sk.datasets.published._fetch import fetch
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
_FOLDER = "medmnist"
_SPLIT = {"train": "train", "val": "valid", "test": "test"}
# More images than either set has, and bytes of their labels.
_MOST_IMAGES, _MOST_LABELS = 2**17, 2**24


def get_data_home(data_home: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder that data sets are downloaded to, and create it if it does not exist.

    It is created for this user alone.

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
    _create(path)
    return path


def fetch_medmnist(
    name: str, *, size: int = 28, data_home: str | os.PathLike[str] | None = None
) -> Radiographs:
    """Download ChestMNIST or PneumoniaMNIST, or load them from the cache.

    An interrupted download is resumed. On every call, the file is verified by its published MD5,
    and what was unpacked from it by the checksums in the file.

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
    OSError
        If the download fails, or another process is at it; the message says what to do.
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
    folder = get_data_home(data_home) / _FOLDER
    _create(folder)
    remove_leftovers(folder)
    file = folder / (f"{name}.npz" if size == 28 else f"{name}_{size}.npz")
    md5 = _MD5[name][size]
    with fetch(_URL + file.name, file, md5, _MOST_LABELS + _MOST_IMAGES * size**2) as opened:
        archive = Npz(opened, shown(file))
        if lacking := [one for one in _members() if one not in archive.names]:
            raise ValueError(f"{shown(file)} has no array {lacking[0]!r}")
        images = _map(archive, file, size, file.with_name(f"{file.stem}-{md5[:8]}.npy"))
        labels = [archive.read(f"{part}_labels", _MOST_LABELS) for part in _SPLIT]
        for part, found in zip(_SPLIT, labels, strict=True):
            shape = (archive.header(f"{part}_images").shape[0], len(_LABELS[name]))
            if found.shape != shape or found.dtype.kind not in "biu":
                raise ValueError(
                    f"{shown(file)} holds {part}_labels of {found.dtype} {found.shape}, not whole "
                    f"numbers {shape}"
                )
    warn_no_patients({"chestmnist": "ChestMNIST", "pneumoniamnist": "PneumoniaMNIST"}[name])
    return Radiographs(
        images=images,
        labels=np.concatenate(labels).astype(float),
        label_names=_LABELS[name],
        groups=np.arange(len(images)),
        split=np.repeat(list(_SPLIT.values()), [len(part) for part in labels]),
    )


def _members() -> list[str]:
    return [f"{part}_{what}" for part in _SPLIT for what in ("images", "labels")]


def _create(folder: Path) -> None:
    try:
        create_folder(folder)
        if folder.is_symlink() and folder.name == _FOLDER:
            raise OSError(errno.ELOOP, "it is a link")
    except OSError as error:
        raise OSError(
            f"cannot create {shown(folder)}: {reason(error)}; pass another data_home, or set "
            "OTCXR_SK_DATA"
        ) from error


def _map(archive: Npz, file: Path, size: int, unpacked: Path) -> NDArray[np.uint8]:
    """Map the images of all parts from one NPY file, which is made first unless it is there."""
    total = 0
    for part in _SPLIT:
        header = archive.header(f"{part}_images")
        if header.by_columns or header.dtype != np.uint8 or header.shape[1:] != (size, size):
            raise ValueError(
                f"{shown(file)} holds {header.dtype} {header.shape}, not uint8 (n, {size}, {size})"
            )
        total += header.shape[0]
    start = BytesIO()
    described = {"descr": "|u1", "fortran_order": False, "shape": (total, size, size)}
    npy.write_array_header_1_0(start, described)
    for unpack in (False, True):
        if unpack:
            _unpack(archive, start.getvalue(), unpacked)
        with suppress(OSError), open_file(unpacked, follow=False) as mapped:
            # Anybody can make another file with the same checksums.
            own = is_own(os.fstat(mapped.fileno()))
            if own and _is_whole(mapped, archive, start.getvalue()):
                return np.memmap(mapped, np.uint8, "r", mapped.tell(), (total, size, size))
    raise OSError(f"another process has changed {shown(unpacked)}; call again")


def _unpack(archive: Npz, start: bytes, unpacked: Path) -> None:
    try:
        with replacing(unpacked) as out:
            out.write(start)
            for part in _SPLIT:
                out.writelines(archive.chunks(f"{part}_images"))
    except OSError as error:
        raise OSError(
            f"cannot write {shown(unpacked)}: {reason(error)}; make room, or pass another data_home"
        ) from error


def _is_whole(file: BinaryIO, archive: Npz, start: bytes) -> bool:
    """Whether a file holds the images of an archive; if so, leave it where they start."""
    if file.read(len(start)) != start:
        return False
    for part in _SPLIT:
        header = archive.header(f"{part}_images")
        checksum, left = zlib.crc32(header.raw), int(np.prod(header.shape))
        while left and (block := file.read(min(left, 2**20))):
            checksum, left = zlib.crc32(block, checksum), left - len(block)
        if left or checksum != archive.checksum(f"{part}_images"):
            return False
    whole = not file.read(1)
    file.seek(len(start))
    return whole
