"""Where the rows of an embedding go: an array, or a file that appears once it is complete."""

import math
import os
import shutil
from contextlib import ExitStack
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from otcxr_sk._files import open_file, remove_leftovers, replacing
from otcxr_sk._paths import as_path

_FLOAT32 = np.dtype(np.float32)


class Output:
    """Rows of an embedding, in the order in which they are computed.

    Parameters
    ----------
    out : None, ndarray or path
        None for a new array; a float32 array of `shape` to fill; or a ``.npy`` file, which is
        written under another name beside it and renamed at the end, if there was no error.
    shape : tuple of int
        Shape of the result, rows first.

    Raises
    ------
    ValueError
        `out` cannot hold the rows.
    OSError
        The disk is too small for the file.
    """

    def __init__(self, out: Any, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._path: str | None = None
        self._file: BinaryIO
        self._writing = ExitStack()
        if out is None:
            self._array = np.empty(shape, _FLOAT32)
        elif isinstance(out, str | os.PathLike):
            self._path = os.path.abspath(as_path(out))
            self._check_path(os.fspath(out))
        else:
            self._array = _checked(out, shape)

    def _check_path(self, given: str) -> None:
        assert self._path is not None
        folder = os.path.dirname(self._path)
        if not given.endswith(".npy"):
            raise ValueError(f"out must be a .npy file or an array, got {given!r}")
        if not os.path.isdir(folder):
            raise ValueError(f"out={given!r}: there is no folder {folder!r}; create it first")
        if os.path.isdir(self._path):
            raise ValueError(f"out={given!r} is a folder; name a file in it")
        # Their space may be needed.
        remove_leftovers(folder)
        needed, free = _nbytes(self._shape), shutil.disk_usage(folder).free
        if needed > free:
            raise OSError(
                f"out={given!r}: {needed / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free "
                f"in {folder!r}; free some space or choose another folder"
            )

    def __enter__(self) -> Self:
        if self._path is not None:
            self._file = self._writing.enter_context(replacing(self._path))
            header = {"descr": npy.dtype_to_descr(_FLOAT32), "fortran_order": False}
            npy.write_array_header_1_0(self._file, {**header, "shape": self._shape})
            self._begin = self._file.tell()
        return self

    def write(self, start: int, rows: NDArray[np.float32]) -> None:
        """Write rows, the first of them at `start`."""
        if self._path is None:
            self._array[start : start + len(rows)] = rows
            return
        # Through a memory map, a full disk would kill the process instead of raising.
        self._file.seek(self._begin + start * _nbytes(self._shape[1:]))
        self._file.write(np.ascontiguousarray(rows, _FLOAT32).data)

    def __exit__(self, *raised: Any) -> None:
        self._writing.__exit__(*raised)

    def result(self) -> NDArray[np.float32]:
        """Return all rows; of a file, as a read-only memory map."""
        if self._path is None:
            return self._array
        with open_file(self._path) as file:
            return np.memmap(file, _FLOAT32, "r", self._begin, self._shape)


def _checked(out: Any, shape: tuple[int, ...]) -> NDArray[np.float32]:
    if not isinstance(out, np.ndarray):
        raise ValueError("out must be the path of a .npy file or a NumPy array")
    if out.dtype != _FLOAT32 or out.shape != shape or not out.flags.writeable:
        sealed = "" if out.flags.writeable else ", read-only"
        raise ValueError(
            f"out must be a writeable float32 array of shape {shape}, got {out.dtype} of shape "
            f"{out.shape}{sealed}"
        )
    return out


def _nbytes(shape: tuple[int, ...]) -> int:
    return math.prod(shape) * _FLOAT32.itemsize
