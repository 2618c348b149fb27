"""The scikit-learn estimators."""

from otcxr_sk.estimators._parameters import LAPTOP
from otcxr_sk.estimators._pretrainer import CollapseWarning, OTCXRPretrainer
from otcxr_sk.estimators._unusable import UnusableImageWarning
from otcxr_sk.training.checkpoint import CheckpointWarning

__all__ = [
    "LAPTOP",
    "CheckpointWarning",
    "CollapseWarning",
    "OTCXRPretrainer",
    "UnusableImageWarning",
]
