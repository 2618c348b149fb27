"""Differences between embeddings, with confidence intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_random_state

from otcxr_sk._ordinary import ordinary
from otcxr_sk._warning import warn_user
from otcxr_sk.evaluation._efficiency import draw_rows
from otcxr_sk.evaluation._probe import mean_auc, score_test_rows
from otcxr_sk.evaluation._resampling import (
    check_resampling,
    count_pairs,
    interval,
    resample,
    resampled_auc,
    shown,
)
from otcxr_sk.evaluation._task import NotFiniteError, check_features, check_task, is_known


@dataclass(frozen=True, eq=False)
class Comparison:
    """Scores of several embeddings and their differences from one of them.

    Print it to see a table.

    Attributes
    ----------
    names : tuple of str, of length m
        The embeddings.
    fractions : tuple of float, of length f
        Share of the training patients whose labels are used.
    reference : str
        Name of the embedding that the others are compared with.
    score : ndarray of shape (m, f)
        AUC on test patients, averaged over draws of labeled patients.
    score_low, score_high : ndarray of shape (m, f)
        Confidence interval of the score.
    difference : ndarray of shape (m, f)
        `score` minus the score of the reference.
    low, high : ndarray of shape (m, f)
        Confidence interval of the difference.
    confidence_level : float
        Confidence level of the intervals.

    Notes
    -----
    Two scores whose intervals overlap may well differ: `low` and `high` compare the embeddings on
    the same resamples of patients.
    """

    names: tuple[str, ...]
    fractions: tuple[float, ...]
    reference: str
    score: NDArray[np.float64]
    score_low: NDArray[np.float64]
    score_high: NDArray[np.float64]
    difference: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    confidence_level: float

    def rows(self) -> list[dict[str, Any]]:
        """Return the scores as a table.

        Returns
        -------
        rows : list of dict
            One for each fraction and name: ``pandas.DataFrame(comparison.rows())``.
        """
        columns = ("score", "score_low", "score_high", "difference", "low", "high")
        return [
            {"fraction": fraction, "name": name}
            | {column: float(getattr(self, column)[i, j]) for column in columns}
            for j, fraction in enumerate(self.fractions)
            for i, name in enumerate(self.names)
        ]

    def __str__(self) -> str:
        width = max(map(len, ("features", *self.names)))
        lines = [
            f"labels  {'features':<{width}}  {'AUC':<22}  difference from {self.reference} "
            f"({100 * self.confidence_level:g} % intervals)"
        ]
        for row in self.rows():
            line = (
                f"{100 * row['fraction']:>4g} %  {row['name']:<{width}}  "
                f"{shown(row['score'], row['score_low'], row['score_high'])}"
            )
            if row["name"] != self.reference:
                line += f"  {row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
            lines.append(line)
        return "\n".join(lines)


@ordinary()
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
    seen: ArrayLike | None = None,
    n_resamples: int = 1000,
    confidence_level: float = 0.95,
    random_state: Any = None,
) -> Comparison:
    """Probe several embeddings of the same images and compare them with one of them.

    All embeddings use the same draws of labeled patients and the same resamples of test patients,
    so the differences are paired. Their intervals are percentile bootstrap intervals (Efron and
    Tibshirani 1993, chapter 13) in which test patients, not images, are drawn with replacement.
    They say how much the difference between these fitted classifiers would vary with other test
    patients. They do not include the variation from pre-training or from which patients are
    labeled. A score of 0 or 1, on which all resamples would agree, has an exact interval, as in
    `probe_auc`; the difference of two such scores goes as far as the ends of theirs.

    Parameters
    ----------
    features : mapping of str to array-like of shape (n, d)
        Embeddings by name; `d` may differ.
    y, groups, train, test
        As for `linear_probe`.
    reference : str
        Name of the embedding to compare the others with.
    fractions, draws, probe
        As for `label_efficiency`.
    seen : array-like of shape (n,), bool, default=None
        As for `linear_probe`; of several encoders, ``one.seen(groups) | other.seen(groups)``.
    n_resamples : int, default=1000
        Number of resamples of the test patients. Those that lack a class of a label have no AUC
        and are left out.
    confidence_level : float, default=0.95
        Confidence level of the intervals, in (0, 1).
    random_state : int, RandomState instance or None, default=None
        Decides which patients are labeled, as in `label_efficiency`, and the resamples.

    Returns
    -------
    comparison : Comparison

    Raises
    ------
    TypeError
        `features` is not a mapping.
    ValueError
        As for `label_efficiency`, or `reference` is not a name in `features`.

    Warns
    -----
    UserWarning
        An embedding other than the reference has NaN in a row of `train` or `test`, so its scores
        are NaN; or a class has so few test patients that more than half of the resamples lack it,
        so the intervals are NaN; or test patients were `seen`.

    See Also
    --------
    label_efficiency : All the scores of one embedding.
    pixel_features : A baseline to compare with.
    otcxr_sk.plotting.ComparisonDisplay : Plot the differences.

    Examples
    --------
    >>> import numpy as np
    >>> from otcxr_sk.evaluation import compare
    >>> y = np.tile([0, 1], 100)
    >>> noise = np.random.default_rng(0).normal(size=(200, 5))
    >>> result = compare(
    ...     {"noise": noise, "signal": noise + 3 * y[:, None]}, y, np.arange(200),
    ...     train=range(100), test=range(100, 200), reference="noise", fractions=[1.0],
    ...     random_state=0,
    ... )
    >>> bool(result.low[1, 0] > 0)
    True
    """
    labels, patients, train_rows, test_rows = check_task(y, groups, train, test, seen)
    if not isinstance(features, Mapping):
        raise TypeError("features must be a dict of names and arrays")
    if reference not in features:
        raise ValueError(f"reference must be one of {', '.join(features)}; got {reference!r}")
    check_resampling(n_resamples, confidence_level)
    used = np.union1d(train_rows, test_rows)
    embeddings: dict[str, NDArray[Any]] = {}
    for name, Z in features.items():
        try:
            embeddings[name] = check_features(Z, labels, used, f"features[{name!r}]")
        except NotFiniteError as error:
            if name == reference:
                raise
            warn_user(f"{error}, or judge it alone: its scores are NaN")
    random = check_random_state(random_state)
    drawn = draw_rows(labels, patients, train_rows, fractions, draws, random)
    patient, counts = resample(patients[test_rows], n_resamples, random)

    score = np.full((len(features), len(drawn)), np.nan)
    resampled = np.full((*score.shape, n_resamples), np.nan)
    for i, name in enumerate(features):
        if name not in embeddings:
            continue
        for j, sets in enumerate(drawn.values()):
            Z = embeddings[name]
            results = [score_test_rows(probe, Z, labels, rows, test_rows) for rows in sets]
            score[i, j] = np.mean([mean_auc(*result) for result in results])
            resampled[i, j] = np.mean(
                [resampled_auc(*result, patient, counts) for result in results], 0
            )
            truth, _ = results[0]
    base = list(features).index(reference)
    # Whether a resample has every class depends only on its patients, not on the embedding.
    complete = is_known(resampled[base, 0])
    if complete.mean() < 0.5:
        warn_user(
            "more than half of the resamples of test patients lack a class of a label: too few "
            "test patients have it to compute intervals, which are NaN"
        )
        complete[:] = True
    tails = (1 - confidence_level) / 2, (1 + confidence_level) / 2
    (score_low, low), (score_high, high) = np.quantile(
        np.stack([resampled, resampled - resampled[base]])[..., complete], tails, axis=-1
    )
    # All resamples agree on them, and on the difference of two of them.
    extreme, pairs = np.isin(score, (0, 1)), count_pairs(truth, patient)
    for at in zip(*extreme.nonzero(), strict=True):
        score_low[at], score_high[at] = interval(score[at], resampled[at], pairs, confidence_level)
    both = extreme & extreme[base] & (np.arange(len(score)) != base)[:, None]
    low[both] = (score_low - score_high[base])[both]
    high[both] = (score_high - score_low[base])[both]
    return Comparison(
        names=tuple(features),
        fractions=tuple(drawn),
        reference=reference,
        score=score,
        score_low=score_low,
        score_high=score_high,
        difference=score - score[base],
        low=low,
        high=high,
        confidence_level=confidence_level,
    )
