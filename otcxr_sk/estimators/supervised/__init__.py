"""Estimators that learn from labels, with an encoder that is fine-tuned for them."""

from otcxr_sk.estimators.supervised._classifier import OTCXRClassifier
from otcxr_sk.estimators.supervised._segmenter import OTCXRSegmenter

__all__ = ["OTCXRClassifier", "OTCXRSegmenter"]
