"""Embedding by the workers of joblib's context: other processes, other machines."""

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
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from joblib import Parallel, delayed, effective_n_jobs, wrap_non_picklable_objects
from joblib.parallel import get_active_backend
from numpy.typing import NDArray

import otcxr_sk
from otcxr_sk.estimators._encoding import Encoder, Loaded, load
from otcxr_sk.images import ImageSource, PathSource
from otcxr_sk.images._problems import Unusable

if TYPE_CHECKING:
    from otcxr_sk.estimators._embedding import EncoderEstimator

# What embedding needs beside the weights. Other parameters may be large, or unfit to be sent.
_NEEDED = (
    "_architecture",
    "mean_",
    "std_",
    "batch_size",
    "device",
    "precision",
    "on_error",
)

# Of a part of the work: its images or its embeddings, whichever are more.
_PART_BYTES = 2**26

# Parts for each worker, at least, so that none is left alone with the last one for long.
_PARTS_EACH = 4

# Seconds without a result after which workers are taken for lost: joblib is not told when Dask
# gives up a part because every worker that tried it died.
SILENCE = 3600


class Call(NamedTuple):
    """A call of `transform` or `transform_dense` as its workers know it."""

    name: str
    version: str
    dense: bool


class Embedded(NamedTuple):
    """Embeddings of consecutive images from row `start` on, or the error that stopped them."""

    start: int
    values: NDArray[np.float32] | None
    problems: list[Unusable]
    error: ValueError | None = None


def offered_workers() -> int:
    """Count the workers that joblib's context offers; 1 is this process alone."""
    return 1 if _is_dask_task() else effective_n_jobs(None)


def _is_dask_task() -> bool:
    """Whether this is a task on a cluster, which has its share of it already.

    joblib tells its own workers so, but offers Dask's the whole cluster again.
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
    estimator: EncoderEstimator,
    source: ImageSource,
    shape: tuple[int, ...],
    *,
    dense: bool,
    n_workers: int,
) -> Iterator[Embedded]:
    """Cut the images into parts of whole batches, have them embedded, yield parts as they come.

    The batches are those of a single process, so the embeddings are, too. Workers read files
    themselves; images that lie elsewhere are read here, as many as the workers can take, and sent.

    Parameters
    ----------
    estimator : EncoderEstimator
        Fitted.
    source : ImageSource
        All images.
    shape : tuple of int
        Of all embeddings, rows first.
    dense : bool
        Whether maps are wanted.
    n_workers : int
        As `offered_workers` gives it.

    Yields
    ------
    Embedded
        Without an error: the first there is by row, as a single process would meet it, is raised.
    """
    step = estimator.batch_size
    image = estimator._architecture["image_size"] ** 2
    batch_bytes = 4 * step * max(image, math.prod(shape[1:]))
    share = math.ceil(len(source) / step / n_workers / _PARTS_EACH)
    starts = range(0, len(source), step * max(1, min(share, _PART_BYTES // batch_bytes)))
    call = Call(uuid.uuid4().hex, otcxr_sk.__version__, dense)
    # Arrays, since joblib and Dask bring a large one to each worker once, not with every part.
    packed, weights = np.frombuffer(_pack(estimator), np.uint8), estimator.weights_
    errors: list[tuple[int, Exception]] = []

    def tasks() -> Iterator[Any]:
        parts = _parts(estimator, source, starts)
        while not errors:
            try:
                start, part = next(parts)
            except StopIteration:
                return
            # Kept, as workers may still meet an error in a row before.
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


def _pack(estimator: EncoderEstimator) -> bytes:
    bare = type(estimator).__new__(type(estimator))
    bare.__dict__.update({name: getattr(estimator, name) for name in _NEEDED})
    # Modules that were written in a notebook are sent with their code.
    return pickle.dumps(wrap_non_picklable_objects(bare, keep_wrapper=False))


def _parts(
    estimator: EncoderEstimator, source: ImageSource, starts: range
) -> Iterator[tuple[int, PathSource | Sent]]:
    if isinstance(source, PathSource):
        folder = os.getcwd()
        for start in starts:
            yield start, source.part(start, min(start + starts.step, len(source)), folder)
        return
    loaded = load(estimator, source, 0, len(source), estimator.num_workers)
    for start in starts:
        batches = islice(loaded, starts.step // estimator.batch_size)
        yield start, Sent(pickle.dumps([(images.numpy(), found) for images, found in batches]))


@dataclass(eq=False)
class Sent:
    """Images that were read for a worker.

    Bytes, because joblib keeps a file of every large array until all work is done; and telling
    their size, because Dask then brings them to the worker without passing its scheduler.
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
        # Other backends give all results at the end, so there have to be many ends.
        with Parallel(**settings) as parallel:
            for first in tasks:
                yield from parallel(chain([first], islice(tasks, _PARTS_EACH * n_workers - 1)))
    except multiprocessing.TimeoutError as error:
        raise RuntimeError(
            f"no worker has sent embeddings for {SILENCE} seconds; look into their logs: they may "
            "have run out of memory (lower batch_size), or be stuck on a file"
        ) from error
    except CancelledError as error:
        raise RuntimeError(
            f"a worker ended, and with it what it had been sent ({error}); look into its log, and "
            "run this again. Images in files are safer: other workers can read them, too"
        ) from error


def _quietly(results: Generator[Embedded, None, None]) -> Iterator[Embedded]:
    try:
        # Not `yield from`, which would close the other generator itself.
        for result in results:  # noqa: UP028
            yield result
    finally:
        # It would warn of work that was cancelled, beside the error that tells why.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results.close()


# Threads of one worker share an encoder, and read one at a time: reading listens to Python's
# warnings, which all threads have in common.
_alone = threading.Lock()
_awake: tuple[str, EncoderEstimator, Encoder] | None = None


def embed_part(
    call: Call,
    packed: NDArray[np.uint8],
    weights: NDArray[np.uint8],
    start: int,
    part: PathSource | Sent,
) -> Embedded:
    """Embed a part of the images in a worker.

    Parameters
    ----------
    call : Call
        What this is a part of: a worker keeps its encoder from one part to the next.
    packed : ndarray of uint8
        The estimator without its weights, pickled.
    weights : ndarray of uint8
        Its `weights_`.
    start : int
        Row of the first image.
    part : PathSource or Sent
        Files to read, or images that were read.

    Returns
    -------
    Embedded

    Raises
    ------
    RuntimeError
        The worker has another version of this library.
    """
    global _awake
    if call.version != otcxr_sk.__version__:
        raise RuntimeError(
            f"a worker has otcxr-sk {otcxr_sk.__version__}, and {call.version} is needed: install "
            "the same version everywhere"
        )
    with _alone:
        if _awake is None or _awake[0] != call.name:
            estimator = pickle.loads(packed.data)
            estimator.weights_ = weights
            _awake = call.name, estimator, Encoder(estimator)
        _, estimator, encoder = _awake
    # Dask's workers must not have children, so they read without any.
    loaded = (
        iter(part)
        if isinstance(part, Sent)
        else load(estimator, part, start, start + len(part), num_workers=0)
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
        values.append(encoder((images, found), row, call.dense))
        problems += found
        row += len(images)
