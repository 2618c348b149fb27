"""Files that appear complete or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

Path = str | os.PathLike[str]


@contextmanager
def replacing(path: Path, aside: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """Write a file beside its place, and move it there if the block ends without an error.

    Parameters
    ----------
    path : path
        The file to write; an existing one is replaced.
    aside : path
        Name under which it is written, in the same folder. It must not exist, and is removed if
        the block fails.
    durable : bool, default=True
        Whether to flush the file to the disk, so that it survives a loss of power.

    Yields
    ------
    file : binary file

    Raises
    ------
    RuntimeError
        Another process has removed or replaced `aside` meanwhile; its file is left alone.
    """
    with open(aside, "xb") as file:
        own = os.fstat(file.fileno())
        try:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        except BaseException:
            _remove(aside, own)
            raise
    if not _is(aside, own):
        raise RuntimeError(f"another process began to write {os.fspath(path)!r}; this one gives up")
    try:
        os.replace(aside, path)
    except BaseException:
        _remove(aside, own)
        raise
    if durable:
        _flush_folder(os.path.dirname(os.path.abspath(path)))


def _is(path: Path, known: os.stat_result) -> bool:
    try:
        return os.path.samestat(known, os.stat(path))
    except FileNotFoundError:
        return False


def _remove(path: Path, known: os.stat_result) -> None:
    if _is(path, known):
        with suppress(OSError):
            os.unlink(path)


def _flush_folder(folder: str) -> None:
    """Make a rename durable, on systems where a folder can be opened."""
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
