"""Embedding by joblib's workers, in other processes or on other machines."""

from __future__ import annotations

import math
import multiprocessing
import os
import pickle
import re
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
import torch
from joblib import Parallel, delayed, effective_n_jobs, wrap_non_picklable_objects
from joblib.parallel import BACKENDS, get_active_backend
from numpy.typing import NDArray

from otcxr_sk._ordinary import ordinary
from otcxr_sk._paths import reason
from otcxr_sk._version import __version__
from otcxr_sk.estimators._encoder import Embedder, FittedEncoder, Loaded, come
from otcxr_sk.estimators._state import Weights
from otcxr_sk.images import ImageSource, PathSource, Unusable

_NO_WEIGHTS = np.empty(0, np.uint8)

# Size of a part of the work: of its images or its embeddings, whichever is larger.
_PART_BYTES = 2**26

# Least number of parts per worker, so that no worker is left alone with the last part for long.
_PARTS_EACH = 4

# Seconds without a result after which workers are considered lost, where nothing tells whether
# they live.
SILENCE = 3600


class Call(NamedTuple):
    """A call of `transform` or `transform_dense`, for its workers."""

    name: str
    version: str
    dense: bool


class Embedded(NamedTuple):
    """Embeddings of consecutive images from row `start` on, and what `spread` finds of these."""

    start: int
    values: NDArray[np.float32]
    problems: list[Unusable]
    seen: NDArray[np.float64]


