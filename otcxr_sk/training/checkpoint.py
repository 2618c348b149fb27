"""Checkpoints of a run on disk: complete or not there, damaged or not, and never code."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from otcxr_sk.training.warning import warn_user

if TYPE_CHECKING:
    from torch import Tensor

# The newest may be damaged by a failing disk, and the one before must then be there.
KEEP = 2

_FORMAT = "1"
_UNFINISHED = "unfinished.part"
_LOCK = ".in-use"
_NAME = re.compile(r"checkpoint-(\d{9})-([0-9a-f]{32})\.safetensors")


class CheckpointWarning(UserWarning):
    """A checkpoint could not be written, or the newest one was damaged."""


@dataclass
class Checkpoint:
    """All that a run needs to go on.

    Parameters
    ----------
    tensors : dict of str to Tensor
    numbers : dict
        Whatever JSON can hold.
    """

    tensors: dict[str, Tensor]
    numbers: dict[str, Any]


class Checkpoints:
    """A folder with the last checkpoints of one run.

    Every checkpoint is one safetensors file with the numbers as JSON in its header. It is written
    beside its place, flushed to the disk and then renamed, and its name ends with the checksum of
    its bytes: what a crash, a full disk or a bad sector left behind is never taken for a
    checkpoint.

    Parameters
    ----------
    folder : str or path-like
        Made if missing.
    every : int or timedelta
        Epochs, or time, from one checkpoint to the next.

    Attributes
    ----------
    run : dict
        What else the numbers of every checkpoint are to hold: to tell which run it is of.

    Raises
    ------
    ValueError
        If there can be no such folder.
    """

    def __init__(self, folder: str | os.PathLike[str], every: int | timedelta = 1) -> None:
        self.run: dict[str, Any] = {}
        self.folder = os.path.abspath(folder)
        self._every = every
        self._saved_at = time.monotonic()
        try:
            os.makedirs(self.folder, exist_ok=True)
            # A folder that cannot be written to is better known of before a run than after it.
            with open(self._unfinished, "wb"):
                pass
            os.unlink(self._unfinished)
        except OSError as error:
            raise ValueError(
                f"checkpoint_dir={os.fspath(folder)!r} cannot be used: {error}"
            ) from error

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other runs out of the folder while the block is executed.

        Raises
        ------
        ValueError
            A run is using it, on this machine or on another that shares the disk.
        """
        lock = FileLock(os.path.join(self.folder, _LOCK), timeout=0)
        # Not every shared disk has locks; the lock of a process that was killed is gone.
        held: AbstractContextManager[Any] = nullcontext()
        with suppress(NotImplementedError, OSError):
            try:
                held = lock.acquire()
            except Timeout as error:
                raise ValueError(
                    f"checkpoint_dir={self.folder!r} is being used by another run; wait until it "
                    "ends, or use another folder"
                ) from error
        with held:
            yield

    def is_due(self, epochs: int, steps: int) -> bool:
        """Whether to save after so many epochs and so many steps of the next."""
        if isinstance(self._every, timedelta):
            return time.monotonic() - self._saved_at >= self._every.total_seconds()
        return steps == 0 and epochs % self._every == 0

    def save(self, checkpoint: Checkpoint, place: int) -> None:
        """Write a checkpoint, then remove all but the last `KEEP`.

        Parameters
        ----------
        checkpoint : Checkpoint
        place : int
            Steps from the start of the run.

        Warns
        -----
        CheckpointWarning
            It cannot be written, as when the disk is full. Those before it are kept.
        """
        import safetensors.torch

        numbers = json.dumps({**checkpoint.numbers, "run": self.run})
        header = {"format": _FORMAT, "numbers": numbers}
        content = safetensors.torch.save(checkpoint.tensors, header)
        name = f"checkpoint-{place:09d}-{checksum(content).hexdigest()}.safetensors"
        try:
            with open(self._unfinished, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(self._unfinished, os.path.join(self.folder, name))
            _flush_folder(self.folder)
        except OSError as error:
            with suppress(OSError):
                os.unlink(self._unfinished)
            self._warn(
                f"no checkpoint was written after step {place} ({error}); those before it are "
                "kept and training goes on"
            )
            return
        finally:
            self._saved_at = time.monotonic()
        for old in checkpoint_names(self.folder)[KEEP:]:
            with suppress(OSError):
                os.unlink(os.path.join(self.folder, old))

    def load(self) -> Checkpoint | None:
        """Read the newest checkpoint that is whole; None if there is none.

        Raises
        ------
        ValueError
            If it was written by a later version of this library, in a format not known here.
        OSError
            If one cannot be read though it is there.

        Warns
        -----
        CheckpointWarning
            One is damaged, and was removed.
        """
        for name in checkpoint_names(self.folder):
            path = os.path.join(self.folder, name)
            with open(path, "rb") as file:
                content = file.read()
            if name.endswith(f"-{checksum(content).hexdigest()}.safetensors"):
                return _parse(content, path)
            os.unlink(path)
            self._warn(f"the checkpoint {name} is damaged and was removed; the one before is used")
        return None

    @property
    def _unfinished(self) -> str:
        return os.path.join(self.folder, _UNFINISHED)

    def _warn(self, what: str) -> None:
        warn_user(f"checkpoint_dir={self.folder!r}: {what}", CheckpointWarning)


def checkpoint_names(folder: str | os.PathLike[str]) -> list[str]:
    """Names of the checkpoints in a folder, the newest first."""
    return sorted(filter(_NAME.fullmatch, os.listdir(folder)), reverse=True)


def checksum(content: bytes = b"") -> blake2b:
    """Begin the checksum that the name of a checkpoint ends with."""
    return blake2b(content, digest_size=16)


def _parse(content: bytes, path: str) -> Checkpoint:
    import safetensors.torch

    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])["__metadata__"]
    if header.get("format") != _FORMAT:
        raise ValueError(
            f"{path!r} has the format {header.get('format')!r}, and this version of otcxr-sk "
            f"reads {_FORMAT!r}; go on with the version that wrote it, or use another "
            "checkpoint_dir"
        )
    return Checkpoint(safetensors.torch.load(content), json.loads(header["numbers"]))


def _flush_folder(folder: str) -> None:
    """Make a rename last; a folder cannot be opened on every system."""
    with suppress(OSError):
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
