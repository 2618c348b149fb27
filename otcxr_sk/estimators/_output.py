"""Where the rows of an embedding go: an array, or a file that appears when it is whole."""

from __future__ import annotations

import math
import os
import shutil
from contextlib import suppress
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

_FLOAT32 = np.dtype(np.float32)


class Output:
    """Rows of an embedding, in the order in which they are computed.

    Parameters
    ----------
    out : None, ndarray or path
        None for a new array; an array of `shape`, float32, to be filled; or a ``.npy`` file, which
        is written as ``.npy.part`` and renamed when this ends without an error.
    shape : tuple of int
        Of the whole, rows first.

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
        if out is None:
            self._array = np.empty(shape, _FLOAT32)
        elif isinstance(out, str | os.PathLike):
            self._path = os.path.abspath(out)
            self._check_path(os.fspath(out))
        else:
            self._array = _checked(out, shape)

    @property
    def _part(self) -> str:
        return f"{self._path}.part"

    def _check_path(self, given: str) -> None:
        assert self._path is not None
        folder = os.path.dirname(self._path)
        if not given.endswith(".npy"):
            raise ValueError(f"out must be a .npy file or an array, got {given!r}")
        if not os.path.isdir(folder):
            raise ValueError(f"out={given!r}: there is no folder {folder!r}; make it first")
        if os.path.isdir(self._path):
            raise ValueError(f"out={given!r} is a folder; give a file in it")
        # Left by a process that was killed.
        with suppress(FileNotFoundError):
            os.unlink(self._part)
        needed, free = _nbytes(self._shape), shutil.disk_usage(folder).free
        if needed > free:
            raise OSError(
                f"out={given!r}: {needed / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free "
                f"in {folder!r}; make room or choose another folder"
            )

    def __enter__(self) -> Self:
        if self._path is not None:
            self._file = open(self._part, "xb")
            header = {"descr": npy.dtype_to_descr(_FLOAT32), "fortran_order": False}
            npy.write_array_header_1_0(self._file, {**header, "shape": self._shape})
            self._begin = self._file.tell()
        return self

    def write(self, start: int, rows: NDArray[np.float32]) -> None:
        """Put rows into their place, the first of them at `start`."""
        if self._path is None:
            self._array[start : start + len(rows)] = rows
            return
        # Through a memory map, a disk that is full would kill the process instead of raising.
        self._file.seek(self._begin + start * _nbytes(self._shape[1:]))
        self._file.write(np.ascontiguousarray(rows, _FLOAT32).data)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._path is None:
            return
        own = self._is_own()
        try:
            with self._file as file:
                if kind is None:
                    file.flush()
                    os.fsync(file.fileno())
            if kind is None and own:
                os.replace(self._part, self._path)
        except BaseException:
            self._remove(own)
            raise
        if kind is not None:
            self._remove(own)
        elif not own:
            raise RuntimeError(f"another process began to write {self._path!r}; this one gives up")

    def result(self) -> NDArray[np.float32]:
        """Give the rows once all are there: of a file, a read-only memory map."""
        if self._path is None:
            return self._array
        rows: NDArray[np.float32] = np.load(self._path, mmap_mode="r")
        return rows

    def _is_own(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), os.stat(self._part))
        except FileNotFoundError:
            return False

    def _remove(self, own: bool) -> None:
        if own:
            with suppress(OSError):
                os.unlink(self._part)


def _checked(out: Any, shape: tuple[int, ...]) -> NDArray[np.float32]:
    if not isinstance(out, np.ndarray):
        raise ValueError(f"out must be a .npy file or an array, got {type(out).__name__}")
    if out.dtype != _FLOAT32 or out.shape != shape or not out.flags.writeable:
        sealed = "" if out.flags.writeable else ", read-only"
        raise ValueError(
            f"out must be a writeable float32 array of shape {shape}, got {out.dtype} of shape "
            f"{out.shape}{sealed}"
        )
    return out


def _nbytes(shape: tuple[int, ...]) -> int:
    return math.prod(shape) * _FLOAT32.itemsize
