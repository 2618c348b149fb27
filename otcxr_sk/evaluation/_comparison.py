"""Which embedding is better, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state, check_scalar

from otcxr_sk.evaluation._efficiency import draw_rows
from otcxr_sk.evaluation._probe import judge, mean_auc
from otcxr_sk.evaluation._task import check_features, check_task, is_known

# Bounds memory: resamples held at once, a weight each for every test row.
_BLOCK = 100


@dataclass(frozen=True, eq=False)
class Comparison:
    """Scores of several embeddings and their differences from one; printed, it is a table.

    Attributes
    ----------
    names : tuple of str, m of them
    fractions : tuple of float, f of them
        Share of the training patients whose labels are used.
    reference : str
        The name that the others are compared with.
    score : ndarray of shape (m, f)
        AUC on test patients, averaged over draws.
    difference : ndarray of shape (m, f)
        `score` less that of the reference.
    low, high : ndarray of shape (m, f)
        Interval of the difference.
    confidence_level : float
    """

    names: tuple[str, ...]
    fractions: tuple[float, ...]
    reference: str
    score: NDArray[np.float64]
    difference: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    confidence_level: float

    def rows(self) -> list[dict[str, Any]]:
        """One dict for each fraction and name: ``pandas.DataFrame(comparison.rows())``."""
        return [
            {
                "fraction": fraction,
                "name": name,
                **{
                    column: float(getattr(self, column)[i, j])
                    for column in ("score", "difference", "low", "high")
                },
            }
            for j, fraction in enumerate(self.fractions)
            for i, name in enumerate(self.names)
        ]

    def __str__(self) -> str:
        width = max(map(len, ("features", *self.names)))
        lines = [
            f"labels  {'features':<{width}}    AUC  difference from {self.reference} "
            f"({100 * self.confidence_level:g} % interval)"
        ]
        for row in self.rows():
            line = f"{100 * row['fraction']:>4g} %  {row['name']:<{width}}  {row['score']:.3f}"
            if row["name"] != self.reference:
                line += f"  {row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
            lines.append(line)
        return "\n".join(lines)


def compare(
    features: Mapping[str, ArrayLike],
    y: ArrayLike,
    groups: ArrayLike,
    *,
    train: ArrayLike,
    test: ArrayLike,
    reference: str,
    fractions: Sequence[float] = (0.01, 0.1, 1.0),
    draws: int = 10,
    probe: str = "linear",
    n_resamples: int = 1000,
    confidence_level: float = 0.95,
    random_state: Any = None,
) -> Comparison:
    """Probe several embeddings of the same images and compare them with one of them.

    All embeddings are fitted on the same draws of labelled patients and judged on the same
    resamples of test patients, so a difference holds only what differs. Its interval is a
    percentile bootstrap (Efron and Tibshirani 1993, chapter 13): test patients, not images, are
    drawn with replacement. It says how far other test patients could have moved the difference
    between these very classifiers; chance in pre-training and in whom to label is no part of it.

    Parameters
    ----------
    features : mapping of str to array-like of shape (n, d)
        Embeddings by name; the width may differ.
    y, groups, train, test
        As for `linear_probe`.
    reference : str
        Name of the embedding to compare the others with.
    fractions, draws, probe
        As for `label_efficiency`.
    n_resamples : int, default=1000
        Resamples of the test patients. Those that lack a class of a label say nothing about it
        and are left out.
    confidence_level : float, default=0.95
        Of the intervals, in (0, 1).
    random_state : int, RandomState instance or None, default=None
        Draws the patients to label, as in `label_efficiency`, and the resamples.

    Returns
    -------
    comparison : Comparison

    Raises
    ------
    TypeError
        `features` is no mapping.
    ValueError
        As by `label_efficiency`, `reference` is no name of `features`, or a class has so few
        test patients that more than half of the resamples lack it.

    Examples
    --------
    >>> import numpy as np
    >>> from otcxr_sk.evaluation import compare
    >>> y = np.tile([0, 1], 100)
    >>> noise = np.random.default_rng(0).normal(size=(200, 5))
    >>> result = compare(
    ...     {"noise": noise, "told": noise + 3 * y[:, None]}, y, np.arange(200),
    ...     train=range(100), test=range(100, 200), reference="noise", fractions=[1.0],
    ...     random_state=0,
    ... )
    >>> bool(result.low[1, 0] > 0)
    True
    """
    labels, patients, fitted, judged = check_task(y, groups, train, test)
    if not isinstance(features, Mapping):
        raise TypeError(f"features must map names to arrays, got {type(features).__name__}")
    if reference not in features:
        raise ValueError(f"reference must be one of {', '.join(features)}; got {reference!r}")
    check_scalar(n_resamples, "n_resamples", Integral, min_val=1)
    if not 0 < confidence_level < 1:
        raise ValueError(f"confidence_level must be in (0, 1), got {confidence_level}")
    embeddings = {
        name: check_features(Z, labels, f"features[{name!r}]") for name, Z in features.items()
    }
    random = check_random_state(random_state)
    drawn = draw_rows(labels, patients, fitted, fractions, draws, random)
    counts = resample(patients[judged], n_resamples, random)

    score = np.empty((len(embeddings), len(drawn)))
    resampled = np.empty((*score.shape, n_resamples))
    for i, Z in enumerate(embeddings.values()):
        for j, sets in enumerate(drawn.values()):
            results = [judge(probe, Z, labels, rows, judged) for rows in sets]
            score[i, j] = np.mean([mean_auc(*result) for result in results])
            resampled[i, j] = np.mean([resampled_auc(*result, *counts) for result in results], 0)
    # Whether a resample has every class depends on its patients alone.
    complete = is_known(resampled[0, 0])
    if complete.mean() < 0.5:
        raise ValueError(
            "more than half of the resamples of test patients lack a class of a label: too few "
            "test patients have it for an interval"
        )
    of_reference = list(embeddings).index(reference)
    tails = (1 - confidence_level) / 2, (1 + confidence_level) / 2
    gaps = (resampled - resampled[of_reference])[..., complete]
    low, high = np.quantile(gaps, tails, axis=-1)
    return Comparison(
        names=tuple(embeddings),
        fractions=tuple(drawn),
        reference=reference,
        score=score,
        difference=score - score[of_reference],
        low=low,
        high=high,
        confidence_level=confidence_level,
    )


def resample(
    patients: NDArray[Any], n_resamples: int, random: np.random.RandomState
) -> tuple[NDArray[np.intp], NDArray[np.int_]]:
    """Place of each row's patient, and how often each patient is drawn in each resample."""
    names, place = np.unique(patients, return_inverse=True)
    n = len(names)
    return place, random.multinomial(n, np.full(n, 1 / n), size=n_resamples)


