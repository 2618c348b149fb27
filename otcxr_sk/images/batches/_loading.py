"""Read batches of images in order, by worker processes if asked to."""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import current_process
from numbers import Integral
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from joblib import cpu_count
from numpy.typing import NDArray

from otcxr_sk._ordinary import ordinary
from otcxr_sk._warning import Doubts, held_warnings, warn_user
from otcxr_sk.images._errors import Unusable
from otcxr_sk.images.batches._processes import METHOD, PATIENCE, CannotStart, Died, Team
from otcxr_sk.images.sources import ImageSource

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Item = TypeVar("Item")
Rows = NDArray[np.intp]
Read = Callable[[Rows], Any]
Describe = Callable[[int], str]

# Beyond these, one process cannot take in what workers send.
_MOST_WORKERS = 16

# Seconds in which a thread that is not needed any more usually ends.
_GRACE = 5

# Bytes of a batch that is larger are not sent as they are: it is resized first.
_MOST = 2**29

# Images of a batch that a message names.
_NAMED = 20

_ADVICE = {
    "of SIGKILL": "this is how systems end processes when memory runs out, so lower num_workers or "
    "batch_size",
    "of SIGTERM": "another program has ended it",
}

# Reasons to read without workers that have been told; every epoch would tell them again.
_told: set[str] = set()


def read_batches(
    source: ImageSource,
    batches: Sequence[Rows],
    size: int,
    num_workers: int | str,
    device: "torch.device | None" = None,
) -> Generator["Tensor", None, None]:
    """Yield images (b, 1, size, size), float32, for each array of rows, in order.

    Parameters
    ----------
    source : ImageSource
    batches : sequence of ndarray of int
    size : int
    num_workers : int or "auto"
        See `choose_workers`.
    device : torch.device, default=None
        Where the images are wanted; None is the CPU. For a GPU, batches are read and brought to
        pinned memory by a thread while the GPU works, and integers travel as they are.
    """
    read = Reader(source, size, usable=False)
    with closing(load(read, batches, num_workers, device)) as found:
        for pixels, _ in found:
            yield read.finish(pixels)


def read_usable_batches(
    source: ImageSource,
    batches: Sequence[Rows],
    size: int,
    num_workers: int | str,
    device: "torch.device | None" = None,
) -> Generator[tuple["Tensor", list[Unusable]], None, None]:
    """Yield what `ImageSource.read_usable` returns for each array of rows, as `read_batches`."""
    read = Reader(source, size, usable=True)
    with closing(load(read, batches, num_workers, device)) as found:
        for pixels, problems in found:
            yield read.finish(pixels), problems


@dataclass
class Reader:
    """How images of a source are read; `for_gpu`, integers stay as they are."""

    source: ImageSource
    size: int
    usable: bool
    refuse_constant: bool = False
    for_gpu: bool = False

    def __call__(self, rows: Rows) -> tuple[NDArray[Any], list[Unusable]]:
        source = self.source
        if self.for_gpu and len(rows) * (source.raw_bytes or _MOST) < _MOST:
            try:
                return source.read_raw(rows), []
            except ValueError:
                if not self.usable:
                    raise
        if self.usable:
            return source.read_usable(rows, self.size, refuse_constant=self.refuse_constant)
        return source.read(rows, self.size), []

    def finish(self, pixels: "Tensor") -> "Tensor":
        """Scale and resize integers."""
        if pixels.is_floating_point():
            return pixels
        return self.source.squares(pixels, self.size)


