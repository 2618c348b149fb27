"""Archives of arrays, checked before memory or time is spent on what they claim."""

import re
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from typing import IO, Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from otcxr_sk._npy import read_header

_MOST_MEMBERS, _MOST_DIMENSIONS, _STEP = 1000, 8, 2**20
# Others take memory that nothing in the archive bounds.
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
# Numbers, and text of up to 9999 characters.
_TYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f\d\d?|[SU]\d{1,4})")


class Header(NamedTuple):
    """What an array in an archive says of itself, and the bytes that say it."""

    raw: bytes
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    by_columns: bool


class Npz:
    """Arrays of an open ``.npz``. What cannot be read is a ValueError that names the file.

    Parameters
    ----------
    file : binary file
    name : str
        What messages call it.
    """

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._name = name
        with self._reading():
            self._archive = zipfile.ZipFile(file)
            members = self._archive.infolist()
            self._members = {member.filename.removesuffix(".npy"): member for member in members}
            # Programs disagree about archives with two lists of members, and about twin members.
            if not len(self._members) == len(members) <= _MOST_MEMBERS or (
                members and min(member.header_offset for member in members) != 0
            ):
                raise ValueError
        self.names = list(self._members)

    def checksum(self, name: str) -> int:
        """Return the CRC-32 of an array's header and values."""
        return self._members[name].CRC

    def header(self, name: str) -> Header:
        """Return what an array says of itself, which its size in the archive agrees with."""
        with self._reading(), self._open(name) as stream:
            header = _read_header(stream)
            size = prod(header.shape) * header.dtype.itemsize
            if len(header.raw) + size != self._members[name].file_size:
                raise ValueError
        return header

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yield the values of an array, a megabyte at a time."""
        with self._reading(), self._open(name) as stream:
            _read_header(stream)
            # The checksum is compared at the end.
            while part := stream.read(_STEP):
                yield part

    def read(self, name: str, most: int, per_value: int = 1) -> NDArray[Any]:
        """Read an array.

        Parameters
        ----------
        name : str
        most : int
            Bytes that it may have.
        per_value : int, default=1
            Bytes that a smaller value counts for.
        """
        header = self.header(name)
        if prod(header.shape) * max(header.dtype.itemsize, per_value) > most:
            raise ValueError(
                f"{self._name}: {name} is more than such a small file should hold; if it is "
                "genuine, save it with numpy.savez instead of numpy.savez_compressed"
            )
        array: NDArray[Any] = np.empty(prod(header.shape), header.dtype)
        space, done = array.view(np.uint8), 0
        for part in self.chunks(name):
            space[done : done + len(part)] = np.frombuffer(part, np.uint8)
            done += len(part)
        with self._reading():
            # A stream may end early without an error, and the rest would be whatever was there.
            if done != len(space):
                raise ValueError
            if header.dtype.kind == "U":
                codes = array.view(np.dtype("u4").newbyteorder(header.dtype.byteorder))
                if codes.size and codes.max() > sys.maxunicode:
                    raise ValueError
        return array.reshape(header.shape, order="F" if header.by_columns else "C")

    def _open(self, name: str) -> IO[bytes]:
        member = self._members[name]
        if member.compress_type not in _METHODS:
            raise ValueError
        return self._archive.open(member)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        # Damaged archives raise errors of many kinds.
        except Exception as error:
            raise ValueError(
                f"{self._name} cannot be read as an .npz of plain arrays; save it again with "
                "numpy.savez, with arrays of numbers or text, not of objects"
            ) from error


def _read_header(stream: IO[bytes]) -> Header:
    raw, shape, by_columns, kind = read_header(stream)
    if not _TYPE.fullmatch(kind) or not np.dtype(kind).itemsize:
        raise ValueError
    if len(shape) > _MOST_DIMENSIONS or min(shape, default=0) < 0:
        raise ValueError
    return Header(raw, shape, np.dtype(kind), by_columns)
