"""A cache on disk for decoded and resized images."""

import errno
import os
import stat
import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otcxr_sk._files import (
    PRIVATE,
    PRIVATE_FOLDER,
    create_folder,
    is_aside,
    is_own,
    open_file,
    remove_if_left,
    replacing,
)
from otcxr_sk._parameters import ParameterGroup
from otcxr_sk._paths import as_path, reason
from otcxr_sk._version import __version__
from otcxr_sk._warning import warn_user
from otcxr_sk.images._pixels import Squares, to_float

# Entries are spread over this many folders, each with its own share of the space: a process that
# writes to one keeps it within that share, so that processes need not agree on a total.
_FOLDERS = 256
_SUFFIX = ".image"

# Permissions of files and folders that a group shares: what is created in them is the group's.
_SHARED, _SHARED_FOLDER = 0o660, 0o2770

# Magic number, bytes per pixel, whether constant, checksum of all but magic number and checksum.
_HEADER = struct.Struct("<8sBBI")
_MAGIC = b"otcxr-2\n"
_TYPES = {dtype.itemsize: dtype for dtype in map(np.dtype, ("u1", "<u2", "<f4"))}

_TAG = b"Signature: 8a477f597d28d172789f06886806bc55\n# Images that otcxr-sk can decode again.\n"


@dataclass(repr=False)
class Cache(ParameterGroup):
    """Where decoded and resized images are kept, so that each file is decoded only once.

    Parameters
    ----------
    folder : path
        Created if missing. Any number of runs of one user may share it.
    max_gb : float, default=50.0
        Maximum size of the images there, in gigabytes (1e9 bytes). The least recently used images
        are removed to make room for new ones. At 224 pixels, an image takes 200 kB.
    shared : bool, default=False
        Whether the users of the folder's group share the images. Each of them then sees the images
        of the others, even those whose files they may not read, and could replace them. By default,
        what is kept can be read by this user alone.

    See Also
    --------
    otcxr_sk.OTCXRPretrainer : Takes it as `cache`; a folder alone will do there.

    Examples
    --------
    >>> from otcxr_sk import Cache, OTCXRPretrainer
    >>> encoder = OTCXRPretrainer(cache=Cache("/scratch/otcxr", max_gb=20))
    """

    folder: Any
    max_gb: float = 50.0
    shared: bool = False


class ImageCache:
    """A folder of decoded, resized images, used by any number of processes.

    The key of an entry is the absolute path of the file, its size, its times of modification and
    of change, the image size, the way of resizing, and the version of this library. Whenever one
    of them differs, the file is decoded again. All bits of the pixels are kept, as integers of 8 or
    16 bits where these suffice, otherwise as float32. Entries appear complete or not at all, and
    damaged ones are ignored. They are plain numbers: nothing in the folder is ever executed.

    Parameters
    ----------
    folder : str or path-like
        Created if missing. Only the cache's own files in it are ever removed.
    max_bytes : int
        Maximum size of all entries. The least recently used are removed to make room for new ones.
    shared : bool, default=False
        Whether the users of the folder's group share the images, see `Cache`.

    Raises
    ------
    ValueError
        If the folder cannot be created, or is open to other users and not `shared`.

    See Also
    --------
    PathSource : Uses the cache.
    """

    def __init__(
        self, folder: str | os.PathLike[str], max_bytes: int, *, shared: bool = False
    ) -> None:
        self._folder = os.path.join(os.path.abspath(as_path(folder)), "otcxr-images")
        self._share = int(max_bytes) // _FOLDERS
        self._has_warned = False
        self._mode, self._folder_mode = PRIVATE, PRIVATE_FOLDER
        if shared:
            self._mode, self._folder_mode = _SHARED, _SHARED_FOLDER
        try:
            create_folder(self._folder, self._folder_mode)
            if not shared:
                _require_private(self._folder)
            _require_folder(self._folder)
            tag = os.path.join(self._folder, "CACHEDIR.TAG")
            if not os.path.lexists(tag):
                with replacing(tag, mode=self._mode, durable=False) as file:
                    file.write(_TAG)
        except OSError as error:
            raise ValueError(
                f"the cache folder {os.fspath(folder)!r} cannot be used: {reason(error)}; choose "
                "another"
            ) from error

    def entry(self, path: str, size: int, resize: str) -> "Entry":
        """Return the entry for an image of the file as it is now, stored or not."""
        state = _state(path)
        key = repr((__version__, os.path.abspath(path), size, resize, state))
        return Entry(self, path, size, state, self._place(os.fsencode(key)))

    def _place(self, key: bytes) -> str:
        name = sha256(key, usedforsecurity=False).hexdigest()
        return os.path.join(self._folder, name[:2], name[2:] + _SUFFIX)

    def _write(self, place: str, content: bytes) -> None:
        if len(content) > self._share:
            self._warn(f"an image of {len(content)} bytes is larger than the limit allows")
            return
        folder = os.path.dirname(place)
        try:
            create_folder(folder, self._folder_mode)
            _require_folder(folder)
            _make_room(folder, self._share - len(content))
            with replacing(place, mode=self._mode, durable=False, sweep=False) as file:
                file.write(content)
        except OSError as error:
            self._warn(reason(error))

    def _warn(self, reason: str) -> None:
        if not self._has_warned:
            warn_user(f"images are not cached in {self._folder!r}: {reason}")
        self._has_warned = True


