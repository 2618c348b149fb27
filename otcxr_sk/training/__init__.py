"""Training: the loop, its checkpoints and callbacks, in one process or several.

For users: callbacks (`EarlyStopping`, `TimeLimit`, `CSVLogger`, `TensorBoardLogger`, or a subclass
of `Callback`), the parameter groups `Checkpoint` and `Optimizer`, and the errors and warnings of
`fit`. The other names serve the estimators.
"""

from typing import TYPE_CHECKING

from otcxr_sk._face import lazy_face

if TYPE_CHECKING:
    from otcxr_sk.training._checkpoint import *
    from otcxr_sk.training._device import *
    from otcxr_sk.training._distributed import *
    from otcxr_sk.training._epoch import *
    from otcxr_sk.training._inspection import *
    from otcxr_sk.training._optimizer import *
    from otcxr_sk.training._random import *
    from otcxr_sk.training._trainer import *
    from otcxr_sk.training.callbacks import *

__all__ = [
    "OPTIMIZERS",
    "PRECISIONS",
    "CSVLogger",
    "Callback",
    "Checkpoint",
    "CheckpointFolder",
    "CheckpointWarning",
    "CollapseAlarm",
    "CollapseWarning",
    "Draw",
    "EarlyStopping",
    "InMemoryCheckpoint",
    "LabelledDraw",
    "NonFiniteLossError",
    "Optimizer",
    "Processes",
    "Randomness",
    "RunState",
    "TensorBoardLogger",
    "TimeLimit",
    "Trainer",
    "TrainingInterrupted",
    "TrainingState",
    "WarmupConstant",
    "WarmupCosine",
    "choose_device",
    "choose_precision",
    "describe",
    "evaluate",
    "explained_memory",
    "facts",
    "join_processes",
    "put_on",
    "scan",
]

# Callbacks, parameters and the description of a run need no torch.
_LIGHT = ["callbacks", "_checkpoint", "_inspection", "_optimizer"]
_HEAVY = ["_device", "_random", "_distributed", "_epoch", "_trainer"]

__getattr__, __dir__ = lazy_face(__name__, __all__, _LIGHT + _HEAVY)
