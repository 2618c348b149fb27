"""Find images that appear more than once, by their looks."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from numpy.typing import ArrayLike, NDArray
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from otcxr_sk._columns import check_parts, check_patients
from otcxr_sk._ordinary import ordinary
from otcxr_sk._quote import counted
from otcxr_sk.images import (
    ImageSource,
    Unusable,
    as_source,
    require_usable,
    unusable_table,
    warn_unusable,
)

_SIZE = 64
_FREQUENCIES = 16
_BITS = _FREQUENCIES**2 - 1
# Separates copies of an image from images of different patients: see docs/guide/datasets.md.
_THRESHOLD = 32
_MOST_PAIRS = 1_000_000
_BLOCK_BYTES = 64 * 2**20


@dataclass(frozen=True, eq=False)
class NearDuplicates:
    """Pairs of images that look the same, the most similar first.

    Attributes
    ----------
    pairs : ndarray of intp, shape (m, 2)
        Rows of the two images, the lower one first.
    distance : ndarray of intp, shape (m,)
        Number of the 255 bits of their hashes that differ.
    exact : ndarray of bool, shape (m,)
        Whether they are identical when read at 64 x 64 pixels.
    groups : ndarray of shape (n,) or None
        Patients, if passed.
    split : ndarray of str, shape (n,), or None
        Parts of the split, if passed.
    threshold : int
        Maximum distance of a pair.
    source : ImageSource
        All the images.
    unusable : list of dict
        Images that were not compared, because they cannot be read or have NaN: `row`, `file` and
        `reason`; ``pandas.DataFrame(found.unusable)``.
    """

    pairs: NDArray[np.intp]
    distance: NDArray[np.intp]
    exact: NDArray[np.bool_]
    groups: NDArray[Any] | None
    split: NDArray[Any] | None
    threshold: int
    source: ImageSource = field(repr=False)
    unusable: list[dict[str, Any]] = field(default_factory=list, repr=False)

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.pairs)

    def __getitem__(self, which: NDArray[Any] | slice) -> NearDuplicates:
        """Select pairs: ``found[found.across_groups]``."""
        return replace(
            self, pairs=self.pairs[which], distance=self.distance[which], exact=self.exact[which]
        )

    @property
    def across_groups(self) -> NDArray[np.bool_] | None:
        """Whether each pair is of two patients, bool of shape (m,); None without `groups`."""
        return None if self.groups is None else _differ(self.groups, self.pairs)

    @property
    def across_splits(self) -> NDArray[np.bool_] | None:
        """Whether each pair is in two parts, bool of shape (m,); None without `split`."""
        return None if self.split is None else _differ(self.split, self.pairs)

    def merged_groups(self) -> NDArray[np.intp]:
        """Merge patients who share a pair of images, for splits that keep pairs together.

        Returns
        -------
        ndarray of intp, shape (n,)
            Number of each image's merged patient, from 0. Without `groups`, each image is its own
            patient before merging.
        """
        own: Any = np.arange(len(self.source)) if self.groups is None else self.groups
        names, codes = np.unique(own, return_inverse=True)
        ends = codes[self.pairs]
        links = coo_array((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(len(names),) * 2)
        return connected_components(links, directed=False)[1][codes].astype(np.intp)

    def rows(self) -> list[dict[str, Any]]:
        """Return the pairs as a table.

        Returns
        -------
        rows : list of dict
            One per pair: ``pandas.DataFrame(found.rows())``. Rows and, if the images are in files,
            files of both images, their distance, and whether they are identical; patients and
            parts, if passed.
        """
        table = []
        for (first, second), distance, exact in zip(
            self.pairs.tolist(), self.distance.tolist(), self.exact.tolist(), strict=True
        ):
            row = {"first": first, "second": second, "distance": distance, "exact": exact}
            files = self.source.file(first), self.source.file(second)
            if any(files):
                row |= {"first_file": files[0], "second_file": files[1]}
            for name, values in (("group", self.groups), ("split", self.split)):
                if values is not None:
                    row |= {f"first_{name}": values[first], f"second_{name}": values[second]}
            table.append(row)
        return table

    def __str__(self) -> str:
        pairs = "1 pair looks" if len(self.pairs) == 1 else f"{len(self.pairs)} pairs look"
        images = counted(len(self.source), "image")
        lines = [f"among {images}, {pairs} the same ({int(self.exact.sum())} identical)"]
        for what, across in (("patient", self.across_groups), ("part", self.across_splits)):
            if across is not None:
                lines.append(
                    f"  {int(across.sum())} of different {what}s, {int((~across).sum())} of one "
                    f"{what}"
                )
        if self.unusable:
            lines.append(f"  {counted(len(self.unusable), 'image')} cannot be used or compared")
        return "\n".join(lines)


@ordinary()
def find_near_duplicates(
    source: ImageSource | ArrayLike | Sequence[Any],
    groups: ArrayLike | None = None,
    *,
    split: ArrayLike | None = None,
    threshold: int = _THRESHOLD,
    n_jobs: int | None = None,
) -> NearDuplicates:
    """Find images that appear more than once: identical, recompressed, resized, brighter or darker.

    Each image is read at 64 x 64 pixels. Its hash has 255 bits: whether each of the 255 lowest
    frequencies of its two-dimensional DCT, without the mean, is above their median. All pairs of
    hashes are compared.

    Copies that are cropped, shifted or rotated by a few percent are *not* found, nor are mirrored
    copies: chest radiographs of different patients are more similar than that.

    Parameters
    ----------
    source : ImageSource, array of shape (n, h, w), sequence of paths, or folder
        Images.
    groups : array-like of shape (n,), optional
        Patient of each image, to tell pairs within a patient from pairs across patients.
    split : array-like of str, shape (n,), optional
        Part that each image is in, to tell pairs within a part from pairs across parts.
    threshold : int, default=32
        Maximum number of the 255 bits that may differ within a pair. The default was chosen by
        measurement: see ``docs/guide/datasets.md``.
    n_jobs : int, optional
        Number of processes that read images, as in scikit-learn.

    Returns
    -------
    found : NearDuplicates

    Raises
    ------
    RuntimeError
        If a process that reads images dies.
    ValueError
        If lengths differ, an image has no patient or part, no image can be used, or there are more
        than a million pairs (as among thousands of blank images).

    Warns
    -----
    UnusableImageWarning
        If images cannot be read or contain NaN. The others are compared.

    See Also
    --------
    check_leakage : Check that a split keeps patients apart, by their IDs.
    otcxr_sk.plotting.NearDuplicatesDisplay : Plot the pairs side by side.

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
    source = as_source(source)
    if not 0 <= threshold < _BITS:
        raise ValueError(f"threshold must be 0 to {_BITS - 1}, got {threshold}")
    n = len(source)
    patients = None if groups is None else check_patients(groups, n)
    parts = None if split is None else check_parts("split", split, n)
    batches = [range(start, min(start + 64, n)) for start in range(0, n, 64)]
    try:
        done = Parallel(n_jobs=n_jobs)(delayed(_describe)(source, rows) for rows in batches)
    except (BrokenProcessPool, OSError) as error:
        raise RuntimeError(
            "a process that reads images died or could not be started; if memory or processes ran "
            "out, lower n_jobs. With n_jobs=1, no other processes are needed"
        ) from error
    problems = [problem for _, _, found in done for problem in found]
    if len(problems) == n:
        require_usable(problems, n)
    warn_unusable(problems, n, "warn", "They are not compared.")
    usable = np.setdiff1d(np.arange(n), [problem.row for problem in problems])
    signs, digests = (np.concatenate([one[part] for one in done])[usable] for part in (0, 1))
    pairs, distance = _close_pairs(signs, threshold)
    exact = ~_differ(digests, pairs)
    pairs = usable[pairs]
    order = np.lexsort((pairs[:, 1], pairs[:, 0], ~exact, distance))
    return NearDuplicates(
        pairs=pairs[order],
        distance=distance[order],
        exact=exact[order],
        groups=patients,
        split=parts,
        threshold=int(threshold),
        source=source,
        unusable=unusable_table(problems),
    )


