"""Masks that are read when asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from otcxr_sk.images import read_image

Mask = NDArray[np.bool_]


class LazyMasks(Sequence[Mask | None]):
    """A mask for every picture, decoded when indexed, so that memory holds one at a time.

    Parameters
    ----------
    decode : callable
        From what is known of a mask to the mask. Of a module's top level, to be picklable.
    known : sequence
        What `decode` takes, one for each picture; None where there is no mask.

    Attributes
    ----------
    available : ndarray of bool, shape (n,)
        Which pictures have a mask.

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
        """Count the pictures."""
        return len(self._known)

    @overload
    def __getitem__(self, index: int) -> Mask | None: ...
    @overload
    def __getitem__(self, index: slice) -> LazyMasks: ...
    def __getitem__(self, index: int | slice) -> Mask | LazyMasks | None:
        """Mask of a picture, or the masks of some, which are not decoded yet."""
        if isinstance(index, slice):
            return LazyMasks(self._decode, self._known[index])
        one = self._known[index]
        return None if one is None else self._decode(one)


def read_masks(files: str | tuple[str, ...]) -> Mask:
    """Mask in a file, white is inside; of several files, what is inside one or the other."""
    first, *others = [files] if isinstance(files, str) else files
    mask = read_image(first) > 0.5
    for file in others:
        more = read_image(file) > 0.5
        if more.shape != mask.shape:
            raise ValueError(f"{first} has shape {mask.shape}, {file} has {more.shape}")
        mask |= more
    return mask