# The row that a part starts at, and the error that prevented its embeddings.
Failed = tuple[int, Exception]


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
    num_workers: int | str,
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
    num_workers : int or "auto"
        Processes that read images here, if they are not in files.

    Yields
    ------
    Embedded
        Of several errors, that of the lowest row is raised, which a single process would meet
        first.
    """
    step = encoder.step
    image = encoder.architecture["image_size"] ** 2
    batch_bytes = 4 * step * max(image, math.prod(shape[1:]))
    share = math.ceil(len(source) / step / n_workers / _PARTS_EACH)
    starts = range(0, len(source), step * max(1, min(share, _PART_BYTES // batch_bytes)))
    call = Call(uuid.uuid4().hex, __version__, dense)
    # Arrays, because joblib and Dask send a large array once per worker, not with every part.
    packed, weights = np.frombuffer(_pack(encoder), np.uint8), encoder.weights
    errors: list[Failed] = []

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

    n_embedded = 0
    for embedded in _results(tasks(), n_workers):
        if not isinstance(embedded, Embedded):
            errors.append(embedded)
        elif not errors:
            n_embedded += len(embedded.values)
            yield embedded
    if errors:
        raise min(errors, key=lambda found: found[0])[1]
    # A result that is lost without an error must not leave rows that were never written.
    if n_embedded < len(source):
        raise RuntimeError(
            f"joblib returned the embeddings of {n_embedded} of {len(source)} images; do this "
            "outside of parallel_config"
        )


def _pack(encoder: FittedEncoder) -> bytes:
    bare = replace(encoder, weights=_NO_WEIGHTS)
    try:
        # Modules defined in a notebook are sent with their code.
        return pickle.dumps(wrap_non_picklable_objects(bare, keep_wrapper=False))
    # Any error, because modules are written by anybody.
    except Exception as error:
        raise RuntimeError(
            "the encoder cannot be sent to joblib's workers, because pickle fails; do this outside "
            "of parallel_config"
        ) from error


def _parts(
    encoder: FittedEncoder, source: ImageSource, starts: range, num_workers: int | str
) -> Iterator[tuple[int, PathSource | Sent]]:
    if isinstance(source, PathSource):
        folder = os.getcwd()
        for start in starts:
            yield start, source.part(start, min(start + starts.step, len(source)), folder)
        return
    loaded = encoder.read(source, 0, len(source), num_workers)
    for start in starts:
        batches = islice(loaded, starts.step // encoder.step)
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


def _results(tasks: Iterator[Any], n_workers: int) -> Iterator[Embedded | Failed]:
    backend = get_active_backend()[0]
    try:
        if type(backend).__name__ == "DaskDistributedBackend":
            yield from _from_dask(tasks, backend, n_workers)
            return
        settings = {"batch_size": 1, "timeout": None if _tells(backend) else SILENCE}
        if getattr(backend, "supports_return_generator", False):
            yield from _Quiet(return_as="generator_unordered", **settings)(tasks)
            return
        # Other backends return all results at the end, so work is given out in rounds.
        with Parallel(**settings) as parallel:
            for first in tasks:
                yield from parallel(chain([first], islice(tasks, _PARTS_EACH * n_workers - 1)))
    except BrokenProcessPool as error:
        raise RuntimeError(_obituary(str(error))) from error
    except multiprocessing.TimeoutError as error:
        raise RuntimeError(
            f"no worker has sent embeddings for {SILENCE} seconds, and this backend of joblib does "
            "not tell whether they live: check their logs. They may have run out of memory (lower "
            "batch_size), or be stuck on a file. The backend 'loky' waits for all that live"
        ) from error
    except OSError as error:
        raise RuntimeError(
            f"joblib's workers cannot be used: {reason(error)}; lower n_jobs, or do this outside "
            "of parallel_config"
        ) from error


def _tells(backend: Any) -> bool:
    """Whether joblib notices the death of a worker; threads do not die."""
    return isinstance(backend, (BACKENDS["loky"], BACKENDS["threading"]))


class _Quiet(Parallel):
    """Does not warn that work was cancelled, in addition to the error that was the cause."""

    def _warn_exit_early(self) -> None:
        pass


def _obituary(words: str) -> str:
    codes = re.findall(r"SIG[A-Z]+|EXIT\(\d+\)", words)
    if "SIGKILL" in codes:
        advice = "if memory ran out, lower n_jobs or batch_size"
    else:
        advice = (
            "an image may crash the library that decodes it: do this outside of parallel_config, "
            "with num_workers=1, which names the images"
        )
    how = f" ({', '.join(codes)})" if codes else ""
    return f"a worker process of joblib died{how}; {advice}"


def _from_dask(tasks: Iterator[Any], backend: Any, n_workers: int) -> Iterator[Embedded | Failed]:
    """Do tasks on a Dask cluster; joblib would wait forever for those that Dask gives up."""
    from distributed import KilledWorker, as_completed

    client: Any = backend.client
    everywhere: dict[int, Any] = {}

    def submit(task: Any) -> Any:
        function, arguments, _ = task
        sent = list(arguments)
        for place, argument in enumerate(arguments):
            # Once to every worker.
            if isinstance(argument, np.ndarray):
                if id(argument) not in everywhere:
                    everywhere[id(argument)] = client.scatter(argument, broadcast=True, hash=False)
                sent[place] = everywhere[id(argument)]
            # Not by way of the scheduler.
            elif isinstance(argument, Sent):
                sent[place] = client.scatter(argument, hash=False)
        return client.submit(function, *sent, pure=False, **backend.submit_kwargs)

    running = as_completed([submit(task) for task in islice(tasks, 2 * n_workers)], client.loop)
    try:
        for future in running:
            yield future.result()
            for task in islice(tasks, 1):
                running.add(submit(task))
    except KilledWorker as error:
        raise RuntimeError(
            "Dask gave up a part of the images because the workers that had it died. They may have "
            "run out of memory (lower batch_size), or an image crashes the library that decodes "
            "it: see their logs"
        ) from error
    except CancelledError as error:
        raise RuntimeError(
            "a worker of Dask died, and the images sent to it are lost; see its log, and run this "
            "again. Images in files are safer, because other workers can read them, too"
        ) from error


# Threads of one worker share an encoder.
_alone = threading.Lock()
_awake: tuple[str, FittedEncoder, Embedder] | None = None


@ordinary()
def embed_part(
    call: Call,
    packed: NDArray[np.uint8],
    weights: Weights,
    start: int,
    part: PathSource | Sent,
) -> Embedded | Failed:
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
    seen: list[NDArray[np.float64]] = []
    row = start
    try:
        for images, found in loaded:
            part_values, part_seen = come(embedder(images, call.dense), row, found)
            values.append(part_values)
            problems += found
            seen.append(part_seen)
            row += len(images)
    # Of several, only the main process knows which comes first.
    except ValueError as error:
        return start, error
    return Embedded(start, np.concatenate(values), problems, np.concatenate(seen, axis=1))
