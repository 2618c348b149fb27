"""The one way to open files and the one way to write them, where others may have prepared the way.

What is opened is a regular file, never a pipe or a device. What is written is for this user alone,
appears complete or not at all, and goes through no link that somebody has laid.
"""

import errno
import os
import re
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import PurePath
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

Path = str | os.PathLike[str]

PRIVATE, PRIVATE_FOLDER = 0o600, 0o700

_ASIDE = re.compile(r"\.otcxr-[0-9a-f]{32}\.part")

# Seconds after which a file is taken for abandoned where no lock tells: clocks may differ by hours.
_ABANDONED = 86_400

# Folders within folders, of any collection of images.
DEEPEST = 64

# How often to create what others remove at once.
_TRIES = 100

# Those that a system lacks are zero.
_CLOSED_ON_EXEC = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
# A pipe would keep the caller waiting for somebody who writes.
_NO_WAITING = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)


def open_file(path: Path, *, follow: bool = True) -> BufferedReader:
    """Open a regular file for reading.

    Parameters
    ----------
    path : path
    follow : bool, default=True
        Whether it may be a symbolic link. A path that the user named may, a name that the library
        chose may not.

    Raises
    ------
    OSError
        It cannot be opened, or is something else: a folder, a link, a pipe, a device.
    """

    def opener(name: str, flags: int) -> int:
        if not follow and os.path.islink(name):
            raise OSError(errno.ELOOP, "it is a symbolic link", name)
        return os.open(name, flags | _CLOSED_ON_EXEC | _NO_WAITING | (0 if follow else _NO_LINK))

    file = open(path, "rb", opener=opener)  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is not a regular file", os.fspath(path))
    return file


def read_file(path: Path, most: int, *, follow: bool = True) -> bytes:
    """Read a whole regular file.

    Parameters
    ----------
    path : path
    most : int
        Number of bytes that such a file may have.
    follow : bool, default=True
        As in `open_file`.

    Raises
    ------
    OSError
        As from `open_file`, or the file is larger.
    """
    with open_file(path, follow=follow) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it has more than {most} bytes", os.fspath(path))
    return content


def walk(
    folder: Path,
    too_deep: str,
    into: Callable[[str], bool],
    on_error: Callable[[OSError], object] | None = None,
) -> Iterator[tuple[str, list[str]]]:
    """Yield the path of a folder and of each one below, and the names of the files in it.

    Links are followed, since images are often on another disk, but each folder comes once, and none
    above the first, to which a link may lead.

    Parameters
    ----------
    folder : path
    too_deep : str
        What the error says if folders are more than 64 deep.
    into : callable
        Tells by the name of a folder whether to look into it.
    on_error : callable, default=None
        Called if a folder cannot be listed, which by default is passed over.

    Raises
    ------
    ValueError
        Folders are too deep.
    """
    top = os.fspath(folder)
    seen = {_identity(above) for above in PurePath(os.path.realpath(top)).parents}
    for current, folders, names in os.walk(top, onerror=on_error, followlinks=True):
        if current.count(os.sep) - top.count(os.sep) > DEEPEST:
            raise ValueError(too_deep)
        identity = _identity(current)
        if identity in seen:
            folders.clear()
            continue
        seen.add(identity)
        # Of several paths to one folder, the first by name comes.
        folders[:] = sorted(filter(into, folders))
        yield current, names


def _identity(folder: Path) -> tuple[int, int]:
    found = os.stat(folder)
    return found.st_dev, found.st_ino


@contextmanager
def replacing(
    path: Path, *, mode: int = PRIVATE, durable: bool = True, sweep: bool = True
) -> Iterator[BinaryIO]:
    """Write a file beside its place, and move it there if the block ends without an error.

    Parameters
    ----------
    path : path
        The file to write; an existing one, or a link, is replaced.
    mode : int, default=0o600
        Its permissions.
    durable : bool, default=True
        Whether to flush the file to the disk, so that it survives a loss of power.
    sweep : bool, default=True
        Whether to remove first what processes that died have left in the folder.

    Yields
    ------
    file : binary file

    Raises
    ------
    OSError
        What is there is a folder or a device, or a link to one. Or it cannot be written, or another
        process has taken the unfinished file.
    """
    folder = os.path.dirname(os.path.abspath(path))
    _require_replaceable(path)
    if sweep:
        remove_leftovers(folder)
    with _naming(path):
        aside, file = _create_beside(folder, mode)
    with file, _naming(path):
        own = os.fstat(file.fileno())
        opened = file.fileno()
        _unfinished.add(opened)
        try:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
            if fcntl is None:
                # Windows renames no open file, and removes none.
                file.close()
            if not _is(aside, own):
                raise OSError(errno.ESTALE, "another process has taken the unfinished file", path)
            os.replace(aside, path)
        except BaseException:
            if fcntl is None:
                with suppress(OSError):
                    file.close()
            with suppress(OSError):
                if _is(aside, own):
                    os.unlink(aside)
            raise
        finally:
            _unfinished.discard(opened)
    if durable:
        _flush_folder(folder)


def _require_replaceable(path: Path) -> None:
    """Raise OSError for a folder, and for a device, which a rename would remove."""
    try:
        found = os.stat(path)
    except OSError:
        return
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder", os.fspath(path))
    if stat.S_ISCHR(found.st_mode) or stat.S_ISBLK(found.st_mode):
        raise OSError(errno.EINVAL, "it is a device", os.fspath(path))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Let errors of the system name a file, not the unfinished one beside it."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and (
            error.filename is None or is_aside(os.path.basename(os.fsdecode(error.filename)))
        ):
            error.filename = os.fspath(path)
            # None would be shown as a second file.
            del error.filename2
        raise