def resampled_auc(
    truth: NDArray[np.float64],
    score: NDArray[np.float64],
    place: NDArray[np.intp],
    counts: NDArray[np.int_],
) -> NDArray[np.float64]:
    """Average AUC over labels (m, k) in every resample; NaN where one lacks a class.

    The AUC is the share of pairs of a positive and a negative that are in order, ties counting
    half (Hanley and McNeil 1982). With the negatives sorted once, a running sum of their counts
    gives for all resamples together how many stand below each positive.
    """
    blocks = np.array_split(counts, -(-len(counts) // _BLOCK))
    total = np.zeros(len(counts))
    for told, scored in zip(truth.T, score.T, strict=True):
        positive, negative = np.flatnonzero(told == 1), np.flatnonzero(told == 0)
        negative = negative[np.argsort(scored[negative])]
        behind, until = (
            np.searchsorted(scored[negative], scored[positive], side) for side in ("left", "right")
        )
        each = []
        for block in blocks:
            of_positive, of_negative = (
                block.T[place[rows]].astype(float) for rows in (positive, negative)
            )
            running = np.vstack([np.zeros(len(block)), of_negative.cumsum(0)])
            in_order = (of_positive * (running[behind] + running[until])).sum(0) / 2
            with np.errstate(invalid="ignore"):
                each.append(in_order / (of_positive.sum(0) * running[-1]))
        total += np.concatenate(each)
    return total / truth.shape[1]
