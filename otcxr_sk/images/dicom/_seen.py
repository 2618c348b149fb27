"""Tell what of a table, which maps the codes of pixels to grays, can be seen in an image."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Pixels to map at a time, so that intermediate results, such as 64-bit indices, stay in the cache.
_BLOCK = 2**17

# Pixels that stand for all where an estimate is enough.
_FEW = 2**12


class Seen:
    """The codes that occur in an image.

    Parameters
    ----------
    codes : ndarray of shape (height, width)
    padding : ndarray of shape (n,), bool
        Whether each code stands for padding.
    """

    def __init__(self, codes: NDArray[Any], padding: NDArray[np.bool_]) -> None:
        self._codes = codes
        self._padding = padding if padding.any() else None
        step = max(1, round((codes.size / _FEW) ** 0.5))
        self._some = self._without_padding(codes[::step, ::step])

    def differ(self, table: NDArray[Any], by: float = 0) -> bool:
        """Return whether pixels have entries of a table that differ by more than `by`.

        Padding does not count.
        """
        ends: list[float] = []
        for codes in self._parts():
            entries = table[codes]
            if entries.size:
                ends = [min([*ends, entries.min()]), max([*ends, entries.max()])]
                if ends[1] - ends[0] > by:
                    return True
        return False

    def largest_share(self, table: NDArray[Any]) -> float:
        """Return about which share of the pixels have the most frequent entry of a table."""
        if not self._some.size:
            return 0.0
        counts = np.unique(table[self._some], return_counts=True)[1]
        return float(counts.max() / self._some.size)

    def counts(self) -> NDArray[np.int64]:
        """Return the number of pixels of each code, without padding unless all are padding."""
        counts = np.zeros(int(self._codes.max()) + 1, dtype=np.int64)
        for block in blocks(self._codes):
            counts += np.bincount(self._codes[block].ravel(), minlength=len(counts))
        kept = counts if self._padding is None else np.where(self._padding, 0, counts)
        return kept if kept.any() else counts

    def _parts(self) -> Iterator[NDArray[Any]]:
        # A few pixels of the whole image usually settle it.
        yield self._some
        for block in blocks(self._codes):
            yield self._without_padding(self._codes[block])

    def _without_padding(self, codes: NDArray[Any]) -> NDArray[Any]:
        return codes.ravel() if self._padding is None else codes[~self._padding[codes]]


def blocks(array: NDArray[Any]) -> Iterator[slice]:
    """Return slices of rows, one block of pixels after the other."""
    rows = max(1, _BLOCK * len(array) // array.size)
    return (slice(start, start + rows) for start in range(0, len(array), rows))
