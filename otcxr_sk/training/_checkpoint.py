"""Checkpoints of a run: complete or not there, damaged or not, and never code."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from hashlib import file_digest, sha256
from io import BufferedReader
from typing import TYPE_CHECKING, Any

from otcxr_sk._files import (
    create_folder,
    locked,
    open_file,
    remove_leftovers,
    replacing,
    require_writable,
)
from otcxr_sk._json import MOST_VALUES, parse
from otcxr_sk._parameters import ParameterGroup
from otcxr_sk._paths import as_path, reason
from otcxr_sk._quote import quoted
from otcxr_sk._safetensors import OF_A_RUN, read_header
from otcxr_sk._warning import warn_user

if TYPE_CHECKING:
    from torch import Tensor

# A failing disk may damage the newest one, and then the one before it is needed.
KEEP = 2

_FORMAT = "2"
_LOCK = ".in-use"
_NAME = re.compile(r"checkpoint-\d{9}-[0-9a-f]{64}\.safetensors")
_NAME_BEFORE_0_2 = re.compile(r"checkpoint-\d{9}-[0-9a-f]{32}\.safetensors")


class CheckpointWarning(UserWarning):
    """A checkpoint was not written, was damaged, or is from another version of otcxr-sk."""


@dataclass(repr=False)
class Checkpoint(ParameterGroup):
    """Where a run is saved while it trains, and how often.

    Parameters
    ----------
    folder : path
        Folder for this run alone; created if missing.
    every : int or datetime.timedelta, default=1
        Number of epochs, or time, from one checkpoint to the next. With a time, checkpoints are
        also written within an epoch.

    See Also
    --------
    otcxr_sk.OTCXRPretrainer : Takes this, or the folder alone, as its parameter `checkpoint`.
    otcxr_sk.training.TimeLimit : Stop after some minutes, to continue later.

    Examples
    --------
    >>> from datetime import timedelta
    >>> from otcxr_sk import Checkpoint, OTCXRPretrainer
    >>> encoder = OTCXRPretrainer(checkpoint=Checkpoint("runs/first", timedelta(minutes=10)))
    """

    folder: Any
    every: int | timedelta = 1


@dataclass
class RunState:
    """All that is needed to continue a run.

    Parameters
    ----------
    tensors : dict of str to Tensor
    numbers : dict
        Anything that JSON can hold.
    """

    tensors: dict[str, Tensor]
    numbers: dict[str, Any]


class CheckpointFolder:
    """A folder with the last checkpoints of one run.

    Each checkpoint is a safetensors file with the numbers as JSON in its header. It is written
    under another name, flushed to the disk and then renamed, and its name ends with a checksum of
    its content. What a crash, a full disk or a bad sector leaves behind is therefore never
    mistaken for a checkpoint.

    Parameters
    ----------
    folder : str or path-like
        Created if missing.
    every : int or timedelta
        Number of epochs, or time, from one checkpoint to the next.

    Attributes
    ----------
    run : dict
        What identifies the run; saved among the numbers of every checkpoint.

    Nothing is touched until `alone` has the lock.
    """

    def __init__(self, folder: str | os.PathLike[str], every: int | timedelta = 1) -> None:
        self.run: dict[str, Any] = {}
        self.folder = os.path.abspath(as_path(folder))
        self._every = every
        self._saved_at = time.monotonic()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other runs out of the folder inside the block.

        A folder that is created here, and in which nothing is saved, is removed again.

        Raises
        ------
        ValueError
            Another run is using it, on this machine or on one that shares the disk; or it cannot
            be created or written to.

        Warns
        -----
        CheckpointWarning
            The disk has no locks, so that nothing keeps other runs out.
        """
        created = not os.path.isdir(self.folder)
        with ExitStack() as held:
            try:
                create_folder(self.folder)
                has_locks = held.enter_context(locked(os.path.join(self.folder, _LOCK)))
                # Better to learn before a run than after it that the folder is read-only.
                require_writable(self.folder)
                os.listdir(self.folder)
            except BlockingIOError as error:
                raise ValueError(
                    f"the checkpoint folder {self.folder!r} is being used by another run; wait "
                    "until it ends, or use another folder"
                ) from error
            except OSError as error:
                what = f" its file {_LOCK}:" if str(error.filename).endswith(_LOCK) else ""
                raise ValueError(
                    f"the checkpoint folder {self.folder!r} cannot be used:{what} {reason(error)}; "
                    "use another folder"
                ) from error
            if not has_locks:
                self._warn(
                    "its disk has no locks, so nothing keeps another run from using it at the same "
                    "time; make sure that none does"
                )
            remove_leftovers(self.folder)
            try:
                yield
            finally:
                if created:
                    self._remove_if_empty()

    def _remove_if_empty(self) -> None:
        with suppress(OSError):
            if os.listdir(self.folder) == [_LOCK]:
                os.unlink(os.path.join(self.folder, _LOCK))
                os.rmdir(self.folder)

    def is_due(self, epochs: int, steps: int) -> bool:
        """Whether to save after `epochs` epochs and `steps` steps of the next one."""
        if isinstance(self._every, timedelta):
            return time.monotonic() - self._saved_at >= self._every.total_seconds()
        return steps == 0 and epochs % self._every == 0

    def save(self, state: RunState, place: int) -> None:
        """Write a checkpoint, then remove all but the last `KEEP`.

        Parameters
        ----------
        state : RunState
        place : int
            Number of steps since the start of the run.

        Warns
        -----
        CheckpointWarning
            It cannot be written, for example because the disk is full. Earlier ones are kept.
        """
        import safetensors.torch

        numbers = json.dumps({**state.numbers, "run": self.run})
        header = {"format": _FORMAT, "numbers": numbers}
        content = safetensors.torch.save(state.tensors, header)
        name = f"checkpoint-{place:09d}-{sha256(content).hexdigest()}.safetensors"
        try:
            with replacing(os.path.join(self.folder, name)) as file:
                file.write(content)
        except OSError as error:
            self._warn(
                f"no checkpoint was written after step {place}: {reason(error)}; earlier ones are "
                "kept and training continues"
            )
            return
        finally:
            self._saved_at = time.monotonic()
        # Whatever has happened to the folder meanwhile, this one is saved.
        with suppress(OSError, ValueError):
            others = [other for other in checkpoint_names(self.folder) if other != name]
            for old in others[KEEP - 1 :]:
                os.unlink(os.path.join(self.folder, old))

    def load(self, accept: Callable[[RunState], None] | None = None) -> RunState | None:
        """Read the newest undamaged checkpoint, and remove damaged ones; None if there is none.

        Parameters
        ----------
        accept : callable, default=None
            Called with it, before anything is removed; may raise an error.

        Raises
        ------
        ValueError
            If another version of this library wrote it, in a format that this one cannot read.
        OSError
            If a checkpoint exists and cannot be read.

        Warns
        -----
        CheckpointWarning
            One is damaged, and was removed.
        """
        state, damaged = None, []
        for name in checkpoint_names(self.folder):
            path = os.path.join(self.folder, name)
            with open_file(path, follow=False) as file:
                if is_whole(file, name):
                    file.seek(0)
                    state = _parse(file.read(), path)
                    break
            damaged.append(name)
        if state is not None and accept is not None:
            accept(state)
        for name in damaged:
            os.unlink(os.path.join(self.folder, name))
            self._warn(
                f"the checkpoint {name} is damaged and was removed; the one before it is used, if "
                "there is one"
            )
        return state

    def _warn(self, what: str) -> None:
        warn_user(f"checkpoint folder {self.folder!r}: {what}", CheckpointWarning)


