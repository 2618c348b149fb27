"""Self-supervised chest X-ray embeddings by optimal transport, inside scikit-learn.

Start with `OTCXRPretrainer`, then `OTCXRClassifier`. The subpackages:

- `datasets`: published sets and your own, with patients and labels; synthetic chest X-rays
- `evaluation`: probes, comparisons and health of embeddings, patients kept apart
- `images`: files and arrays to gray images; DICOM
- `plotting`: displays
- `training`: callbacks, checkpoints, the optimizer

Names load what they need when they are first used: importing the package loads no torch.
"""

from typing import TYPE_CHECKING

from otcxr_sk._face import lazy_face
from otcxr_sk._version import __version__

if TYPE_CHECKING:
    from otcxr_sk import datasets, estimators, evaluation, images, method, plotting, training
    from otcxr_sk.estimators import LAPTOP, PAPER, OTCXRClassifier, OTCXRPretrainer, OTCXRSegmenter
    from otcxr_sk.images import Cache
    from otcxr_sk.method import Objective, Views
    from otcxr_sk.training import Checkpoint, Optimizer

_ROOMS = ["images", "training", "method", "estimators", "datasets", "evaluation", "plotting"]

__all__ = [
    "LAPTOP",
    "PAPER",
    "Cache",
    "Checkpoint",
    "OTCXRClassifier",
    "OTCXRPretrainer",
    "OTCXRSegmenter",
    "Objective",
    "Optimizer",
    "Views",
    "__version__",
    "datasets",
    "estimators",
    "evaluation",
    "images",
    "method",
    "plotting",
    "training",
]

__getattr__, __dir__ = lazy_face(__name__, __all__, _ROOMS)
