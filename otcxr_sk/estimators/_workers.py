"""Embedding by joblib's workers, in other processes or on other machines."""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import sys
import threading
import uuid
import warnings
from collections.abc import Generator, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
import torch
from joblib import Parallel, delayed, effective_n_jobs, wrap_non_picklable_objects
from joblib.parallel import get_active_backend
from numpy.typing import NDArray

from otcxr_sk._version import __version__
from otcxr_sk.estimators._encoder import Embedder, FittedEncoder, Loaded
from otcxr_sk.estimators._state import Weights
from otcxr_sk.images import ImageSource, PathSource, Unusable

_NO_WEIGHTS = np.empty(0, np.uint8)

# Size of a part of the work: of its images or its embeddings, whichever is larger.
_PART_BYTES = 2**26

# Least number of parts per worker, so that no worker is left alone with the last part for long.
_PARTS_EACH = 4

# Seconds without a result after which workers are considered lost: joblib does not notice when
# Dask gives up a part because every worker that tried it died.
SILENCE = 3600


class Call(NamedTuple):
    """A call of `transform` or `transform_dense`, for its workers."""

    name: str
    version: str
    dense: bool


class Embedded(NamedTuple):
    """Embeddings of consecutive images from row `start` on, or the error that prevented them."""

    start: int
    values: NDArray[np.float32] | None
    problems: list[Unusable]
    error: ValueError | None = None


def offered_workers() -> int:
    """Count the workers that joblib's context offers; 1 means only this process."""
    return 1 if _is_dask_task() else effective_n_jobs(None)


def _is_dask_task() -> bool:
    """Whether this already runs on a Dask worker.

    joblib's own workers offer no further workers, but a Dask worker offers the whole cluster again.
    """
    if "distributed" not in sys.modules:
        return False
    from distributed import get_worker

    try:
        get_worker()
    except ValueError:
        return False
    return True


