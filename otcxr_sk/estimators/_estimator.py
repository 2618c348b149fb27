"""What all estimators have in common: they take images, and parameters in groups."""

from typing import Any, Self

from sklearn.base import BaseEstimator
from sklearn.utils import Tags

from otcxr_sk.estimators._parameters import with_groups
from otcxr_sk.estimators._seen import KnowsPatients
from otcxr_sk.estimators.sharing import Shareable
from otcxr_sk.images import without_names


class ImageEstimator(KnowsPatients, Shareable, BaseEstimator):
    """An estimator that is fitted on images."""

    skipped_: list[dict[str, Any]]
    history_: dict[str, list[float]]
    n_images_: int | None
    n_patients_: int | None

    def set_params(self, **params: Any) -> Self:
        """Set parameters, those of groups by names such as ``views__blur``.

        Parameters
        ----------
        **params : dict

        Returns
        -------
        self : object
        """
        return super().set_params(**with_groups(self, params))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        return tags

    def __getstate__(self) -> dict[str, Any]:
        state = dict(super().__getstate__())
        if "skipped_" in state:
            state["skipped_"] = [without_names(problem) for problem in state["skipped_"]]
        return state
