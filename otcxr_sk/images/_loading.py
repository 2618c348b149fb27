"""Read batches of images in order, by worker processes if asked to."""

import multiprocessing
import sys
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from otcxr_sk.images._errors import Unusable
from otcxr_sk.images._source import ImageSource

if TYPE_CHECKING:
    from torch import Tensor

Rows = NDArray[np.intp]
Read = Callable[[Rows], Any]

# Seconds without an answer after which a worker is considered dead.
WORKER_TIMEOUT = 300


def read_batches(
    source: ImageSource, batches: Sequence[Rows], size: int, num_workers: int
) -> Generator["Tensor", None, None]:
    """Yield images (b, 1, size, size), float32, for each array of rows, in order."""
    return read_ahead(partial(source.read, size=size), batches, num_workers)


def read_usable_batches(
    source: ImageSource, batches: Sequence[Rows], size: int, num_workers: int
) -> Generator[tuple["Tensor", list[Unusable]], None, None]:
    """Yield what `ImageSource.read_usable` returns for each array of rows, in order."""
    return read_ahead(partial(source.read_usable, size=size), batches, num_workers)


def read_ahead(read: Read, batches: Sequence[Rows], num_workers: int) -> Generator[Any, None, None]:
    """Yield what `read` returns for each batch of rows, in order, with arrays as tensors.

    Parameters
    ----------
    read : callable
        Takes an array of rows. A ValueError is raised here unchanged.
    batches : sequence of ndarray of int
        Rows of each batch.
    num_workers : int
        Number of worker processes that read ahead. With 0, this process reads each batch on
        demand.

    Raises
    ------
    RuntimeError
        If a worker is killed, or does not answer for 300 seconds.
    """
    from torch import Generator
    from torch.utils.data import DataLoader

    # The other start methods, default on other systems and in later Pythons, copy all data.
    fork = num_workers and sys.platform == "linux"
    loader: Any = DataLoader(
        batches,  # type: ignore[arg-type]
        batch_size=None,
        collate_fn=partial(_attempt, read),
        num_workers=num_workers,
        timeout=WORKER_TIMEOUT if num_workers else 0,
        multiprocessing_context=multiprocessing.get_context("fork") if fork else None,
        # By default, the loader draws its workers' seed from the global generator.
        generator=Generator(),
    )
    try:
        for found in loader:
            # An error raised in a worker would get another message from the loader.
            if isinstance(found, ValueError):
                raise found
            yield found
    except RuntimeError as error:
        if "DataLoader" not in str(error):
            raise
        raise RuntimeError(
            f"a worker process that reads images died or hung ({error}); if memory ran out, "
            "lower num_workers or batch_size"
        ) from error


def _attempt(read: Read, rows: Rows) -> Any:
    """Return what `read` returns, with arrays as tensors, or the ValueError that it raises."""
    from torch.utils.data import default_convert

    try:
        return default_convert(read(rows))
    except ValueError as error:
        return error
