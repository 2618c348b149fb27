"""The scikit-learn estimators."""

from otcxr_sk.estimators._parameters import LAPTOP
from otcxr_sk.estimators._pretrainer import OTCXRPretrainer
from otcxr_sk.estimators._unusable import UnusableImageWarning
from otcxr_sk.training.checkpoint import CheckpointWarning
from otcxr_sk.training.collapse import CollapseWarning

__all__ = [
    "LAPTOP",
    "CheckpointWarning",
    "CollapseWarning",
    "OTCXRPretrainer",
    "UnusableImageWarning",
]
