"""Displays in the style of scikit-learn; they need the extra ``plots``."""

from otcxr_sk.plotting._curves import LabelEfficiencyDisplay
from otcxr_sk.plotting._differences import ComparisonDisplay
from otcxr_sk.plotting._duplicates import NearDuplicatesDisplay
from otcxr_sk.plotting._health import EmbeddingHealthDisplay
from otcxr_sk.plotting._matching import MatchingDisplay
from otcxr_sk.plotting._roc import ProbeDisplay

__all__ = [
    "ComparisonDisplay",
    "EmbeddingHealthDisplay",
    "LabelEfficiencyDisplay",
    "MatchingDisplay",
    "NearDuplicatesDisplay",
    "ProbeDisplay",
]