# Open files that `replacing` has not finished. A forked process must not keep their locks.
_unfinished: set[int] = set()


def _close_unfinished() -> None:
    for opened in _unfinished:
        # The file of Python stays as it is, so that nothing is written twice.
        with suppress(OSError):
            os.close(opened)
    _unfinished.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_unfinished)


def create_file(path: Path) -> BinaryIO:
    """Create a file for this user alone, and open it for writing and reading.

    Raises
    ------
    FileExistsError
        There is one, or a link.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | _NO_LINK | _CLOSED_ON_EXEC
    return open(path, "x+b", opener=lambda name, _: os.open(name, flags, PRIVATE))


def continue_file(path: Path) -> BinaryIO:
    """Open a file to go on writing it: what a process of this user has left there, or an empty one.

    What else is there, such as a link, a pipe, or a file that others may write to or know under
    another name, is replaced.
    """
    with suppress(OSError):
        opened = os.open(path, os.O_RDWR | _NO_LINK | _NO_WAITING | _CLOSED_ON_EXEC)
        file = open(opened, "r+b")  # noqa: SIM115
        left = os.fstat(opened)
        if stat.S_ISREG(left.st_mode) and left.st_nlink == 1 and is_own(left) and _is(path, left):
            return file
        file.close()
    with suppress(FileNotFoundError):
        os.unlink(path)
    return create_file(path)


def is_own(found: os.stat_result) -> bool:
    """Return whether a file or folder is this user's or the system's, and only they may write."""
    # Windows has no such permissions.
    if not hasattr(os, "geteuid"):
        return True
    return found.st_uid in (os.geteuid(), 0) and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def create_folder(path: Path, mode: int = PRIVATE_FOLDER) -> None:
    """Create a folder, and those above it that are missing, by default for this user alone."""
    path = os.path.abspath(path)
    if os.path.isdir(path):
        return
    create_folder(os.path.dirname(path), mode)
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        # By another process.
        if not os.path.isdir(path):
            raise
    else:
        if mode != PRIVATE_FOLDER and hasattr(os, "O_DIRECTORY"):
            # By its name, something else might be meant by now.
            opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY | _NO_LINK)
            try:
                os.fchmod(opened, mode)
            finally:
                os.close(opened)


def require_writable(folder: Path) -> None:
    """Raise OSError unless files can be created in a folder."""
    aside, file = _create_beside(os.fspath(folder), PRIVATE)
    file.close()
    os.unlink(aside)


@contextmanager
def locked(path: Path, *, wait: float = 0) -> Iterator[bool]:
    """Hold the lock that a file stands for, which ends with the process.

    Parameters
    ----------
    path : path
        Created if missing, and left there. A link in its place, which would lock something else,
        is removed.
    wait : float, default=0
        Seconds to wait for another process.

    Yields
    ------
    held : bool
        False where the disk has no locks, and nothing keeps others out.

    Raises
    ------
    BlockingIOError
        Another process holds it.
    OSError
        The file cannot be opened.
    """
    from filelock import FileLock, Timeout

    if os.path.islink(path):
        os.unlink(path)
    lock = FileLock(path, timeout=wait, mode=PRIVATE, fallback_to_soft=False)
    try:
        held = lock.acquire()
    except Timeout as error:
        raise BlockingIOError(errno.EWOULDBLOCK, "another process holds it", path) from error
    except NotImplementedError:
        held = None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP):
            raise
        held = None
    if held is None:
        yield False
        return
    with held:
        yield True


def is_aside(name: str) -> bool:
    """Whether a file of this name is one that `replacing` has not finished."""
    return _ASIDE.fullmatch(name) is not None


def remove_leftovers(folder: Path) -> None:
    """Remove the unfinished files of processes that died."""
    with suppress(OSError), os.scandir(folder) as files:
        for file in files:
            if is_aside(file.name):
                remove_if_left(file.path)


def remove_if_left(aside: Path) -> None:
    """Remove an unfinished file unless a process is still writing it."""
    with suppress(OSError):
        opened = os.open(aside, os.O_RDWR | _NO_LINK | _NO_WAITING | _CLOSED_ON_EXEC)
        try:
            found = os.fstat(opened)
            held = _lock(opened)
            if held is None:
                held = time.time() - found.st_mtime > _ABANDONED
            left = held and stat.S_ISREG(found.st_mode)
            # While the lock is held, nobody else takes the file for theirs.
            if left and fcntl is not None:
                os.unlink(aside)
        finally:
            os.close(opened)
        if left and fcntl is None:
            os.unlink(aside)


def _create_beside(folder: str, mode: int) -> tuple[str, BinaryIO]:
    """Create an unfinished file that `remove_if_left` leaves alone for as long as it is open."""
    for _ in range(_TRIES):
        aside = os.path.join(folder, f".otcxr-{secrets.token_hex(16)}.part")
        file = create_file(aside)
        try:
            if mode != PRIVATE and hasattr(os, "fchmod"):
                os.fchmod(file.fileno(), mode)
            # Another process may have taken it for abandoned before it was locked.
            if _lock(file.fileno()) is not False and _is(aside, os.fstat(file.fileno())):
                return aside, file
        except BaseException:
            file.close()
            raise
        file.close()
    raise OSError(errno.EBUSY, "other processes remove what is created there", folder)


def _lock(opened: int) -> bool | None:
    """Lock an open file, and return whether that was possible; None where there are no locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return False if error.errno in (errno.EAGAIN, errno.EACCES) else None
    return True


def _is(path: Path, known: os.stat_result) -> bool:
    try:
        return os.path.samestat(known, os.lstat(path))
    except FileNotFoundError:
        return False


def _flush_folder(folder: str) -> None:
    """Make a rename durable, on systems where a folder can be opened."""
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