def checkpoint_names(folder: str | os.PathLike[str]) -> list[str]:
    """List the names of the checkpoints in a folder, newest first.

    Raises
    ------
    ValueError
        If an earlier version of this library wrote some.
    """
    with os.scandir(folder) as files:
        names = [file.name for file in files if file.is_file(follow_symlinks=False)]
    if any(map(_NAME_BEFORE_0_2.fullmatch, names)):
        raise ValueError(
            f"the checkpoint folder {os.fspath(folder)!r} holds a run of otcxr-sk 0.1, which this "
            "version cannot read; continue the run with that version, or use another folder"
        )
    return sorted(filter(_NAME.fullmatch, names), reverse=True)


def is_whole(file: BufferedReader, name: str) -> bool:
    """Return whether an open file is a checkpoint, and as it was when it got its name."""
    try:
        # Before all is read of a file that may be huge.
        read_header(file, OF_A_RUN)
    except ValueError:
        return False
    file.seek(0)
    return name.endswith(f"-{file_digest(file, sha256).hexdigest()}.safetensors")


def _parse(content: bytes, path: str) -> RunState:
    import safetensors.torch
    from safetensors import SafetensorError

    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    if header.get("format") != _FORMAT:
        raise ValueError(
            f"the checkpoint {path!r} has the format {quoted(header.get('format'))}, and this "
            f"version of otcxr-sk reads only {_FORMAT!r}; continue the run with the version that "
            "wrote it (`otcxr-sk info` on the folder names it), or use another folder"
        )
    try:
        numbers = parse(header["numbers"], OF_A_RUN * MOST_VALUES)
        return RunState(safetensors.torch.load(content), numbers)
    except (KeyError, ValueError, SafetensorError) as error:
        raise ValueError(
            f"the checkpoint {path!r} was not written by otcxr-sk, or was changed; remove it, or "
            "use another folder"
        ) from error


# Groups of tensors that belong to the epoch under way: the next part of a stream starts its own.
_OF_AN_EPOCH = ("sums/", "watched/", "good/")


class InMemoryCheckpoint:
    """Stands in for a `CheckpointFolder` where a stream pauses and later continues.

    Attributes
    ----------
    folder : None
        There is none.
    """

    folder = None

    def __init__(self) -> None:
        self._kept: RunState | None = None

    def is_due(self, epochs: int, steps: int) -> bool:
        """Return False: the trainer saves at the end in any case."""
        return False

    def save(self, state: RunState, place: int) -> None:
        """Keep weights, optimizer, random generators and gradient scaler after `place` steps."""
        of_a_run = {
            "epoch": 0,
            "step": 0,
            "stopped": False,
            "history": {},
            "sums": [],
            "seconds": 0.0,
        }
        tensors = {
            name: value
            for name, value in state.tensors.items()
            if not name.startswith(_OF_AN_EPOCH)
        }
        self._kept = RunState(_copy(tensors), {**state.numbers, **of_a_run, "earlier": place})

    def load(self) -> RunState | None:
        """Return what was kept last, as the start of a new epoch; None if nothing was."""
        if self._kept is None:
            return None
        return RunState(_copy(self._kept.tensors), self._kept.numbers)


def _copy(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    # Training changes in place what it saves and what it starts from.
    return {name: value.clone() for name, value in tensors.items()}
