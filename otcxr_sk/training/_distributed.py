"""Several processes that train one model: which they are, how they agree, and what they share."""

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

from otcxr_sk.images import ImageSource, Scan, Selection, require_usable
from otcxr_sk.images import scan as scan_alone
from otcxr_sk.training._device import choose_device
from otcxr_sk.training._random import Randomness
from otcxr_sk.training._shared_batch import Loss, SharedModel, join_parts

# How long a process waits for another before giving up: more than one needs to write a checkpoint
# or to scan its share of the images.
TIMEOUT = timedelta(minutes=10)

T = TypeVar("T")


@dataclass(frozen=True)
class Processes:
    """The processes that train together; by default this one alone.

    All of them must call its methods, in the same order.

    Parameters
    ----------
    device : torch.device
        Device of this process.
    rank : int
        Index of this process.
    count : int
        Number of processes.
    """

    device: torch.device
    rank: int = 0
    count: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and shows messages."""
        return self.rank == 0

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Return for every flag whether it is set in any process."""
        if self.count == 1:
            return flags
        # On the CPU, so that nobody waits for work that is queued on a GPU.
        numbers = torch.tensor(flags, dtype=torch.int32)
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
        return tuple(map(bool, numbers.tolist()))

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, ordered by rank."""
        if self.count == 1:
            return [value]
        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def from_first(self, make: Callable[[], T]) -> T:
        """Call `make` in the first process, and return its result or raise its error in all."""
        if self.count == 1:
            return make()
        answer: list[Any] = [None, None]
        if self.is_first:
            try:
                answer[0] = make()
            except Exception as error:
                answer[1] = error
        dist.broadcast_object_list(answer)
        if answer[1] is not None:
            raise answer[1]
        return answer[0]

    def share(self, model: nn.Module, objective: Loss) -> nn.Module:
        """Wrap the model so that it sees a part of each batch and returns the terms of all of it.

        A process alone gets the model back.
        """
        if self.count == 1:
            return model
        return SharedModel(model, objective, self.device)

    def join(self, embedding: Tensor, sizes: Sequence[int]) -> Tensor:
        """Concatenate the first `sizes[rank]` rows of every process's embedding.

        A process alone gets its embedding back.
        """
        if self.count == 1:
            return embedding
        return join_parts(embedding, sizes)

    def seed(self, random: Randomness, *key: int) -> None:
        """Seed dropout by `key`, so that no two processes draw alike; does nothing if alone."""
        if self.count > 1:
            random.seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))


SINGLE_PROCESS = Processes(torch.device("cpu"))


def join_processes(name: str) -> Processes:
    """Join the processes that torchrun started, or return this one alone.

    Parameters
    ----------
    name : str
        Device that the user asked for. On a machine with several GPUs each process gets its own.

    Raises
    ------
    ValueError
        If several processes cannot train on that device.
    """
    count = int(os.environ.get("WORLD_SIZE", 1)) if dist.is_available() else 1
    # Other launchers set some of the same variables, with another meaning.
    if count == 1 or not dist.is_torchelastic_launched():
        return Processes(choose_device(name))
    if torch.cuda.is_available() and name != "cpu":
        _take_gpu(name)
    device = choose_device(name)
    if device.type not in ("cpu", "cuda"):
        raise ValueError(
            f"several processes can train on CUDA or on the CPU, not on {device.type!r}; start one "
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
            "the process group that this script created has no backend for the CPU; create it with "
            "init_process_group('cpu:gloo,cuda:nccl'), or let fit create it"
        )
    return Processes(device, dist.get_rank(), dist.get_world_size())


def _take_gpu(name: str) -> None:
    """Make this process's GPU the current one, before anything is put on another."""
    place, there = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
    if name not in ("auto", "cuda", f"cuda:{place}"):
        raise ValueError(
            f"device={name!r} would put several processes on one GPU; use device='cuda', which "
            "gives each process its own"
        )
    if place >= there:
        raise ValueError(
            f"torchrun started more processes than this machine has GPUs, which is {there}; start "
            f"it with --nproc-per-node={there}, or use device='cpu'"
        )
    torch.cuda.set_device(place)


def _leave() -> None:
    # After an error this would wait for processes that wait for this one.
    if dist.is_initialized() and not hasattr(sys, "last_value"):
        dist.destroy_process_group()


# Images that each process scans before all of them exchange what they found. One exchange must
# take less time than `Processes` wait for each other.
LOOKED_AT = 2048


def scan(
    processes: Processes,
    source: ImageSource,
    size: int,
    *,
    held_out: NDArray[np.intp],
    refuse_unusable: bool = True,
    progress: bool = False,
    note: Callable[..., None] | None = None,
    **options: Any,
) -> Scan:
    """Scan all images like `otcxr_sk.images.scan`, each process a share of them.

    All processes return the same result, or raise the same error.
    """
    options["device"] = processes.device
    if processes.count == 1:
        options |= {"refuse_unusable": refuse_unusable, "progress": progress, "note": note}
        return scan_alone(source, size, held_out=held_out, **options)
    n = len(source)
    seen: list[tuple[int, Scan]] = []
    bar = tqdm(total=n, desc="reading", unit="img", disable=not (progress and processes.is_first))
    with bar:
        # In pieces, so that a slow process is waited for before the others are far ahead.
        for rows in np.array_split(np.arange(n), math.ceil(n / (LOOKED_AT * processes.count))):
            share = np.array_split(rows, processes.count)[processes.rank]
            seen += processes.gather(_scan_rows(source, share, held_out, size, note, options))
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


def _scan_rows(
    source: ImageSource,
    rows: NDArray[np.intp],
    held_out: NDArray[np.intp],
    size: int,
    note: Callable[..., None] | None,
    options: dict[str, Any],
) -> tuple[int, Scan]:
    """Scan some rows, and count those that were measured."""
    is_held_out = np.isin(rows, held_out)
    found = scan_alone(
        Selection(source, rows),
        size,
        held_out=np.flatnonzero(is_held_out),
        refuse_unusable=False,
        note=None if note is None else lambda local, found: note(rows[local], found),
        **options,
    )
    measured = ~is_held_out
    measured[[problem.row for problem in found.unusable]] = False
    problems = [problem._replace(row=int(rows[problem.row])) for problem in found.unusable]
    return int(measured.sum()), Scan(found.mean, found.std, problems)
