"""Models in folders, for somebody else: settings, weights and a card, written and read safely."""

from otcxr_sk.estimators.sharing._config import describe, refuse, require_count
from otcxr_sk.estimators.sharing._folder import ModelFolder
from otcxr_sk.estimators.sharing._model import Shareable, Tuning, load_pretrainer, load_tuned

__all__ = [
    "ModelFolder",
    "Shareable",
    "Tuning",
    "describe",
    "load_pretrainer",
    "load_tuned",
    "refuse",
    "require_count",
]