def choose_workers(num_workers: int | str, source: ImageSource, gpu: bool) -> int:
    """Return the number of processes that read images.

    "auto" stands for one per processor where a GPU waits for files to be decoded, and for none
    elsewhere: training on the CPU leaves them no processor, and arrays need no decoding.
    """
    if num_workers != "auto":
        # `transform` takes parameters that `fit` has not checked.
        if not isinstance(num_workers, Integral) or num_workers < 0:
            raise ValueError(f"num_workers must be 0 or more, or 'auto', got {num_workers!r}")
        return int(num_workers)
    in_files = len(source) > 0 and source.file(0) is not None
    if not (gpu and in_files and METHOD == "fork") or current_process().daemon:
        return 0
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return max(1, min(cpu_count() // beside, _MOST_WORKERS))


def load(
    read: Reader, batches: Sequence[Rows], num_workers: int | str, device: "torch.device | None"
) -> Generator[tuple["Tensor", list[Unusable]], None, None]:
    """Yield what `read` returns for each array of rows, in order, on a device."""
    import torch

    from otcxr_sk._transfer import pinned, send

    gpu = device is not None and device.type == "cuda"
    read = replace(read, for_gpu=gpu)
    num_workers = choose_workers(num_workers, read.source, gpu)
    found = read_ahead(read, batches, num_workers, read.source.describe)
    if device is None or not gpu:
        with closing(found):
            for pixels, problems in found:
                yield torch.from_numpy(pixels).to(device), problems
        return

    def to_pinned() -> Generator[tuple["Tensor", list[Unusable]], None, None]:
        # Threads have a current device each, and pinned memory belongs to that of its thread.
        with closing(found), torch.cuda.device(device):
            for pixels, problems in found:
                yield pinned(torch.from_numpy(pixels)), problems

    with closing(in_thread(to_pinned())) as ready:
        for pixels, problems in ready:
            yield send(pixels, device), problems


def in_thread(items: Generator[Item, None, None], ahead: int = 2) -> Generator[Item, None, None]:
    """Have a thread make items while the caller uses the ones before, in order, errors included.

    Parameters
    ----------
    items : generator
    ahead : int, default=2
        Items that are made before they are asked for, at most.
    """
    end, owner = object(), os.getpid()
    ready: SimpleQueue[tuple[Any, BaseException | None, Doubts]] = SimpleQueue()
    room, unwanted = threading.Semaphore(ahead), threading.Event()

    def work() -> None:
        # Threads have settings of their own.
        with ordinary(), held_warnings() as doubts, closing(items):
            item: Any = None
            while item is not end:
                room.acquire()
                if unwanted.is_set():
                    return
                error = None
                try:
                    item = next(items, end)
                except BaseException as raised:
                    item, error = end, raised
                ready.put((item, error, doubts.copy()))
                doubts.clear()

    # Nothing waits for a daemon, such as one in a read that never ends.
    thread = threading.Thread(target=work, name="otcxr-sk-reads", daemon=True)
    thread.start()
    try:
        while True:
            item, error, doubts = ready.get()
            for doubt, category in doubts:
                warn_user(doubt, category)
            if error is not None:
                raise error
            if item is end:
                return
            room.release()
            yield item
    finally:
        unwanted.set()
        room.release()
        # A process that was forked from this one has a copy of all this, but not the thread.
        if os.getpid() == owner:
            thread.join(_GRACE)


def behind(
    items: Iterable[Item], device: "torch.device | None", by: int = 1
) -> Generator[Item, None, None]:
    """Yield items unchanged, on a GPU only after `by` more are made.

    Their numbers have then come while the GPU goes on.
    """
    made: deque[Item] = deque()
    for item in items:
        made.append(item)
        if device is None or device.type == "cpu" or len(made) > by:
            yield made.popleft()
    yield from made


def read_ahead(
    read: Read, batches: Sequence[Rows], num_workers: int, describe: Describe = "row {}".format
) -> Generator[Any, None, None]:
    """Yield what `read` returns for each batch of rows, in order.

    Parameters
    ----------
    read : callable
        Takes an array of rows. What it raises is raised here.
    batches : sequence of ndarray of int
        Rows of each batch.
    num_workers : int
        Number of worker processes that read ahead. With 0, or where the system allows none, this
        process reads each batch on demand.
    describe : callable
        What messages call an image.

    Raises
    ------
    RuntimeError
        If a worker dies. One that lives is waited for, however long it takes.

    Warns
    -----
    UserWarning
        Workers cannot be started here, or one has been silent for minutes.
    """
    done = 0
    if num_workers and len(batches):
        try:
            with closing(_by_workers(read, batches, num_workers, describe)) as found:
                for images in found:
                    yield images
                    done += 1
            return
        except CannotStart as error:
            _tell(f"num_workers={num_workers}: images are read without workers, because {error}")
    for rows in batches[done:]:
        yield read(rows)


def _tell(reason: str) -> None:
    if reason not in _told:
        _told.add(reason)
        warn_user(f"{reason}. The result is the same; num_workers=0 says that this is intended")


def _by_workers(
    read: Read, batches: Sequence[Rows], num_workers: int, describe: Describe
) -> Generator[Any, None, None]:
    team = Team(read, batches, min(num_workers, len(batches)))
    ended = False
    try:
        for place, rows in enumerate(batches):
            try:
                found = team.result(place, partial(_tell_of_silence, rows, describe))
            except Died as error:
                where = _names(batches[error.task], describe)
                raise RuntimeError(_obituary(error.exitcode, where)) from error
            except MemoryError as error:
                raise MemoryError(
                    f"memory ran out at {_names(rows, describe)}; lower num_workers or batch_size"
                ) from error
            except (ValueError, CannotStart):
                raise
            except Exception as error:
                error.add_note(f"A worker process met this at {_names(rows, describe)}.")
                raise
            yield found
        ended = True
    finally:
        team.dismiss(at_once=not ended)


def _tell_of_silence(rows: Rows, describe: Describe) -> None:
    warn_user(
        f"a worker process has not returned {_names(rows, describe)} in {PATIENCE // 60} minutes; "
        "it is alive, so it is waited for. If nothing can take that long, it is stuck: "
        "num_workers=0 reads without workers"
    )


def _obituary(exitcode: int | None, where: str) -> str:
    """Say how a worker died, where, and what to do."""
    if exitcode is None:
        how = "of unknown cause"
        advice = "if memory ran out, lower num_workers or batch_size"
    elif exitcode >= 0:
        how = f"by leaving with exit code {exitcode}"
        advice = "code that a data set calls must not end the process"
    else:
        number = -exitcode
        how = f"of signal {number}"
        if number in set(signal.Signals):
            how = f"of {signal.Signals(number).name}"
        advice = _ADVICE.get(
            how,
            "an image may crash the library that decodes it: find it by reading each of these in "
            "a Python of its own, and leave it out",
        )
    return f"a worker process that reads images died {how}, at {where}; {advice}"


def _names(rows: Rows, describe: Describe) -> str:
    named = "; ".join(describe(int(row)) for row in rows[:_NAMED])
    return named + (f"; and {len(rows) - _NAMED} more" if len(rows) > _NAMED else "")
