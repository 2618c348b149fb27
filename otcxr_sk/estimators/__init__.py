"""The scikit-learn estimators."""

from otcxr_sk.estimators._onnx import export_onnx
from otcxr_sk.estimators._parameters import LAPTOP, PAPER
from otcxr_sk.estimators._pretrainer import OTCXRPretrainer
from otcxr_sk.estimators._program import export_torch
from otcxr_sk.estimators.supervised import OTCXRClassifier, OTCXRSegmenter
from otcxr_sk.images import ImageRangeWarning, UnusableImageWarning
from otcxr_sk.training import (
    CheckpointWarning,
    CollapseWarning,
    NonFiniteLossError,
    TrainingInterrupted,
)

__all__ = [
    "LAPTOP",
    "PAPER",
    "CheckpointWarning",
    "CollapseWarning",
    "ImageRangeWarning",
    "NonFiniteLossError",
    "OTCXRClassifier",
    "OTCXRPretrainer",
    "OTCXRSegmenter",
    "TrainingInterrupted",
    "UnusableImageWarning",
    "export_onnx",
    "export_torch",
]
