"""The scikit-learn estimators."""

from otcxr_sk.estimators._pretrainer import LAPTOP, CollapseWarning, OTCXRPretrainer

__all__ = ["LAPTOP", "CollapseWarning", "OTCXRPretrainer"]
