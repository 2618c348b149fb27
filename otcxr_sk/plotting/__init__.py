"""Pictures, in scikit-learn's manner; they need the extra `plots`."""

from otcxr_sk.plotting._matching import MatchingDisplay

__all__ = ["MatchingDisplay"]
