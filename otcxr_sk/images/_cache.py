"""Decoded, resized images kept on disk from one reading to the next."""

import os
import secrets
import struct
import time
import warnings
import zlib
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import otcxr_sk

# Entries are spread over so many folders, each with its own share of the space: whoever writes
# into one keeps it within its share, so that processes need not agree on a count of bytes.
_FOLDERS = 256
_SUFFIX, _UNFINISHED = ".image", ".part"

# An unfinished entry of this age, in seconds, was left by a process that died.
_ABANDONED = 3600

# First bytes, numbers as little-endian: bytes per pixel, whether constant, checksum of the rest.
_HEADER = struct.Struct("<8sBBI")
_MAGIC = b"otcxr-1\n"
_TYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype("u1"),
    2: np.dtype("<u2"),
    4: np.dtype("<f4"),
}

_TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# Images that otcxr-sk can make anew.\n"


class Cached(NamedTuple):
    """An image (size, size), float32, and whether its original was constant."""

    square: NDArray[np.float32]
    constant: bool


class ImageCache:
    """A folder of decoded, resized images, shared by any number of processes.

    An entry belongs to a path, to the size and the times of change of the file there, to the
    parameters of reading and to the version of this library: whenever one of them differs, the
    file is decoded again. Pixels of 8 and 16 bits are kept as uint8 and uint16, others as float32,
    without loss. Entries appear complete or not at all, and one that is damaged counts as absent.
    They are plain numbers: nothing in the folder is ever run.

    Parameters
    ----------
    folder : str or path-like
        Made if missing. Nothing but this cache's own files in it is ever removed.
    max_bytes : int
        Space that entries take at most. The least recently used give way to new ones.

    Raises
    ------
    ValueError
        If there can be no such folder.
    """

    def __init__(self, folder: str | os.PathLike[str], max_bytes: int) -> None:
        self._folder = os.path.join(os.path.abspath(folder), "otcxr-images")
        self._share = int(max_bytes) // _FOLDERS
        self._has_warned = False
        try:
            os.makedirs(self._folder, exist_ok=True)
        except OSError as error:
            raise ValueError(f"cache_dir={os.fspath(folder)!r} cannot be used: {error}") from error
        with suppress(OSError), open(os.path.join(self._folder, "CACHEDIR.TAG"), "x") as file:
            file.write(_TAG)

    def entry(self, path: str, size: int, resize: str) -> "Entry":
        """Give the place of an image of the file as it is now, whether or not it is there."""
        return Entry(self, path, size, resize, _state(path))

    def _place(self, key: bytes) -> str:
        name = blake2b(key, digest_size=20).hexdigest()
        return os.path.join(self._folder, name[:2], name[2:] + _SUFFIX)

    def _write(self, place: str, content: bytes) -> None:
        if len(content) > self._share:
            self._warn(f"an image of {len(content)} bytes is more than its limit allows")
            return
        folder = os.path.dirname(place)
        unfinished = os.path.join(folder, secrets.token_hex(8) + _UNFINISHED)
        try:
            os.makedirs(folder, exist_ok=True)
            _make_room(folder, self._share - len(content))
            with open(unfinished, "xb") as file:
                file.write(content)
            os.replace(unfinished, place)
        except OSError as error:
            with suppress(OSError):
                os.unlink(unfinished)
            self._warn(str(error))

    def _warn(self, reason: str) -> None:
        if not self._has_warned:
            warnings.warn(f"images are not kept in {self._folder!r}: {reason}", stacklevel=2)
        self._has_warned = True


@dataclass
class Entry:
    """An image of a file in a state, in the cache or not yet."""

    cache: ImageCache
    path: str
    size: int
    resize: str
    state: tuple[int, ...] | None

    @property
    def place(self) -> str:
        """Where the image is kept."""
        known = (otcxr_sk.__version__, os.path.abspath(self.path), self.size, self.resize)
        return self.cache._place(os.fsencode(repr((*known, self.state))))

    def load(self) -> Cached | None:
        """Read the image, None if it is not there."""
        if self.state is None:
            return None
        place = self.place
        try:
            with open(place, "rb") as file:
                # No more than there can be, whatever the file has become.
                content = file.read(_HEADER.size + 4 * self.size**2 + 1)
        except OSError:
            return None
        image = _unpack(content, self.size)
        if image is not None:
            # Its age is the time since its last use. A cache that others own cannot be marked.
            with suppress(OSError):
                os.utime(place)
        return image

    def store(self, square: NDArray[np.float32], bits: int, constant: bool) -> Cached:
        """Keep an image unless its file has changed since; give it as it will be loaded."""
        content = _pack(square, bits, constant)
        if self.state is not None and self.state == _state(self.path):
            self.cache._write(self.place, content)
        image = _unpack(content, self.size)
        assert image is not None
        return image


def _state(path: str) -> tuple[int, ...] | None:
    """Tell a file's content from any other that it had or will have, without reading it."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    # The time of modification can be set, and often is when files are copied; that of the change
    # cannot.
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _pack(square: NDArray[np.float32], bits: int, constant: bool) -> bytes:
    if bits:
        dtype = _TYPES[bits // 8]
        highest = np.float32(np.iinfo(dtype).max)
        # Resizing may leave [0, 1] by a rounding error.
        square = np.rint(np.clip(square, 0, 1) * highest)
    else:
        dtype = _TYPES[4]
    pixels = square.astype(dtype).tobytes()
    flags = bytes([dtype.itemsize, constant])
    return _HEADER.pack(_MAGIC, *flags, zlib.crc32(pixels, zlib.crc32(flags))) + pixels


def _unpack(content: bytes, size: int) -> Cached | None:
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
    stored = np.frombuffer(pixels, _TYPES[width]).reshape(size, size)
    square = stored.astype(np.float32)
    if width < 4:
        square /= np.float32(np.iinfo(stored.dtype).max)
    return Cached(square, bool(constant))


def _make_room(folder: str, allowed: int) -> None:
    """Remove the least recently used entries until at most `allowed` bytes are left."""
    entries, total, now = [], 0, time.time()
    with os.scandir(folder) as files:
        for file in files:
            # Another process may have made room meanwhile.
            with suppress(FileNotFoundError):
                stat = file.stat(follow_symlinks=False)
                if file.name.endswith(_SUFFIX):
                    entries.append((stat.st_mtime_ns, file.path, stat.st_size))
                elif not file.name.endswith(_UNFINISHED):
                    continue
                elif now - stat.st_mtime > _ABANDONED:
                    os.unlink(file.path)
                    continue
                total += stat.st_size
    for _, path, size in sorted(entries):
        if total <= allowed:
            break
        with suppress(FileNotFoundError):
            os.unlink(path)
        total -= size
