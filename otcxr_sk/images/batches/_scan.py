"""Check and measure all images before training."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from otcxr_sk._quote import few
from otcxr_sk._warning import warn_user
from otcxr_sk.images._errors import ImageReadWarning, Unusable, require_usable
from otcxr_sk.images.batches._loading import Reader, behind, load
from otcxr_sk.images.batches._ranges import spread
from otcxr_sk.images.sources import ImageSource

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from otcxr_sk._transfer import Arriving

# Radiographs in files have brighter pixels, at any size. Values of up to 14 bits do not, if they
# were saved with 16 as they are. Where 0 is white, they have no pixels darker than 1 less this.
_DARK = 1 / 4

# What resizing may add to pixels.
_ROUNDING = 1e-3

# Files that a message names.
_NAMED = 3


class Scan(NamedTuple):
    """What `scan` returns."""

    mean: float
    std: float
    unusable: list[Unusable]


def scan(
    source: ImageSource,
    size: int,
    *,
    batch_size: int = 64,
    num_workers: int | str = 0,
    refuse_unusable: bool = True,
    progress: bool = False,
    held_out: Sequence[int] | NDArray[np.intp] = (),
    device: "torch.device | None" = None,
    note: Callable[..., None] | None = None,
) -> Scan:
    """Read every image once: find those that cannot be used, and measure the others.

    Parameters
    ----------
    source : ImageSource
        The images.
    size : int
        Height and width in training, in pixels.
    batch_size : int, default=64
        Number of images to read at a time.
    num_workers : int or "auto", default=0
        Number of worker processes that read images.
    refuse_unusable : bool, default=True
        Whether to raise an error if images cannot be used.
    progress : bool, default=False
        Whether to show a progress bar.
    held_out : sequence of int, default=()
        Rows that are checked but not measured.
    device : torch.device, default=None
        A GPU that scales, resizes and measures integers of 8 and 16 bits; None is the CPU.
    note : callable, default=None
        Called with the rows of each batch and what `spread` finds of its images.

    Returns
    -------
    mean, std : float
        Mean and standard deviation of all pixels at that size. `std` is 1 if all pixels are equal,
        or if there are none.
    unusable : list of Unusable
        All images that cannot be used, sorted by row.

    Raises
    ------
    ImageReadError
        If images cannot be read. The message gives the number of all images that cannot be used,
        for whatever reason, and names up to 20.
    ValueError
        If images contain NaN or infinity or are constant, with the same message.

    Warns
    -----
    ImageReadWarning
        If images in files are nearly black or white, as 12-bit values in 16-bit files are.

    Notes
    -----
    Accumulated in float64 by the pairwise update of Chan, Golub and LeVeque (1983), which is
    accurate even if the mean is much larger than the standard deviation.
    """
    problems: list[Unusable] = []
    count, mean, squares = 0, 0.0, 0.0
    n = len(source)
    measured = ~np.isin(np.arange(n), held_out)
    lowest, highest = np.zeros(n), np.ones(n)
    # Apart, so that the sums are those of a scan without the images held out, to the bit.
    batches = [
        part[start : start + batch_size]
        for part in (np.flatnonzero(measured), np.flatnonzero(~measured))
        for start in range(0, len(part), batch_size)
    ]
    read = Reader(source, size, usable=True, refuse_constant=True)
    with (
        tqdm(total=n, desc="reading", unit="img", disable=not progress) as bar,
        closing(_measured(read, batches, num_workers, device)) as found,
    ):
        for rows, (numbers, unusable) in zip(batches, found, strict=True):
            bar.update(len(rows))
            low, high, means, sums, constant, *spreads = numbers.read().numpy()
            unusable += [
                Unusable(int(row), source.file(int(row)), source.constant_error(int(row), value))
                for row, value in zip(rows[constant > 0], low[constant > 0], strict=True)
            ]
            problems += unusable
            if note is not None:
                note(rows, spreads)
            bad = [problem.row for problem in unusable]
            lowest[rows], highest[rows] = low, high
            lowest[bad], highest[bad] = 0, 1
            measured[bad] = False
            means, sums = means[measured[rows]], sums[measured[rows]]
            if not len(means):
                continue
            batch_mean, pixels = means.mean(), size**2 * len(means)
            squares += float(sums.sum() + size**2 * np.square(means - batch_mean).sum())
            total = count + pixels
            shift = float(batch_mean) - mean
            squares += shift**2 * count * pixels / total
            mean += shift * pixels / total
            count = total
    problems.sort(key=lambda problem: problem.row)
    if refuse_unusable:
        require_usable(problems, n)
    _warn_of_darkness(source, lowest, highest)
    std = (squares / count) ** 0.5 if count else 0.0
    return Scan(mean, std or 1.0, problems)


def _measured(
    read: Reader,
    batches: Sequence[NDArray[np.intp]],
    num_workers: int | str,
    device: "torch.device | None",
) -> Generator[tuple["Arriving", list[Unusable]], None, None]:
    """Yield for each batch of b images the numbers (7, b) that `scan` needs, and the unusable.

    They are the least and the greatest pixel, the mean, the sum of squared differences from it,
    whether the image is constant as far as that was not checked in reading, and its `spread`.
    """
    import torch

    from otcxr_sk._transfer import Arriving

    def numbers(pixels: "Tensor") -> "Tensor":
        images = read.finish(pixels)
        flat = images.flatten(1).double()
        mean = flat.mean(1)
        constant = torch.zeros_like(mean)
        if not pixels.is_floating_point():
            constant += read.source.constant(pixels)
        low, high = flat.aminmax(dim=1)
        sums = flat.sub_(mean[:, None]).square_().sum(1)
        return torch.stack([low, high, mean, sums, constant, *spread(images)])

    with closing(load(read, batches, num_workers, device)) as found:
        measured = ((Arriving(numbers(pixels)), unusable) for pixels, unusable in found)
        yield from behind(measured, device)


def _warn_of_darkness(
    source: ImageSource, lowest: NDArray[np.float64], highest: NDArray[np.float64]
) -> None:
    """Warn of files whose images are at one end of the range, given their extreme pixels."""
    at_one_end = (highest < _DARK) | (lowest > 1 - _DARK)
    files = [source.file(int(row)) for row in np.flatnonzero(at_one_end)]
    dark = [file for file in files if file is not None]
    # Other floats have no range that black and white belong to.
    if not dark or lowest.min() < -_ROUNDING or highest.max() > 1 + _ROUNDING:
        return
    warn_user(
        f"{len(dark)} of {len(source)} images are nearly black or white "
        f"({few(dark, _NAMED, repr)}): no pixel exceeds a quarter of the range, or is below three "
        "quarters of it, as when values of 12 bits are saved as they are in files of 16. Stretch "
        "such values to 16 bits (by 65535 / 4095 for 12), so that all images have the same range; "
        "ignore this warning if they are meant to be so",
        ImageReadWarning,
    )
