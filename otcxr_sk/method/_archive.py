"""Zip files of weights that mean the same to whoever reads them, and unpack to what they are."""

import struct
from typing import BinaryIO
from zipfile import ZIP_STORED, ZipFile

from otcxr_sk.method._pickles import RefusedError

_MOST_MEMBERS, _LONGEST_DIRECTORY = 2**16, 2**24
_END, _LOCATOR = struct.Struct("<4s4H2LH"), struct.Struct("<4sLQL")
_WIDE_END = struct.Struct("<4sQ2H2L4Q")


def open_archive(file: BinaryIO) -> ZipFile:
    """Open a zip file, from which PyTorch then reads the same members as Python.

    A file may hold several directories, and readers differ in which they find. Here there is one:
    it ends where the records at the end of the file begin, and these agree.

    Raises
    ------
    RefusedError
        It unpacks to more than its size.
    Exception
        Of any kind: it is damaged, or ambiguous.
    """
    size = file.seek(0, 2)
    file.seek(max(0, size - _END.size - _LOCATOR.size - _WIDE_END.size))
    tail = file.read()
    mark, *disks, here, count, length, start, comment = narrow = _END.unpack(tail[-_END.size :])
    stop = size - _END.size
    if tail[-_END.size - _LOCATOR.size :].startswith(b"PK\6\7"):
        stop -= _LOCATOR.size + _WIDE_END.size
        wide = _WIDE_END.unpack(tail[: _WIDE_END.size])
        locator = _LOCATOR.unpack(tail[_WIDE_END.size : -_END.size])
        # The narrow record may leave each number to the wide one.
        left = narrow[3:7], wide[6:], (2**16 - 1, 2**16 - 1, 2**32 - 1, 2**32 - 1)
        if (
            locator != (b"PK\6\7", 0, stop, 1)
            or (*wide[:2], *wide[4:6]) != (b"PK\6\6", 44, 0, 0)
            or any(one not in others for one, *others in zip(*left, strict=True))
        ):
            raise ValueError
        here, count, length, start = wide[6:]
    if mark != b"PK\5\6" or any(disks) or comment or here != count or start + length != stop:
        raise ValueError
    if count > _MOST_MEMBERS or length > _LONGEST_DIRECTORY:
        raise ValueError
    archive = ZipFile(file)
    members = archive.infolist()
    if (
        any(member.compress_type != ZIP_STORED for member in members)
        or any(member.compress_size != member.file_size for member in members)
        or sum(member.file_size for member in members) > size
    ):
        raise RefusedError("unpacks to more than its size, as a zip bomb does")
    # PyTorch takes large and small letters for the same.
    if not len({member.orig_filename.lower() for member in members}) == len(members) == count:
        raise ValueError
    return archive
