"""A folder that holds a model: complete or not there, and read without trust."""

import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import file_digest, sha256
from itertools import islice
from typing import Any, NoReturn

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from otcxr_sk._files import (
    create_folder,
    is_aside,
    is_own,
    open_file,
    read_file,
    remove_leftovers,
    replacing,
)
from otcxr_sk._json import parse
from otcxr_sk._paths import as_path, reason
from otcxr_sk._quote import quoted
from otcxr_sk._safetensors import read_header
from otcxr_sk.estimators.sharing._config import LIBRARY

CONFIG, CARD, SUMS = "config.json", "README.md", "SHA256SUMS"

# Bytes that they may have.
_MOST = {CONFIG: 2**24, CARD: 2**20, SUMS: 2**12}
_AGAIN = "copy the whole folder again"
_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9_.]{1,40})")

# Seconds after which an unfinished folder is taken for abandoned.
_ABANDONED = 86_400


def weights_file(part: str) -> str:
    """Return the name of the file with the weights of a part of a network."""
    return f"{part}.safetensors"


# All names that any kind of model has: nothing else is ever removed.
_NAMES = {*_MOST, *map(weights_file, ("encoder", "heads", "head"))}


@contextmanager
def new_folder(path: Any, *, overwrite: bool) -> Iterator[str]:
    """Fill a folder beside its place, and move it there if the block ends without an error.

    Parameters
    ----------
    path : path
        The folder to create.
    overwrite : bool
        Whether it may take the place of another model.

    Yields
    ------
    aside : str
        An empty folder for this user alone.

    Raises
    ------
    ValueError
        The folder around it does not exist.
    FileExistsError
        There is something else, or another model and not `overwrite`.
    """
    place = os.path.abspath(as_path(path))
    parent = os.path.dirname(place)
    if not os.path.isdir(parent):
        raise ValueError(f"there is no folder {parent!r}; create it first")
    old = os.path.lexists(place)
    if old and not _is_model(place):
        raise FileExistsError(
            f"{place!r} exists and is not a folder that save_pretrained has written; choose another"
        )
    if old and not overwrite:
        raise FileExistsError(f"{place!r} holds a model; pass overwrite=True to replace it")
    _remove_abandoned(parent)
    aside = _beside(parent)
    create_folder(aside)
    try:
        yield aside
        _move(aside, place, old)
    except BaseException:
        _remove(aside)
        raise


def write(folder: str, name: str, text: str) -> None:
    """Write a text, of no more bytes than are read."""
    content = text.encode()
    if len(content) > _MOST[name]:
        raise ValueError(f"{name} would have {len(content)} bytes, more than {_MOST[name]}")
    with replacing(os.path.join(folder, name)) as file:
        file.write(content)


def add_checksums(folder: str) -> None:
    """Write the checksums of all files in a folder, as sha256sum reads them."""
    names = sorted(os.listdir(folder))
    write(folder, SUMS, "".join(f"{_sum(os.path.join(folder, name))}  {name}\n" for name in names))


def _sum(path: str) -> str:
    with open_file(path, follow=False) as file:
        return file_digest(file, sha256).hexdigest()


def _is_model(place: str) -> bool:
    """Whether a folder holds a model, damaged or not, and nothing else."""
    if os.path.islink(place) or not os.path.isdir(place) or _names(place) - _NAMES:
        return False
    try:
        config = parse(read_file(os.path.join(place, CONFIG), _MOST[CONFIG], follow=False))
    except (OSError, ValueError):
        return False
    return config.get("library") == LIBRARY


def _names(folder: str) -> set[str]:
    """Return the names in a folder, one of them unknown if it has too many."""
    with os.scandir(folder) as found:
        return {one.name for one in islice(found, len(_NAMES) + 1)}


def _beside(parent: str) -> str:
    return os.path.join(parent, f".otcxr-{secrets.token_hex(16)}.part")


def _move(aside: str, place: str, old: bool) -> None:
    if not old:
        try:
            os.rename(aside, place)
        except OSError:
            if os.path.lexists(place):
                raise FileExistsError(f"{place!r} was created meanwhile") from None
            raise
        return
    former = _beside(os.path.dirname(place))
    os.rename(place, former)
    try:
        os.rename(aside, place)
    except BaseException:
        os.rename(former, place)
        raise
    _remove(former)


def _remove(folder: str) -> None:
    with suppress(OSError):
        remove_leftovers(folder)
        for name in _names(folder) & _NAMES:
            os.unlink(os.path.join(folder, name))
        os.rmdir(folder)


def _remove_abandoned(parent: str) -> None:
    """Remove what processes that died have left unfinished."""
    with suppress(OSError), os.scandir(parent) as found:
        for one in found:
            if not is_aside(one.name) or not one.is_dir(follow_symlinks=False):
                continue
            left = one.stat(follow_symlinks=False)
            # With checksums it is a whole model that was being replaced.
            whole = os.path.lexists(os.path.join(one.path, SUMS))
            if is_own(left) and time.time() - left.st_mtime > _ABANDONED and not whole:
                _remove(one.path)


class RefusedError(ValueError):
    """A folder is not read, because of `what` is wrong with it."""

    def __init__(self, path: str, what: str) -> None:
        super().__init__(path, what)
        self.what = what

    def __str__(self) -> str:
        return "no model is loaded from {!r}: {}".format(*self.args)


