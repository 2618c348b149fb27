"""Several processes that train one model: who they are, and what they agree on."""

from __future__ import annotations

import atexit
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm.auto import tqdm

from otcxr_sk.images import ImageSource
from otcxr_sk.images import scan as scan_alone
from otcxr_sk.images._scan import Scan, require_usable
from otcxr_sk.images._source import Selection
from otcxr_sk.method.model import OTCXRModel
from otcxr_sk.method.objective import Objective
from otcxr_sk.training.runtime import choose_device
from otcxr_sk.training.shared_batch import Spread, join_parts

# For so long a process waits for another before it takes it for dead: longer than one of them
# takes to write a checkpoint or to read its share of LOOKED_AT images.
TIMEOUT = timedelta(minutes=10)

# Images that every process looks at, before training, from one meeting of all to the next.
LOOKED_AT = 2048

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """The processes that train together; by default this one alone, which has none to wait for.

    Its methods have to be called by all of them, in the same order.

    Parameters
    ----------
    device : torch.device
        Where this one computes.
    rank : int
        Which this one is.
    count : int
        How many there are.
    """

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes and talks."""
        return self.rank == 0

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For every flag, whether it is set in any process."""
        if self.count == 1:
            return flags
        # On the CPU, where nobody has to wait for what a GPU still has to do.
        told = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(told, dist.ReduceOp.MAX)
        return tuple(map(bool, told.tolist()))

    def gather(self, value: T) -> list[T]:
        """Value of every process, in their order."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def from_first(self, make: Callable[[], T]) -> T:
        """Give what the first process makes, or raise what it meets, in all of them."""
        if self.count == 1:
            return make()
        told: list[Any] = [None, None]
        if self.is_first:
            try:
                told[0] = make()
            except Exception as error:
                told[1] = error
        dist.broadcast_object_list(told)
        if told[1] is not None:
            raise told[1]
        return told[0]

    def spread(self, model: OTCXRModel, objective: Objective) -> nn.Module:
        """Make the model one that sees a part of every batch and gives the terms of the whole."""
        if self.count == 1:
            return model
        return Spread(model, objective, self.device)

    def join(self, embedding: Tensor, sizes: Sequence[int]) -> Tensor:
        """Join the embeddings of the first views of all parts, of which the sizes are given."""
        if self.count == 1:
            return embedding
        return join_parts(embedding, sizes)

    def seed(self, *key: int) -> None:
        """Let dropout draw by `key`, so that no two processes draw the same; none if alone."""
        if self.count == 1:
            return
        seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1)
        torch.default_generator.manual_seed(seed)
        if self.device.type == "cuda":
            torch.cuda.default_generators[self.device.index].manual_seed(seed)


ALONE = Processes(torch.device("cpu"))


def join_processes(name: str) -> Processes:
    """Find the processes that torchrun started beside this one, if it did.

    Parameters
    ----------
    name : str
        Device that the user asked for; of the GPUs of a machine every process gets its own.

    Raises
    ------
    ValueError
        Several processes cannot train there.
    """
    count = int(os.environ.get("WORLD_SIZE", 1)) if dist.is_available() else 1
    # Other launchers set some of the variables, and mean something else by them.
    if count == 1 or not dist.is_torchelastic_launched():
        return Processes(choose_device(name))
    if torch.cuda.is_available() and name != "cpu":
        _take_gpu(name)
    device = choose_device(name)
    if device.type not in ("cpu", "cuda"):
        raise ValueError(
            f"several processes train on CUDA or on the CPU, not on {device.type!r}; start one "
            "process, or use device='cpu'"
        )
    if device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
    if not dist.is_initialized():
        backends = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backends, timeout=TIMEOUT)
        atexit.register(_leave)
    elif "cpu" not in dist.get_backend_config():
        raise ValueError(
            "the process group that this script has made cannot reach the CPU; make it by "
            "init_process_group('cpu:gloo,cuda:nccl'), or leave it to fit"
        )
    return Processes(device, dist.get_rank(), dist.get_world_size())


def _take_gpu(name: str) -> None:
    """Make this process's GPU the current one, before anything is put on another."""
    place, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if name not in ("auto", "cuda", f"cuda:{place}"):
        raise ValueError(
            f"device={name!r} would put several processes on one GPU; use device='cuda', and every "
            "process takes its own"
        )
    if place >= there:
        raise ValueError(
            f"this machine has {there} GPUs and was given more processes; start torchrun with "
            f"--nproc-per-node={there}, or use device='cpu'"
        )
    torch.cuda.set_device(place)


def _leave() -> None:
    # After an error it would wait for processes that wait for this one.
    if dist.is_initialized() and not hasattr(sys, "last_value"):
        dist.destroy_process_group()


def scan(
    processes: Processes,
    source: ImageSource,
    size: int,
    *,
    held_out: NDArray[np.intp],
    refuse_unusable: bool = True,
    progress: bool = False,
    **options: Any,
) -> Scan:
    """Look at all images as `otcxr_sk.images.scan` does, every process at its share.

    All of them get the same numbers and the same images that cannot be used, or the same error.
    """
    if processes.count == 1:
        return scan_alone(
            source,
            size,
            held_out=held_out,
            refuse_unusable=refuse_unusable,
            progress=progress,
            **options,
        )
    n = len(source)
    seen: list[tuple[int, Scan]] = []
    bar = tqdm(total=n, desc="reading", unit="img", disable=not (progress and processes.is_first))
    with bar:
        # One that is slow is waited for before the others are far ahead.
        for rows in np.array_split(np.arange(n), math.ceil(n / (LOOKED_AT * processes.count))):
            share = np.array_split(rows, processes.count)[processes.rank]
            seen += processes.gather(_look(source, share, held_out, size, options))
            bar.update(len(rows))
    problems = [problem for _, found in seen for problem in found.unusable]
    if refuse_unusable:
        require_usable(problems, n)
    counts, means, stds = np.array([(count, *found[:2]) for count, found in seen], np.float64).T
    if not counts.any():
        return Scan(0.0, 1.0, problems)
    mean = float(np.average(means, weights=counts))
    variance = np.average(np.square(stds) + np.square(means - mean), weights=counts)
    return Scan(mean, float(np.sqrt(variance)) or 1.0, problems)


def _look(
    source: ImageSource,
    rows: NDArray[np.intp],
    held_out: NDArray[np.intp],
    size: int,
    options: dict[str, Any],
) -> tuple[int, Scan]:
    """Scan some rows, and count those that were measured."""
    is_held_out = np.isin(rows, held_out)
    found = scan_alone(
        Selection(source, rows),
        size,
        held_out=np.flatnonzero(is_held_out),
        refuse_unusable=False,
        **options,
    )
    measured = ~is_held_out
    measured[[problem.row for problem in found.unusable]] = False
    problems = [problem._replace(row=int(rows[problem.row])) for problem in found.unusable]
    return int(measured.sum()), Scan(found.mean, found.std, problems)
