"""Check and measure all images before training."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from otcxr_sk.images._errors import Unusable, require_usable
from otcxr_sk.images._loading import read_ahead
from otcxr_sk.images._source import ImageSource


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
    num_workers: int = 0,
    refuse_unusable: bool = True,
    progress: bool = False,
    held_out: Sequence[int] | NDArray[np.intp] = (),
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
    num_workers : int, default=0
        Number of worker processes that read images.
    refuse_unusable : bool, default=True
        Whether to raise an error if images cannot be used.
    progress : bool, default=False
        Whether to show a progress bar.
    held_out : sequence of int, default=()
        Rows that are checked but not measured.

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

    Notes
    -----
    Accumulated in float64 by the pairwise update of Chan, Golub and LeVeque (1983), which is
    accurate even if the mean is much larger than the standard deviation.
    """
    problems: list[Unusable] = []
    count, mean, squares = 0, 0.0, 0.0
    n = len(source)
    measured = ~np.isin(np.arange(n), held_out)
    # Apart, so that the sums are those of a scan without the images held out, to the bit.
    batches = [
        part[start : start + batch_size]
        for part in (np.flatnonzero(measured), np.flatnonzero(~measured))
        for start in range(0, len(part), batch_size)
    ]
    read = partial(source.read_usable, size=size, refuse_constant=True)
    with tqdm(total=n, desc="reading", unit="img", disable=not progress) as bar:
        reads = read_ahead(read, batches, num_workers)
        for rows, (images, found) in zip(batches, reads, strict=True):
            bar.update(len(rows))
            problems += found
            measured[[problem.row for problem in found]] = False
            if not measured[rows].any():
                continue
            pixels = images.numpy()[measured[rows]].astype(np.float64)
            batch_mean = float(pixels.mean())
            total = count + pixels.size
            shift = batch_mean - mean
            squares += float(np.square(pixels - batch_mean).sum())
            squares += shift**2 * count * pixels.size / total
            mean += shift * pixels.size / total
            count = total
    problems.sort(key=lambda problem: problem.row)
    if refuse_unusable:
        require_usable(problems, n)
    std = (squares / count) ** 0.5 if count else 0.0
    return Scan(mean, std or 1.0, problems)
