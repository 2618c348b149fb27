"""An epoch: its batches and steps, its reproducible views, and the loss on them."""

import math
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from otcxr_sk._quote import counted
from otcxr_sk._torch_defaults import inference
from otcxr_sk._transfer import Arriving, send
from otcxr_sk.images import ImageSource, behind, read_batches, spread
from otcxr_sk.method import NUMBERS_PER_VIEW, Objective, Views
from otcxr_sk.training._device import choose_precision, put_on


class EpochPlan:
    """Batches of nearly equal size, and steps of a nearly equal number of batches.

    Parameters
    ----------
    n_images : int
        Images in an epoch, at least two.
    batch_size : int
        Images in a batch, at most. A batch has at least two, whatever this is.
    accumulate : int, default=1
        Batches in a step, at most.
    rank, count : int
        Index of this process, and number of the processes. Every batch is divided among them, in
        parts of nearly equal size.

    Attributes
    ----------
    steps : int
        Number of steps in an epoch.
    sizes : list of int
        Number of images in each batch.
    parts : list of list of int
        For each batch, the number of images in each process's part.
    starts : list of int
        For each batch, the number of images of the epoch before this process's part.

    Raises
    ------
    ValueError
        If a batch has fewer images than there are processes.
    """

    def __init__(
        self, n_images: int, batch_size: int, accumulate: int = 1, rank: int = 0, count: int = 1
    ) -> None:
        # The variance between images needs two of them in each batch.
        n_batches = max(1, min(math.ceil(n_images / batch_size), n_images // 2))
        self.steps = math.ceil(n_batches / accumulate)
        parts = np.array_split(np.arange(n_batches), self.steps)
        self._step_of = np.repeat(np.arange(self.steps), [len(part) for part in parts])
        self._ends = np.cumsum([len(batch) for batch in np.array_split(range(n_images), n_batches)])
        self._sizes = np.diff(self._ends, prepend=0)
        self._in_step = np.bincount(self._step_of, self._sizes)
        if self._sizes.min() < count:
            raise ValueError(
                f"a batch of {counted(self._sizes.min(), 'image')} cannot be divided among {count} "
                f"processes: {n_images} images make {n_batches} batches of at most {batch_size}, "
                "and each process trains on a part of each batch; raise batch_size, or start fewer "
                "processes"
            )
        self.sizes: list[int] = self._sizes.tolist()
        cuts = np.outer(self._sizes, np.arange(count + 1)) // count
        self.parts: list[list[int]] = np.diff(cuts).tolist()
        cuts += (self._ends - self._sizes)[:, np.newaxis]
        self.starts: list[int] = cuts[:, rank].tolist()
        self._stops: list[int] = cuts[:, rank + 1].tolist()

    def batches(self, order: NDArray[np.intp]) -> list[NDArray[np.intp]]:
        """Divide the order of an epoch into batches, and return this process's part of each."""
        return [order[start:stop] for start, stop in zip(self.starts, self._stops, strict=True)]

    def first_batch(self, step: int) -> int:
        """Return the number of batches before a step."""
        return int(np.searchsorted(self._step_of, step))

    def share(self, batch: int) -> float:
        """Return the share of a batch in the images of its step."""
        return float(self._sizes[batch] / self._in_step[self._step_of[batch]])

    def ends_step(self, batch: int) -> bool:
        """Return whether a batch is the last of its step."""
        step_of = self._step_of
        return batch + 1 == len(step_of) or bool(step_of[batch + 1] != step_of[batch])


@dataclass(frozen=True)
class Draw:
    """Standardizes images and draws their views.

    Seed, epoch and the place of an image in the order of the epoch decide its views: they are the
    same for every batch size and device.

    Parameters
    ----------
    views : Views
    mean, std : float
        Mean and standard deviation of the pixels of the training images.
    seed : int
    device : torch.device
        Where views are made; their random numbers are drawn on the CPU.
    """

    views: Views
    mean: float
    std: float
    seed: int
    device: torch.device

    def __call__(
        self, batch: Tensor, epoch: int, start: int, rows: NDArray[np.intp] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw views and their affine maps, as `Views` does.

        Parameters
        ----------
        batch : Tensor of shape (b, 1, H, W)
            On the device.
        epoch : int
        start : int
            Place of the first image in the order of the epoch.
        rows : ndarray of int, shape (b,), optional
            Which images they are; views do not depend on that.
        """
        numbers = uniform((self.seed, epoch), start, start + len(batch), 2 * NUMBERS_PER_VIEW)
        random = torch.from_numpy(numbers).view(-1, 2, NUMBERS_PER_VIEW)
        return self.views(self.standardized(batch), random)

    def standardized(self, batch: Tensor) -> Tensor:
        """Return images with the training images' mean 0 and standard deviation 1."""
        return (batch - self.mean) / self.std


@dataclass(frozen=True)
class LabelledDraw(Draw):
    """Draws one view of each image and adds its label.

    Parameters
    ----------
    labels : Tensor of shape (n, ...)
        Of all training images, on the device.
    """

    labels: Tensor

    def __call__(
        self, batch: Tensor, epoch: int, start: int, rows: NDArray[np.intp] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw views (b, 1, H, W), and return them with the labels of their `rows`."""
        return self.single(batch, epoch, start)[0], self.of(rows)

    def single(self, batch: Tensor, epoch: int, start: int) -> tuple[Tensor, Tensor]:
        """Draw a view of each image, and its affine map."""
        numbers = uniform((self.seed, epoch), start, start + len(batch), NUMBERS_PER_VIEW)
        return self.views.single(self.standardized(batch), torch.from_numpy(numbers))

    def of(self, rows: NDArray[np.intp] | None) -> Tensor:
        """Return the labels of some rows."""
        assert rows is not None
        return self.labels[send(torch.from_numpy(rows), self.device)]


class NonFiniteLossError(FloatingPointError):
    """The loss or its gradient was NaN or infinite: training stopped, or there is no score.

    Attributes
    ----------
    epoch : int
        Epochs completed. The estimator keeps the weights of the last of them, if there is one.
    history : dict of str to list of float
        By name, a number for every epoch completed.
    """

    def __init__(
        self, message: str, epoch: int = 0, history: dict[str, list[float]] | None = None
    ) -> None:
        super().__init__(message)
        self.epoch, self.history = epoch, history or {}


def evaluate(
    model: nn.Module,
    source: ImageSource,
    draw: Draw,
    objective: Objective,
    *,
    size: int,
    batch_size: int,
    precision: str,
    num_workers: int | str = 0,
    note: Callable[..., None] | None = None,
) -> dict[str, float]:
    """Compute the loss and its terms on the views of epoch 0, as means over images.

    Parameters
    ----------
    model : OTCXRModel
        Moved to the device of `draw` and set to eval mode.
    source : ImageSource
    draw : Draw
    objective : Objective
    size : int
        Height and width that images are read at, in pixels.
    batch_size : int
    precision : {"auto", "bfloat16", "float16", "float32"}
        Arithmetic of the encoder.
    num_workers : int or "auto", default=0
        Processes that read images; 0 reads in this one.
    note : callable, default=None
        Called with the rows of each batch and what `spread` finds of its images.

    Returns
    -------
    means : dict of str to float
        "loss", and each term by its name.

    Raises
    ------
    NonFiniteLossError
        If the loss is not finite.
    """
    put_on(draw.device, model.eval())
    dtype = choose_precision(precision, draw.device)
    plan = EpochPlan(len(source), batch_size)
    batches = plan.batches(np.arange(len(source)))

    def computed() -> Generator[tuple[list[str], Arriving, Arriving], None, None]:
        with closing(read_batches(source, batches, size, num_workers, draw.device)) as images:
            for start, batch in zip(plan.starts, images, strict=True):
                mixed = torch.autocast(draw.device.type, dtype, enabled=dtype != torch.float32)
                with inference(), mixed:
                    terms, _ = model(*draw(batch, 0, start))
                    values = {"loss": objective.total(terms), **terms}
                    stacked = torch.stack([*values.values()])
                yield [*values], Arriving(stacked), Arriving(spread(batch))

    means: dict[str, float] = {}
    with closing(computed()) as coming:
        for rows, (names, values, seen) in zip(batches, behind(coming, draw.device), strict=True):
            if note is not None:
                note(rows, seen.read())
            for name, value in zip(names, values.read().tolist(), strict=True):
                means[name] = means.get(name, 0.0) + value * len(rows) / len(source)
    if not math.isfinite(means["loss"]):
        raise NonFiniteLossError(
            "the loss on these images is not finite: use precision='float32', and check that "
            "their pixels are scaled like those of the training images"
        )
    return means


def uniform(key: tuple[int, int], start: int, stop: int, width: int) -> NDArray[np.float32]:
    """Return rows `start` to `stop` of an endless table of random numbers in [0, 1).

    Parameters
    ----------
    key : tuple of int
        Two numbers below 2**64 that identify the table.
    start, stop : int
        A row does not depend on which others are drawn with it.
    width : int
        Columns of the table.

    Returns
    -------
    ndarray of shape (stop - start, width), float32
    """
    # Each count of Philox yields four numbers of 64 bits: eight float32.
    counts = math.ceil(width / 8)
    bits = np.random.Philox(key=np.array(key, np.uint64)).advance(start * counts)
    drawn = np.random.Generator(bits).random((stop - start, 8 * counts), np.float32)
    return np.ascontiguousarray(drawn[:, :width])
