"""Callbacks: they follow a run, log it, and may end it."""

from otcxr_sk.training.callbacks._base import Callback, TrainingState, calling
from otcxr_sk.training.callbacks._collapse import CollapseAlarm, CollapseWarning
from otcxr_sk.training.callbacks._early_stopping import EarlyStopping
from otcxr_sk.training.callbacks._loggers import CSVLogger, TensorBoardLogger
from otcxr_sk.training.callbacks._time_limit import TimeLimit

__all__ = [
    "CSVLogger",
    "Callback",
    "CollapseAlarm",
    "CollapseWarning",
    "EarlyStopping",
    "TensorBoardLogger",
    "TimeLimit",
    "TrainingState",
    "calling",
]
