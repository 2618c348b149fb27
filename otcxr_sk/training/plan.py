"""How an epoch is cut into batches and steps, and the learning rate of every step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WARMUP = 0.1


class EpochPlan:
    """Batches of nearly equal size, and steps of a nearly equal number of batches.

    Parameters
    ----------
    n_images : int
    batch_size : int
        Images in a batch, at most, but never fewer than two.
    accumulate : int
        Batches in a step, at most.
    rank, count : int
        Which process this is, of how many that share every batch: each has a part of it, of
        nearly equal size.

    Attributes
    ----------
    steps : int
        In an epoch.
    sizes : list of int
        Images of every batch.
    parts : list of list of int
        Images of every process's part of every batch.
    starts : list of int
        Images before this process's part of every batch.

    Raises
    ------
    ValueError
        A batch has fewer images than there are processes.
    """

    def __init__(
        self, n_images: int, batch_size: int, accumulate: int, rank: int = 0, count: int = 1
    ) -> None:
        # Variance between images needs two of them in every batch.
        n_batches = max(1, min(math.ceil(n_images / batch_size), n_images // 2))
        self.steps = math.ceil(n_batches / accumulate)
        parts = np.array_split(np.arange(n_batches), self.steps)
        self._step_of = np.repeat(np.arange(self.steps), [len(part) for part in parts])
        self._ends = np.cumsum([len(batch) for batch in np.array_split(range(n_images), n_batches)])
        self._sizes = np.diff(self._ends, prepend=0)
        self._in_step = np.bincount(self._step_of, self._sizes)
        if self._sizes.min() < count:
            raise ValueError(
                f"a batch of {self._sizes.min()} images cannot be shared by {count} processes: "
                f"{n_images} images are cut into {n_batches} batches of up to {batch_size}, which "
                "all processes share; raise batch_size, or start fewer processes"
            )
        self.sizes: list[int] = self._sizes.tolist()
        cuts = np.outer(self._sizes, np.arange(count + 1)) // count
        self.parts: list[list[int]] = np.diff(cuts).tolist()
        cuts += (self._ends - self._sizes)[:, np.newaxis]
        self.starts: list[int] = cuts[:, rank].tolist()
        self._stops: list[int] = cuts[:, rank + 1].tolist()

    def batches(self, order: NDArray[np.intp]) -> list[NDArray[np.intp]]:
        """Cut the order of an epoch into batches, of each of them this process's part."""
        return [order[start:stop] for start, stop in zip(self.starts, self._stops, strict=True)]

    def first_batch(self, step: int) -> int:
        """Count the batches before a step."""
        return int(np.searchsorted(self._step_of, step))

    def share(self, batch: int) -> float:
        """Share that a batch has in the images of its step."""
        return float(self._sizes[batch] / self._in_step[self._step_of[batch]])

    def ends_step(self, batch: int) -> bool:
        """Whether a batch is the last of its step."""
        step_of = self._step_of
        return batch + 1 == len(step_of) or bool(step_of[batch + 1] != step_of[batch])


@dataclass(frozen=True)
class WarmupCosine:
    """Share of the peak learning rate: linear warm-up, cosine decay to zero over `steps`."""

    steps: int

    def factor(self, step: int) -> float:
        """Share in [0, 1] at a step, counted from 0."""
        warmup = max(1, round(WARMUP * self.steps))
        if step < warmup:
            return (step + 1) / warmup
        done = (step - warmup) / max(1, self.steps - warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