def _describe(
    source: ImageSource, rows: range
) -> tuple[NDArray[np.int8], list[bytes], list[Unusable]]:
    """Return the hashes (m, 255) of some images, as signs, and digests of their pixels.

    Those of images that cannot be used, which are returned as well, mean nothing.
    """
    images, problems = source.read_usable(rows, _SIZE)
    pixels = images[:, 0]
    waves = dctn(pixels, axes=(1, 2), norm="ortho")[:, :_FREQUENCIES, :_FREQUENCIES]
    waves = waves.reshape(len(waves), -1)[:, 1:]
    high = waves > np.median(waves, axis=1, keepdims=True)
    digests = [sha256(one.tobytes(), usedforsecurity=False).digest() for one in pixels]
    return np.where(high, 1, -1).astype(np.int8), digests, problems


def _close_pairs(
    signs: NDArray[np.int8], threshold: int
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return all pairs of rows that differ in at most `threshold` signs, and their distances."""
    n, bits = signs.shape
    # The product of two rows is the number of equal signs minus that of different ones. BLAS is
    # faster than counting bits, and float32 is exact below 2**24.
    vectors = signs.astype(np.float32)
    block = max(1, _BLOCK_BYTES // (4 * n))
    found, distances, total = [], [], 0
    for start in range(0, n, block):
        differ = (bits - vectors[start : start + block] @ vectors[start:].T) / 2
        first, second = np.nonzero(np.triu(differ <= threshold, k=1))
        total += len(first)
        if total > _MOST_PAIRS:
            raise ValueError(
                f"more than {_MOST_PAIRS} pairs differ in at most {threshold} bits; remove blank "
                "images, or lower threshold"
            )
        found.append(np.stack([first, second], axis=1) + start)
        distances.append(differ[first, second])
    return np.concatenate(found).astype(np.intp), np.concatenate(distances).astype(np.intp)


def _differ(values: NDArray[Any], pairs: NDArray[np.intp]) -> NDArray[np.bool_]:
    return np.asarray(values[pairs[:, 0]] != values[pairs[:, 1]], dtype=bool)