def embed_by_workers(
    encoder: FittedEncoder,
    source: ImageSource,
    shape: tuple[int, ...],
    *,
    dense: bool,
    n_workers: int,
    num_workers: int,
) -> Iterator[Embedded]:
    """Have parts of the images embedded by workers, and yield them as they come.

    Parts consist of the batches that a single process would make, so the embeddings are the same.
    Workers read files themselves. Other images are read here, no faster than workers take them,
    and sent.

    Parameters
    ----------
    encoder : FittedEncoder
    source : ImageSource
        All images.
    shape : tuple of int
        Shape of all embeddings, rows first.
    dense : bool
        Whether to return dense maps.
    n_workers : int
        From `offered_workers`.
    num_workers : int
        Processes that read images here, if they are not in files.

    Yields
    ------
    Embedded
        Never with an error: the error of the lowest row, which a single process would meet first,
        is raised.
    """
    step = encoder.batch_size
    image = encoder.architecture["image_size"] ** 2
    batch_bytes = 4 * step * max(image, math.prod(shape[1:]))
    share = math.ceil(len(source) / step / n_workers / _PARTS_EACH)
    starts = range(0, len(source), step * max(1, min(share, _PART_BYTES // batch_bytes)))
    call = Call(uuid.uuid4().hex, __version__, dense)
    # Arrays, because joblib and Dask send a large array once per worker, not with every part.
    packed, weights = np.frombuffer(_pack(encoder), np.uint8), encoder.weights
    errors: list[tuple[int, Exception]] = []

    def tasks() -> Iterator[Any]:
        parts = _parts(encoder, source, starts, num_workers)
        while not errors:
            try:
                start, part = next(parts)
            except StopIteration:
                return
            # Not raised yet: workers may still meet an error in an earlier row.
            except Exception as error:
                errors.append((len(source), error))
                return
            yield delayed(embed_part)(call, packed, weights, start, part)

    for embedded in _results(tasks(), n_workers):
        if embedded.error is not None:
            errors.append((embedded.start, embedded.error))
        elif not errors:
            yield embedded
    if errors:
        raise min(errors, key=lambda found: found[0])[1]


def _pack(encoder: FittedEncoder) -> bytes:
    bare = replace(encoder, weights=_NO_WEIGHTS)
    # Modules defined in a notebook are sent with their code.
    return pickle.dumps(wrap_non_picklable_objects(bare, keep_wrapper=False))


def _parts(
    encoder: FittedEncoder, source: ImageSource, starts: range, num_workers: int
) -> Iterator[tuple[int, PathSource | Sent]]:
    if isinstance(source, PathSource):
        folder = os.getcwd()
        for start in starts:
            yield start, source.part(start, min(start + starts.step, len(source)), folder)
        return
    loaded = encoder.read(source, 0, len(source), num_workers)
    for start in starts:
        batches = islice(loaded, starts.step // encoder.batch_size)
        yield start, Sent(pickle.dumps([(images.numpy(), found) for images, found in batches]))


@dataclass(eq=False)
class Sent:
    """Images that were read for a worker.

    Kept as bytes, because joblib keeps a file of every large array until all work is done. Their
    size is known, so that Dask sends them to the worker without going through its scheduler.
    """

    content: bytes

    def __sizeof__(self) -> int:
        return len(self.content)

    def __iter__(self) -> Iterator[Loaded]:
        for images, found in pickle.loads(self.content):
            yield torch.from_numpy(images), found


def _results(tasks: Iterator[Any], n_workers: int) -> Iterator[Embedded]:
    settings: dict[str, Any] = {"batch_size": 1, "timeout": SILENCE}
    try:
        if getattr(get_active_backend()[0], "supports_return_generator", False):
            yield from _quietly(Parallel(return_as="generator_unordered", **settings)(tasks))
            return
        # Other backends return all results at the end, so work is given out in rounds.
        with Parallel(**settings) as parallel:
            for first in tasks:
                yield from parallel(chain([first], islice(tasks, _PARTS_EACH * n_workers - 1)))
    except multiprocessing.TimeoutError as error:
        raise RuntimeError(
            f"no worker has sent embeddings for {SILENCE} seconds; check their logs: they may have "
            "run out of memory (lower batch_size), or be stuck on a file"
        ) from error
    except CancelledError as error:
        raise RuntimeError(
            f"a worker died, and the images sent to it are lost ({error}); check its log, and run "
            "this again. Images in files are safer, because other workers can read them, too"
        ) from error


def _quietly(results: Generator[Embedded, None, None]) -> Iterator[Embedded]:
    try:
        # Not `yield from`, which would close the other generator itself.
        for result in results:  # noqa: UP028
            yield result
    finally:
        # It would warn that work was cancelled, in addition to the error that caused it.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results.close()


# Threads of one worker share an encoder and read one at a time: reading catches Python's warnings,
# which all threads share.
_alone = threading.Lock()
_awake: tuple[str, FittedEncoder, Embedder] | None = None


def embed_part(
    call: Call,
    packed: NDArray[np.uint8],
    weights: Weights,
    start: int,
    part: PathSource | Sent,
) -> Embedded:
    """Embed a part of the images in a worker.

    Parameters
    ----------
    call : Call
        A worker keeps its encoder for all parts of a call.
    packed : ndarray of uint8
        The `FittedEncoder` without its weights, pickled.
    weights : ndarray of uint8
        Its weights.
    start : int
        Row of the first image.
    part : PathSource or Sent
        Files to read, or images.

    Returns
    -------
    Embedded

    Raises
    ------
    RuntimeError
        The worker has another version of this library.
    """
    global _awake
    if call.version != __version__:
        raise RuntimeError(
            f"a worker has otcxr-sk {__version__}, but {call.version} is needed: install the same "
            "version everywhere"
        )
    with _alone:
        if _awake is None or _awake[0] != call.name:
            sent: FittedEncoder = pickle.loads(packed.data)
            encoder = replace(sent, weights=weights)
            _awake = call.name, encoder, Embedder(encoder, encoder.load())
        _, encoder, embedder = _awake
    # Dask's workers must not have child processes.
    loaded = (
        iter(part)
        if isinstance(part, Sent)
        else encoder.read(part, start, start + len(part), num_workers=0)
    )
    values: list[NDArray[np.float32]] = []
    problems: list[Unusable] = []
    row = start
    while True:
        try:
            with _alone:
                images, found = next(loaded)
        except StopIteration:
            return Embedded(start, np.concatenate(values), problems)
        except ValueError as error:
            return Embedded(start, None, [], error)
        values.append(embedder((images, found), row, call.dense))
        problems += found
        row += len(images)
