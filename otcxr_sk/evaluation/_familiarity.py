"""How near an image is to those that an encoder was trained on."""

from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.decomposition import PCA
from sklearn.model_selection import GroupKFold
from sklearn.neighbors import NearestNeighbors
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted, validate_data

from otcxr_sk._columns import check_patients
from otcxr_sk._ordinary import ordinary
from otcxr_sk._warning import keeping_filters

# Share of the variance whose directions count, all of them equally.
_KEPT = 0.99
# Squared distance of copies, by rounding, as a share of the largest squared norm.
_SAME = 1e-9
_FOLDS = 5
# Of more images, as many are evenly taken to choose references among.
_CANDIDATES = 20_000
_LEAST = 10


class Familiarity(OutlierMixin, BaseEstimator):
    """Tell how near new images are to those that were embedded before.

    An image is as familiar as its nearest references are near: the mean Euclidean distance to
    `n_neighbors` of them, in the directions that have 99 % of the variance, each scaled to a
    variance of 1. References are a few of the training embeddings that leave none far from all of
    them, found by the greedy k-center algorithm (Gonzalez 1985, "Clustering to minimize the maximum
    intercluster distance"), as in PatchCore (Roth et al. 2022), among up to 20,000 of them.

    Parameters
    ----------
    n_references : int, default=1000
        Number of training embeddings that are kept. They are embeddings of patients' images.
    n_neighbors : int, default=5
        Number of nearest references whose distances are averaged.
    false_alarms : float, default=0.05
        Share of new images of the same kind that `predict` is to call unfamiliar, in (0, 0.5].

    Attributes
    ----------
    references_ : ndarray of shape (m, p)
        The references, scaled.
    offset_ : float
        Images with lower `score_samples` are unfamiliar: the quantile `false_alarms` of the scores
        that fifths of the training images get from the others, patients kept together.
    n_features_in_ : int
        Width of the embeddings.

    See Also
    --------
    domain_shift : Whether two collections differ as a whole.

    Examples
    --------
    >>> import numpy as np
    >>> from otcxr_sk.evaluation import Familiarity
    >>> Z = np.random.default_rng(0).normal(size=(500, 4))
    >>> Familiarity().fit(Z).predict([[0, 0, 0, 0], [9, 0, 0, 0]])
    array([ 1, -1])
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "n_references": [Interval(Integral, 1, None, closed="left")],
        "n_neighbors": [Interval(Integral, 1, None, closed="left")],
        "false_alarms": [Interval(Real, 0, 0.5, closed="right")],
    }

    def __init__(
        self, n_references: int = 1000, *, n_neighbors: int = 5, false_alarms: float = 0.05
    ) -> None:
        self.n_references = n_references
        self.n_neighbors = n_neighbors
        self.false_alarms = false_alarms

    @ordinary()
    def fit(self, X: Any, y: Any = None, groups: Any = None) -> Self:
        """Choose references among embeddings, best those that the encoder was trained on.

        Parameters
        ----------
        X : array-like of shape (n, d)
            At least 10 embeddings, finite.
        y : ignored
        groups : array-like of shape (n,), default=None
            Patient of each image, for `offset_`. By default, each image is a patient of its own,
            and images that follow each other mostly stay together.

        Returns
        -------
        self : Familiarity

        Raises
        ------
        ValueError
            Embeddings are too few or do not differ, or an argument is not as described.
        """
        self._validate_params()
        Z = self._check(X, fitting=True)
        patients = np.arange(len(Z)) if groups is None else check_patients(groups, len(Z))
        if (count := len(np.unique(patients))) < 2:
            raise ValueError("groups has 1 patient, but at least 2 are needed")
        splitter = GroupKFold(min(_FOLDS, count))
        with keeping_filters():
            folds = list(splitter.split(Z, groups=patients))
            self._scale, self.references_ = self._refer(Z)
            scores = [
                _score(Z[test], *self._refer(Z[train]), self.n_neighbors) for train, test in folds
            ]
        self.offset_ = float(np.quantile(np.concatenate(scores), self.false_alarms))
        return self

    @ordinary()
    def score_samples(self, X: Any) -> NDArray[np.float64]:
        """Return minus the mean distance to the nearest references.

        Parameters
        ----------
        X : array-like of shape (n, d)

        Returns
        -------
        score : ndarray of shape (n,)
            At most 0; higher is more familiar.
        """
        check_is_fitted(self)
        Z = self._check(X, fitting=False)
        with keeping_filters():
            return _score(Z, self._scale, self.references_, self.n_neighbors)

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Return `score_samples` minus `offset_`: negative for unfamiliar images.

        Parameters
        ----------
        X : array-like of shape (n, d)

        Returns
        -------
        score : ndarray of shape (n,)
        """
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> NDArray[np.int_]:
        """Return 1 for familiar images and -1 for others.

        Parameters
        ----------
        X : array-like of shape (n, d)

        Returns
        -------
        label : ndarray of shape (n,), int
        """
        return np.where(self.decision_function(X) >= 0, 1, -1)

    def _check(self, X: Any, *, fitting: bool) -> NDArray[Any]:
        least = _LEAST if fitting else 1
        with keeping_filters():
            return validate_data(self, X, reset=fitting, dtype=np.float64, ensure_min_samples=least)

    def _refer(self, Z: NDArray[np.float64]) -> tuple[PCA, NDArray[np.float64]]:
        """Return the scale of embeddings, and their references on it."""
        if not np.ptp(Z, axis=0).any():
            raise ValueError(
                "the embeddings are all equal, or all but those of a few patients, so none is more "
                "familiar than another; see embedding_health"
            )
        scale = PCA(_KEPT, whiten=True, svd_solver="covariance_eigh").fit(Z)
        candidates = np.linspace(0, len(Z) - 1, min(len(Z), _CANDIDATES)).astype(np.intp)
        scaled = scale.transform(Z[candidates])
        return scale, scaled[k_center(scaled, self.n_references)]


def _score(
    Z: NDArray[np.float64], scale: PCA, references: NDArray[np.float64], n_neighbors: int
) -> NDArray[np.float64]:
    neighbors = NearestNeighbors(n_neighbors=min(n_neighbors, len(references)), n_jobs=1)
    distances, _ = neighbors.fit(references).kneighbors(scale.transform(Z))
    return -distances.mean(axis=1)


def k_center(Z: NDArray[np.float64], k: int) -> NDArray[np.intp]:
    """Return up to k rows: the first is nearest to 0, each other is farthest from those before."""
    norms = np.einsum("ij,ij->i", Z, Z)
    chosen, distances = [int(norms.argmin())], np.full(len(Z), np.inf)
    while True:
        to_last = norms + norms[chosen[-1]] - Z @ (2 * Z[chosen[-1]])
        distances = np.minimum(distances, to_last)
        distances[chosen[-1]] = 0
        farthest = int(distances.argmax())
        if len(chosen) == min(k, len(Z)) or distances[farthest] <= _SAME * norms.max():
            return np.array(chosen)
        chosen.append(farthest)
