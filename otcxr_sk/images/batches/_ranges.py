"""Whether the values of images are like those of other images, such as those of `fit`."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from otcxr_sk._warning import warn_user
from otcxr_sk.images.sources import ImageSource

if TYPE_CHECKING:
    from torch import Tensor

# Rows and columns of the grid of pixels that are looked at. All pixels would take longer than
# they are worth.
_GRID = 16

# How many standard deviations an image may be away, how many times as large its own may be, and
# what part of it. Among the chest X-rays of nine collections, each compared with each, the most is
# 3.6 and 2.4, and the least is 1 / 7. Samples of 12 bits in 16 have 1 / 16.
_AWAY, _LARGE, _SMALL = 10, 10, 1 / 12

# A single image may be nearly constant, but not so many, and so large a share of all, at nearly
# the same gray.
_SEVERAL, _SHARE = 8, 0.1

# How many times smaller a standard deviation is if fewer images than these have another unit, and
# half as many times a mean. The values of dark images are not that small.
_OTHER_UNIT = 100

# What messages call the images that `fit` saw.
FITTED = "those that `fit` saw"


class ImageRangeWarning(UserWarning):
    """Images have values unlike those that `fit` saw, so their embeddings mean little.

    The message gives mean and standard deviation of both.
    """


class Spreads:
    """Mean and standard deviation of each of `n` images, noted as they are read.

    Attributes
    ----------
    values : ndarray of shape (2, n)
        Zeros for images that were not seen or cannot be used.
    """

    def __init__(self, n: int) -> None:
        self.values = np.zeros((2, n))

    def note(self, rows: Any, found: Any) -> None:
        """Note what `spread` has found of a batch of images."""
        self.values[:, rows] = found

    def warn(self, source: ImageSource, mean: float, std: float, whole: str) -> None:
        """Warn once if images are unlike a whole of that mean and standard deviation.

        Parameters
        ----------
        source : ImageSource
            All the images, to name one.
        mean, std : float
            Of the pixels of the whole.
        whole : str
            What the message calls it.

        Warns
        -----
        ImageRangeWarning
            An image has a mean more than 10 `std` away, or a standard deviation of more than 10
            `std`. Or eight images or more, and at least a tenth of all, taken together have less
            than a twelfth of it. Or, of fewer than eight images, all have less than a hundredth
            of it and a fiftieth of `mean`. Constant images do not count.
        """
        rows = _unlike(self.values, mean, std)
        if len(rows):
            means, stds = self.values[:, rows]
            theirs = means.mean(), np.sqrt(np.square(stds).mean() + means.var())
            texts = [_digits(number) for number in (*theirs, mean, std)]
            warn_user(
                f"{len(rows)} of {self.values.shape[1]} images have values unlike {whole}, such as "
                f"{source.describe(int(rows[0]))}: the mean of their pixels is {texts[0]} and the "
                f"standard deviation {texts[1]}, but mean_ is {texts[2]} and std_ {texts[3]}. "
                "Bring them to the same range: integers of 8 and 16 bits are divided by the "
                "largest value of their type, other numbers are taken as they are",
                ImageRangeWarning,
            )


def spread(images: "Tensor") -> "Tensor":
    """Return mean and standard deviation (2, b) of images (b, 1, size, size) on a grid.

    In float64, on their device.
    """
    import torch

    steps = [max(1, length // _GRID) for length in images.shape[2:]]
    few = images[:, 0, :: steps[0], :: steps[1]].flatten(1)
    # MPS has no float64.
    few = (few.cpu() if few.device.type == "mps" else few).double()
    return torch.stack([few.mean(1), few.std(1, correction=0)])


def _digits(number: float) -> str:
    """Return a number with three digits, never as a power of ten."""
    return np.format_float_positional(number, precision=3, unique=False, fractional=False, trim="-")


def _unlike(values: NDArray[np.float64], mean: float, std: float) -> NDArray[np.intp]:
    """Return the rows of images that are unlike others of that mean and standard deviation."""
    means, stds = values
    varies = stds > 0
    unlike = varies & ((np.abs(means - mean) > _AWAY * std) | (stds > _LARGE * std))
    flat = varies & (stds < _SMALL * std)
    if flat.sum() >= max(_SEVERAL, _SHARE * varies.sum()):
        together = np.sqrt(np.square(stds[flat]).mean() + means[flat].var())
        if together < _SMALL * std:
            unlike |= flat
    tiny = varies & (stds < std / _OTHER_UNIT) & (np.abs(means) < 2 * abs(mean) / _OTHER_UNIT)
    if varies.sum() < _SEVERAL and (tiny == varies).all():
        unlike |= tiny
    return np.flatnonzero(unlike)
