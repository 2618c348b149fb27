"""Self-supervised chest X-ray embeddings by optimal transport, inside scikit-learn.

Names load what they need when they are first used: importing the package loads no torch.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from otcxr_sk.estimators import LAPTOP, OTCXRPretrainer

__version__ = version("otcxr-sk")

_ROOMS = {"OTCXRPretrainer": "otcxr_sk.estimators", "LAPTOP": "otcxr_sk.estimators"}

__all__ = ["LAPTOP", "OTCXRPretrainer", "__version__"]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return getattr(import_module(_ROOMS[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_ROOMS])
