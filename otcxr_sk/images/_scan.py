"""A look at every image before training."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from otcxr_sk.images._errors import ImageReadError
from otcxr_sk.images._loading import read_ahead
from otcxr_sk.images._problems import Unusable, listing
from otcxr_sk.images._source import ImageSource


class Scan(NamedTuple):
    """Mean and standard deviation of all pixels, and the images that cannot be used."""

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
    """Read every image once, before training: find all that cannot be used, measure the rest.

    Parameters
    ----------
    source : ImageSource
        The images.
    size : int
        Height and width, in pixels, that they will be trained at.
    batch_size : int, default=64
        Images read at a time.
    num_workers : int, default=0
        Processes that read images beside this one.
    refuse_unusable : bool, default=True
        Whether images that cannot be used are an error.
    progress : bool, default=False
        Whether to show a progress bar.
    held_out : sequence of int, default=()
        Rows that are looked at as well, but not measured.

    Returns
    -------
    mean, std : float
        Mean and standard deviation of all pixels at that size. If all are alike, `std` is 1.
    unusable : list of Unusable
        Every image that cannot be used.

    Raises
    ------
    ImageReadError
        If files cannot be read. The message counts all images that cannot be used, for whatever
        reason, and names up to 20.
    ValueError
        If images hold NaN or infinity, or are constant, in the same words.

    Notes
    -----
    Accumulated in float64 by the pairwise update of Chan, Golub and LeVeque (1983), which keeps
    its precision where the mean is large beside the standard deviation.
    """
    problems: list[Unusable] = []
    count, mean, squares = 0, 0.0, 0.0
    n = len(source)
    batches = _in_batches(np.setdiff1d(np.arange(n), held_out), batch_size)
    n_measured = len(batches)
    batches += _in_batches(np.asarray(held_out, np.intp), batch_size)
    read = partial(source.read_usable, size=size, refuse_constant=True)
    with tqdm(total=n, desc="reading", unit="img", disable=not progress) as bar:
        for number, (images, found) in enumerate(read_ahead(read, batches, num_workers)):
            rows = batches[number]
            bar.update(len(rows))
            problems += found
            usable = ~np.isin(rows, [problem.row for problem in found])
            if number >= n_measured or not usable.any():
                continue
            pixels = images.numpy()[usable].astype(np.float64)
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


def require_usable(problems: Sequence[Unusable], n_images: int) -> None:
    """Raise if there are images that cannot be used, as `scan` says."""
    if problems:
        unreadable = any(isinstance(problem.error, ImageReadError) for problem in problems)
        raise (ImageReadError if unreadable else ValueError)(listing(problems, n_images))


def _in_batches(rows: NDArray[np.intp], batch_size: int) -> list[NDArray[np.intp]]:
    return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
