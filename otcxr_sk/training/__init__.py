"""From a model and a source to trained weights, and what looks at a run as it goes."""

from otcxr_sk.training.callbacks import Callback, TrainingState
from otcxr_sk.training.early_stopping import EarlyStopping
from otcxr_sk.training.loggers import CSVLogger, TensorBoardLogger

__all__ = [
    "CSVLogger",
    "Callback",
    "EarlyStopping",
    "TensorBoardLogger",
    "TrainingState",
]
