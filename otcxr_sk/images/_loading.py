"""Batches read ahead of use by other processes, in order."""

import multiprocessing
import sys
from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Read = Callable[[NDArray[np.intp]], Any]

# A worker that is silent for this long, in seconds, is taken for dead.
WORKER_TIMEOUT = 300


def read_ahead(
    read: Read, batches: Sequence[NDArray[np.intp]], num_workers: int
) -> Generator[Any, None, None]:
    """Yield what `read` gives for every batch of rows, in order, arrays in it as tensors.

    Parameters
    ----------
    read : callable
        Of an index array. What it raises as a ValueError is raised here as it is.
    batches : sequence of ndarray of int
        Rows of each batch.
    num_workers : int
        Processes that read beside this one; 0 reads here, and each batch when it is asked for.

    Raises
    ------
    RuntimeError
        If a worker is killed, or silent for 300 seconds.
    """
    from torch import Generator
    from torch.utils.data import DataLoader

    # Elsewhere, and by default in later versions of Python, workers would get a copy of all data.
    fork = num_workers and sys.platform == "linux"
    loader: Any = DataLoader(
        _Reads(read, batches),  # type: ignore[arg-type]
        batch_size=None,
        num_workers=num_workers,
        timeout=WORKER_TIMEOUT if num_workers else 0,
        multiprocessing_context=multiprocessing.get_context("fork") if fork else None,
        # The loader would otherwise draw its workers' seed from the global generator.
        generator=Generator(),
    )
    try:
        for found in loader:
            # The loader would turn an error of a worker into one of its own words.
            if isinstance(found, ValueError):
                raise found
            yield found
    except RuntimeError as error:
        if "DataLoader" not in str(error):
            raise
        raise RuntimeError(
            f"a process that reads images has ended or is stuck ({error}); if memory ran out, "
            "lower num_workers or batch_size"
        ) from error


class _Reads:
    def __init__(self, read: Read, batches: Sequence[NDArray[np.intp]]) -> None:
        self._read, self._batches = read, batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> Any:
        try:
            return self._read(self._batches[index])
        except ValueError as error:
            return error
