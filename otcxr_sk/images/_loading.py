"""Read batches of images in order, by worker processes if asked to."""

import signal
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from otcxr_sk._warning import warn_user
from otcxr_sk.images._errors import Unusable
from otcxr_sk.images._processes import PATIENCE, CannotStart, Died, Team
from otcxr_sk.images._source import ImageSource

if TYPE_CHECKING:
    from torch import Tensor

Rows = NDArray[np.intp]
Read = Callable[[Rows], Any]
Describe = Callable[[int], str]

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
    source: ImageSource, batches: Sequence[Rows], size: int, num_workers: int
) -> Generator["Tensor", None, None]:
    """Yield images (b, 1, size, size), float32, for each array of rows, in order."""
    from torch import from_numpy

    read = partial(source.read, size=size)
    with closing(read_ahead(read, batches, num_workers, source.describe)) as found:
        for images in found:
            yield from_numpy(images)


def read_usable_batches(
    source: ImageSource, batches: Sequence[Rows], size: int, num_workers: int
) -> Generator[tuple["Tensor", list[Unusable]], None, None]:
    """Yield what `ImageSource.read_usable` returns for each array of rows, in order."""
    from torch import from_numpy

    read = partial(source.read_usable, size=size)
    with closing(read_ahead(read, batches, num_workers, source.describe)) as found:
        for images, problems in found:
            yield from_numpy(images), problems


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