@dataclass
class Entry:
    """The entry for one image of a file in a given state, stored or not."""

    cache: ImageCache
    path: str
    size: int
    state: tuple[int, ...] | None
    place: str

    def load(self) -> Squares | None:
        """Return the image, or None if it is not stored."""
        if self.state is None:
            return None
        try:
            with open_file(self.place, follow=False) as file:
                # A damaged file may have any length.
                content = file.read(_HEADER.size + 4 * self.size**2 + 1)
        except OSError:
            return None
        image = _unpack(content, self.size)
        if image is not None:
            # The time of modification records the last use. It cannot be set in a folder that
            # belongs to another user.
            with suppress(OSError):
                os.utime(self.place)
        return image

    def store(self, image: Squares) -> None:
        """Store an image unless its file has changed meanwhile."""
        if self.state is not None and self.state == _state(self.path):
            self.cache._write(self.place, _pack(image))


def _require_private(folder: str) -> None:
    """Raise an error unless a folder is this user's alone."""
    found, above = os.lstat(folder), os.stat(os.path.dirname(folder))
    may_rename = above.st_mode & stat.S_IWOTH and not above.st_mode & stat.S_ISVTX
    if not is_own(found) or may_rename or (os.name == "posix" and found.st_mode & 0o077):
        raise ValueError(
            f"the cache folder {folder!r} belongs to another user, or is open to others, who could "
            "see and replace the images in it; use a folder of your own, remove this one, or share "
            "it knowingly by Cache(folder, shared=True)"
        )


def _require_folder(folder: str) -> None:
    """Raise an error if what lies at the name of a folder is a link that somebody has laid."""
    if not stat.S_ISDIR(os.lstat(folder).st_mode):
        raise OSError(errno.ENOTDIR, "it is a link; remove it, or use another folder", folder)


def _state(path: str) -> tuple[int, ...] | None:
    """Return numbers that differ whenever the content of a file has changed, without reading it."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    # Tools that copy files often set the time of modification; that of the change cannot be set.
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _pack(image: Squares) -> bytes:
    numbers = _shortest(image.stack)
    flags = bytes([numbers.itemsize, bool(image.constant[0])])
    pixels = numbers.tobytes()
    return _HEADER.pack(_MAGIC, *flags, zlib.crc32(pixels, zlib.crc32(flags))) + pixels


def _shortest(stack: NDArray[np.float32]) -> NDArray[Any]:
    """Return numbers that `to_float` turns into these to the bit, in as few bytes as possible."""
    for dtype in (np.uint8, np.dtype("<u2")):
        # Images that needed no resizing are still what their files hold.
        numbers = np.rint(np.clip(stack, 0, 1) * np.float32(np.iinfo(dtype).max)).astype(dtype)
        if to_float(numbers).tobytes() == stack.tobytes():
            return numbers
    return stack.astype("<f4")


def _unpack(content: bytes, size: int) -> Squares | None:
    if len(content) < _HEADER.size:
        return None
    magic, width, constant, checksum = _HEADER.unpack_from(content)
    pixels = memoryview(content)[_HEADER.size :]
    if (
        magic != _MAGIC
        or width not in _TYPES
        or len(pixels) != width * size**2
        or checksum != zlib.crc32(pixels, zlib.crc32(bytes([width, constant])))
    ):
        return None
    stack = to_float(np.frombuffer(pixels, _TYPES[width]).reshape(1, size, size))
    return Squares(stack, np.array([constant], dtype=np.bool_))


def _make_room(folder: str, allowed: int) -> None:
    """Remove the least recently used entries until at most `allowed` bytes remain."""
    entries, total = [], 0
    with os.scandir(folder) as files:
        for file in files:
            # Another process may remove files at the same time.
            with suppress(FileNotFoundError):
                found = file.stat(follow_symlinks=False)
                if file.name.endswith(_SUFFIX):
                    entries.append((found.st_mtime_ns, file.path, found.st_size))
                elif is_aside(file.name):
                    remove_if_left(file.path)
                else:
                    continue
                total += found.st_size
    for _, path, size in sorted(entries):
        if total <= allowed:
            break
        with suppress(FileNotFoundError):
            os.unlink(path)
        total -= size