class ModelFolder:
    """A folder that `new_folder` has made, from anywhere.

    Parameters
    ----------
    path : path
    kind : str
        Name of the estimator that it should hold.
    parts : sequence of str
        Parts of its network, each with a file of weights.
    version : int
        Number of the format that is read.

    Attributes
    ----------
    config : dict
        From `CONFIG`, not checked beyond the kind and the format.

    Raises
    ------
    ValueError
        It is none, is damaged, or holds something else; the message names the file. Anything that
        the constructor and `tensors` read has a bounded size, or the one that is expected.
    """

    def __init__(self, path: Any, kind: str, parts: tuple[str, ...], version: int) -> None:
        self._path = as_path(path)
        if not os.path.isdir(self._path):
            self.refuse("there is no such folder")
        config = self._read(CONFIG)
        try:
            self.config = parse(config)
        except ValueError:
            self.refuse(f"{CONFIG} is not a JSON object, or a damaged one; {_AGAIN}")
        self._check_kind(kind, version)
        names = {*_MOST, *map(weights_file, parts)}
        self._check_names(names)
        self._sums = self._read_sums(names - {SUMS})
        self._check_sum(CONFIG, config)
        self._check_sum(CARD, self._read(CARD))

    def refuse(self, what: str) -> NoReturn:
        """Raise the error that says why the folder is not read."""
        raise RefusedError(self._path, what) from None

    def n_tensors(self, part: str) -> int:
        """Return the number of tensors that the weights of a part claim to have."""
        with self._open(weights_file(part)) as file:
            return len(self._shapes(file, weights_file(part)))

    def tensors(self, part: str, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Read the weights of a part, if they have the names, shapes and dtypes of `expected`."""
        name = weights_file(part)
        with self._open(name) as file:
            shapes = self._shapes(file, name)
            for key in sorted(shapes.keys() ^ expected.keys()):
                self.refuse(f"{name} {'has' if key in shapes else 'lacks'} {quoted(key)}")
            for key, shape in shapes.items():
                if shape != tuple(expected[key].shape):
                    self.refuse(
                        f"{name} has {quoted(key)} of shape {list(shape)}, not "
                        f"{list(expected[key].shape)}"
                    )
            file.seek(0)
            content = file.read(os.fstat(file.fileno()).st_size)
        self._check_sum(name, content)
        try:
            state = load(content)
        except (SafetensorError, ValueError, LookupError, TypeError):
            self.refuse(f"{name} is damaged; {_AGAIN}")
        for key, value in state.items():
            if value.dtype != expected[key].dtype:
                self.refuse(f"{name} has {quoted(key)} of {value.dtype}, not {expected[key].dtype}")
            if value.is_floating_point() and not value.isfinite().all():
                self.refuse(f"{name} has NaN or infinity in {quoted(key)}")
        return state

    def _shapes(self, file: Any, name: str) -> dict[str, tuple[int, ...]]:
        try:
            return read_header(file).shapes
        except ValueError:
            self.refuse(f"{name} is damaged, cut short or not a safetensors file; {_AGAIN}")

    def _open(self, name: str) -> Any:
        try:
            return open_file(os.path.join(self._path, name), follow=False)
        except OSError as error:
            self.refuse(f"its file {name} cannot be read: {reason(error)}")

    def _read(self, name: str) -> bytes:
        try:
            return read_file(os.path.join(self._path, name), _MOST[name], follow=False)
        except FileNotFoundError:
            self.refuse(f"it has no file {name}; {_AGAIN}")
        except OSError as error:
            self.refuse(f"its file {name} cannot be read: {reason(error)}")

    def _check_kind(self, kind: str, version: int) -> None:
        found = self.config
        if found.get("library") != LIBRARY:
            self.refuse(f"{CONFIG} is not one that save_pretrained writes")
        if type(found.get("format")) is not int or found["format"] != version:
            versions = found.get("versions")
            by = versions.get(LIBRARY) if isinstance(versions, dict) else None
            needed = "another version" if by is None else f"version {quoted(by)}"
            self.refuse(
                f"it has the format {quoted(found.get('format'))} and this version reads "
                f"{version}; {needed} of otcxr-sk, which wrote it, is needed"
            )
        if found.get("estimator") != kind:
            self.refuse(f"it holds an estimator {quoted(found.get('estimator'))}, not {kind}")

    def _check_names(self, names: set[str]) -> None:
        try:
            found = _names(self._path)
        except OSError as error:
            self.refuse(reason(error))
        for name in sorted(found - names):
            self.refuse(f"it has a file {quoted(name)}, which is none of its own; remove it")
        for name in sorted(names - found):
            self.refuse(f"it has no file {name}; {_AGAIN}")

    def _read_sums(self, names: set[str]) -> dict[str, str]:
        lines = self._read(SUMS).decode("ascii", "replace").splitlines()
        found = [_LINE.fullmatch(line) for line in lines[: len(names) + 1]]
        sums = {match[2]: match[1] for match in found if match}
        if len(lines) != len(names) or sums.keys() != names:
            self.refuse(f"{SUMS} does not list the files {', '.join(sorted(names))}")
        return sums

    def _check_sum(self, name: str, content: bytes) -> None:
        if sha256(content).hexdigest() != self._sums[name]:
            self.refuse(
                f"the checksum of {name} is another one: it was changed or damaged; {_AGAIN}"
            )
