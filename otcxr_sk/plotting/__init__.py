"""Displays in the style of scikit-learn, and a report; they need the extra ``plots``."""

from otcxr_sk.plotting._curves import LabelEfficiencyDisplay
from otcxr_sk.plotting._dense import DenseDisplay
from otcxr_sk.plotting._differences import ComparisonDisplay
from otcxr_sk.plotting._duplicates import NearDuplicatesDisplay
from otcxr_sk.plotting._embedding import EmbeddingDisplay
from otcxr_sk.plotting._explanation import ExplanationDisplay
from otcxr_sk.plotting._health import EmbeddingHealthDisplay
from otcxr_sk.plotting._history import HistoryDisplay
from otcxr_sk.plotting._matching import MatchingDisplay
from otcxr_sk.plotting._retrieval import RetrievalDisplay
from otcxr_sk.plotting._roc import ProbeDisplay
from otcxr_sk.plotting._transport import TransportDisplay
from otcxr_sk.plotting.reporting import report

__all__ = [
    "ComparisonDisplay",
    "DenseDisplay",
    "EmbeddingDisplay",
    "EmbeddingHealthDisplay",
    "ExplanationDisplay",
    "HistoryDisplay",
    "LabelEfficiencyDisplay",
    "MatchingDisplay",
    "NearDuplicatesDisplay",
    "ProbeDisplay",
    "RetrievalDisplay",
    "TransportDisplay",
    "report",
]
