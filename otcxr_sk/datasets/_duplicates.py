"""The same picture twice, found by what it looks like."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import ArrayLike, NDArray
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.utils import check_consistent_length, column_or_1d

from otcxr_sk.images import ArraySource, ImageSource, PathSource

_SIZE = 64
_FREQUENCIES = 16
_BITS = _FREQUENCIES**2 - 1
# Between what copies of a picture differ by and what pictures of different patients do: measured
# in docs/datasets.md.
_THRESHOLD = 32
_MOST_PAIRS = 1_000_000
_BLOCK_BYTES = 64 * 2**20


@dataclass(frozen=True, eq=False)
class NearDuplicates:
    """Pairs of pictures that look the same, the most alike first.

    Attributes
    ----------
    pairs : ndarray of intp, shape (m, 2)
        Rows of the two, the lower one first.
    distance : ndarray of intp, shape (m,)
        Bits of 255 that differ between their hashes.
    exact : ndarray of bool, shape (m,)
        Whether they are the same to the last bit, as read at 64 x 64 pixels.
    groups : ndarray of shape (n,) or None
        Patients, as given.
    split : ndarray of str, shape (n,), or None
        Parts, as given.
    threshold : int
        Largest distance of a pair.
    source : ImageSource
        The pictures that were compared.
    """

    pairs: NDArray[np.intp]
    distance: NDArray[np.intp]
    exact: NDArray[np.bool_]
    groups: NDArray[Any] | None
    split: NDArray[Any] | None
    threshold: int
    source: ImageSource = field(repr=False)

    def __len__(self) -> int:
        """Count the pairs."""
        return len(self.pairs)

    def __getitem__(self, which: NDArray[Any] | slice) -> NearDuplicates:
        """Some of the pairs: ``found[found.across_groups]``."""
        return replace(
            self,
            pairs=self.pairs[which],
            distance=self.distance[which],
            exact=self.exact[which],
        )

    @property
    def across_groups(self) -> NDArray[np.bool_] | None:
        """Which pairs are of two patients; None without patients."""
        return None if self.groups is None else _differ(self.groups, self.pairs)

    @property
    def across_splits(self) -> NDArray[np.bool_] | None:
        """Which pairs are in two parts of the split; None without one."""
        return None if self.split is None else _differ(self.split, self.pairs)

    def merged_groups(self) -> NDArray[np.intp]:
        """Patients, numbered anew, that a pair joins made one: what to split by.

        Returns
        -------
        ndarray of intp, shape (n,)
            From 0. Without patients, every picture stands for one of its own at first.
        """
        own: Any = np.arange(len(self.source)) if self.groups is None else self.groups
        names, codes = np.unique(own, return_inverse=True)
        ends = codes[self.pairs]
        links = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(len(names),) * 2)
        return connected_components(links, directed=False)[1][codes].astype(np.intp)

    def rows(self) -> list[dict[str, Any]]:
        """One dict for each pair: ``pandas.DataFrame(found.rows())``."""
        table = []
        for (first, second), distance, exact in zip(
            self.pairs.tolist(), self.distance.tolist(), self.exact.tolist(), strict=True
        ):
            row = {"first": first, "second": second, "distance": distance, "exact": exact}
            for name, values in (("group", self.groups), ("split", self.split)):
                if values is not None:
                    row |= {f"first_{name}": values[first], f"second_{name}": values[second]}
            table.append(row)
        return table

    def __str__(self) -> str:
        lines = [
            f"{len(self.pairs)} pairs among {len(self.source)} pictures differ in at most "
            f"{self.threshold} of {_BITS} bits, {int(self.exact.sum())} of them in none of their "
            "pixels"
        ]
        for what, across in (("patients", self.across_groups), ("parts", self.across_splits)):
            if across is not None:
                lines.append(f"  {int(across.sum())} of two {what}, {int((~across).sum())} of one")
        return "\n".join(lines)


def find_near_duplicates(
    source: ImageSource | ArrayLike | Sequence[Any],
    groups: ArrayLike | None = None,
    *,
    split: ArrayLike | None = None,
    threshold: int = _THRESHOLD,
    n_jobs: int | None = None,
) -> NearDuplicates:
    """Find pictures that are there twice, whole or recompressed, resized or in other gray levels.

    Each picture is read at 64 x 64 pixels. The signs of its 255 lowest frequencies but the mean
    (two-dimensional DCT), each against their median, are its hash; all pairs of hashes are
    compared.

    A crop, shift or rotation of a few per cent is *not* found, nor is a mirrored copy: chest
    radiographs of different patients look more alike than that.

    Parameters
    ----------
    source : ImageSource, array of shape (n, h, w), or sequence of paths
        Pictures.
    groups : array-like of shape (n,), optional
        Patients, to tell pairs of one from pairs of two.
    split : array-like of str, shape (n,), optional
        Part that each picture is in, to tell pairs within one from pairs across.
    threshold : int, default=32
        Largest number of 255 bits by which two hashes of a pair differ. The default was chosen by
        measurement: see ``docs/datasets.md``.
    n_jobs : int, optional
        Processes that read pictures; as in scikit-learn.

    Returns
    -------
    found : NearDuplicates

    Raises
    ------
    ValueError
        If lengths differ, a picture holds NaN, or there are more than a million pairs (as with
        thousands of blank pictures).
    ImageReadError
        If a file cannot be read.

    Examples
    --------
    >>> import numpy as np
    >>> from otcxr_sk.datasets import find_near_duplicates, make_chest_phantoms
    >>> images = make_chest_phantoms(5, image_size=64, random_state=0).images
    >>> darker = (images[:1] * 0.7).astype(np.uint8)
    >>> found = find_near_duplicates(np.concatenate([images, images[2:3], darker]))
    >>> found.pairs.tolist(), found.exact.tolist()
    ([[2, 10], [0, 11]], [True, False])
    """
    if not isinstance(source, ImageSource):
        numeric = getattr(np.asarray(source), "dtype", np.dtype(object)).kind in "biuf"
        source = ArraySource(np.asarray(source)) if numeric else PathSource(source)  # type: ignore[arg-type]
    if not 0 <= threshold < _BITS:
        raise ValueError(f"threshold must be 0 to {_BITS - 1}, got {threshold}")
    n = len(source)
    patients, parts = (None if one is None else column_or_1d(one) for one in (groups, split))
    check_consistent_length(np.empty(n), patients, parts)
    batches = [range(start, min(start + 64, n)) for start in range(0, n, 64)]
    done = Parallel(n_jobs=n_jobs)(delayed(_describe)(source, rows) for rows in batches)
    signs = np.concatenate([signs for signs, _ in done])
    known: dict[bytes, int] = {}
    content = np.array([known.setdefault(one, len(known)) for _, more in done for one in more])
    pairs, distance = _close_pairs(signs, threshold)
    exact = ~_differ(content, pairs)
    order = np.lexsort((pairs[:, 1], pairs[:, 0], ~exact, distance))
    return NearDuplicates(
        pairs[order], distance[order], exact[order], patients, parts, int(threshold), source
    )


def _describe(source: ImageSource, rows: range) -> tuple[NDArray[np.int8], list[bytes]]:
    """Hash, as signs, and digest of what was read, of some pictures."""
    pixels = source.read(rows, _SIZE)[:, 0]
    waves = dctn(pixels, axes=(1, 2), norm="ortho")[:, :_FREQUENCIES, :_FREQUENCIES]
    waves = waves.reshape(len(waves), -1)[:, 1:]
    high = waves > np.median(waves, axis=1, keepdims=True)
    digests = [blake2b(one.tobytes(), digest_size=16).digest() for one in pixels]
    return np.where(high, 1, -1).astype(np.int8), digests


def _close_pairs(
    signs: NDArray[np.int8], threshold: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """All pairs of rows that differ in at most `threshold` signs, and in how many."""
    n, bits = signs.shape
    # Products of signs add up to equal less different ones. BLAS is faster at it than counting
    # bits, and float32 is exact below 2**24.
    vectors = signs.astype(np.float32)
    block = max(1, _BLOCK_BYTES // (4 * n))
    found, distances, total = [], [], 0
    for start in range(0, n, block):
        differ = (bits - vectors[start : start + block] @ vectors[start:].T) / 2
        first, second = np.nonzero(differ <= threshold)
        later = second > first
        first, second = first[later], second[later]
        total += len(first)
        if total > _MOST_PAIRS:
            raise ValueError(
                f"more than {_MOST_PAIRS} pairs differ in at most {threshold} bits; leave out "
                "blank pictures, or lower threshold"
            )
        found.append(np.stack([first, second], axis=1) + start)
        distances.append(differ[first, second])
    return np.concatenate(found).astype(np.intp), np.concatenate(distances).astype(np.intp)


def _differ(values: NDArray[Any], pairs: NDArray[np.intp]) -> NDArray[np.bool_]:
    return np.asarray(values[pairs[:, 0]] != values[pairs[:, 1]], dtype=bool)
