"""Masks that are decoded on access."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from otcxr_sk.datasets._tables import shown
from otcxr_sk.images import read_image

Mask = NDArray[np.bool_]


class LazyMasks(Sequence[Mask | None]):
    """Sequence of one mask per image, decoded on access, so that memory holds one at a time.

    Parameters
    ----------
    decode : callable
        Function from a description of a mask to the mask. Must be picklable for the masks to be.
    known : sequence of length n
        Description of each image's mask; None for an image without one.

    Attributes
    ----------
    available : ndarray of bool, shape (n,)
        Which images have a mask.

    Examples
    --------
    >>> import numpy as np
    >>> from otcxr_sk.datasets import LazyMasks
    >>> masks = LazyMasks(np.ones, [(2, 3), None])
    >>> masks[0].shape, masks[1], masks.available.tolist()
    ((2, 3), None, [True, False])
    """

    def __init__(self, decode: Callable[[Any], Mask], known: Sequence[Any]) -> None:
        self._decode, self._known = decode, list(known)
        self.available = np.array([one is not None for one in self._known], dtype=bool)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._known)

    @overload
    def __getitem__(self, index: int) -> Mask | None: ...
    @overload
    def __getitem__(self, index: slice) -> LazyMasks: ...
    def __getitem__(self, index: int | slice) -> Mask | LazyMasks | None:
        """Decode the mask of one image (None if it has none), or select masks by a slice."""
        if isinstance(index, slice):
            return LazyMasks(self._decode, self._known[index])
        one = self._known[index]
        return None if one is None else self._decode(one)


def read_masks(files: str | tuple[str, ...]) -> Mask:
    """Read a mask, white inside; several files are joined."""
    first, *others = [files] if isinstance(files, str) else files
    mask = read_image(first) > 0.5
    for file in others:
        more = read_image(file) > 0.5
        if more.shape != mask.shape:
            raise ValueError(
                f"{shown(first)} has shape {mask.shape}, {shown(file)} has {more.shape}"
            )
        mask |= more
    return mask
